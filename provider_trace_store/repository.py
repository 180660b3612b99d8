"""The repository: keeps and finds the traces of one organization on a host's session."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from provider_trace_store.reads.filters import selection_of
from provider_trace_store.reads.lookups import Reader
from provider_trace_store.reads.pages import Pages
from provider_trace_store.tables.kinds import kind_for
from provider_trace_store.tables.rows import DEFAULT_MAX_BODY_BYTES, NOT_CONTENT, RowMaker
from provider_trace_store.writes import bulk, deletion
from provider_trace_store.writes.single import RowStore

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import date
    from typing import Unpack

    from sqlalchemy.orm import Session

    from provider_trace_store.reads.filters import TraceFilters
    from provider_trace_store.reads.page_statements import Order
    from provider_trace_store.schemas import MetadataPage, ProviderTrace, ProviderTraceMetadata, TracePage


class ProviderTraceRepository:
    """Keeps and finds the traces of one organization, on a session of the host's.

    It flushes and never commits: the host's transaction decides. What fails inside leaves that transaction
    usable, on a connection that still works.

    Args:
        session: the host's session; of its binds, the one of the package's tables is used, which are in one database.
        organization_id: the tenant that owns what is written and whose rows are read: text of 1 to 1,024
            bytes. No method takes another.
        actor_id: who writes, for traces that do not say so themselves.
        metadata_only: the flag: whether traces are written to `provider_trace_metadata`, without their
            bodies. It decides nothing else.
        max_body_bytes: the largest body, or other document of a trace, that is taken, in bytes of its stored
            text: 1 to 199,229,440 (190 MiB; a value of PostgreSQL's ends at 1 GB, and a trace has five).

    Raises:
        InvalidIdentifierError: `organization_id` or `actor_id` is not text that a column can hold.
        InvalidLimitError: `max_body_bytes` is out of its range.
    """

    def __init__(
        self,
        session: Session,
        *,
        organization_id: str,
        actor_id: str | None = None,
        metadata_only: bool = False,
        max_body_bytes: int = DEFAULT_MAX_BODY_BYTES,
    ) -> None:
        self._kind = kind_for(metadata_only=metadata_only)
        self._rows = RowMaker(self._kind.layout, organization_id, actor_id, max_body_bytes)
        self._session = session
        self._organization_id = organization_id
        self._actor_id = actor_id
        self._reader = Reader(session, organization_id)
        self._pages = Pages(self._reader)
        self._store = RowStore(session, self._kind)

    def create(self, trace: ProviderTrace) -> ProviderTrace | ProviderTraceMetadata:
        """Store a trace and return it as it is stored.

        Sending the same trace again is safe: it returns what is stored and writes nothing.

        Args:
            trace: the call to record.

        Returns:
            `ProviderTrace`, or `ProviderTraceMetadata` where the repository was made with `metadata_only`.

        Raises:
            TraceEncodingError: it holds something that cannot be stored exactly; the database was not touched.
            TraceTooLargeError: a document of it is larger than `max_body_bytes`; likewise.
            ProviderTraceConflictError: the id is taken by a trace with other content.
            ProviderTraceRejectedError: the database refused the row, such as by a host's foreign key.
            ProviderTraceUnavailableError: the database could not store it now.
            TableMissingError: the database has not been migrated.
        """
        kept = self._kind.view_of(trace)
        row = self._rows.make(kept)
        stored = self._store.insert(row)
        if stored is not None:
            return kept.model_copy(update={name: getattr(stored, name) for name in NOT_CONTENT})
        written = dict(zip(self._kind.layout.fields, row.values, strict=True))
        return kept.model_copy(update={name: written[name] for name in NOT_CONTENT})

    def create_many(self, traces: Iterable[ProviderTrace]) -> bulk.BulkResult:
        """Store many traces at the speed of COPY, as if each were given to `create`, one after the other.

        A trace that cannot be stored costs none of the others. Sending traces again is safe: what is stored
        already is counted as unchanged. Memory is bounded: at most 1,000 traces or about 4 MB of stored text
        are held at a time, or one trace where it is larger.

        Args:
            traces: of any number; an iterator may use the session, too, but not end its transaction. A list
                or tuple is encoded while the database writes, which is faster.

        Returns:
            How many were created and how many were unchanged, and each that was rejected with its error:
            ProviderTraceConflictError, TraceEncodingError, TraceTooLargeError, ProviderTraceRejectedError.

        Raises:
            ProviderTraceUnavailableError: the database could not store a part of them now: connection lost,
                timeout, deadlock, disk full. What was written before, in parts of 1,000, is in the host's
                transaction; send all of them again, in this transaction or, where it is lost, in the next.
            TableMissingError: the database has not been migrated.
            TypeError: one of them is no `ProviderTrace`; what was written before is in the transaction.
        """
        return bulk.create_many(self._store, self._rows, traces)

    def delete(self, trace_id: str) -> bool:
        """Delete a trace, so that no read returns or counts it; its row stays, and `restore` brings it back.

        Its id stays taken: creating the trace again is a conflict.

        Args:
            trace_id: any text.

        Returns:
            Whether there was such a trace, and it was not deleted.

        Raises:
            ProviderTraceRejectedError: the database refused the change, such as by a host's trigger.
            ProviderTraceUnavailableError: the database could not do it now.
            TableMissingError: the database has not been migrated.
        """
        return self._mark(trace_id, is_deleted=True)

    def restore(self, trace_id: str) -> bool:
        """Bring a deleted trace back; arguments and errors as `delete`.

        Returns:
            Whether there was such a trace, and it was deleted.
        """
        return self._mark(trace_id, is_deleted=False)

    def get(self, trace_id: str) -> ProviderTrace | None:
        """Return the whole trace of an id, or None; a trace that was written as metadata has no whole.

        Args:
            trace_id: any text.
        """
        return self._reader.get(trace_id)

    def get_by_step_id(self, step_id: str) -> ProviderTrace | None:
        """Return the newest whole trace of a step, or None.

        Args:
            step_id: any text.
        """
        return self._reader.get_by_step_id(step_id)

    def list_by_step_id(self, step_id: str) -> list[ProviderTrace]:
        """Return all whole traces of a step, oldest first, those of one moment by id; `[]` where there is none.

        Args:
            step_id: any text.
        """
        return self._reader.list_by_step_id(step_id)

    def list_by_run_id(self, run_id: str, *, limit: int = 20, cursor: str | None = None) -> TracePage:
        """Return a page of the whole traces of a run, oldest first, those of one moment by id.

        Args:
            run_id: any text.
            limit: the most traces in the page, 1 to 1,000; all their bodies are in memory at once.
            cursor: `next_cursor` of the page before; None for the first.

        Raises:
            InvalidCursorError: `cursor` is damaged, or of another run, method or organization.
            InvalidFilterError: `run_id` is no text.
            InvalidLimitError: `limit` is out of its range.
        """
        return self._pages.list_by_run_id(run_id, limit, cursor)

    def get_metadata(self, trace_id: str) -> ProviderTraceMetadata | None:
        """Return the metadata of an id, or None; a trace that was written in full has metadata, too.

        Args:
            trace_id: any text.
        """
        return self._reader.get_metadata(trace_id)

    def list_metadata(
        self,
        *,
        order: Order = "newest",
        limit: int = 100,
        cursor: str | None = None,
        **filters: Unpack[TraceFilters],
    ) -> MetadataPage:
        """Return a page of the metadata of all traces, written in full or as metadata, by date and then by id.

        No trace comes twice or is left out between pages, whatever is written meanwhile; one that is written
        later with a date that was passed already is on no page after it. `stored_as` of each says where it is.

        Args:
            order: `newest` or `oldest` first.
            limit: the most in the page, 1 to 1,000.
            cursor: `next_cursor` of the page before; None for the first.
            filters: see `TraceFilters`.

        Raises:
            InvalidCursorError: `cursor` is damaged, or of other filters, order, method or organization.
            InvalidFilterError: a filter is no text, a date has no time zone, or there is no such order.
            InvalidLimitError: `limit` is out of its range.
        """
        return self._pages.list_metadata(selection_of(**filters), order, limit, cursor)

    def iter_metadata(
        self, *, order: Order = "newest", **filters: Unpack[TraceFilters]
    ) -> Iterator[ProviderTraceMetadata]:
        """Return an iterator over the metadata of all traces, as by `list_metadata`, 1,000 in memory at a time.

        The host may commit or roll back between two of them: each 1,000 are a statement of their own.

        Args:
            order: `newest` or `oldest` first.
            filters: see `TraceFilters`.

        Raises:
            InvalidFilterError: a filter is no text, a date has no time zone, or there is no such order.
        """
        return chain.from_iterable(self._pages.iter_metadata(selection_of(**filters), order))

    def count_by(self, field: str, **filters: Unpack[TraceFilters]) -> dict[str | None, int]:
        """Return how many traces have each value of a field, the most frequent first.

        It reads the metadata of all that it counts: give a range of dates.

        Args:
            field: `agent_id`, `call_type`, `org_id`, `source` or `user_id`.
            filters: see `TraceFilters`.

        Raises:
            InvalidFilterError: there is no such field, a filter is no text, or a date has no time zone.
        """
        return self._pages.count_by(selection_of(**filters), field)

    def count_by_day(self, **filters: Unpack[TraceFilters]) -> dict[date, int]:
        """Return how many traces there are of each day in UTC, the oldest first, days without any left out.

        It reads the metadata of all that it counts: give a range of dates.

        Args:
            filters: see `TraceFilters`.

        Raises:
            InvalidFilterError: a filter is no text, or a date has no time zone.
        """
        return self._pages.count_by_day(selection_of(**filters))

    def _mark(self, trace_id: str, *, is_deleted: bool) -> bool:
        return deletion.mark(
            self._session,
            trace_id,
            organization_id=self._organization_id,
            actor_id=self._actor_id,
            is_deleted=is_deleted,
        )
