"""The repository: turns a host's session into traces, for one organization, in both forms."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sqlalchemy import insert
from sqlalchemy.exc import DBAPIError

from provider_trace_store import queries
from provider_trace_store.codec import encode, same_document
from provider_trace_store.drivers import UNIQUE_VIOLATION, primary_key_of, savepoint, write_error
from provider_trace_store.errors import (
    InvalidIdentifierError,
    ProviderTraceConflictError,
    ProviderTraceRejectedError,
    ProviderTraceUnavailableError,
    TraceEncodingError,
)
from provider_trace_store.models import ProviderTraceMetadataRecord, ProviderTraceRecord
from provider_trace_store.schemas import (
    MAX_INDEXED_BYTES,
    BaseProviderTrace,
    ProviderTrace,
    ProviderTraceMetadata,
    text_problem,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy import Connection, Row, Table
    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session

_Trace = TypeVar("_Trace", ProviderTrace, ProviderTraceMetadata)
_Argument = TypeVar("_Argument")
_Result = TypeVar("_Result")

_JSON: Final = ("request_json", "response_json", "agent_tags", "compaction_settings", "llm_config")
_REQUIRED: Final = frozenset({"id", "request_json", "response_json", "created_at"})
_MOMENTS: Final = frozenset({"created_at", "updated_at"})
# Who wrote a row, and when it was changed, is not part of the call that the row records.
_NOT_CONTENT: Final = frozenset({"created_by_id", "last_updated_by_id", "updated_at"})
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
        metadata_only: the flag: whether `create` writes to `provider_trace_metadata` and leaves the bodies
            out. It decides nothing else.

    Raises:
        InvalidIdentifierError: `organization_id` or `actor_id` is not text that a column can hold.
    """

    def __init__(
        self,
        session: Session,
        *,
        organization_id: str,
        actor_id: str | None = None,
        metadata_only: bool = False,
    ) -> None:
        _check_identifier("organization_id", organization_id, MAX_INDEXED_BYTES)
        if actor_id is not None:
            _check_identifier("actor_id", actor_id)
        self._session = session
        self._organization_id = organization_id
        self._actor_id = actor_id
        self._metadata_only = metadata_only

    def create(self, trace: ProviderTrace) -> ProviderTrace | ProviderTraceMetadata:
        """Store a trace and return it as it is stored.

        Sending the same trace again is safe: it returns what is stored and writes nothing.

        Args:
            trace: the call to record.

        Returns:
            `ProviderTrace`, or `ProviderTraceMetadata` where the repository was made with `metadata_only`.

        Raises:
            TraceEncodingError: it holds something that cannot be stored exactly; the database was not touched.
            ProviderTraceConflictError: the id is taken by a trace with other content.
            ProviderTraceRejectedError: the database refused the row, such as by a host's foreign key.
            ProviderTraceUnavailableError: the database could not store it now.
            TableMissingError: the database has not been migrated.
        """
        if self._metadata_only:
            return self._store(ProviderTraceMetadata.from_trace(trace), ProviderTraceMetadataRecord)
        return self._store(trace, ProviderTraceRecord)

    def get(self, trace_id: str) -> ProviderTrace | None:
        """Return the whole trace of an id, or None; a trace that was written as metadata has no whole.

        Args:
            trace_id: any text.
        """
        if text_problem(trace_id):
            return None
        statement = queries.by_id(ProviderTraceRecord, queries.FULL_COLUMNS, self._organization_id, trace_id)
        return _trace(ProviderTrace, self._session.execute(statement).first())

    def get_by_step_id(self, step_id: str) -> ProviderTrace | None:
        """Return the newest whole trace of a step, or None.

        Args:
            step_id: any text.
        """
        if text_problem(step_id):
            return None
        statement = queries.newest_by_step_id(queries.FULL_COLUMNS, self._organization_id, step_id)
        return _trace(ProviderTrace, self._session.execute(statement).first())

    def list_by_step_id(self, step_id: str) -> list[ProviderTrace]:
        """Return all whole traces of a step, oldest first, those of one moment by id; `[]` where there is none.

        Args:
            step_id: any text.
        """
        if text_problem(step_id):
            return []
        statement = queries.by_step_id(queries.FULL_COLUMNS, self._organization_id, step_id)
        return [_from_row(ProviderTrace, row) for row in self._session.execute(statement)]

    def get_metadata(self, trace_id: str) -> ProviderTraceMetadata | None:
        """Return the metadata of an id, or None; a trace that was written in full has metadata, too.

        Args:
            trace_id: any text.
        """
        if text_problem(trace_id):
            return None
        for record in (ProviderTraceMetadataRecord, ProviderTraceRecord):
            statement = queries.by_id(record, queries.METADATA_COLUMNS, self._organization_id, trace_id)
            if found := _trace(ProviderTraceMetadata, self._session.execute(statement).first()):
                return found
        return None

    def _store(self, trace: _Trace, record: queries.Record) -> _Trace:
        trace = self._signed(trace)
        values = _values(trace)
        # Pending objects of the host's come first: what goes wrong with them is the host's error, not ours.
        self._session.flush()
        table: Table = record.__table__  # type: ignore[assignment]  # declared as FromClause
        connection = None
        try:
            connection = self._session.connection(bind_arguments={"mapper": record})
            with savepoint(connection):
                # The metadata's id alone is not unique: the database would take it again under another date.
                if record is ProviderTraceMetadataRecord and (
                    stored := self._stored(connection, record, trace, values)
                ):
                    return stored
                connection.execute(insert(table), queries.row(record, values, self._organization_id))
        except DBAPIError as error:
            failure = write_error(error, trace.id, connection, table)
        else:
            return trace
        # Outside of the handler, so that the driver's error, which repeats the payload, is not chained.
        if connection is None or not isinstance(failure, ProviderTraceRejectedError):
            raise failure
        try:
            with savepoint(connection):
                if stored := self._stored(connection, record, trace, values):
                    return stored
                if _is_hidden_duplicate(failure, connection, table):
                    failure = ProviderTraceUnavailableError(trace.id, failure.sqlstate)
        except DBAPIError as error:
            failure = write_error(error, trace.id, connection, table)
        raise failure

    def _stored(
        self, connection: Connection, record: queries.Record, trace: _Trace, values: Mapping[str, Any]
    ) -> _Trace | None:
        """Return what is stored under the trace's id, None where nothing is, or raise where it is another."""
        columns = type(trace).model_fields
        rows = connection.execute(queries.stored_under(record, columns, trace.id)).all()
        if not rows:
            return None
        for row in rows:
            ours = row.organization_id == self._organization_id and not row.is_deleted
            if ours and _same_content(row, trace, values):
                bookkeeping = {name: getattr(row, name) for name in _NOT_CONTENT}
                return trace.model_copy(update=bookkeeping)
        raise ProviderTraceConflictError(trace.id)

    def _signed(self, trace: _Trace) -> _Trace:
        """Return a copy that says who wrote it."""
        return trace.model_copy(
            update={
                "created_by_id": trace.created_by_id or self._actor_id,
                "last_updated_by_id": trace.last_updated_by_id or self._actor_id,
            }
        )


