"""The lock of a writer, the conditions that its threads wait for, and whether it is open."""

from __future__ import annotations

import threading
from contextlib import suppress
from enum import Enum
from time import monotonic
from typing import TYPE_CHECKING, Final
from weakref import WeakSet

from provider_trace_store.errors import WriterClosedError

if TYPE_CHECKING:
    from collections.abc import Callable

_LONGEST_WAIT: Final = 1e6


class State(Enum):
    """Whether a writer takes traces, and whether it sends them."""

    OPEN = "open"
    """Traces are taken and sent."""
    CLOSING = "closing"
    """No trace is taken. Those that were taken are sent until the close's timeout has passed."""
    CLOSED = "closed"
    """No trace is taken or sent. The thread may still be in a transaction that does not end."""


# A module's name is read nine times as fast as an enumeration's member, and `check_open` is in the path of a submit.
_OPEN: Final = State.OPEN


class Hurry:
    """A flush that is waiting."""


class _Waiters:
    """Callers' threads that wait for a change of the state, without the lock.

    `threading.Condition` takes the lock again before it returns. An exception of a signal's handler, or a killed
    greenlet, can interrupt that: the caller would then release a lock that it does not hold.

    Args:
        lock: the lock of the state.
    """

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock
        # One for each thread that waits; each is locked until `notify_all`.
        self._tickets: list[threading.Lock] = []

    def notify_all(self) -> None:
        """Let every thread look again; the caller holds the lock."""
        tickets, self._tickets = self._tickets, []
        for ticket in tickets:
            ticket.release()

    def wait_for(self, condition: Callable[[], bool], timeout: float) -> bool:
        """Wait until a condition holds, and return whether it does; the caller does not hold the lock.

        Args:
            condition: called with the lock held, at least once.
            timeout: how long to wait, in seconds.
        """
        end = monotonic() + timeout
        while True:
            with self._lock:
                if condition():
                    return True
                if (left := end - monotonic()) <= 0:
                    return False
                ticket = threading.Lock()
                ticket.acquire()
                self._tickets.append(ticket)
            if not ticket.acquire(timeout=left):
                with self._lock, suppress(ValueError):
                    self._tickets.remove(ticket)


class Signals:
    """The state of a writer, and the threads that wait for it.

    The caller holds `lock`, except for `pause`, `wait_for_room` and `wait_for_progress`.
    """

    def __init__(self) -> None:
        self.lock: Final = threading.Lock()
        # The writer's thread waits for work, a submit waits for room, and a flush waits for progress.
        self._work = threading.Condition(self.lock)
        self._room = _Waiters(self.lock)
        self._progress = _Waiters(self.lock)
        self._state = State.OPEN
        self._deadline = 0.0
        # Each belongs to a caller that waits, and ends with it, whatever ends the caller.
        self._hurries: WeakSet[Hurry] = WeakSet()
        self._wake_ups = 0

    @property
    def state(self) -> State:
        """Whether traces are taken and sent."""
        return self._state

    @property
    def is_urgent(self) -> bool:
        """Whether a flush or a close is waiting, so that a partial batch must go now."""
        return self._state is not State.OPEN or len(self._hurries) > 0

    def is_over(self, now: float) -> bool:
        """Say whether the writer's thread must stop."""
        return self._state is State.CLOSED or (self._state is State.CLOSING and now >= self._deadline)

    def check_open(self) -> None:
        """Raise WriterClosedError if no trace is taken."""
        if self._state is not _OPEN:
            raise WriterClosedError

    def close(self, timeout: float) -> None:
        """Take no more traces.

        Args:
            timeout: how long those that were taken may still be sent, in seconds.
        """
        if self._state is State.OPEN:
            self._state = State.CLOSING
        self._deadline = monotonic() + bounded(timeout)
        self._wake_up()
        self._room.notify_all()

    def end(self) -> None:
        """Send no more traces."""
        self._state = State.CLOSED
        self._progress.notify_all()

    def notify_work(self) -> None:
        """Let the writer's thread look for work."""
        self._work.notify()

    def notify_progress(self, *, has_room: bool) -> None:
        """Let every flush look whether its traces are done; `has_room`: let every submit look for room, too."""
        self._progress.notify_all()
        if has_room:
            self._room.notify_all()

    def wait_for_work(self, seconds: float | None) -> None:
        """Wait until there may be work, or for so many seconds; None: for as long as it takes."""
        self._work.wait(seconds)

    def wait_for_room(self, took: Callable[[], bool], timeout: float) -> bool:
        """Try to take a trace whenever there may be room; return whether it was taken within `timeout` seconds.

        The caller does not hold the lock.

        Raises:
            WriterClosedError: the writer takes no more traces.
        """

        def is_taken() -> bool:
            self.check_open()
            return took()

        return self._room.wait_for(is_taken, timeout)

    def wait_for_progress(self, is_done: Callable[[], bool], timeout: float) -> None:
        """Wait until a condition holds, the writer is closed, or `timeout` seconds have passed.

        Meanwhile a partial batch is sent. The caller does not hold the lock.
        """
        with self.lock:
            hurry = self.hurry()
        self._progress.wait_for(lambda: self._state is State.CLOSED or is_done(), bounded(timeout))
        del hurry

    def hurry(self) -> Hurry:
        """Let a partial batch go for as long as the caller keeps the result."""
        hurry = Hurry()
        self._hurries.add(hurry)
        self._wake_up()
        return hurry

    def pause(self, seconds: float) -> None:
        """Wait for so many seconds, or until a flush or a close begins; the caller does not hold the lock."""
        with self.lock:
            wake_ups = self._wake_ups
            if self._state is not State.OPEN:
                seconds = min(seconds, max(0.0, self._deadline - monotonic()))
            self._work.wait_for(lambda: self._wake_ups != wake_ups, seconds)

    def _wake_up(self) -> None:
        self._wake_ups += 1
        self._work.notify_all()


def bounded(timeout: float) -> float:
    """Return a timeout that the system's clocks can take, in seconds: at least 0, at most eleven days."""
    return min(max(timeout, 0.0), _LONGEST_WAIT)
