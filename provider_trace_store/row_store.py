"""What is stored under an id, and one row more: the rules that a single write and a bulk write share."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import DBAPIError

from provider_trace_store import queries
from provider_trace_store.drivers import UNIQUE_VIOLATION, errors_of, primary_key_of, savepoint, write_error
from provider_trace_store.errors import (
    ProviderTraceConflictError,
    ProviderTraceRejectedError,
    ProviderTraceUnavailableError,
)
from provider_trace_store.inserts import insert_one
from provider_trace_store.models import ProviderTraceMetadataRecord

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from sqlalchemy import Connection, Table
    from sqlalchemy import Row as StoredRow
    from sqlalchemy.orm import Session

    from provider_trace_store.rows import Row, RowMaker


class RowStore:
    """One table of one organization, on a session of the host's.

    Args:
        session: the host's.
        record: the table.
        rows: makes its rows.
    """

    def __init__(self, session: Session, record: queries.Record, rows: RowMaker) -> None:
        self._session = session
        self.record = record
        self.table: Table = record.__table__  # type: ignore[assignment]  # declared as FromClause
        self.rows = rows

    @property
    def takes_an_id_twice(self) -> bool:
        """Whether the database would take an id again under another date, so that somebody has to look."""
        return self.record is ProviderTraceMetadataRecord

    def connect(self, trace_id: str) -> Connection:
        """Return the session's connection, after what the host has pending was written.

        Args:
            trace_id: the trace to be written, for the error.

        Raises:
            ProviderTraceUnavailableError: there is none to be had.
        """
        # What goes wrong with the host's own objects is the host's error, not ours.
        self._session.flush()
        try:
            return self._session.connection(bind_arguments={"mapper": self.record})
        except DBAPIError as error:
            failure = write_error(error, trace_id, None, self.table)
        raise failure

    def insert(self, row: Row) -> StoredRow[Any] | None:
        """Insert a row, or find it stored.

        Returns:
            The stored row where there is one with the same content, else None: the row was inserted.

        Raises:
            ProviderTraceConflictError: the id is taken by other content.
            ProviderTraceRejectedError: the database refused the row.
            ProviderTraceUnavailableError: the database could not store it now.
            TableMissingError: the database has not been migrated.
        """
        connection = self.connect(row.trace_id)
        try:
            with savepoint(connection):
                if self.takes_an_id_twice and (stored := self._same(connection, row)):
                    return stored
                insert_one(connection, self.record, self.rows.fields, row)
        except errors_of(connection) as error:
            failure = write_error(error, row.trace_id, connection, self.table)
        else:
            return None
        # Outside of the handler, so that the driver's error, which repeats the payload, is not chained.
        if not isinstance(failure, ProviderTraceRejectedError):
            raise failure
        try:
            with savepoint(connection):
                if stored := self._same(connection, row):
                    return stored
                if self._is_hidden_duplicate(failure, connection):
                    failure = ProviderTraceUnavailableError(row.trace_id, failure.sqlstate)
        except errors_of(connection) as error:
            failure = write_error(error, row.trace_id, connection, self.table)
        raise failure

    def is_any_stored(self, connection: Connection, trace_ids: list[str]) -> bool:
        """Say whether any of the ids is taken.

        Args:
            connection: where, in a savepoint of the caller's.
            trace_ids: of at most one statement's rows.
        """
        if queries.are_of_one_form(trace_ids):
            ends = {"lowest": min(trace_ids), "highest": max(trace_ids)}
            if connection.execute(queries.any_stored_between(self.record), ends).first() is None:
                return False
        statement = queries.any_stored_under(self.record, connection.dialect.name)
        return connection.execute(statement, queries.id_parameters(trace_ids)).first() is not None

    def stored(self, connection: Connection, trace_ids: Collection[str]) -> Mapping[str, list[StoredRow[Any]]]:
        """Return the stored rows by id, of those ids that are taken, by whomever.

        Args:
            connection: where, in a savepoint of the caller's.
            trace_ids: of at most one statement's rows.
        """
        statement = queries.stored_under(self.record, connection.dialect.name)
        found: defaultdict[str, list[StoredRow[Any]]] = defaultdict(list)
        for stored in connection.execute(statement, queries.id_parameters(trace_ids)):
            found[stored.id].append(stored)
        return found

    def same_among(self, stored: Iterable[StoredRow[Any]], row: Row) -> StoredRow[Any] | None:
        """Return what is the row, stored already: of this organization, not deleted, with the same content."""
        for candidate in stored:
            if self.rows.is_same(row, candidate):
                return candidate
        return None

    def _same(self, connection: Connection, row: Row) -> StoredRow[Any] | None:
        """Return the stored row that is this one, None where the id is free, or raise where it is another's."""
        stored = self.stored(connection, [row.trace_id]).get(row.trace_id)
        if not stored:
            return None
        if same := self.same_among(stored, row):
            return same
        raise ProviderTraceConflictError(row.trace_id)

    def _is_hidden_duplicate(self, failure: ProviderTraceRejectedError, connection: Connection) -> bool:
        """Say whether a concurrent transaction stored the id after this one's snapshot (REPEATABLE READ).

        Some distributed engines report the violation without the constraint.
        """
        return failure.sqlstate == UNIQUE_VIOLATION and failure.constraint in {
            None,
            primary_key_of(connection, self.table),
        }
