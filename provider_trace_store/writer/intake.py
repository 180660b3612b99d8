"""What a caller's thread does with a trace: put it into memory or the spool, wait for room, or drop it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from provider_trace_store.errors import TraceEncodingError, TraceTooLargeError
from provider_trace_store.spool.errors import SpoolUnavailableError
from provider_trace_store.tables.rows import Row
from provider_trace_store.writer.submission import Submission, row_or_error

if TYPE_CHECKING:
    from provider_trace_store.schemas import BaseProviderTrace
    from provider_trace_store.spool.spool import Spool
    from provider_trace_store.tables.rows import RowMaker
    from provider_trace_store.writer.logs import ThrottledLog
    from provider_trace_store.writer.options import WriterOptions
    from provider_trace_store.writer.state import SharedState


class Intake:
    """Takes traces, in any thread.

    Args:
        options: how much is held, and what happens to a trace that there is no room for.
        state: where traces wait in memory, and are counted.
        spool: where traces go that do not fit into memory; None for no spool.
        log: records dropped traces, and a spool that takes no rows.
    """

    def __init__(self, options: WriterOptions, state: SharedState, spool: Spool | None, log: ThrottledLog) -> None:
        self._options = options
        self._state = state
        self._spool = spool
        self._log = log
        self._is_durable = options.is_durable
        self._keeps_bodies = options.kind.keeps_bodies
        self._batch = options.batch_rows, options.batch_bytes
        self._patience = 0.0 if options.on_full == "drop" else options.block_timeout

    def submit(self, trace: BaseProviderTrace, maker: RowMaker) -> None:
        """Take a trace, and return before it is stored.

        Raises:
            WriterClosedError: the writer was closed.
        """
        if self._is_durable:
            self._spool_now(trace, maker)
            return
        # If the writer's thread does not keep up, its callers encode bodies for it. `is_behind` is read without the
        # lock: a value that is a moment old does no harm.
        submission = Submission(trace, maker, is_encoded=self._keeps_bodies and self._state.queue.is_behind)
        if self._state.take(submission):
            return
        if self._options.on_full == "spool":
            self._spill(submission)
        else:
            self._take_when_room(submission)

    def _spool_now(self, trace: BaseProviderTrace, maker: RowMaker) -> None:
        row = row_or_error(trace, maker)
        # A trace that cannot be stored goes through memory: the writer's thread rejects it.
        if not isinstance(row, Row) or not self._appended(row):
            self._take_when_room(Submission(trace, maker))

    def _spill(self, submission: Submission) -> None:
        try:
            row = submission.make()
        except (TraceEncodingError, TraceTooLargeError):
            row = None
        if row is None or not self._appended(row, unless_room_for=submission):
            self._take_when_room(submission)

    def _appended(self, row: Row, *, unless_room_for: Submission | None = None) -> bool:
        """Append a row to the spool, or take its trace into memory if there is room again; say whether one worked."""
        state, spool = self._state, self._spool
        if spool is None:
            return False
        with spool.lock:
            if unless_room_for is None:
                with state.lock:
                    state.signals.check_open()
            elif state.take(unless_room_for, or_spill=True):
                return True
            had_batch, place = spool.has_batch(*self._batch), spool.place
            # First: a flush must not overtake a row whose append is done and which is not counted.
            state.takes_into_spool()
            try:
                spool.append([row])
                # Once for each batch: an append must not wake a thread that pauses while the database is away.
                state.took_into_spool(is_batch=not had_batch and spool.has_batch(*self._batch))
            except SpoolUnavailableError:
                state.refused_by_spool(is_drained=spool.is_drained)
            except BaseException:
                # Of a signal's handler, before or after the append.
                if spool.has_grown(place):
                    state.took_into_spool(is_batch=True)
                else:
                    state.did_not_take_into_spool()
                raise
            else:
                return True
        self._log.log(logging.ERROR, "the spool takes no more: traces wait in memory while there is room")
        return False

    def _take_when_room(self, submission: Submission) -> None:
        if dropped := self._state.take_when_room(submission, self._patience):
            self._log.log(logging.ERROR, "the writer is full: %d traces were dropped since the start", dropped)
