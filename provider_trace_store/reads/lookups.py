"""Reads of one trace, of some traces by id, and of the traces of a step, for one organization."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import DataError

from provider_trace_store.database.drivers import sqlstate_of
from provider_trace_store.database.names import quoted_table
from provider_trace_store.errors import TraceDecodingError
from provider_trace_store.reads import statements
from provider_trace_store.reads.decoding import Readable, log_unreadable, readable_metadata, whole_of
from provider_trace_store.schemas import text_problem
from provider_trace_store.tables.ids import lookup_for
from provider_trace_store.tables.kinds import FULL, KINDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection, Result, Row, Select
    from sqlalchemy.orm import Session

    from provider_trace_store.schemas import ProviderTrace, ProviderTraceMetadata
    from provider_trace_store.tables.kinds import Kind


class Reader:
    """Reads the rows of one organization in a session of the host.

    Args:
        session: the host's session.
        organization_id: the organization that owns the rows.
    """

    def __init__(self, session: Session, organization_id: str) -> None:
        self._session = session
        self.organization_id = organization_id

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
        """Return the full trace of an id; None if there is none."""
        if text_problem(trace_id):
            return None
        return self._first(statements.by_id(self.dialect), trace_id=trace_id)

    def get_by_step_id(self, step_id: str) -> ProviderTrace | None:
        """Return the newest full trace of a step; None if there is none."""
        if text_problem(step_id):
            return None
        return self._first(statements.newest_by_step_id(self.dialect), step_id=step_id)

    def list_by_step_id(self, step_id: str) -> list[ProviderTrace]:
        """Return the full traces of a step, oldest first."""
        if text_problem(step_id):
            return []
        traces, unreadable = self._full(statements.by_step_id(self.dialect), step_id=step_id)
        log_unreadable(unreadable)
        return traces

    def get_many(self, trace_ids: Sequence[str]) -> Readable[ProviderTrace]:
        """Return the full traces of some ids, in the order of the ids; ids without a trace are left out."""
        if not trace_ids:
            return Readable([], [])
        lookup, parameters = lookup_for(trace_ids, self.dialect)
        traces, unreadable = self._full(statements.by_ids(lookup), **parameters)
        found = {trace.id: trace for trace in traces}
        return Readable([found[trace_id] for trace_id in trace_ids if trace_id in found], unreadable)

    def get_metadata(self, trace_id: str) -> ProviderTraceMetadata | None:
        """Return the metadata of an id, from the table that has it; None if there is none."""
        if text_problem(trace_id):
            return None
        row = self._row(statements.metadata_by_id(self.dialect), trace_id=trace_id)
        if row is None:
            return None
        found, unreadable = readable_metadata([row], self.dialect)
        if unreadable:
            raise unreadable[0]
        return found[0]

    def _first(self, statement: Select[Any], **parameters: str) -> ProviderTrace | None:
        row = self._row(statement, **parameters)
        return None if row is None else whole_of(row._asdict())

    def _row(self, statement: Select[Any], **parameters: str) -> Row[Any] | None:
        """Return the only row of a statement's result; TraceDecodingError if the driver cannot read it."""
        try:
            return self.execute(statement, **parameters).first()
        except (DataError, OverflowError) as error:
            # A date before the year 1 or after 9999, or `infinity`: PostgreSQL stores it, and Python has none such.
            if sqlstate_of(error) is not None:
                raise
        raise TraceDecodingError(parameters.get("trace_id"))

    def _full(self, statement: Select[Any], **parameters: str) -> Readable[ProviderTrace]:
        found: Readable[ProviderTrace] = Readable([], [])
        for row in self.execute(statement, **parameters):
            try:
                found.traces.append(whole_of(row._asdict()))
            except TraceDecodingError as error:
                found.unreadable.append(error)
        return found
