"""The writer's thread: sends what waits in memory and in the spool, in the order in which it came.

As long as there is room, traces go through memory. Once there is none, they go to the spool, until the thread has
caught up; with a durable writer all of them do. What is in memory goes before what went to the spool later, and behind
what was there before.
"""

from __future__ import annotations

import logging
import sqlite3
from threading import Lock, Thread, current_thread
from time import monotonic
from typing import TYPE_CHECKING, Final, NamedTuple

from provider_trace_store.errors import TraceEncodingError, TraceTooLargeError
from provider_trace_store.spool.spool import SpoolUnavailableError
from provider_trace_store.writer.retries import GaveUpError
from provider_trace_store.writer.state import bounded
from provider_trace_store.writer.transaction import Refusal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from provider_trace_store.spool.sealed import SpoolBatch
    from provider_trace_store.spool.spool import Change, Spool
    from provider_trace_store.tables.rows import Row
    from provider_trace_store.writer.options import WriterOptions
    from provider_trace_store.writer.retries import Sender
    from provider_trace_store.writer.state import Ledger
    from provider_trace_store.writer.stats import Occasionally
    from provider_trace_store.writer.submission import Submission

# How often the spool is searched for files of processes that have died meanwhile, in seconds.
ADOPTION_INTERVAL: Final = 10.0
# How long the thread does nothing after an error that nobody has foreseen, in seconds.
_PAUSE: Final = 1.0
# How long a close waits, besides its own time, for what ends soon, in seconds.
_GRACE: Final = 2.0

logger: Final = logging.getLogger("provider_trace_store.writer")


class _Ready(NamedTuple):
    """A row that was made before."""

    row: Row

    @property
    def id(self) -> str:
        """The trace's id."""
        return self.row.trace_id

    def make(self) -> Row:
        """Return the row."""
        return self.row


