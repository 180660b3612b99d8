"""Sends rows for as long as it takes: retries, narrows a failure down to its row, keeps rejected rows."""

from __future__ import annotations

import logging
import threading
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from tenacity import Retrying, retry_if_exception_type, wait_random_exponential

from provider_trace_store.errors import ProviderTraceRejectedError
from provider_trace_store.spool.rejects import Reject
from provider_trace_store.tables.rows import Row
from provider_trace_store.writer.destination import Delivered, NotNowError, NotTogetherError, Refusal, Sent
from provider_trace_store.writer.submission import Submission
from provider_trace_store.writes.bulk import parts_of

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

_AWAY: Final = "the database takes no traces, and is tried again: %s%s"


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
        # Single rows that fail: how often, and the number of batches stored by then.
        self._strikes: dict[str, tuple[int, int]] = {}
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
        while parts:
            part = parts.pop()
            try:
                delivered = self._retrying(self._deliver, kind, part)
            except NotNowError as error:
                if self._gives_up() or not error.may_be_the_row:
                    raise GaveUpError from None
                sent = self._postponed(kind, part[0]) if len(part) == 1 else None
            except NotTogetherError as error:
                sent = self._rejected(kind, part[0], error.error) if len(part) == 1 else None
            else:
                sent = self._delivered(kind, part, delivered)
            if sent is None:
                parts += reversed(parts_of(part))
            else:
                yield sent

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
            self._log.log(logging.WARNING, "%s is rejected: %s", trace_id, type(refusal.error).__qualname__)
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

    def _delivered(self, kind: Kind, part: Sequence[RowSource], delivered: Delivered) -> Sent:
        self._batches += 1
        for source in part if self._strikes else ():
            self._strikes.pop(source.id, None)
        if self._log.forget(_AWAY):
            self._log.log(logging.INFO, "the database takes traces again")
        self.reject(kind, delivered.refusals)
        return Sent(part, delivered.created, delivered.unchanged, len(delivered.refusals))

    def _rejected(self, kind: Kind, source: RowSource, error: ProviderTraceStoreError) -> Sent:
        self._strikes.pop(source.id, None)
        self.reject(kind, [Refusal(source, error)])
        return Sent([source], rejected=1)

    def _postponed(self, kind: Kind, source: RowSource) -> Sent:
        """Let other rows go first; reject a row that fails again and again while others are stored."""
        strikes, batches = self._strikes.pop(source.id, (0, self._batches))
        strikes += batches != self._batches
        if strikes >= _STRIKES:
            return self._rejected(kind, source, ProviderTraceRejectedError(source.id))
        self._strikes[source.id] = strikes, self._batches
        return Sent([source], is_postponed=True)

    def _must_stop(self, state: RetryCallState) -> bool:
        error = state.outcome and state.outcome.exception()
        if isinstance(error, NotNowError) and error.may_be_the_row and state.attempt_number >= _TRIES:
            return True
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
