"""The sources of the writer's thread: dead processes' files, memory, and the spool. Each says when it is due."""

from __future__ import annotations

import logging
import sqlite3
from time import monotonic
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from provider_trace_store.spool.errors import SpoolUnavailableError
from provider_trace_store.writer.signals import State

if TYPE_CHECKING:
    from provider_trace_store.spool.sealed import SpoolBatch
    from provider_trace_store.spool.spool import Spool
    from provider_trace_store.tables.rows import Row
    from provider_trace_store.writer.logs import ThrottledLog
    from provider_trace_store.writer.options import WriterOptions
    from provider_trace_store.writer.retries import Sender
    from provider_trace_store.writer.state import SharedState

# How often the spool is searched for files of processes that have died meanwhile, in seconds.
ADOPTION_INTERVAL: Final = 10.0
# How long other work goes first while files are being taken over, in seconds.
_ADOPTION_PAUSE: Final = 0.05
# How long the spool is left alone after a failure to read it, in seconds.
_UNREADABLE_PAUSE: Final = 1.0
# The longest pause after a postponed row, in seconds.
_POSTPONED_PAUSE: Final = 1.0


class Source(Protocol):
    """A place that the writer's thread takes work from."""

    def is_due(self, now: float) -> bool:
        """Say whether there is work at `now`, by the monotonic clock; the caller holds the lock of `SharedState`."""

    def due_at(self, now: float) -> float | None:
        """Return when there may be work, None if only a caller's thread can bring some; the caller holds that lock."""

    def work(self) -> None:
        """Do one piece of work, such as one batch."""


class AdoptionSource:
    """Takes over the files of dead processes, now and then.

    Args:
        state: counts the rows.
        spool: takes the files over.
    """

    def __init__(self, state: SharedState, spool: Spool) -> None:
        self._state = state
        self._spool = spool
        self._next = 0.0

    def is_due(self, now: float) -> bool:
        """Say whether the interval has passed; a writer that is closing takes nothing over."""
        return now >= self._next and self._state.signals.state is State.OPEN

    def due_at(self, now: float) -> float | None:  # noqa: ARG002  (as the protocol has it)
        """Return the end of the interval."""
        return self._next

    def work(self) -> None:
        """Take over files for a short time."""
        pause = ADOPTION_INTERVAL
        try:
            change, is_done = self._spool.adopt()
            self._state.changed_in_spool(change)
            if not is_done:
                pause = _ADOPTION_PAUSE
        finally:
            self._next = monotonic() + pause


class MemorySource:
    """Sends the traces that wait in memory.

    Args:
        options: the table, and how much is sent at a time.
        state: where traces wait.
        sender: sends them.
    """

    def __init__(self, options: WriterOptions, state: SharedState, sender: Sender) -> None:
        self._options = options
        self._state = state
        self._sender = sender

    def is_due(self, now: float) -> bool:
        """Say whether a full batch waits, or a trace has waited long enough."""
        queue = self._state.queue
        return queue.oldest is not None and (
            self._state.signals.is_urgent or queue.has_batch or now - queue.oldest >= self._options.batch_age
        )

    def due_at(self, now: float) -> float | None:  # noqa: ARG002  (as the protocol has it)
        """Return when the first trace has waited long enough."""
        oldest = self._state.queue.oldest
        return None if oldest is None else oldest + self._options.batch_age

    def work(self) -> None:
        """Send one batch."""
        with self._state.lock:
            if self._state.signals.state is State.CLOSED:
                return
            batch = self._state.queue.take_batch()
        if not batch:
            return
        has_postponed = False
        for sent in self._sender.send(self._options.kind, batch):
            if not self._state.sent_from_memory(sent):
                return
            has_postponed |= sent.is_postponed
        if has_postponed:
            _let_others_go_first(self._options, self._state)


