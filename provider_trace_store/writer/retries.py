"""Sends rows for as long as it takes: waits between tries, cuts out what is to blame, tells what was refused."""

from __future__ import annotations

import logging
from threading import Lock
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tenacity import Retrying, retry_if_exception_type, wait_random_exponential

from provider_trace_store.errors import ProviderTraceRejectedError
from provider_trace_store.spool.rejects import Reject
from provider_trace_store.tables.rows import Row
from provider_trace_store.writer.submission import Submission
from provider_trace_store.writer.transaction import Delivered, NotNowError, NotTogetherError, Refusal, deliver
from provider_trace_store.writes.bulk import parts_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from sqlalchemy.orm import Session
    from tenacity import RetryCallState

    from provider_trace_store.errors import ProviderTraceStoreError
    from provider_trace_store.spool.rejects import Rejects
    from provider_trace_store.tables.kinds import Kind
    from provider_trace_store.writer.options import WriterOptions
    from provider_trace_store.writer.stats import Occasionally
    from provider_trace_store.writer.telemetry import Instruments
    from provider_trace_store.writer.transaction import RowSource

# The first wait between two tries is up to this, and each further one up to twice as long, in seconds.
_FIRST_DELAY: Final = 0.1
# How often rows are tried of which one may be to blame, before they are cut.
_TRIES: Final = 3
# How often a row may fail alone, others being stored in between, before it is refused.
_STRIKES: Final = 5

_AWAY: Final = "the database takes no traces, and is tried again: %s%s"


class Sent(NamedTuple):
    """What became of the first of the rows that are being sent.

    Args:
        sources: these rows.
        stored: how many were written.
        unchanged: how many were stored already.
        rejected: how many were refused.
        postponed: whether this one row is to be sent again later, after others.
    """

    sources: Sequence[Any]
    stored: int = 0
    unchanged: int = 0
    rejected: int = 0
    postponed: bool = False


class GaveUpError(Exception):
    """It was time to stop, and the rest of the rows were not stored."""


