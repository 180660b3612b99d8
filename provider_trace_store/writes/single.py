"""What is stored under an id, and one row more: the rules that a single write and a bulk write share."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from provider_trace_store.database.drivers import UNIQUE_VIOLATION, primary_key_of, write_error
from provider_trace_store.database.transactions import guarded
from provider_trace_store.errors import (
    ProviderTraceConflictError,
    ProviderTraceRejectedError,
    ProviderTraceUnavailableError,
)
from provider_trace_store.tables.ids import are_of_one_form, look_up
from provider_trace_store.writes import statements
from provider_trace_store.writes.inserts import insert_one

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sqlalchemy import Connection
    from sqlalchemy import Row as StoredRow
    from sqlalchemy.orm import Session

    from provider_trace_store.tables.kinds import Kind
    from provider_trace_store.tables.rows import Row


# How much of stored bodies is read at a time, to be compared.
_BYTES_AT_ONCE: Final = 4 * 2**20

_Result = TypeVar("_Result")


class Found(NamedTuple):
    """What is stored under the id of a row.

    Args:
        head: without its documents.
        is_same: whether it is the row, stored already: of this organization, not deleted, with the same content.
    """

    head: StoredRow[Any]
    is_same: bool


class RowStore:
    """One table of one organization, on a session of the host's.

    Args:
        session: the host's.
        kind: the table.
    """

    def __init__(self, session: Session, kind: Kind) -> None:
        self._session = session
        self.kind = kind

    def connect(self, trace_id: str) -> Connection:
        """Return the session's connection, for the write of a trace; see `connect`."""
        return connect(self._session, self.kind, trace_id)

    def guarded(self, action: Callable[[], _Result], connection: Connection, trace_id: str) -> _Result:
        """Run an action on the table in a savepoint; arguments, result and errors as `transactions.guarded`."""
        return guarded(action, connection, trace_id, self.kind.table)

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
            return self.guarded(lambda: self._insert(connection, row), connection, row.trace_id)
        except ProviderTraceRejectedError as error:
            rejection = error
        return self.guarded(lambda: self._same_after(rejection, connection, row), connection, row.trace_id)

    def is_any_stored(self, connection: Connection, trace_ids: list[str]) -> bool:
        """Say whether any of the ids is taken.

        Args:
            connection: where, in a savepoint of the caller's.
            trace_ids: of at most one statement's rows.
        """
        if are_of_one_form(trace_ids) and self._order_is_plain(connection):
            ends = {"lowest": min(trace_ids), "highest": max(trace_ids)}
            if connection.execute(statements.any_stored_between(self.kind), ends).first() is None:
                return False
        lookup, parameters = look_up(trace_ids, connection.dialect.name)
        return connection.execute(statements.any_stored_under(self.kind, lookup), parameters).first() is not None

    def find(self, connection: Connection, rows: Sequence[Row]) -> list[Found | None]:
        """Return, for each row, what is stored under its id, by whomever; None where the id is free.

        Bodies are read only where all else is the same, and a few MB at a time, as it is not known how large they
        are.

        Args:
            connection: where, in a savepoint of the caller's.
            rows: of at most one statement.
        """
        heads: defaultdict[str, list[StoredRow[Any]]] = defaultdict(list)
        lookup, parameters = look_up({row.trace_id for row in rows}, connection.dialect.name)
        for head in connection.execute(statements.heads_under(self.kind, lookup), parameters):
            heads[head.id].append(head)
        found: list[Found | None] = []
        alike = []
        for row in rows:
            taken = heads.get(row.trace_id)
            found.append(Found(taken[0], is_same=False) if taken else None)
            for head in taken or ():
                if not self.kind.layout.has_same_texts(row, head):
                    continue
                if head.size or self.kind.layout.has_documents(row):
                    alike.append((len(found) - 1, row, head))
                else:
                    found[-1] = Found(head, is_same=True)
        for part in _parts_by_size(alike):
            lookup, parameters = look_up({row.trace_id for _, row, _ in part}, connection.dialect.name)
            result = connection.execute(statements.documents_under(self.kind, lookup), parameters)
            documents = {(stored.id, stored.created_at): stored for stored in result}
            for place, row, head in part:
                stored = documents.get((head.id, head.created_at))
                if stored is not None and self.kind.layout.has_same_documents(row, stored):
                    found[place] = Found(head, is_same=True)
        return found

    def _order_is_plain(self, connection: Connection) -> bool:
        key = f"{__name__}.{connection.schema_for_object(self.kind.table)}.{self.kind.table.name}"
        if key not in connection.info:
            connection.info[key] = bool(connection.scalar(statements.order_is_plain(self.kind)))
        return bool(connection.info[key])

    def _insert(self, connection: Connection, row: Row) -> StoredRow[Any] | None:
        if self.kind.takes_an_id_twice and (stored := self._same(connection, row)):
            return stored
        count = insert_one(connection, self.kind, row)
        if count == 0 and not self._same(connection, row):
            # A trigger of the host's skipped it.
            raise ProviderTraceRejectedError(row.trace_id)
        return None

    def _same_after(self, rejection: ProviderTraceRejectedError, connection: Connection, row: Row) -> StoredRow[Any]:
        """Return the stored row that is the one that was rejected, or raise what the rejection means."""
        if stored := self._same(connection, row):
            return stored
        if self._is_hidden_duplicate(rejection, connection):
            raise ProviderTraceUnavailableError(row.trace_id, rejection.sqlstate)
        raise rejection

    def _same(self, connection: Connection, row: Row) -> StoredRow[Any] | None:
        """Return the stored row that is this one, None where the id is free, or raise where it is another's."""
        found = self.find(connection, [row])[0]
        if found is None:
            return None
        if found.is_same:
            return found.head
        raise ProviderTraceConflictError(row.trace_id)

    def _is_hidden_duplicate(self, failure: ProviderTraceRejectedError, connection: Connection) -> bool:
        """Say whether a concurrent transaction stored the id after this one's snapshot (REPEATABLE READ).

        Some distributed engines report the violation without the constraint.
        """
        return failure.sqlstate == UNIQUE_VIOLATION and failure.constraint in {
            None,
            primary_key_of(connection, self.kind.table),
        }


def connect(session: Session, kind: Kind, trace_id: str) -> Connection:
    """Return the connection that a session uses for a table, after what the host has pending was written.

    Args:
        session: the host's.
        kind: the table.
        trace_id: the trace to be written, for the error.

    Raises:
        ProviderTraceUnavailableError: there is none to be had.
    """
    # What goes wrong with the host's own objects is the host's error, not ours.
    session.flush()
    try:
        return session.connection(bind_arguments={"mapper": kind.record})
    except (DBAPIError, PoolTimeoutError, OSError) as error:
        failure = write_error(error, trace_id, None, kind.table)
    raise failure


_Alike = tuple[int, "Row", "StoredRow[Any]"]


def _parts_by_size(alike: list[_Alike]) -> Iterator[list[_Alike]]:
    part: list[_Alike] = []
    size = 0
    for one in alike:
        size += one[2].size
        if part and size > _BYTES_AT_ONCE:
            yield part
            part, size = [], one[2].size
        part.append(one)
    if part:
        yield part
