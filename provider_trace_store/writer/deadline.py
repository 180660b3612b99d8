"""A deadline for a transaction: no connection is waited for without end, even if its packets vanish silently."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from provider_trace_store.writer.logs import logger

if TYPE_CHECKING:
    from sqlalchemy import Connection

# How long a request to cancel a statement may take, in seconds.
_CANCEL_TIMEOUT: Final = 1.0


class Deadline:
    """Cuts the connection of a transaction that takes too long; the statement that waits for it then fails.

    A firewall or a failed-over host may drop packets without a word. The server's `statement_timeout` ends no wait of
    the client then, and TCP itself gives up after 15 minutes or never.

    Args:
        seconds: how long the transaction may take.
    """

    def __init__(self, seconds: float) -> None:
        self.is_over = False
        self._is_stopped = False
        self._seconds = seconds
        self._connection: Any = None
        self._socket: socket.socket | None = None
        # Held while a connection is cut, so that the pool gives it to no other thread meanwhile.
        self._lock = threading.Lock()
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True

    def start(self) -> None:
        """Begin to count the time."""
        # An exit of the process: from Python 3.12 on, no thread can be started any more.
        with suppress(RuntimeError):
            self._timer.start()

    def watch(self, connection: Connection) -> None:
        """Let the deadline hold for a connection; without effect for SQLite, whose driver has a timeout of its own.

        Args:
            connection: the connection of the transaction.
        """
        driver_connection: Any = connection.connection.driver_connection
        if not hasattr(driver_connection, "fileno"):
            self._timer.cancel()
            return
        # A copy of the number: the driver may close its own, and the system may then give it to another file.
        connected = socket.socket(fileno=os.dup(driver_connection.fileno()))
        _bound(connected, self._seconds)
        self._connection, self._socket = driver_connection, connected

    def stop(self) -> None:
        """Leave the connection alone from now on; call it before the pool gets the connection back."""
        self._timer.cancel()
        with self._lock:
            self._is_stopped = True
            if self._socket is not None:
                self._socket.close()
            self._socket = self._connection = None

    def _end(self) -> None:
        with self._lock:
            if self._is_stopped:
                return
            self.is_over = True
            if self._socket is None:
                logger.warning(
                    "the engine has given no connection within transaction_timeout, %g s: bound the time of connecting "
                    'by connect_args={"connect_timeout": 10}',
                    self._seconds,
                )
                return
            logger.warning(
                "a transaction has not ended within transaction_timeout, %g s: its connection is closed, and the batch "
                "is tried again on another one",
                self._seconds,
            )
            with suppress(Exception):
                _cancel(self._connection)
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)


def _cancel(connection: Any) -> None:  # noqa: ANN401  (of any driver)
    """Ask the server to end the statement, such as one that waits for a lock: it does not see a closed connection."""
    if hasattr(connection, "cancel_safe"):
        from psycopg import capabilities  # noqa: PLC0415  # only where the driver is psycopg

        # Without it, psycopg's cancellation blocks the whole process while the server cannot be reached.
        if capabilities.has_cancel_safe():
            connection.cancel_safe(timeout=_CANCEL_TIMEOUT)


def _bound(connected: socket.socket, seconds: float) -> None:
    """Let the system give a TCP connection up whose packets are not acknowledged.

    A later statement outside of a transaction is bounded, too, such as the ping before the pool gives it out.
    """
    if connected.family == socket.AF_UNIX or not hasattr(socket, "TCP_USER_TIMEOUT"):
        return
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1000))
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
