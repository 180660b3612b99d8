"""What a caller's thread does with a trace: into memory, into the spool, or, where there is no room, wait or drop."""

from __future__ import annotations

import logging
from time import monotonic
from typing import TYPE_CHECKING

from provider_trace_store.errors import TraceEncodingError, TraceTooLargeError
from provider_trace_store.spool.spool import SpoolUnavailableError
from provider_trace_store.tables.rows import Row
from provider_trace_store.writer.submission import Submission, row_or_error

if TYPE_CHECKING:
    from provider_trace_store.schemas import BaseProviderTrace
    from provider_trace_store.spool.spool import Spool
    from provider_trace_store.tables.rows import RowMaker
    from provider_trace_store.writer.options import WriterOptions
    from provider_trace_store.writer.state import Ledger
    from provider_trace_store.writer.stats import Occasionally


class Intake:
    """Takes traces in any thread.

    Args:
        options: how much is held, and what becomes of traces that there is no room for.
        ledger: where they are counted, and wait in memory.
        spool: what does not fit into memory goes there; None for nowhere.
        occasionally: logs.
    """

    def __init__(self, options: WriterOptions, ledger: Ledger, spool: Spool | None, occasionally: Occasionally) -> None:
        self._options = options
        self._ledger = ledger
        self._spool = spool
        self._is_durable = options.is_durable
        self._has_bodies = options.kind.keeps_bodies
        self._occasionally = occasionally

    def submit(self, trace: BaseProviderTrace, maker: RowMaker) -> None:
        """Take a trace, and return before it is stored.

        Raises:
            WriterClosedError: it was not taken.
        """
        if self._is_durable:
            self._spool_now(trace, maker)
            return
        ledger = self._ledger
        # Where the thread that sends does not keep up, encoding bodies is work that its callers take off it. Whether it
        # does, one of them need not know to the moment.
        submission = Submission(trace, maker, is_encoded=self._has_bodies and ledger.queue.is_behind)
        with ledger.lock:
            ledger.check_open()
            if not ledger.is_spilling and ledger.queue.has_room_for(submission):
                ledger.enqueue(submission)
                return
        if self._options.on_full == "spool":
            self._spill(submission)
        else:
            self._enqueue_when_possible(submission)

    def _spool_now(self, trace: BaseProviderTrace, maker: RowMaker) -> None:
        row = row_or_error(trace, maker)
        # What cannot be stored is refused by the thread, as any other.
        if not isinstance(row, Row) or not self._is_appended(row):
            self._enqueue_when_possible(Submission(trace, maker))

    def _spill(self, submission: Submission) -> None:
        """Append to the spool what there is no room for, and what comes after it."""
        try:
            row = submission.make()
        except (TraceEncodingError, TraceTooLargeError):
            row = None
        if row is None or not self._is_appended(row, unless_room_for=submission):
            self._enqueue_when_possible(submission)

    def _is_appended(self, row: Row, *, unless_room_for: Submission | None = None) -> bool:
        """Append a row to the spool, or take it into memory where there is room again; say whether it was taken."""
        ledger, spool, options = self._ledger, self._spool, self._options
        if spool is None:
            return False
        with spool.lock:
            with ledger.lock:
                ledger.check_open()
                if unless_room_for is not None:
                    if not ledger.is_spilling and ledger.queue.has_room_for(unless_room_for):
                        ledger.enqueue(unless_room_for)
                        return True
                    ledger.is_spilling = True
            try:
                spool.append([row])
            except SpoolUnavailableError:
                appended = False
                with ledger.lock:
                    # Nothing is in it that others would have to queue up behind.
                    ledger.is_spilling &= self._is_durable or not spool.is_drained
            else:
                appended = True
                is_batch = spool.active_count == options.batch_rows or spool.active_size >= options.batch_bytes
                with ledger.lock:
                    ledger.counts["accepted"] += 1
                    ledger.counts["spooled"] += 1
                    ledger.spool_came += 1
                    if ledger.spooled_since is None:
                        ledger.spooled_since = monotonic()
                        is_batch = True
                    if is_batch:
                        ledger.work.notify()
        if not appended:
            self._occasionally.log(logging.ERROR, "the spool takes no more: traces wait in memory, where there is room")
        return appended

    def _enqueue_when_possible(self, submission: Submission) -> None:
        ledger = self._ledger
        with ledger.lock:
            if self._options.on_full != "drop":
                ledger.room.wait_for(
                    lambda: ledger.is_closing or ledger.queue.has_room_for(submission), self._options.block_timeout
                )
            ledger.check_open()
            if ledger.queue.has_room_for(submission):
                ledger.enqueue(submission)
                return
            ledger.counts["accepted"] += 1
            ledger.counts["dropped"] += 1
            dropped = ledger.counts["dropped"]
        self._occasionally.log(logging.ERROR, "the writer is full: %d traces were dropped since the start", dropped)
