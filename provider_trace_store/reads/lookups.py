"""Reads of one trace, of some traces by id, and of the traces of a step, for one organization."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy.exc import DataError

from provider_trace_store.database.drivers import sqlstate_of
from provider_trace_store.database.names import quoted_table
from provider_trace_store.errors import TraceDecodingError
from provider_trace_store.packs import store
from provider_trace_store.packs.format import PACKED_DOCUMENTS, DamagedPackError
from provider_trace_store.reads import statements
from provider_trace_store.reads.decoding import Readable, log_unreadable, readable_metadata, whole_of
from provider_trace_store.schemas import text_problem
from provider_trace_store.tables.ids import lookup_for
from provider_trace_store.tables.kinds import FULL, KINDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from uuid import UUID

    from sqlalchemy import Connection, Result, Row, Select
    from sqlalchemy.orm import Session

    from provider_trace_store.schemas import ProviderTrace, ProviderTraceMetadata
    from provider_trace_store.tables.kinds import Kind

# How often the rows of packed traces are read, whose pack was replaced before it was read. A pack is replaced when its
# traces are unpacked or one of them is erased; after so many times its row is taken to be lost.
_TRIES: Final = 5
# The path of the error for a trace whose pack is damaged or lost.
_PACK: Final = "pack"


class Reader:
    """Reads the rows of one organization in a session of the host.

    Args:
        session: the host's session.
        organization_id: the organization that owns the rows.
    """

    def __init__(self, session: Session, organization_id: str) -> None:
        self._session = session
        self.organization_id = organization_id
        # Whether the last trace was packed, or nowhere: the next one is looked for in both tables at once.
        self._was_elsewhere = False

    @property
    def connection(self) -> Connection:
        """The session's connection to the database that has the tables."""
        return self._session.connection(bind_arguments={"mapper": FULL.record})

    @cached_property
    def dialect(self) -> str:
        """SQLAlchemy's name of the database."""
        return self.connection.dialect.name

    @property
    def partitioned(self) -> tuple[Kind, ...]:
        """The tables that are partitioned; each connection asks once."""
        if self.dialect != "postgresql":
            return ()
        connection = self.connection
        places: dict[str, str] = {kind.name: quoted_table(connection, kind.table) for kind in KINDS}
        key = f"{__name__}.partitioned.{places}"
        if key not in connection.info:
            names = set(connection.scalars(statements.partitioned(), places))
            connection.info[key] = tuple(kind for kind in KINDS if kind.name in names)
        found: tuple[Kind, ...] = connection.info[key]
        return found

    def execute(self, statement: Select[Any], **parameters: Any) -> Result[Any]:  # noqa: ANN401  (of the types of the statement's columns)
        """Execute a statement, whose parameter `:organization_id` is set to the organization.

        Args:
            statement: the statement.
            parameters: the values of its other parameters.
        """
        return self.connection.execute(statement, parameters | {"organization_id": self.organization_id})

    def get(self, trace_id: str) -> ProviderTrace | None:
        """Return the whole trace of an id; None if there is none."""
        if text_problem(trace_id):
            return None
        if not self._was_elsewhere:
            rows = self._rows(statements.full_by_id(self.dialect), trace_id=trace_id)
            if rows:
                return whole_of(rows[0]._asdict())
        # This statement reads both tables: unpacking may have moved the trace since the other one.
        return self._one(statements.by_id(self.dialect), trace_id=trace_id)

    def get_by_step_id(self, step_id: str) -> ProviderTrace | None:
        """Return the newest whole trace of a step; None if there is none."""
        if text_problem(step_id):
            return None
        return self._one(statements.newest_by_step_id(self.dialect), step_id=step_id)

    def list_by_step_id(self, step_id: str) -> list[ProviderTrace]:
        """Return the whole traces of a step, oldest first."""
        if text_problem(step_id):
            return []
        traces, unreadable = self._found(self.execute(statements.by_step_id(self.dialect), step_id=step_id))
        log_unreadable(unreadable)
        return list(traces.values())

    def get_many(self, trace_ids: Sequence[str]) -> Readable[ProviderTrace]:
        """Return the whole traces of some ids, in the order of the ids; ids without a trace are left out."""
        if not trace_ids:
            return Readable([], [])
        traces, unreadable = self._found(self._by_ids(trace_ids))
        return Readable([traces[trace_id] for trace_id in trace_ids if trace_id in traces], unreadable)

    def get_metadata(self, trace_id: str) -> ProviderTraceMetadata | None:
        """Return the metadata of an id, from the table that has it; None if there is none."""
        if text_problem(trace_id):
            return None
        rows = self._rows(statements.metadata_by_id(self.dialect), trace_id=trace_id)
        if not rows:
            return None
        found, unreadable = readable_metadata(rows, self.dialect)
        if unreadable:
            raise unreadable[0]
        return found[0]

    def _one(self, statement: Select[Any], **parameters: str) -> ProviderTrace | None:
        """Return the only trace of a statement's result; TraceDecodingError if it cannot be read."""
        missed: list[str] = []
        for _ in range(_TRIES):
            rows = self._rows(statement, **parameters)
            self._was_elsewhere = all(row.pack_id is not None for row in rows)
            if not rows:
                return None
            found = _Found()
            missed = self._resolve(rows, found)
            if found.unreadable:
                raise found.unreadable[0]
            if not missed:
                return next(iter(found.readable.values()))
        raise TraceDecodingError(missed[0], _PACK)

    def _rows(self, statement: Select[Any], **parameters: str) -> Sequence[Row[Any]]:
        """Return the few rows of a statement's result; TraceDecodingError if the driver cannot read them."""
        try:
            return self.execute(statement, **parameters).all()
        except (DataError, OverflowError) as error:
            # A date before the year 1 or after 9999, or `infinity`: PostgreSQL stores it, and Python has none such.
            if sqlstate_of(error) is not None:
                raise
        raise TraceDecodingError(parameters.get("trace_id"))

    def _found(self, rows: Iterable[Row[Any]]) -> tuple[dict[str, ProviderTrace], list[TraceDecodingError]]:
        """Return the traces of rows by id, in the order of the rows, and the errors of those that cannot be read."""
        found = _Found()
        missed = self._resolve(rows, found)
        for _ in range(_TRIES):
            if not missed:
                break
            missed = self._resolve(self._by_ids(missed), found)
        found.unreadable += [TraceDecodingError(trace_id, _PACK) for trace_id in missed]
        return found.readable, found.unreadable

    def _by_ids(self, trace_ids: Sequence[str]) -> Result[Any]:
        lookup, parameters = lookup_for(trace_ids, self.dialect)
        return self.execute(statements.by_ids(lookup), **parameters)

    def _resolve(self, rows: Iterable[Row[Any]], found: _Found) -> list[str]:
        """Add the traces of rows, and return the ids whose pack was gone when it was read.

        Args:
            rows: rows of the statements of whole traces.
            found: where the traces and the errors are added.
        """
        full: set[str] = set()
        packed: dict[str, tuple[UUID, dict[str, Any]]] = {}
        for row in rows:
            values = row._asdict()
            trace_id, pack_id = values["id"], values.pop("pack_id")
            # Keeps the place of a packed trace in the order.
            found.traces.setdefault(trace_id, None)
            if pack_id is None:
                full.add(trace_id)
                found.add(trace_id, values)
                continue
            packed[trace_id] = pack_id, values
        wanted: dict[UUID, list[str]] = {}
        for trace_id, (pack_id, _) in packed.items():
            # Of a trace in both tables, the full row counts.
            if trace_id not in full:
                wanted.setdefault(pack_id, []).append(trace_id)
        documents = store.documents_of(self.connection, wanted, use_recent=True) if wanted else {}
        for trace_id, texts in documents.items():
            if isinstance(texts, DamagedPackError):
                found.unreadable.append(TraceDecodingError(trace_id, _PACK))
            else:
                found.add(trace_id, packed[trace_id][1] | dict(zip(PACKED_DOCUMENTS, texts, strict=True)), packed=True)
        return [trace_id for trace_ids in wanted.values() for trace_id in trace_ids if trace_id not in documents]


class _Found:
    """The traces and the errors of a result."""

    def __init__(self) -> None:
        # By id, in order; None for a trace that is not read yet, or cannot be read.
        self.traces: dict[str, ProviderTrace | None] = {}
        self.unreadable: list[TraceDecodingError] = []

    @property
    def readable(self) -> dict[str, ProviderTrace]:
        """The traces that were read, by id, in order."""
        return {trace_id: trace for trace_id, trace in self.traces.items() if trace is not None}

    def add(self, trace_id: str, values: dict[str, Any], *, packed: bool = False) -> None:
        """Add the trace of a row, or its error; arguments as for `whole_of`, and whether the documents are packed."""
        try:
            self.traces[trace_id] = whole_of(values, PACKED_DOCUMENTS if packed else ())
        except TraceDecodingError as error:
            self.unreadable.append(error)