class Worker:
    """Sends what waits, in a thread of its own.

    Args:
        options: the table of what waits in memory, and how much is sent at a time.
        ledger: where it waits, and is counted.
        spool: where it waits, too; None for nowhere.
        sender: sends it.
        occasionally: logs.
    """

    def __init__(
        self,
        options: WriterOptions,
        ledger: Ledger,
        spool: Spool | None,
        sender: Sender,
        occasionally: Occasionally,
    ) -> None:
        self._options = options
        self._ledger = ledger
        self._spool = spool
        self._occasionally = occasionally
        self._sender = sender
        sender.wait_like(gives_up=self._gives_up, pause=self._pause)
        self._next_adoption = 0.0
        self._queue_is_next = False
        self._spool_from = 0.0
        self._closing = Lock()
        self._is_closed: bool | None = None
        self._thread: Thread | None = None

    @property
    def is_started(self) -> bool:
        """Whether the thread was started."""
        return self._thread is not None

    @property
    def is_closed(self) -> bool:
        """Whether a close has come to its end."""
        return self._is_closed is not None

    def start(self) -> None:
        """Start the thread, unless it was; where the system has none left, the next call tries again."""
        with self._ledger.lock:
            if self._thread is not None or self._ledger.is_closing:
                return
            thread = Thread(target=self._run, name="provider_trace_store.writer", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                self._occasionally.log(logging.ERROR, "the writer's thread cannot be started")
            else:
                self._thread = thread

    def close(self, timeout: float) -> bool:
        """Store what was taken, and put what is left into the spool; the rest of it is lost.

        Args:
            timeout: how long to go on storing, in seconds.

        Returns:
            Whether everything is stored, unchanged or rejected.
        """
        ledger = self._ledger
        timeout = bounded(timeout)
        # The thread that is here may have been interrupted by a signal, with the lock in hand.
        if not ledger.lock.acquire(timeout=timeout + _GRACE):
            logger.error("the writer is not closed: a signal's handler must not do that, or only in another thread")
            return False
        try:
            is_needed = len(ledger.queue) > 0 and not ledger.is_closing
        finally:
            ledger.lock.release()
        if is_needed:
            self.start()
        with ledger.lock:
            ledger.begin_closing(timeout)
            thread = self._thread
        if thread is not None and thread is not current_thread():
            thread.join(timeout)
        # Whoever else closes it at the same time waits for what the first one makes of it.
        if not self._closing.acquire(timeout=timeout + _GRACE):
            return False
        try:
            if self._is_closed is None:
                self._is_closed = self._close()
            return self._is_closed
        finally:
            self._closing.release()

    def _close(self) -> bool:
        ledger = self._ledger
        with ledger.lock:
            ledger.is_abandoned = True
            # Behind what a close that was interrupted has left there.
            ledger.leaving.extend(ledger.queue.empty())
            ledger.progress.notify_all()
        dropped = 0
        while ledger.leaving:
            outcome = self._kept(ledger.leaving[0])
            dropped += outcome == "dropped"
            with ledger.lock:
                ledger.leaving.popleft()
                ledger.counts[outcome] += 1
        if self._spool is not None:
            self._spool.close(_GRACE)
        with ledger.lock:
            spooled = ledger.counts["spooled"]
        if spooled:
            logger.warning("closed with %d traces in the spool: the next writer to start there stores them", spooled)
        if dropped:
            logger.error("closed, and %d traces were dropped: they were not stored in time", dropped)
        return not spooled and not dropped

    def _kept(self, submission: Submission) -> str:
        """Put into the spool what was not stored when the time was up, and return what becomes of it."""
        if self._spool is None:
            return "dropped"
        try:
            row = submission.make()
            with self._spool.lock:
                self._spool.append([row])
        except (TraceEncodingError, TraceTooLargeError) as error:
            self._sender.refuse(self._options.kind, [Refusal(submission, error)])
            return "rejected"
        except Exception as error:  # noqa: BLE001  # one that cannot be kept does not cost the others
            if not isinstance(error, SpoolUnavailableError):
                kind = type(error).__qualname__
                self._occasionally.log(logging.ERROR, "%s cannot be kept: %s", submission.id, kind)
            return "dropped"
        return "spooled"

    def _run(self) -> None:
        while True:
            try:
                if not self._do_next():
                    return
            except GaveUpError:
                return
            except BaseException as error:  # noqa: BLE001  # whatever a host's hook raises must not end the thread
                kind = type(error).__qualname__
                self._occasionally.log(logging.ERROR, "the writer's thread goes on after an unexpected %s", kind)
                with self._ledger.lock:
                    self._ledger.queue.put_back()
                self._ledger.pause(_PAUSE)

    def _do_next(self) -> bool:
        """Wait for something to do, and do it; say whether there may be more."""
        ledger = self._ledger
        with ledger.lock:
            while (action := self._due(now := monotonic())) is None:
                ledger.work.wait(self._seconds_to_wait(now))
            batch = ledger.queue.take_batch() if action == "queue" else []
        if batch:
            self._write_queue(batch)
        elif self._spool is not None and action == "spool":
            self._write_spool(self._spool)
        elif self._spool is not None and action == "adopt":
            self._adopt(self._spool)
        return action != "stop"

    def _due(self, now: float) -> str | None:
        ledger = self._ledger
        if ledger.is_abandoned or (ledger.is_closing and now >= ledger.deadline):
            return "stop"
        if self._spool is not None and now >= self._next_adoption and not ledger.is_closing:
            return "adopt"
        is_queue_first = ledger.is_spilling
        if self._options.is_durable or (self._spool is not None and not is_queue_first and self._spool.is_drained):
            # What is in memory has no order with what is in the spool, and must not wait for all of it.
            is_queue_first = self._queue_is_next = not self._queue_is_next
        for place in ("queue", "spool") if is_queue_first else ("spool", "queue"):
            if self._queue_is_due(now) if place == "queue" else self._spool_is_due(now):
                return place
        return "stop" if ledger.is_closing else None

    def _queue_is_due(self, now: float) -> bool:
        queue = self._ledger.queue
        return queue.oldest is not None and (
            self._ledger.is_urgent or queue.is_batch or now - queue.oldest >= self._options.batch_age
        )

    def _spool_is_due(self, now: float) -> bool:
        spool = self._spool
        return spool is not None and now >= self._spool_from and (spool.has_sealed or self._is_to_be_sealed(spool, now))

    def _is_to_be_sealed(self, spool: Spool, now: float) -> bool:
        since = self._ledger.spooled_since
        return since is not None and (
            self._ledger.is_urgent
            or self._is_batch(spool)
            or now - since >= self._options.batch_age
            # What is there came before what is in memory.
            or (not self._ledger.is_spilling and self._queue_is_due(now))
        )

    def _is_batch(self, spool: Spool) -> bool:
        return spool.active_count >= self._options.batch_rows or spool.active_size >= self._options.batch_bytes

    def _seconds_to_wait(self, now: float) -> float | None:
        age = self._options.batch_age
        oldest, since = self._ledger.queue.oldest, self._ledger.spooled_since
        moments = [oldest + age] if oldest is not None else []
        if self._spool is not None:
            moments.append(self._next_adoption)
            if since is not None or self._spool.has_sealed:
                moments.append(max((since or now) + age, self._spool_from))
        return max(0.0, min(moments) - now) if moments else None

    def _write_queue(self, batch: Sequence[Submission]) -> None:
        ledger = self._ledger
        for sent in self._sender.send(self._options.kind, batch):
            with ledger.lock:
                if ledger.is_abandoned:
                    return
                ledger.queue.settle(sent.sources)
                if sent.postponed:
                    ledger.queue.append(sent.sources[0])
                self._note_sender()
                ledger.settle(stored=sent.stored, unchanged=sent.unchanged, rejected=sent.rejected)
            if sent.postponed:
                # Others go first, where there are any.
                ledger.pause(min(_PAUSE, self._options.max_retry_delay))

    def _write_spool(self, spool: Spool) -> None:
        with self._ledger.lock:
            # What a dead process left does not keep this one's own waiting.
            is_to_be_sealed = not spool.has_own_sealed and self._is_to_be_sealed(spool, monotonic())
            if is_to_be_sealed:
                self._ledger.spooled_since = None
        if is_to_be_sealed:
            spool.seal()
        try:
            batch, change = spool.take(self._options.batch_rows, self._options.batch_bytes)
        except (sqlite3.Error, OSError, SpoolUnavailableError) as error:
            # What is in memory does not wait for it.
            self._spool_from = monotonic() + _PAUSE
            self._occasionally.log(logging.ERROR, "the spool cannot be read now: %s", type(error).__qualname__)
            return
        self._note_change(change)
        if batch is not None:
            self._write_batch(spool, batch)
            self._stop_spilling(spool)

    def _write_batch(self, spool: Spool, batch: SpoolBatch) -> None:
        ledger = self._ledger
        sent = list(self._sender.send(batch.kind, [_Ready(row) for row in batch.rows]))
        postponed = [part.sources[0].row for part in sent if part.postponed]
        if postponed:
            with spool.lock:
                spool.append(postponed, batch.kind, is_rescue=True)
        uncounted = spool.settle(batch)
        if uncounted is None:
            return
        with ledger.lock:
            ledger.counts["spooled"] += uncounted + len(postponed) - len(batch.rows)
            ledger.counts["accepted"] += uncounted
            if ledger.counts["spooled"] < 0:
                # An append was interrupted before it was counted here.
                ledger.counts["accepted"] -= ledger.counts["spooled"]
                ledger.counts["spooled"] = 0
            if not batch.backlog.is_adopted:
                ledger.spool_came += uncounted
                ledger.spool_left += len(batch.rows)
            self._note_came(len(postponed))
            self._note_sender()
            ledger.settle(
                stored=sum(part.stored for part in sent),
                unchanged=sum(part.unchanged for part in sent),
                rejected=sum(part.rejected for part in sent),
            )
        if postponed:
            ledger.pause(min(_PAUSE, self._options.max_retry_delay))

    def _note_change(self, change: Change) -> None:
        ledger = self._ledger
        with ledger.lock:
            for name in ("adopted", "accepted", "spooled"):
                ledger.counts[name] += change.adopted
            ledger.counts["spooled"] -= change.lost
            ledger.counts["dropped"] += change.lost
            ledger.spool_left += change.left
            self._note_came(change.came)
            if change.came:
                ledger.rescued_up_to = ledger.spool_came
            ledger.progress.notify_all()

    def _note_came(self, count: int) -> None:
        """Note rows that this thread has appended to the spool, which is then due like any other."""
        self._ledger.spool_came += count
        if count and self._ledger.spooled_since is None:
            self._ledger.spooled_since = monotonic()

    def _pause(self, seconds: float) -> None:
        with self._ledger.lock:
            self._note_sender()
        self._ledger.pause(seconds)

    def _note_sender(self) -> None:
        self._ledger.note_retry(self._sender.retries)
        self._ledger.postponed = self._sender.postponed

    def _stop_spilling(self, spool: Spool) -> None:
        """Let traces go through memory again, where the spool holds no more than one batch, which goes first."""
        ledger = self._ledger
        if self._options.is_durable or not ledger.is_spilling:
            return
        with spool.lock, ledger.lock:
            if not spool.has_sealed and not self._is_batch(spool) and ledger.queue.is_half_empty:
                ledger.is_spilling = False

    def _adopt(self, spool: Spool) -> None:
        try:
            self._note_change(spool.adopt())
        finally:
            self._next_adoption = monotonic() + ADOPTION_INTERVAL

    def _gives_up(self) -> bool:
        """Say whether it is time to stop after a failure: what the spool has, or can take, need not wait for more."""
        ledger = self._ledger
        with ledger.lock:
            if ledger.is_abandoned:
                return True
            can_keep = self._spool is not None and self._spool.has_room_for(ledger.queue.bytes)
            return ledger.is_closing and (can_keep or monotonic() >= ledger.deadline)
