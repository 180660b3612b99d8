"""The writer's thread: takes one piece of work after the other from the sources, until the writer is closed.

While there is room, traces go through memory. Without room they go to the spool, until the thread has caught up; with a
durable writer all traces go there. Traces in memory are sent before those that went to the spool later, and after those
that were there before.
"""

from __future__ import annotations

import logging
import threading
import time
from time import monotonic
from typing import TYPE_CHECKING, Final

from provider_trace_store.errors import TraceEncodingError, TraceTooLargeError
from provider_trace_store.spool.errors import SpoolUnavailableError
from provider_trace_store.writer import process
from provider_trace_store.writer.destination import Refusal
from provider_trace_store.writer.logs import logger
from provider_trace_store.writer.retries import GaveUpError, Sender
from provider_trace_store.writer.signals import State, bounded
from provider_trace_store.writer.sources import AdoptionSource, MemorySource, SpoolSource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from provider_trace_store.spool.spool import Spool
    from provider_trace_store.writer.counters import Outcome
    from provider_trace_store.writer.destination import Destination
    from provider_trace_store.writer.logs import ThrottledLog
    from provider_trace_store.writer.options import WriterOptions
    from provider_trace_store.writer.sources import Source
    from provider_trace_store.writer.state import SharedState
    from provider_trace_store.writer.submission import Submission
    from provider_trace_store.writer.telemetry import Telemetry

_NO_THREAD: Final = (
    "the writer's thread cannot be started (%s): traces wait in memory until a later submit starts it, or a flush or "
    "a close sends them"
)
# How long the thread pauses after an unexpected error, in seconds.
_PAUSE: Final = 1.0
# How long a close waits, besides its own timeout, for locks that are held for a short time, in seconds.
_GRACE: Final = 2.0
# How often such a lock is looked at, in seconds.
_POLL: Final = 0.002


