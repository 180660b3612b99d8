"""What the callers' threads and the writer's own share: what waits in memory, what was counted, who waits for what."""

from __future__ import annotations

from collections import deque
from threading import Condition, Lock
from time import monotonic
from typing import TYPE_CHECKING, Final

from provider_trace_store.errors import WriterClosedError
from provider_trace_store.writer.queue import MemoryQueue
from provider_trace_store.writer.stats import WriterStats

if TYPE_CHECKING:
    from provider_trace_store.writer.options import WriterOptions
    from provider_trace_store.writer.submission import Submission

_FOR_EVER: Final = 1e6
_COUNTED: Final = ("accepted", "stored", "unchanged", "rejected", "spooled", "dropped", "adopted", "retries")


class Ledger:
    """Everything in it is read and changed with `lock` held. Where the spool's lock is needed, too, it is taken before.

    Args:
        options: how much waits in memory, and whether traces go to the spool from the beginning.
    """

    def __init__(self, options: WriterOptions) -> None:
        self.lock = Lock()
        # What the writer's thread, submits without room, and flushes wait for.
        self.work = Condition(self.lock)
        self.room = Condition(self.lock)
        self.progress = Condition(self.lock)
        self.queue = MemoryQueue(options)
        self.is_spilling = options.is_durable
        # Since when the first of what is in the spool's last file has waited.
        self.spooled_since: float | None = None
        # How many came to the spool and left it; the first to come are the first to leave.
        self.spool_came = 0
        self.spool_left = 0
        # What had come to the spool when rows of a damaged file were put behind the others there.
        self.rescued_up_to = 0
        self.counts = dict.fromkeys(_COUNTED, 0)
        # What has left only to come again.
        self.postponed: set[str] = set()
        # Taken off the queue by a close, and not yet counted as what becomes of them.
        self.leaving: deque[Submission] = deque()
        self.is_closing = False
        self.deadline = 0.0
        # Closed, and the thread may still be at something that does not end.
        self.is_abandoned = False
        self._flushes = 0
        self._nudges = 0

    @property
    def is_urgent(self) -> bool:
        """Whether somebody waits for what would otherwise wait for more."""
        return self.is_closing or self._flushes > 0

    def stats(self, spool_size: int) -> WriterStats:
        """Return the counters; to be called without the lock.

        Args:
            spool_size: about what waits in the spool takes, in bytes.
        """
        with self.lock:
            counts = self.counts
            return WriterStats(
                **counts,
                queued=len(self.queue) + len(self.leaving),
                queued_bytes=self.queue.bytes,
                spooled_bytes=spool_size if counts["spooled"] else 0,
            )

    def check_open(self) -> None:
        """Raise WriterClosedError where no more traces are taken."""
        if self.is_closing:
            raise WriterClosedError

    def enqueue(self, submission: Submission) -> None:
        """Take a trace into memory, where there is room."""
        submission.since = monotonic()
        self.counts["accepted"] += 1
        if self.queue.append(submission):
            self.work.notify()

    def settle(self, *, rejected: int, stored: int = 0, unchanged: int = 0) -> None:
        """Count what became of traces, and let those look who wait for it."""
        self.counts["stored"] += stored
        self.counts["unchanged"] += unchanged
        self.counts["rejected"] += rejected
        self.room.notify_all()
        self.progress.notify_all()

    def begin_closing(self, timeout: float) -> None:
        """Take no more traces.

        Args:
            timeout: how long those that were taken may still be stored, in seconds.
        """
        self.is_closing = True
        self.deadline = monotonic() + bounded(timeout)
        self._nudge()
        self.room.notify_all()

    def flush(self, timeout: float, *, is_patient: bool = True) -> bool:
        """Wait until all that came before has left; to be called without the lock.

        Args:
            timeout: how long, in seconds.
            is_patient: whether to wait for a database that is away.

        Returns:
            Whether it has.
        """
        with self.lock:
            queue_target, spool_target = self.queue.came, self.spool_came

            def have_left() -> bool:
                spool_end = max(spool_target, self.rescued_up_to)
                return self.queue.left >= queue_target and self.spool_left >= spool_end and not self.postponed

            self._flushes += 1
            self._nudge()
            try:
                retries = self.counts["retries"]

                def is_over() -> bool:
                    return self.is_abandoned or have_left() or not (is_patient or self.counts["retries"] == retries)

                self.progress.wait_for(is_over, bounded(timeout))
                return have_left()
            finally:
                self._flushes -= 1

    def note_retry(self, retries: int) -> None:
        """Note how often a batch was sent again, and let those look who do not wait for that."""
        self.counts["retries"] = retries
        self.progress.notify_all()

    def pause(self, seconds: float) -> None:
        """Wait, or until a flush or a close begins; to be called without the lock."""
        with self.lock:
            nudges = self._nudges
            if self.is_closing:
                seconds = min(seconds, max(0.0, self.deadline - monotonic()))
            self.work.wait_for(lambda: self._nudges != nudges, seconds)

    def _nudge(self) -> None:
        self._nudges += 1
        self.work.notify_all()


def bounded(timeout: float) -> float:
    """Return a time that the system's clocks can take, in seconds: for ever is eleven days."""
    return min(max(timeout, 0.0), _FOR_EVER)
