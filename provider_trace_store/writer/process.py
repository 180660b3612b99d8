"""The hooks of a process for its open writers: fork, exit, and signals that end it.

While a writer is open, a SIGTERM whose default action would end the process stores what was submitted first; afterwards
it ends the process all the same. A handler of the host's is left alone: see `termination`. Processes of multiprocessing
and of Celery end by `os._exit`, without `atexit`, and have hooks of their own.
"""

from __future__ import annotations

import _thread
import atexit
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Final, Protocol

from provider_trace_store.writer.logs import logger
from provider_trace_store.writer.termination import Termination

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

# Exit status of a process ended by signal N: 128 + N.
_STATUS_OF_SIGNALS: Final = 128
# The part of its time in which a writer still takes traces after SIGTERM.
_DRAINING: Final = 0.7
# How long the main thread may take to see a signal, in seconds.
_SIGNAL_TIMEOUT: Final = 5.0
# A second signal that comes sooner is the first one: a service manager signals a whole group of processes, and the
# group's first process signals the others. In seconds.
_SAME_SIGNAL: Final = 1.0


class Managed(Protocol):
    """A writer as its process sees it."""

    close_timeout: float
    handle_sigterm: bool

    @property
    def waiting(self) -> int:
        """How many traces wait in memory; no lock is taken."""

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
    """The open writers of this process.

    There is no lock: each change is one step of the interpreter. A lock of this module would be made before a host may
    patch `threading`, and be held in a child that another thread forks.
    """

    def __init__(self) -> None:
        self._open: list[Managed] = []
        self._forking: list[Managed] = []
        self._hooked: dict[str, object] = {}
        self._termination = Termination(self._on_signal)
        # The process whose exit has a hook.
        self._process = 0
        # The signal that is ending the process, and when it came.
        self._ending: int | None = None
        self._since = 0.0
        self._is_ended = False
        self._is_exiting = False

    def add(self, writer: Managed) -> None:
        self._open.append(writer)
        mark = object()
        # Hooks of a fork cannot be removed: the first of two threads adds them.
        if self._hooked.setdefault("fork", mark) is mark and hasattr(os, "register_at_fork"):
            os.register_at_fork(
                before=self._before_fork,
                after_in_parent=self._after_fork_in_parent,
                after_in_child=self._after_fork_in_child,
            )
        self.enter()

    def enter(self) -> None:
        """Set the hooks that this process lacks; called when a writer is made, and when its thread starts."""
        # Again in each process: a child of multiprocessing begins without hooks. An exit that has begun runs
        # only the hooks that it has found.
        if self._process != os.getpid() and threading.main_thread().is_alive():
            self._process = os.getpid()
            atexit.unregister(self._at_exit)
            atexit.register(self._at_exit)
        _at_os_exit(self._at_exit)
        if any(writer.handle_sigterm for writer in self._open):
            self._termination.watch()

    def remove(self, writer: Managed) -> None:
        with suppress(ValueError):
            self._open.remove(writer)
        if self._ending is None and not any(other.handle_sigterm for other in self._open):
            self._termination.stop()

    def _at_exit(self) -> None:
        self._is_exiting = True
        if any(writer.handle_sigterm for writer in self._open):
            # An event loop that has ended left the default action behind.
            self._termination.watch()
        writers = list(self._open)
        _each(writers, _close_at_exit, _time_of(writers))
        if self._ending is not None:
            self._die(self._ending)
        self._termination.stop()

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if self._ending is None and self._open:
            self._ending, self._since = number, monotonic()
            if self._is_exiting:
                # The exit that this signal has interrupted closes the writers, and then ends the process by it.
                return
            try:
                # In a thread: the main thread, which is interrupted here, may hold a writer's lock and must go on. Not
                # by `threading`, which has a lock that the main thread may hold, too.
                _thread.start_new_thread(self._end, (number,))
            except RuntimeError:
                raise SystemExit(_STATUS_OF_SIGNALS + number) from None
        elif self._is_ended or not self._open or monotonic() - self._since >= _SAME_SIGNAL:
            if not self._is_ended and (lost := sum(writer.waiting for writer in self._open)):
                logger.error("ended by a second signal: %d traces in memory may be lost", lost)
            self._die(number)

    def _end(self, number: int) -> None:
        with suppress(Exception):
            writers = list(self._open)
            began, time_of_all = monotonic(), _time_of(writers)
            _each(writers, lambda writer, seconds: writer.drain(seconds), time_of_all * _DRAINING)
            _each(writers, lambda writer, seconds: writer.close(seconds), began + time_of_all - monotonic())
        self._is_ended = True
        os.kill(os.getpid(), number)
        # The main thread may be in a call that no handler interrupts.
        time.sleep(_SIGNAL_TIMEOUT)
        os._exit(_STATUS_OF_SIGNALS + number)

    def _die(self, number: int) -> None:
        self._termination.stop()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        # A signal that has no handler does not end the first process of a container.
        os._exit(_STATUS_OF_SIGNALS + number)

    def _before_fork(self) -> None:
        self._forking = list(self._open)
        for writer in self._forking:
            writer.before_fork()

    def _after_fork_in_parent(self) -> None:
        for writer in reversed(self._forking):
            writer.after_fork_in_parent()

    def _after_fork_in_child(self) -> None:
        self._ending = None
        self._is_ended = self._is_exiting = False
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


def _close_at_exit(writer: Managed, seconds: float) -> None:
    try:
        writer.close(seconds)
    except SystemExit:
        # The handler of a host's for another signal, such as gunicorn's: the process is ending already.
        writer.close(seconds)


def _at_os_exit(close: Callable[[], None]) -> None:
    """Call a function where a process ends by `os._exit`: in a child of multiprocessing, or of Celery's pool."""
    if util := sys.modules.get("multiprocessing.util"):
        util.Finalize(None, close, exitpriority=0)
    if celery := sys.modules.get("celery.signals"):
        celery.worker_process_shutdown.connect(lambda **_: close(), weak=False, dispatch_uid=__name__)


_writers: Final = _Writers()


def manage(writer: Managed) -> None:
    """Run the hooks for a writer until `release`."""
    _writers.add(writer)


def enter() -> None:
    """Set the hooks that this process lacks: it may be a child, or its host may have set handlers meanwhile."""
    _writers.enter()


def release(writer: Managed) -> None:
    """Stop running the hooks for a writer."""
    _writers.remove(writer)
