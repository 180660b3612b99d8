"""The repository: turns a host's session into traces, for one organization, in both forms."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar

from provider_trace_store import bulk, queries
from provider_trace_store.errors import InvalidIdentifierError, InvalidLimitError
from provider_trace_store.models import ProviderTraceMetadataRecord, ProviderTraceRecord
from provider_trace_store.row_store import RowStore
from provider_trace_store.rows import (
    DEFAULT_MAX_BODY_BYTES,
    LARGEST_MAX_BODY_BYTES,
    NOT_CONTENT,
    RowMaker,
)
from provider_trace_store.schemas import (
    MAX_INDEXED_BYTES,
    ProviderTrace,
    ProviderTraceMetadata,
    text_problem,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sqlalchemy import Result, Row, Select
    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session

_Trace = TypeVar("_Trace", ProviderTrace, ProviderTraceMetadata)
_Argument = TypeVar("_Argument")
_Result = TypeVar("_Result")

# What an adopted row without a date reads as: old, and of no particular day.
_NO_DATE: Final = datetime(1970, 1, 1, tzinfo=UTC)


class ProviderTraceRepository:
    """Keeps and finds the traces of one organization, on a session of the host's.

    It flushes and never commits: the host's transaction decides. What fails inside leaves that transaction
    usable, on a connection that still works.

    Args:
        session: the host's session; of its binds, the one of the package's tables is used.
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
        _check_identifier("organization_id", organization_id, MAX_INDEXED_BYTES)
        if actor_id is not None:
            _check_identifier("actor_id", actor_id)
        if type(max_body_bytes) is not int or not 1 <= max_body_bytes <= LARGEST_MAX_BODY_BYTES:
            raise InvalidLimitError("max_body_bytes", 1, LARGEST_MAX_BODY_BYTES)
        self._session = session
        self._organization_id = organization_id
        self._metadata_only = metadata_only
        record = ProviderTraceMetadataRecord if metadata_only else ProviderTraceRecord
        schema = ProviderTraceMetadata if metadata_only else ProviderTrace
        self._store = RowStore(session, record, RowMaker(schema, organization_id, actor_id, max_body_bytes))

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
        if self._metadata_only:
            return self._create(ProviderTraceMetadata.from_trace(trace))
        return self._create(trace)

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
        return bulk.create_many(self._store, traces)

    def get(self, trace_id: str) -> ProviderTrace | None:
        """Return the whole trace of an id, or None; a trace that was written as metadata has no whole.

        Args:
            trace_id: any text.
        """
        if text_problem(trace_id):
            return None
        statement = queries.by_id(ProviderTraceRecord, queries.FULL_COLUMNS)
        return _trace(ProviderTrace, self._read(ProviderTraceRecord, statement, trace_id=trace_id).first())

    def get_by_step_id(self, step_id: str) -> ProviderTrace | None:
        """Return the newest whole trace of a step, or None.

        Args:
            step_id: any text.
        """
        if text_problem(step_id):
            return None
        statement = queries.newest_by_step_id(queries.FULL_COLUMNS)
        return _trace(ProviderTrace, self._read(ProviderTraceRecord, statement, step_id=step_id).first())

    def list_by_step_id(self, step_id: str) -> list[ProviderTrace]:
        """Return all whole traces of a step, oldest first, those of one moment by id; `[]` where there is none.

        Args:
            step_id: any text.
        """
        if text_problem(step_id):
            return []
        statement = queries.by_step_id(queries.FULL_COLUMNS)
        rows = self._read(ProviderTraceRecord, statement, step_id=step_id)
        return [_from_row(ProviderTrace, row) for row in rows]

    def get_metadata(self, trace_id: str) -> ProviderTraceMetadata | None:
        """Return the metadata of an id, or None; a trace that was written in full has metadata, too.

        Args:
            trace_id: any text.
        """
        if text_problem(trace_id):
            return None
        for record in (ProviderTraceMetadataRecord, ProviderTraceRecord):
            statement = queries.by_id(record, queries.METADATA_COLUMNS)
            if found := _trace(ProviderTraceMetadata, self._read(record, statement, trace_id=trace_id).first()):
                return found
        return None

    def _read(self, record: queries.Record, statement: Select[Any], **parameters: str) -> Result[Any]:
        """Execute a read, within the organization."""
        connection = self._session.connection(bind_arguments={"mapper": record})
        return connection.execute(statement, parameters | {"organization_id": self._organization_id})

    def _create(self, trace: _Trace) -> _Trace:
        row = self._store.rows.make(trace)
        stored = self._store.insert(row)
        bookkeeping = dict(zip(self._store.rows.fields, row.values, strict=True)) if stored is None else stored._mapping  # noqa: SLF001  (SQLAlchemy's public name)
        return trace.model_copy(update={name: bookkeeping[name] for name in NOT_CONTENT})