class AsyncProviderTraceRepository:
    """Keeps and finds the traces of one organization, on an asynchronous session of the host's.

    The same methods as `ProviderTraceRepository`, which does the work, with `await`.

    Args:
        session: the host's session.
        organization_id: as in `ProviderTraceRepository`.
        actor_id: as in `ProviderTraceRepository`.
        metadata_only: as in `ProviderTraceRepository`.

    Raises:
        InvalidIdentifierError: `organization_id` or `actor_id` is not text that a column can hold.
    """

    def __init__(
        self,
        session: AsyncSession,
        *,
        organization_id: str,
        actor_id: str | None = None,
        metadata_only: bool = False,
    ) -> None:
        self._session = session
        self._repository = ProviderTraceRepository(
            session.sync_session,
            organization_id=organization_id,
            actor_id=actor_id,
            metadata_only=metadata_only,
        )

    async def create(self, trace: ProviderTrace) -> ProviderTrace | ProviderTraceMetadata:
        """Store a trace and return it as it is stored; see `ProviderTraceRepository.create`."""
        return await self._run(self._repository.create, trace)

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


def _values(trace: BaseProviderTrace) -> dict[str, Any]:
    """Return a trace's row by attribute, its documents encoded."""
    values = dict(trace)
    for name, value in values.items():
        if value is None and name not in _REQUIRED:
            continue
        if name in _JSON:
            values[name] = _encoded(name, value, trace.id)
        elif problem := _scalar_problem(name, value):
            # The schema has checked it, unless the object was made around the schema.
            raise TraceEncodingError(name, problem, trace.id)
    return values


def _scalar_problem(name: str, value: object) -> str | None:
    if name in _MOMENTS:
        aware = isinstance(value, datetime) and value.utcoffset() is not None
        return None if aware else "is no datetime with a time zone"
    return text_problem(value) if isinstance(value, str) else "is no text"


def _encoded(name: str, document: object, trace_id: str) -> str:
    try:
        return encode(document, name)
    except TraceEncodingError as error:
        problem = error
    raise TraceEncodingError(problem.path, problem.reason, trace_id)


def _is_hidden_duplicate(failure: ProviderTraceRejectedError, connection: Connection, table: Table) -> bool:
    """Say whether a concurrent transaction stored the id after this one's snapshot (REPEATABLE READ).

    Some distributed engines report the violation without the constraint.
    """
    return failure.sqlstate == UNIQUE_VIOLATION and failure.constraint in {None, primary_key_of(connection, table)}


def _same_content(row: Row[Any], trace: BaseProviderTrace, values: Mapping[str, Any]) -> bool:
    return all(
        same_document(getattr(row, name), values[name]) if name in _JSON else getattr(row, name) == values[name]
        for name in type(trace).model_fields
        if name not in _NOT_CONTENT
    )


def _trace(schema: type[_Trace], row: Row[Any] | None) -> _Trace | None:
    return None if row is None else _from_row(schema, row)


def _from_row(schema: type[_Trace], row: Row[Any]) -> _Trace:
    values = row._asdict()
    if values["created_at"] is None:
        values["created_at"] = _NO_DATE
    # Not validated again: rows of an adopted table may be older than today's rules and must stay readable.
    return schema.model_construct(**values)