class Worker:
    """Sends the waiting traces in a thread of its own, which starts with the first trace.

    Args:
        options: the table, and how much is sent at a time.
        state: where traces wait in memory, and are counted.
        spool: where rows wait, too; None for no spool.
        destination: stores the rows.
        telemetry: records each try.
        log: records failures.
    """

    def __init__(  # noqa: PLR0913  (each is another object that it works with)
        self,
        options: WriterOptions,
        state: SharedState,
        spool: Spool | None,
        destination: Destination,
        *,
        telemetry: Telemetry,
        log: ThrottledLog,
    ) -> None:
        self._options = options
        self._state = state
        self._signals = state.signals
        self._spool = spool
        self._log = log
        self._sender = Sender(
            options,
            destination,
            spool.rejects if spool else None,
            telemetry,
            log,
            gives_up=self._gives_up,
            pause=state.signals.pause,
            on_retry=state.retried,
        )
        self._memory = MemorySource(options, state, self._sender)
        self._spools: list[Source] = []
        self._adoptions: list[Source] = []
        if spool is not None:
            self._spools = [SpoolSource(options, state, spool, self._memory, sender=self._sender, log=log)]
            self._adoptions = [AdoptionSource(state, spool)]
        self._memory_is_next = False
        # The thread that runs `_run`, which sets it first and removes it last.
        self._thread: threading.Thread | None = None
        # When a calling thread that does the work of this thread must stop, by the monotonic clock.
        self._until: float | None = None
        self._closing = threading.Lock()
        self._close_result: bool | None = None

    @property
    def delivering(self) -> threading.Lock:
        """The lock that is held during a transaction, taken before all others."""
        return self._sender.delivering

    @property
    def is_started(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None

    @property
    def is_closed(self) -> bool:
        """Whether a close has ended."""
        return self._close_result is not None

    def start(self) -> bool:
        """Start the thread, unless it runs; if there can be none now, the next call tries again.

        An exception of a signal's handler may end this method after the system has started the thread. So each thread
        makes itself known, and one that finds another known ends.

        Returns:
            Whether it runs.
        """
        if self._thread is not None or self._signals.state is not State.OPEN:
            return self._thread is not None
        process.enter()
        is_known = threading.Event()
        thread = threading.Thread(
            target=self._run, args=(is_known.set,), name="provider_trace_store.writer", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:
            self._log.log(logging.ERROR, _NO_THREAD, type(error).__qualname__)
            return False
        is_known.wait(_GRACE)
        return True

    def flush(self, timeout: float) -> bool:
        """Do as `SharedState.flush`; if no thread can be started, send in this one."""
        end = monotonic() + bounded(timeout)
        if self._thread is None and not self._state.flush(0) and not self.start():
            with self._state.lock:
                hurry = self._signals.hurry()
            self._run_here(end)
            del hurry
        return self._state.flush(end - monotonic())

    def close(self, timeout: float) -> bool:
        """Send the traces that were taken; then put the rest into the spool, or drop it.

        Args:
            timeout: how long to go on sending, in seconds.

        Returns:
            Whether every trace is stored, unchanged or rejected.
        """
        timeout = bounded(timeout)
        end = monotonic() + timeout
        # This thread may have been interrupted by a signal while it held the lock.
        if not _is_free(self._state.lock, timeout + _GRACE):
            logger.error("the writer is not closed: close it in a thread, not in the handler of a signal")
            return False
        is_needed = len(self._state.queue) > 0 and self._signals.state is State.OPEN
        is_running = self.start() if is_needed else self.is_started
        with self._state.lock:
            self._signals.close(timeout)
            thread = self._thread
        if is_needed and not is_running:
            self._run_here(end)
        elif thread is not None and thread is not threading.current_thread():
            thread.join(timeout)
        # A second close that runs at the same time waits for the result of the first.
        if not _is_free(self._closing, timeout + _GRACE):
            return False
        with self._closing:
            if self._close_result is None:
                self._close_result = self._keep_rest()
            return self._close_result

    def _keep_rest(self) -> bool:
        self._state.end()
        dropped = 0
        # One by one: a trace in memory is released when the spool has it.
        while (submission := self._first_in_memory()) is not None:
            outcome = self._kept(submission)
            dropped += outcome == "dropped"
            self._state.left_memory(outcome)
        if self._spool is not None:
            self._spool.close(_GRACE)
        spooled = self._state.stats(0).spooled
        if spooled:
            logger.warning("closed with %d traces in the spool: the next writer to start there stores them", spooled)
        if dropped:
            logger.error("closed, and %d traces were dropped: they were not stored in time", dropped)
        return not spooled and not dropped

    def _first_in_memory(self) -> Submission | None:
        with self._state.lock:
            return self._state.queue.first

    def _kept(self, submission: Submission) -> Outcome:
        """Append a trace to the spool that was not stored in time, and return what became of it."""
        if self._spool is None:
            return "dropped"
        try:
            row = submission.make()
            with self._spool.lock:
                self._spool.append([row])
        except (TraceEncodingError, TraceTooLargeError) as error:
            self._sender.reject(self._options.kind, [Refusal(submission, error)])
            return "rejected"
        except Exception as error:  # noqa: BLE001  # the other traces must still be kept
            if not isinstance(error, SpoolUnavailableError):
                name = type(error).__qualname__
                self._log.log(logging.ERROR, "%s cannot be kept: %s", submission.id, name)
            return "dropped"
        return "spooled"

    def _run(self, on_known: Callable[[], None]) -> None:
        try:
            with self._state.lock:
                if self._thread is not None:
                    return
                self._thread = threading.current_thread()
        finally:
            on_known()
        try:
            while self._worked():
                pass  # until there is nothing to do any more
        finally:
            self._sender.close()
            # If it was not the close that has ended this thread, the next submit starts another.
            self._thread = None

    def _run_here(self, until: float) -> None:
        """Do the thread's work in the calling thread, until there is none or the time is over."""
        self._until = until
        try:
            self._run(lambda: None)
        finally:
            self._until = None

    def _worked(self) -> bool:
        """Do one piece of work; return whether there may be more."""
        try:
            source = self._next_source()
            if source is None:
                return False
            source.work()
        except GaveUpError:
            with self._state.lock:
                self._state.queue.put_back()
            return False
        except BaseException as error:
            with self._state.lock:
                self._state.queue.put_back()
            if self._until is not None:
                # The calling thread's own, such as KeyboardInterrupt.
                raise
            # Whatever a host's hook raises must not end the thread.
            name = type(error).__qualname__
            self._log.log(logging.ERROR, "the writer's thread continues after an unexpected %s", name)
            self._signals.pause(_PAUSE)
        return True

    def _next_source(self) -> Source | None:
        """Wait for a source that is due; return None if the thread must end."""
        with self._state.lock:
            while not self._is_over(now := monotonic()):
                sources = [*self._adoptions, *self._in_order()]
                for source in sources:
                    if source.is_due(now):
                        return source
                if self._signals.state is State.CLOSING or self._until is not None:
                    return None
                moments = [moment for source in sources if (moment := source.due_at(now)) is not None]
                self._signals.wait_for_work(max(0.0, min(moments) - now) if moments else None)
            return None

    def _in_order(self) -> Iterator[Source]:
        is_memory_first = self._state.spool_progress.is_spilling
        if self._options.is_durable or (self._spool is not None and not is_memory_first and self._spool.is_drained):
            # The two have no order between them, and neither may wait until the other is empty.
            is_memory_first = self._memory_is_next = not self._memory_is_next
        if is_memory_first:
            yield self._memory
        yield from self._spools
        if not is_memory_first:
            yield self._memory

    def _gives_up(self) -> bool:
        """Say whether to stop after a failure: a close need not wait for rows that the spool has, or can take."""
        with self._state.lock:
            if self._is_over(monotonic()):
                return True
            can_keep = self._spool is not None and self._spool.has_room_for(self._state.queue.bytes)
            return can_keep and self._signals.state is State.CLOSING

    def _is_over(self, now: float) -> bool:
        return self._signals.is_over(now) or (self._until is not None and now >= self._until)


def _is_free(lock: threading.Lock, timeout: float) -> bool:
    """Wait until a lock is free, without taking it: a signal between `acquire` and `try` would leave it taken."""
    end = monotonic() + timeout
    while lock.locked():
        if monotonic() >= end:
            return False
        time.sleep(_POLL)
    return True
