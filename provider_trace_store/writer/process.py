"""The hooks of a process for its open writers: fork, exit and SIGTERM.

SIGTERM ends a process without a handler at once. While a writer is open, such a process has a handler that stores what
was submitted; afterwards the signal ends the process all the same. A handler of the host's, such as that of gunicorn,
uvicorn or Celery, is left alone: it leads to an ordinary exit, which closes the writers, too.
"""

from __future__ import annotations

import atexit
import os
import signal
import time
from contextlib import suppress
from threading import Lock, Thread, current_thread, main_thread
from time import monotonic
from typing import TYPE_CHECKING, Final, Protocol

from provider_trace_store.writer.logs import logger

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

# Exit status of a process ended by signal N: 128 + N.
_STATUS_OF_SIGNALS: Final = 128
# The part of its time in which a writer still takes traces after SIGTERM.
_DRAINING: Final = 0.7
# How long the main thread may take to see a signal, in seconds.
_SIGNAL_TIMEOUT: Final = 5.0


class Managed(Protocol):
    """A writer as its process sees it."""

    close_timeout: float

    def before_fork(self) -> None:
        """Take every lock, so that the child gets no copy of something half done."""

    def after_fork_in_parent(self) -> None:
        """Release the locks."""

    def after_fork_in_child(self) -> None:
        """Begin anew: everything so far is the parent's."""

    def drain(self, timeout: float) -> None:
        """Store what was submitted, as far as the database and the time allow, and go on taking traces."""

    def close(self, timeout: float) -> bool:
        """Store what was submitted, and take no more traces."""


class _Writers:
    """The open writers of this process."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._open: list[Managed] = []
        self._is_hooked = False
        self._handles_sigterm = False
        self._is_ending = False
        self._forking: list[Managed] = []

    def add(self, writer: Managed, *, handle_sigterm: bool) -> None:
        with self._lock:
            self._open.append(writer)
            if not self._is_hooked:
                self._is_hooked = True
                atexit.register(self._at_exit)
                if hasattr(os, "register_at_fork"):
                    os.register_at_fork(
                        before=self._before_fork,
                        after_in_parent=self._after_fork_in_parent,
                        after_in_child=self._after_fork_in_child,
                    )
            # Only the main thread may set a handler.
            if (
                handle_sigterm
                and current_thread() is main_thread()
                and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
            ):
                signal.signal(signal.SIGTERM, self._on_sigterm)
                self._handles_sigterm = True

    def remove(self, writer: Managed) -> None:
        with self._lock:
            self._open = [other for other in self._open if other is not writer]
            is_last = not self._open
        if is_last and self._handles_sigterm and not self._is_ending and current_thread() is main_thread():
            self._handles_sigterm = False
            if signal.getsignal(signal.SIGTERM) == self._on_sigterm:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def _at_exit(self) -> None:
        writers = list(self._open)
        _each(writers, lambda writer, seconds: writer.close(seconds), _time_of(writers))

    def _on_sigterm(self, number: int, _: FrameType | None) -> None:
        if self._is_ending or not self._open:
            # A second signal, or no writer is open.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            # A signal that has no handler does not end the first process of a container.
            os._exit(_STATUS_OF_SIGNALS + number)
        self._is_ending = True
        # In a thread: the main thread, which is interrupted here, may hold a writer's lock and must go on.
        ending = Thread(target=self._end, args=(number,), name="provider_trace_store.sigterm", daemon=True)
        try:
            ending.start()
        except RuntimeError:
            self._on_sigterm(number, None)

    def _end(self, number: int) -> None:
        with suppress(Exception):
            writers = list(self._open)
            began, time_of_all = monotonic(), _time_of(writers)
            _each(writers, lambda writer, seconds: writer.drain(seconds), time_of_all * _DRAINING)
            _each(writers, lambda writer, seconds: writer.close(seconds), began + time_of_all - monotonic())
        os.kill(os.getpid(), number)
        # The main thread may be in a call that no handler interrupts.
        time.sleep(_SIGNAL_TIMEOUT)
        os._exit(_STATUS_OF_SIGNALS + number)

    def _before_fork(self) -> None:
        self._lock.acquire()
        self._forking = list(self._open)
        for writer in self._forking:
            writer.before_fork()

    def _after_fork_in_parent(self) -> None:
        for writer in reversed(self._forking):
            writer.after_fork_in_parent()
        self._lock.release()

    def _after_fork_in_child(self) -> None:
        self._lock = Lock()
        self._is_ending = False
        for writer in self._open:
            writer.after_fork_in_child()


def _time_of(writers: list[Managed]) -> float:
    """Return how long all writers together may take, in seconds."""
    return max((writer.close_timeout for writer in writers), default=0.0)


def _each(writers: list[Managed], act: Callable[[Managed, float], object], timeout: float) -> None:
    """Do something with each writer, within `timeout` seconds for all of them."""
    end = monotonic() + timeout
    for writer in writers:
        try:
            act(writer, max(0.0, min(writer.close_timeout, end - monotonic())))
        except Exception as error:  # noqa: BLE001  # the other writers are still closed
            logger.error("a writer was not closed: %s", type(error).__qualname__)


_writers: Final = _Writers()


def manage(writer: Managed, *, handle_sigterm: bool) -> None:
    """Run the hooks for a writer until `release`.

    Args:
        writer: the writer.
        handle_sigterm: whether SIGTERM waits for it, in a process that has no handler of its own.
    """
    _writers.add(writer, handle_sigterm=handle_sigterm)


def release(writer: Managed) -> None:
    """Stop running the hooks for a writer."""
    _writers.remove(writer)