class Sender:
    """Sends rows from one thread.

    Args:
        options: how long it waits between two tries, and who is told of what is refused.
        sessions: makes sessions, which are used one after the other.
        rejects: keeps what is refused; None where nothing does.
        instruments: told of everything else.
        occasionally: logs.
    """

    def __init__(
        self,
        options: WriterOptions,
        sessions: Callable[[], Session],
        rejects: Rejects | None,
        instruments: Instruments,
        occasionally: Occasionally,
    ) -> None:
        self._options = options
        self._sessions = sessions
        self._rejects = rejects
        self._instruments = instruments
        self._occasionally = occasionally
        # Held while a transaction is at work: a fork in the middle of it would leave the driver's own locks held in the
        # child.
        self.delivering = Lock()
        self.retries = 0
        self._batches = 0
        # Rows that fail alone: how often, and after how many batches.
        self._strikes: dict[str, tuple[int, int]] = {}

    @property
    def postponed(self) -> set[str]:
        """The ids of what is to be sent again later."""
        return set(self._strikes)

    def wait_like(self, *, gives_up: Callable[[], bool], pause: Callable[[float], None]) -> None:
        """Say what it does between two tries; to be called once, before the first.

        Args:
            gives_up: says whether it is time to stop, after a failure.
            pause: waits for so many seconds, or until there is a reason to try at once.
        """
        self._gives_up = gives_up
        self._retrying = Retrying(
            retry=retry_if_exception_type(NotNowError),
            # With a random part, so that not all processes come back at once.
            wait=wait_random_exponential(multiplier=_FIRST_DELAY, max=self._options.max_retry_delay),
            stop=self._is_enough,
            sleep=pause,
            before_sleep=self._note_retry,
            reraise=True,
        )

    def send(self, kind: Kind, sources: Sequence[Any]) -> Iterator[Sent]:
        """Store rows, and yield what became of them, part by part in their order, each committed.

        Args:
            kind: the table.
            sources: of the rows.

        Raises:
            GaveUpError: what was not yielded is not stored, or it is not known.
        """
        parts = [sources]
        while parts:
            part = parts.pop()
            try:
                delivered = self._retrying(self._deliver, kind, part)
            except NotNowError as error:
                if self._gives_up() or not error.may_be_the_row:
                    raise GaveUpError from None
                sent = self._after_failing(kind, part[0]) if len(part) == 1 else None
            except NotTogetherError as error:
                sent = self._refused(kind, part[0], error.error) if len(part) == 1 else None
            else:
                sent = self._delivered(kind, part, delivered)
            if sent is None:
                parts += reversed(parts_of(part))
            else:
                yield sent

    def refuse(self, kind: Kind, refusals: Sequence[Refusal]) -> None:
        """Keep traces that are refused, and tell of them."""
        if not refusals:
            return
        if self._rejects is not None:
            table = kind.table.name
            try:
                self._rejects.add([Reject(table, _fields(kind, refusal), refusal.error) for refusal in refusals])
            except Exception as error:  # noqa: BLE001  # whatever it is, the others must be told of, and sent
                ids = ", ".join(_id_of(refusal) for refusal in refusals)
                self._occasionally.log(
                    logging.ERROR, "%s: rejected traces are not kept: %s", type(error).__qualname__, ids
                )
        for refusal in refusals:
            trace_id = _id_of(refusal)
            self._occasionally.log(logging.WARNING, "%s is rejected: %s", trace_id, type(refusal.error).__qualname__)
            if self._options.on_rejected is None:
                continue
            try:
                self._options.on_rejected(trace_id, refusal.error)
            except Exception as error:  # noqa: BLE001  # the host's own; its text may hold anything
                self._occasionally.log(logging.ERROR, "on_rejected raised %s", type(error).__qualname__)

    def _deliver(self, kind: Kind, part: Sequence[RowSource]) -> Delivered:
        began = perf_counter()
        failure: str | None = None
        try:
            with self.delivering:
                return deliver(self._sessions, kind, part)
        except (NotNowError, NotTogetherError) as error:
            failure = error.kind
            raise
        finally:
            self._instruments.batch(kind.table.name, len(part), perf_counter() - began, failure)

    def _delivered(self, kind: Kind, part: Sequence[RowSource], delivered: Delivered) -> Sent:
        self._batches += 1
        for source in part if self._strikes else ():
            self._strikes.pop(source.id, None)
        if self._occasionally.over(_AWAY):
            self._occasionally.log(logging.INFO, "the database takes traces again")
        self.refuse(kind, delivered.refusals)
        return Sent(part, delivered.created, delivered.unchanged, len(delivered.refusals))

    def _refused(self, kind: Kind, source: RowSource, error: ProviderTraceStoreError) -> Sent:
        self._strikes.pop(source.id, None)
        self.refuse(kind, [Refusal(source, error)])
        return Sent([source], rejected=1)

    def _after_failing(self, kind: Kind, source: RowSource) -> Sent:
        """Let others go first; where they could be stored, and this row never, it is this row's fault."""
        strikes, batches = self._strikes.pop(source.id, (0, self._batches))
        strikes += batches != self._batches
        if strikes >= _STRIKES:
            return self._refused(kind, source, ProviderTraceRejectedError(source.id))
        self._strikes[source.id] = strikes, self._batches
        return Sent([source], postponed=True)

    def _is_enough(self, state: RetryCallState) -> bool:
        error = state.outcome and state.outcome.exception()
        if isinstance(error, NotNowError) and error.may_be_the_row and state.attempt_number >= _TRIES:
            return True
        return self._gives_up()

    def _note_retry(self, state: RetryCallState) -> None:
        self.retries += 1
        error = state.outcome and state.outcome.exception()
        if isinstance(error, NotNowError):
            self._occasionally.log(logging.WARNING, _AWAY, error.kind, error.advice)


def _id_of(refusal: Refusal) -> str:
    return refusal.what.trace_id if isinstance(refusal.what, Row) else refusal.what.id


def _fields(kind: Kind, refusal: Refusal) -> Mapping[str, Any]:
    what = refusal.what
    if isinstance(what, Submission):
        return what.storable_fields()
    row = what if isinstance(what, Row) else what.make()
    return dict(zip(kind.layout.fields, row.values, strict=True))
