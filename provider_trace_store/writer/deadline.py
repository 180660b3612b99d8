"""A deadline for a transaction: no connection is waited for without end, even if its packets vanish silently."""

from __future__ import annotations

import _thread
import os
import socket
import threading
from contextlib import suppress
from time import monotonic
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

    One object serves all transactions, one after the other. A thread of its own looks at the clock. It sleeps until the
    deadline of a transaction, or for `seconds` if there is none: no transaction that begins meanwhile can have an
    earlier deadline. So a transaction need not wake it, which would cost the threads of the host more than the look.

    Args:
        seconds: how long a transaction may take.
    """

    def __init__(self, seconds: float) -> None:
        self.is_over = False
        self._seconds = seconds
        self._ends_at: float | None = None
        self._connection: Any = None
        self._socket: socket.socket | None = None
        # Held while a connection is cut, so that the pool gives it to no other thread meanwhile.
        self._lock = threading.Lock()
        # Released when the thread that looks at the clock must end; None while there is none.
        self._bell: threading.Lock | None = None

    def start(self) -> None:
        """Begin to count the time of a transaction."""
        self.is_over = False
        self._ends_at = monotonic() + self._seconds
        if self._bell is None:
            bell = threading.Lock()
            bell.acquire()
            # An exit of the process: from Python 3.12 on, no thread can be started any more.
            with suppress(RuntimeError):
                _thread.start_new_thread(self._watch_clock, (bell,))
                self._bell = bell

    def watch(self, connection: Connection) -> None:
        """Let the deadline hold for a connection; without effect for SQLite, whose driver has a timeout of its own.

        Args:
            connection: the connection of the transaction.
        """
        driver_connection: Any = connection.connection.driver_connection
        if not hasattr(driver_connection, "fileno"):
            self.stop()
            return
        # A copy of the number: the driver may close its own, and the system may then give it to another file.
        connected = socket.socket(fileno=os.dup(driver_connection.fileno()))
        _bound(connected, self._seconds)
        self._connection, self._socket = driver_connection, connected

    def stop(self) -> None:
        """Leave the connection alone from now on; call it before the pool gets the connection back."""
        with self._lock:
            self._ends_at = None
            if self._socket is not None:
                self._socket.close()
            self._socket = self._connection = None

    def close(self) -> None:
        """End the thread that looks at the clock; the next transaction starts another."""
        bell, self._bell = self._bell, None
        if bell is not None:
            bell.release()

    def _watch_clock(self, bell: threading.Lock) -> None:
        pause = self._seconds
        while not bell.acquire(timeout=min(pause, threading.TIMEOUT_MAX)):
            pause = self._look()

    def _look(self) -> float:
        """Cut the connection if its time is over; return how long to sleep, in seconds."""
        with self._lock:
            if self._ends_at is None:
                return self._seconds
            if (left := self._ends_at - monotonic()) > 0:
                return left
            self._ends_at = None
            self._cut()
            return self._seconds

    def _cut(self) -> None:
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
