"""The repository: writes and reads the traces of one organization in a host's session."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

from provider_trace_store.database.sessions import checked_session
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

    from sqlalchemy.orm import Session, scoped_session

    from provider_trace_store.reads.filters import TraceFilters
    from provider_trace_store.reads.page_statements import CountField, Order
    from provider_trace_store.schemas import MetadataPage, ProviderTrace, ProviderTraceMetadata, TracePage
    from provider_trace_store.writes.results import BulkResult


class ProviderTraceRepository:
    """Writes and reads the traces of one organization, in a session of the host.

    The repository flushes and never commits: the host ends the transaction. After an error of a write, the transaction
    is usable, as long as its connection works and the error is not a TransactionEndedError. A write that is cancelled
    or interrupted closes the session's connection: roll back.

    Args:
        session: the host's session; with a `scoped_session`, each call uses the session of its scope. If it has
            several binds, the repository uses the bind of the package's tables; both tables are in one database.
        organization_id: the tenant that owns the rows that are written and read; text of 1 to 1,024 bytes. No method
            reads or changes the rows of another tenant.
        actor_id: the actor of the writes: the default of `created_by_id` and `last_updated_by_id`.
        metadata_only: whether `create` and `create_many` write to `provider_trace_metadata`, without bodies; False by
            default. Reads and deletions do not depend on it.
        max_body_bytes: the largest allowed body, or other document of a trace, in bytes of its stored text: 1 to
            199,229,440 (190 MiB), 64 MiB by default. PostgreSQL's limit of a value is 1 GB, and a trace has five
            documents.

    Raises:
        InvalidIdentifierError: `organization_id` or `actor_id` is not text that a column can store.
        InvalidLimitError: `max_body_bytes` is out of its range.
        TypeError: `session` is not a session, but for example an engine or a `sessionmaker`.
    """

    def __init__(
        self,
        session: Session | scoped_session[Any],
        *,
        organization_id: str,
        actor_id: str | None = None,
        metadata_only: bool = False,
        max_body_bytes: int = DEFAULT_MAX_BODY_BYTES,
    ) -> None:
        session = checked_session(session)
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

        Sending the same trace again is safe: the call returns the stored trace and writes nothing.

        Args:
            trace: the trace to store.

        Returns:
            The trace; its metadata if the repository has `metadata_only`.

        Raises:
            TraceEncodingError: the trace holds a value that cannot be stored exactly. The database was not touched.
            TraceTooLargeError: a document of the trace is larger than `max_body_bytes`. The database was not touched.
            ProviderTraceConflictError: the id belongs to a stored trace with other content.
            ProviderTraceRejectedError: the database refused the row, for example by a host's foreign key.
            ProviderTraceUnavailableError: the database could not store the trace now.
            TableMissingError: the database has not been migrated.
            PoolerSettingError: a connection pooler mixes up prepared statements; the message names the setting.
            TransactionEndedError: SQLite rolled the host's transaction back: roll back, and do all of it again.
        """
        kept = self._kind.view_of(trace)
        row = self._rows.make(kept)
        stored = self._store.insert(row)
        if stored is not None:
            return kept.model_copy(update={name: getattr(stored, name) for name in NOT_CONTENT})
        written = dict(zip(self._kind.layout.fields, row.values, strict=True))
        return kept.model_copy(update={name: written[name] for name in NOT_CONTENT})

    def create_many(self, traces: Iterable[ProviderTrace]) -> BulkResult:
        """Store many traces at the speed of COPY; the result is that of one `create` for each, in their order.

        A trace that cannot be stored does not affect the others. Sending traces again is safe: a trace that is stored
        already counts as unchanged. Memory is bounded: the call holds at most 1,000 traces or about 4 MB of stored
        text at a time, or one trace if it is larger.

        Args:
            traces: any number of traces. An iterator may use the session, but must not end its transaction. The traces
                of a list or tuple are encoded while the database writes, which is faster.

        Returns:
            The number of created and of unchanged traces, and each rejected trace with its error, an
            UnstorableTraceError.

        Raises:
            ProviderTraceUnavailableError: the database could not store a part of the traces now: connection lost,
                timeout, deadlock, disk full. The earlier parts, of at most 1,000 traces, are in the host's transaction.
                Send all traces again: in this transaction, or in a new one if its connection was lost.
            TableMissingError: the database has not been migrated.
            PoolerSettingError: a connection pooler mixes up prepared statements; the message names the setting.
            TransactionEndedError: SQLite rolled the host's transaction back: roll back, and do all of it again.
            TypeError: an item is not a `ProviderTrace`. The traces of earlier parts are in the host's transaction.
        """
        return bulk.create_many(self._store, self._rows, traces)

    def delete(self, trace_id: str) -> bool:
        """Mark a trace as deleted: no read returns or counts it. Its row stays, and `restore` undoes the deletion.

        The id stays in use: creating the trace again raises ProviderTraceConflictError.

        Args:
            trace_id: the id of the trace; any text.

        Returns:
            Whether this call deleted the trace. It is False if there is no such trace, or if it was deleted before.

        Raises:
            ProviderTraceRejectedError: the database refused the change, for example by a host's trigger.
            ProviderTraceUnavailableError: the database could not make the change now.
            TableMissingError: the database has not been migrated.
            PoolerSettingError: a connection pooler mixes up prepared statements; the message names the setting.
            TransactionEndedError: SQLite rolled the host's transaction back: roll back, and do all of it again.
        """
        return self._mark(trace_id, is_deleted=True)

    def restore(self, trace_id: str) -> bool:
        """Undo the deletion of a trace.

        Args:
            trace_id: the id of the trace; any text.

        Returns:
            Whether this call restored the trace. It is False if there is no such trace, or if it is not deleted.

        Raises:
            ProviderTraceRejectedError: the database refused the change, for example by a host's trigger.
            ProviderTraceUnavailableError: the database could not make the change now.
            TableMissingError: the database has not been migrated.
            PoolerSettingError: a connection pooler mixes up prepared statements; the message names the setting.
            TransactionEndedError: SQLite rolled the host's transaction back: roll back, and do all of it again.
        """
        return self._mark(trace_id, is_deleted=False)

    def get(self, trace_id: str) -> ProviderTrace | None:
        """Return a whole trace, full or packed, or None if there is none, or if only its metadata was written.

        Args:
            trace_id: the id of the trace; any text.

        Raises:
            TraceDecodingError: a value of the row cannot be read, or the trace's pack is damaged.
        """
        return self._reader.get(trace_id)

    def get_by_step_id(self, step_id: str) -> ProviderTrace | None:
        """Return the newest whole trace of a step, full or packed, or None if it has none.

        Args:
            step_id: the step; any text.

        Raises:
            TraceDecodingError: a value of the row cannot be read, or the trace's pack is damaged.
        """
        return self._reader.get_by_step_id(step_id)

    def list_by_step_id(self, step_id: str) -> list[ProviderTrace]:
        """Return all whole traces of a step, oldest first; traces with the same `created_at` are ordered by id.

        Args:
            step_id: the step; any text.

        Returns:
            The traces, all in memory at once; an empty list if there is none.
        """
        return self._reader.list_by_step_id(step_id)

    def list_by_run_id(self, run_id: str, *, limit: int = 20, cursor: str | None = None) -> TracePage:
        """Return a page of the whole traces of a run, oldest first; traces with the same `created_at` by id.

        Args:
            run_id: the run; any text.
            limit: the largest number of traces on the page, 1 to 1,000. All their bodies are in memory at once.
            cursor: `next_cursor` of the previous page; None for the first page.

        Raises:
            InvalidCursorError: `cursor` is damaged, or belongs to another run, method or organization.
            InvalidFilterError: `run_id` is not text.
            InvalidLimitError: `limit` is out of its range.
        """
        return self._pages.list_by_run_id(run_id, limit, cursor)

    def get_metadata(self, trace_id: str) -> ProviderTraceMetadata | None:
        """Return the metadata of a trace, full, packed or written as metadata, or None if there is none.

        Args:
            trace_id: the id of the trace; any text.
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
        """Return a page of the metadata of all traces, written in full or as metadata, by `created_at` and then by id.

        The pages contain each trace once, and writes between two pages do not change that. A trace that is written
        later with a date before the cursor is not on the following pages. `stored_as` of an item says where its trace
        is: `full`, `packed` or `metadata`.

        Args:
            order: `newest` or `oldest`: the traces that come first.
            limit: the largest number of items on the page, 1 to 1,000.
            cursor: `next_cursor` of the previous page; None for the first page.
            filters: see `TraceFilters`.

        Raises:
            InvalidCursorError: `cursor` is damaged, or belongs to other filters, another order, method or organization.
            InvalidFilterError: a filter is not text, a date has no time zone, or `order` is neither of the two.
            InvalidLimitError: `limit` is out of its range.
        """
        return self._pages.list_metadata(selection_of(**filters), order, limit, cursor)

    def iter_metadata(
        self, *, order: Order = "newest", **filters: Unpack[TraceFilters]
    ) -> Iterator[ProviderTraceMetadata]:
        """Return an iterator over the metadata of all traces, in the order of `list_metadata`.

        It reads pages of 1,000 traces, one statement each, and holds one page in memory. The host may commit or roll
        back between two items.

        Args:
            order: `newest` or `oldest`: the traces that come first.
            filters: see `TraceFilters`.

        Raises:
            InvalidFilterError: a filter is not text, a date has no time zone, or `order` is neither of the two. The
                call raises it, before the first item.
        """
        return chain.from_iterable(self._pages.iter_metadata(selection_of(**filters), order))

    def count_by(self, field: CountField, **filters: Unpack[TraceFilters]) -> dict[str | None, int]:
        """Return the number of traces for each value of a field.

        The call reads the metadata of every trace that it counts: limit the range of dates.

        Args:
            field: `agent_id`, `call_type`, `org_id`, `source` or `user_id`.
            filters: see `TraceFilters`.

        Returns:
            The number of traces by value, the most frequent value first; None counts the traces without a value.

        Raises:
            InvalidFilterError: `field` is not one of these, a filter is not text, or a date has no time zone.
        """
        return self._pages.count_by(selection_of(**filters), field)

    def count_by_day(self, **filters: Unpack[TraceFilters]) -> dict[date, int]:
        """Return the number of traces for each day in UTC.

        The call reads the metadata of every trace that it counts: limit the range of dates.

        Args:
            filters: see `TraceFilters`.

        Returns:
            The number of traces by day, the oldest day first; a day without traces is left out.

        Raises:
            InvalidFilterError: a filter is not text, or a date has no time zone.
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
