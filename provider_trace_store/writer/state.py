"""The state that the callers' threads and the writer's thread share: traces in memory, counters, waiting threads."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from provider_trace_store.writer.counters import Counters
from provider_trace_store.writer.queue import MemoryQueue
from provider_trace_store.writer.signals import Signals, State
from provider_trace_store.writer.spool_progress import SpoolProgress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from provider_trace_store.spool.sealed import Change, SpoolBatch
    from provider_trace_store.writer.counters import Outcome
    from provider_trace_store.writer.destination import Sent
    from provider_trace_store.writer.options import WriterOptions
    from provider_trace_store.writer.stats import WriterStats
    from provider_trace_store.writer.submission import Position, Submission


class SharedState:
    """The only owner of the shared state: each change is a method, and each method takes `lock` itself.

    With `lock` held, a thread may read `queue`, `spool_progress` and `signals`, and call their methods. A thread that
    needs the spool's lock, too, takes that one first.

    Args:
        options: how much waits in memory, and whether all traces go to the spool.
    """

    def __init__(self, options: WriterOptions) -> None:
        self._options = options
        self._counters = Counters()
        # Ids of postponed rows: they will be sent again.
        self._postponed: set[str] = set()
        self.signals = Signals()
        self.lock = self.signals.lock
        self.queue = MemoryQueue(options, self._counters)
        self.spool_progress = SpoolProgress(is_spilling=options.is_durable)

    def stats(self, spool_size: int) -> WriterStats:
        """Return the counts of this moment.

        Args:
            spool_size: what the spool's files take on the disk, in bytes.
        """
        with self.lock:
            spooled = self.spool_progress.waiting
            return self._counters.stats(
                spooled=spooled,
                queued=len(self.queue),
                queued_bytes=self.queue.bytes,
                spooled_bytes=spool_size,
            )

    def take(self, submission: Submission, *, or_spill: bool = False) -> bool:
        """Take a trace into memory, if there is room and no trace goes to the spool; return whether it was taken.

        Args:
            submission: the trace.
            or_spill: whether this trace and all that follow go to the spool otherwise. The caller, who holds the
                spool's lock, then appends it.

        Raises:
            WriterClosedError: the writer takes no more traces.
        """
        with self.lock:
            self.signals.check_open()
            if not self.spool_progress.is_spilling and self._took(submission):
                return True
            if or_spill:
                self.spool_progress.spill()
            return False

    def takes_into_spool(self) -> None:
        """Count a trace that is appended to the spool next."""
        with self.lock:
            self.spool_progress.count_came(1, is_in_file=False)

    def took_into_spool(self, *, is_batch: bool) -> None:
        """Let the writer's thread look: a counted trace was appended to the spool.

        Args:
            is_batch: whether the spool has a full batch.
        """
        with self.lock:
            if self.spool_progress.began() or is_batch:
                self.signals.notify_work()

    def did_not_take_into_spool(self) -> None:
        """Take back `takes_into_spool`: the trace was not appended."""
        with self.lock:
            self.spool_progress.count_came(-1)

    def refused_by_spool(self, *, is_drained: bool) -> None:
        """Take back `takes_into_spool`; let traces go through memory again if the spool is empty.

        Args:
            is_drained: whether no row of this process waits in the spool.
        """
        with self.lock:
            self.spool_progress.count_came(-1)
            if is_drained and not self._options.is_durable:
                self.spool_progress.stop_spilling()

    def take_when_room(self, submission: Submission, timeout: float) -> int:
        """Take a trace into memory when there is room, or drop it.

        Args:
            submission: the trace.
            timeout: how long to wait for room, in seconds.

        Returns:
            0 if it was taken, else how many traces were dropped since the start.

        Raises:
            WriterClosedError: the writer takes no more traces.
        """
        if self.signals.wait_for_room(lambda: self._took(submission), timeout):
            return 0
        with self.lock:
            return self._counters.dropped()

    def sent_from_memory(self, sent: Sent) -> bool:
        """Count traces that were sent from memory; return False if a close has taken them out of memory meanwhile."""
        with self.lock:
            if self.signals.state is State.CLOSED:
                return False
            self._sent([sent], self.queue.after(sent.sources))
            self.queue.forget()
            if sent.is_postponed:
                self.queue.append(sent.sources[0])
                self.signals.notify_work()
            return True

    def sent_from_spool(self, batch: SpoolBatch, parts: Sequence[Sent], *, uncounted: int) -> None:
        """Count rows that were sent from the spool.

        Args:
            batch: the rows.
            parts: what became of them; postponed rows were appended to the spool again.
            uncounted: as the spool's `settle` returned.
        """
        again = sum(part.is_postponed for part in parts)
        with self.lock:
            if batch.backlog.is_adopted:
                self.spool_progress.count_adopted(uncounted - len(batch.rows))
            else:
                self.spool_progress.count_left(len(batch.rows), uncounted=uncounted)
            self.spool_progress.count_came(again)
            self._sent(parts)

    def changed_in_spool(self, change: Change) -> None:
        """Count what adoption and damaged files have changed."""
        with self.lock:
            self._counters.changed_in_spool(adopted=change.adopted, lost=change.lost)
            self.spool_progress.count_left(change.left)
            self.spool_progress.count_rescued(change.came)
            self.spool_progress.count_adopted(change.adopted - change.lost - change.came + change.left)
            self.signals.notify_progress(has_room=False)

    def retried(self) -> None:
        """Count a batch that is sent again; a flush that does not wait for a database that is away ends."""
        with self.lock:
            self._counters.retried()
            self.signals.notify_progress(has_room=False)

    def flush(self, timeout: float, *, is_patient: bool = True) -> bool:
        """Wait until all traces that came before are stored, unchanged or rejected.

        Args:
            timeout: how long to wait, in seconds.
            is_patient: whether to wait for a database that is away.

        Returns:
            Whether they are.
        """
        with self.lock:
            queue_target, spool_target = self.queue.came, self.spool_progress.came
            retries = self._counters.retries

        def have_left() -> bool:
            is_sent = self.queue.left >= queue_target and self.spool_progress.has_left(spool_target)
            return is_sent and not self._postponed

        def is_done() -> bool:
            return have_left() or not (is_patient or self._counters.retries == retries)

        self.signals.wait_for_progress(is_done, timeout)
        with self.lock:
            return have_left()

    def end(self) -> None:
        """Send no more traces; the close takes those in memory out with `left_memory`."""
        with self.lock:
            self.signals.end()
            self.queue.put_back()

    def left_memory(self, outcome: Outcome) -> None:
        """Take the first trace out of memory, after `end`."""
        with self.lock:
            if (first := self.queue.first) is None:
                return
            if outcome == "spooled":
                self.spool_progress.count_came(1)
            self._counters.left_memory(outcome, first.position)
            self.queue.forget()

    def _took(self, submission: Submission) -> bool:
        submission.since = monotonic()
        return self.queue.take(submission, self.signals.notify_work)

    def _sent(self, parts: Sequence[Sent], left: Position | None = None) -> None:
        for part in parts:
            if part.is_postponed:
                self._postponed.add(part.sources[0].id)
            elif self._postponed:
                self._postponed.difference_update(source.id for source in part.sources)
        self._counters.sent(parts, left)
        self.signals.notify_progress(has_room=True)