class SpoolSource:
    """Sends the rows that wait in the spool.

    Args:
        options: how much is sent at a time.
        state: counts the rows.
        spool: where rows wait.
        memory: the source of the traces in memory, which came after the rows of the spool's open file.
        sender: sends the rows.
        log: records that the spool cannot be read.
    """

    def __init__(  # noqa: PLR0913  (each is another object that it works with)
        self,
        options: WriterOptions,
        state: SharedState,
        spool: Spool,
        memory: MemorySource,
        *,
        sender: Sender,
        log: ThrottledLog,
    ) -> None:
        self._options = options
        self._state = state
        self._spool = spool
        self._memory = memory
        self._sender = sender
        self._log = log
        # After a failure to read, the monotonic clock's time of the next try.
        self._not_before = 0.0

    def is_due(self, now: float) -> bool:
        """Say whether there is a sealed file, or the open one must be sealed."""
        return now >= self._not_before and (self._spool.has_sealed or self._must_seal(now))

    def due_at(self, now: float) -> float | None:
        """Return when the first row of the open file has waited long enough."""
        since = self._state.spool_progress.since
        if since is None and not self._spool.has_sealed:
            return None
        return max((now if since is None else since) + self._options.batch_age, self._not_before)

    def work(self) -> None:
        """Send one batch."""
        self._seal_if_due()
        try:
            batch, change = self._spool.take(self._options.batch_rows, self._options.batch_bytes)
        except (sqlite3.Error, OSError, SpoolUnavailableError) as error:
            # Traces in memory do not wait for the spool.
            self._not_before = monotonic() + _UNREADABLE_PAUSE
            self._log.log(logging.ERROR, "the spool cannot be read now: %s", type(error).__qualname__)
            return
        self._state.changed_in_spool(change)
        if batch is not None:
            self._send(batch)
            self._stop_spilling()

    def _seal_if_due(self) -> None:
        with self._state.lock:
            # Rows that a dead process left do not make this process's own rows wait.
            must_seal = not self._spool.has_own_sealed and self._must_seal(monotonic())
            if must_seal:
                self._state.spool_progress.sealed()
        if must_seal:
            self._spool.seal()

    def _must_seal(self, now: float) -> bool:
        since = self._state.spool_progress.since
        return since is not None and (
            self._state.signals.is_urgent
            or self._has_batch()
            or now - since >= self._options.batch_age
            # Rows in the open file came before the traces in memory.
            or (not self._state.spool_progress.is_spilling and self._memory.is_due(now))
        )

    def _has_batch(self) -> bool:
        return self._spool.has_batch(self._options.batch_rows, self._options.batch_bytes)

    def _send(self, batch: SpoolBatch) -> None:
        parts = list(self._sender.send(batch.kind, [_MadeRow(row) for row in batch.rows]))
        postponed = [part.sources[0].row for part in parts if part.is_postponed]
        if postponed:
            with self._spool.lock:
                self._spool.append(postponed, batch.kind, is_rescue=True)
        uncounted = self._spool.settle(batch)
        if uncounted is None:
            return
        self._state.sent_from_spool(batch, parts, uncounted=uncounted)
        if postponed:
            _let_others_go_first(self._options, self._state)

    def _stop_spilling(self) -> None:
        """Let traces go through memory again, if the spool has at most one batch, which is sent before them."""
        state = self._state
        if self._options.is_durable or not state.spool_progress.is_spilling:
            return
        with self._spool.lock, state.lock:
            if not self._spool.has_sealed and not self._has_batch() and state.queue.is_half_empty:
                state.spool_progress.stop_spilling()


def _let_others_go_first(options: WriterOptions, state: SharedState) -> None:
    """Pause after postponed rows: if there are no others, they must not be sent again at once."""
    state.signals.pause(min(_POSTPONED_PAUSE, options.max_retry_delay))


class _MadeRow(NamedTuple):
    """A row of the spool: made before, by the process that appended it."""

    row: Row

    @property
    def id(self) -> str:
        """The trace's id."""
        return self.row.trace_id

    def make(self) -> Row:
        """Return the row."""
        return self.row