class AsyncProviderTraceRepository:
    """Keeps and finds the traces of one organization, on an asynchronous session of the host's.

    The same methods as `ProviderTraceRepository`, which does the work, with `await`.

    Args:
        session: the host's session.
        organization_id: as in `ProviderTraceRepository`.
        actor_id: as in `ProviderTraceRepository`.
        metadata_only: as in `ProviderTraceRepository`.
        max_body_bytes: as in `ProviderTraceRepository`.

    Raises:
        InvalidIdentifierError: `organization_id` or `actor_id` is not text that a column can hold.
        InvalidLimitError: `max_body_bytes` is out of its range.
    """

    def __init__(
        self,
        session: AsyncSession,
        *,
        organization_id: str,
        actor_id: str | None = None,
        metadata_only: bool = False,
        max_body_bytes: int = DEFAULT_MAX_BODY_BYTES,
    ) -> None:
        self._session = session
        self._repository = ProviderTraceRepository(
            session.sync_session,
            organization_id=organization_id,
            actor_id=actor_id,
            metadata_only=metadata_only,
            max_body_bytes=max_body_bytes,
        )

    async def create(self, trace: ProviderTrace) -> ProviderTrace | ProviderTraceMetadata:
        """Store a trace and return it as it is stored; see `ProviderTraceRepository.create`."""
        return await self._run(self._repository.create, trace)

    async def create_many(self, traces: Iterable[ProviderTrace]) -> bulk.BulkResult:
        """Store many traces at the speed of COPY; see `ProviderTraceRepository.create_many`."""
        return await self._run(self._repository.create_many, traces)

    async def get(self, trace_id: str) -> ProviderTrace | None:
        """Return the whole trace of an id, or None; see `ProviderTraceRepository.get`."""
        return await self._run(self._repository.get, trace_id)

    async def get_by_step_id(self, step_id: str) -> ProviderTrace | None:
        """Return the newest whole trace of a step, or None; see `ProviderTraceRepository.get_by_step_id`."""
        return await self._run(self._repository.get_by_step_id, step_id)

    async def list_by_step_id(self, step_id: str) -> list[ProviderTrace]:
        """Return all whole traces of a step; see `ProviderTraceRepository.list_by_step_id`."""
        return await self._run(self._repository.list_by_step_id, step_id)

    async def get_metadata(self, trace_id: str) -> ProviderTraceMetadata | None:
        """Return the metadata of an id, or None; see `ProviderTraceRepository.get_metadata`."""
        return await self._run(self._repository.get_metadata, trace_id)

    async def _run(self, method: Callable[[_Argument], _Result], argument: _Argument) -> _Result:
        return await self._session.run_sync(lambda _: method(argument))


def _check_identifier(name: str, value: object, max_bytes: int | None = None) -> None:
    if not isinstance(value, str) or not value:
        raise InvalidIdentifierError(name, "must be text that is not empty")
    if problem := text_problem(value, max_bytes):
        raise InvalidIdentifierError(name, problem)


def _trace(schema: type[_Trace], row: Row[Any] | None) -> _Trace | None:
    return None if row is None else _from_row(schema, row)


def _from_row(schema: type[_Trace], row: Row[Any]) -> _Trace:
    values = row._asdict()
    if values["created_at"] is None:
        values["created_at"] = _NO_DATE
    # Not validated again: rows of an adopted table may be older than today's rules and must stay readable.
    return schema.model_construct(**values)
