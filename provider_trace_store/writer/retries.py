"""Sends rows for as long as it takes: retries, narrows a failure down to its row, keeps rejected rows."""

from __future__ import annotations

import logging
import threading
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tenacity import Retrying, retry_if_exception_type, wait_random_exponential

from provider_trace_store.errors import ProviderTraceRejectedError
from provider_trace_store.spool.rejects import Reject
from provider_trace_store.tables.rows import Row
from provider_trace_store.writer.destination import Delivered, NotNowError, NotTogetherError, Refusal, Sent
from provider_trace_store.writer.logs import why
from provider_trace_store.writer.submission import Submission
from provider_trace_store.writes.chunks import parts_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from tenacity import RetryCallState

    from provider_trace_store.errors import ProviderTraceStoreError
    from provider_trace_store.spool.rejects import Rejects
    from provider_trace_store.tables.kinds import Kind
    from provider_trace_store.writer.destination import Destination, RowSource
    from provider_trace_store.writer.logs import ThrottledLog
    from provider_trace_store.writer.options import WriterOptions
    from provider_trace_store.writer.telemetry import Telemetry

# The first pause between two tries is up to this, and each further one up to twice as long, in seconds.
_FIRST_DELAY: Final = 0.1
# How often rows are tried, if one of them may be the cause of the failure, before they are cut into parts.
_TRIES: Final = 3
# How often a single row may fail, with others stored in between, before it is rejected.
_STRIKES: Final = 5
# How often it may fail before it is rejected, if no others are stored, for example because none come.
_LONE_STRIKES: Final = 20
# How often the tries are doubled at most, while rows are postponed and none is stored.
_DOUBLINGS: Final = 8
# How many single rows of a batch may fail before the others are postponed untried, if none is stored.
_LONE_ROWS: Final = 8

_WAITS: Final = "traces are postponed until the database takes them: %s%s"
_AWAY: Final = "the database takes no traces, and is tried again: %s%s"


class _Strikes(NamedTuple):
    """How often a single row failed.

    Args:
        all: how often.
        counted: how often with other rows stored since the time before.
        batches: the number of batches stored by the last time.
        is_beside: whether other rows of one of its batches were stored.
    """

    all: int
    counted: int
    batches: int
    is_beside: bool


class GaveUpError(Exception):
    """The sender stops before all rows are stored: the writer is closing, or its timeout has passed."""


class Sender:
    """Sends rows from one thread.

    Args:
        options: the longest pause, and the host's `on_rejected`.
        destination: stores the rows.
        rejects: keeps rejected rows; None if nothing does.
        telemetry: records each try.
        log: records retries and rejected rows.
        gives_up: says, after a failure, whether it is time to stop.
        pause: waits for so many seconds, or until there is a reason to try at once.
        on_retry: called before each pause.
    """

    def __init__(  # noqa: PLR0913  (each is another object that it works with)
        self,
        options: WriterOptions,
        destination: Destination,
        rejects: Rejects | None,
        telemetry: Telemetry,
        log: ThrottledLog,
        *,
        gives_up: Callable[[], bool],
        pause: Callable[[float], None],
        on_retry: Callable[[], None],
    ) -> None:
        self._on_rejected = options.on_rejected
        self._destination = destination
        self._rejects = rejects
        self._telemetry = telemetry
        self._log = log
        self._gives_up = gives_up
        self._on_retry = on_retry
        # Held during a transaction: a fork in the middle of it would leave the driver's own locks held in the child.
        self.delivering: Final = threading.Lock()
        self._batches = 0
        # Single rows that fail, by their id.
        self._strikes: dict[str, _Strikes] = {}
        # Batches in turn of which rows were postponed and none was stored.
        self._fruitless = 0
        self._retrying = Retrying(
            retry=retry_if_exception_type(NotNowError),
            # With a random part, so that not all processes retry at the same moment.
            wait=wait_random_exponential(multiplier=_FIRST_DELAY, max=options.max_retry_delay),
            stop=self._must_stop,
            sleep=pause,
            before_sleep=self._note_retry,
            reraise=True,
        )

    def send(self, kind: Kind, sources: Sequence[Any]) -> Iterator[Sent]:
        """Store rows, and yield what became of them, part by part in their order, each committed.

        Args:
            kind: the table.
            sources: the sources of the rows.

        Raises:
            GaveUpError: rows that were not yielded are not stored, or it is not known.
        """
        parts = [sources]
        stored = self._batches
        alone: list[tuple[RowSource, NotNowError]] = []
        while parts:
            part = parts.pop()
            outcome = self._tried(kind, part)
            if isinstance(outcome, Delivered):
                yield from self._delivered(kind, part, outcome)
            elif len(part) > 1 and not (isinstance(outcome, NotNowError) and outcome.is_each_row):
                parts += reversed(parts_of(part))
            elif isinstance(outcome, NotTogetherError):
                yield self._rejected(kind, part[0], outcome.error)
            else:
                alone += [(source, outcome) for source in part]
                if len(alone) >= _LONE_ROWS and self._batches == stored:
                    # The rows that were not tried come first the next time.
                    alone = [*((source, outcome) for rest in reversed(parts) for source in rest), *alone]
                    parts = []
        if alone:
            self._fruitless = self._fruitless + 1 if self._batches == stored else 0
        for source, failure in alone:
            yield self._postponed(kind, source, failure, is_beside=self._batches != stored)

    def _tried(self, kind: Kind, part: Sequence[RowSource]) -> Delivered | NotNowError | NotTogetherError:
        """Deliver rows, with retries; return the failure if one of the rows may be the cause."""
        try:
            return self._retrying(self._deliver, kind, part)
        except NotTogetherError as error:
            return error
        except NotNowError as error:
            if error.may_be_the_row and not self._gives_up():
                return error
        raise GaveUpError

    def close(self) -> None:
        """Release what the destination keeps; `send` may be called again."""
        self._destination.close()

    def reject(self, kind: Kind, refusals: Sequence[Refusal]) -> None:
        """Keep rejected rows, log them, and tell the host."""
        if not refusals:
            return
        if self._rejects is not None:
            table = kind.table.name
            try:
                self._rejects.add([Reject(table, _fields(kind, refusal), refusal.error) for refusal in refusals])
            except Exception as error:  # noqa: BLE001  # whatever it is, the host must be told, and other rows sent
                ids = ", ".join(_id_of(refusal) for refusal in refusals)
                self._log.log(logging.ERROR, "%s: rejected traces are not kept: %s", type(error).__qualname__, ids)
        for refusal in refusals:
            trace_id = _id_of(refusal)
            name, reason = type(refusal.error).__qualname__, why(refusal.error)
            self._log.log(logging.WARNING, "%s is rejected: %s: %s", trace_id, name, reason)
            if self._on_rejected is None:
                continue
            try:
                self._on_rejected(trace_id, refusal.error)
            except Exception as error:  # noqa: BLE001  # the host's own error; its text may hold anything
                self._log.log(logging.ERROR, "on_rejected raised %s", type(error).__qualname__)

    def _deliver(self, kind: Kind, part: Sequence[RowSource]) -> Delivered:
        began = perf_counter()
        failure: str | None = None
        try:
            with self.delivering:
                return self._destination.deliver(kind, part)
        except (NotNowError, NotTogetherError) as error:
            failure = error.name
            raise
        finally:
            self._telemetry.batch(kind.table.name, len(part), perf_counter() - began, failure)

    def _delivered(self, kind: Kind, part: Sequence[RowSource], delivered: Delivered) -> Iterator[Sent]:
        self._batches += 1
        self._fruitless = 0
        unplaced = delivered.unplaced
        waiting = {id(source) for source, _ in unplaced}
        sent = [source for source in part if id(source) not in waiting] if waiting else part
        for source in sent if self._strikes else ():
            self._strikes.pop(source.id, None)
        if self._log.forget(_AWAY):
            self._log.log(logging.INFO, "the database takes traces again")
        self.reject(kind, delivered.refusals)
        yield Sent(sent, delivered.created, delivered.unchanged, len(delivered.refusals))
        for source, error in unplaced:
            self._log.log(logging.WARNING, _WAITS, error.name, error.advice)
            yield self._postponed(kind, source, error, is_beside=True)

    def _rejected(self, kind: Kind, source: RowSource, error: ProviderTraceStoreError) -> Sent:
        self._strikes.pop(source.id, None)
        self.reject(kind, [Refusal(source, error)])
        return Sent([source], rejected=1)

    def _postponed(self, kind: Kind, source: RowSource, error: NotNowError, *, is_beside: bool) -> Sent:
        """Let other rows go first; reject a row that fails again and again, sooner if others are stored."""
        before = self._strikes.pop(source.id, _Strikes(0, 0, self._batches, is_beside=False))
        strikes = _Strikes(
            before.all + 1,
            before.counted + (before.batches != self._batches),
            self._batches,
            is_beside=is_beside or before.is_beside,
        )
        lone_strikes = _STRIKES if error.may_be_a_rule and strikes.is_beside else _LONE_STRIKES
        if error.may_be_the_row and (strikes.counted >= _STRIKES or strikes.all >= lone_strikes):
            rejection = ProviderTraceRejectedError(source.id, error.sqlstate, None, error.reason)
            return self._rejected(kind, source, rejection)
        self._strikes[source.id] = strikes
        return Sent([source], is_postponed=True)

    def _must_stop(self, state: RetryCallState) -> bool:
        error = state.outcome and state.outcome.exception()
        if isinstance(error, NotNowError) and error.may_be_the_row:
            return state.attempt_number >= _TRIES << min(self._fruitless, _DOUBLINGS) or self._gives_up()
        return self._gives_up()

    def _note_retry(self, state: RetryCallState) -> None:
        self._on_retry()
        error = state.outcome and state.outcome.exception()
        if isinstance(error, NotNowError):
            self._log.log(logging.WARNING, _AWAY, error.name, error.advice)


def _id_of(refusal: Refusal) -> str:
    return refusal.source.trace_id if isinstance(refusal.source, Row) else refusal.source.id


def _fields(kind: Kind, refusal: Refusal) -> Mapping[str, Any]:
    source = refusal.source
    if isinstance(source, Submission):
        return source.storable_fields()
    row = source if isinstance(source, Row) else source.make()
    return dict(zip(kind.layout.fields, row.values, strict=True))
