"""Inserts one row, or compares it with the row stored under its id: the rules shared by `create` and `create_many`."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from provider_trace_store.database.catalog import columns_of_index
from provider_trace_store.database.drivers import SERIALIZATION_FAILURE, UNIQUE_VIOLATION, write_error
from provider_trace_store.database.transactions import ending_of, guarded, in_autocommit
from provider_trace_store.errors import (
    PartitionMissingError,
    ProviderTraceConflictError,
    ProviderTraceRejectedError,
    ProviderTraceUnavailableError,
)
from provider_trace_store.tables.ids import have_uuid_form, lookup_for
from provider_trace_store.tables.kinds import METADATA
from provider_trace_store.writes import statements
from provider_trace_store.writes.id_locks import ids_locked
from provider_trace_store.writes.inserts import insert_one, insert_unless_taken
from provider_trace_store.writes.packed import is_any_packed, packed_heads, same_packed, withdraw

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from sqlalchemy import Connection
    from sqlalchemy import Row as StoredRow
    from sqlalchemy.orm import Session

    from provider_trace_store.tables.kinds import Kind
    from provider_trace_store.tables.rows import Row


# Stored documents are read for comparison in parts of at most this many bytes, or one row if it has more.
_BYTES_AT_ONCE: Final = 4 * 2**20
# How often a row is sent again whose id is taken by a row that cannot be seen.
_TRIES: Final = 2

_Result = TypeVar("_Result")


class _PackedError(ProviderTraceRejectedError):
    """The id of a row that was inserted is that of a packed trace; it is raised so that an insert is rolled back."""


class Found(NamedTuple):
    """A stored row that has the id of a new row.

    Args:
        head: the stored row without its documents.
        is_same: whether both are the same trace: the stored row has the same organization and content, and is not
            deleted.
    """

    head: StoredRow[Any]
    is_same: bool


class RowStore:
    """Writes rows into one of the two tables, on a session of the host's.

    Args:
        session: the host's session.
        kind: the table.
    """

    def __init__(self, session: Session, kind: Kind) -> None:
        self._session = session
        self.kind = kind

    def connect(self, trace_id: str) -> Connection:
        """Return the session's connection for this table; arguments and errors as the function `connect`."""
        return connect(self._session, self.kind, trace_id)

    def guarded(self, action: Callable[[], _Result], connection: Connection, trace_id: str) -> _Result:
        """Run an action on this table in a savepoint; arguments, result and errors as `transactions.guarded`."""
        return guarded(action, connection, trace_id, self.kind.table, reads=self.kind.looked_at)

    def insert(self, row: Row) -> StoredRow[Any] | None:
        """Insert a row, unless it is already stored with the same content.

        Args:
            row: the row to insert.

        Returns:
            None if the row was inserted, else the stored row.

        Raises:
            PartitionMissingError: the table has no partition for the row.
            PrivilegeMissingError: the role lacks a privilege on the table.
            ProviderTraceConflictError: the id is stored with other content, or by a row that the role cannot see.
            ProviderTraceRejectedError: the database refused the row.
            ProviderTraceUnavailableError: the database could not store it now.
            TableMissingError: the database has not been migrated.
            TransactionEndedError: SQLite rolled the host's transaction back.
        """
        connection = self.connect(row.trace_id)
        try:
            self.guarded(lambda: self._insert(connection, row), connection, row.trace_id)
        except PartitionMissingError as error:
            missing, rejection = error, None
        except ProviderTraceRejectedError as error:
            rejection = error
        else:
            return None
        if rejection is None:
            raise PartitionMissingError(missing.table, missing.key, row.values[self.kind.layout.moments[0]])
        return self.guarded(lambda: self._same_after(rejection, connection, row), connection, row.trace_id)

    def is_any_stored(self, connection: Connection, trace_ids: list[str]) -> bool:
        """Return whether any of the ids is stored, in any organization.

        Args:
            connection: the session's connection, in a savepoint.
            trace_ids: at least one, and no more than one statement has rows.
        """
        if have_uuid_form(trace_ids) and _order_is_plain(connection, self.kind):
            ends = {"lowest": min(trace_ids), "highest": max(trace_ids)}
            if connection.execute(statements.any_stored_between(self.kind), ends).first() is None:
                return False
        lookup, parameters = lookup_for(trace_ids, connection.dialect.name)
        return connection.execute(statements.any_stored_under(self.kind, lookup), parameters).first() is not None

    def insert_unpacked(
        self,
        connection: Connection,
        rows: Iterable[Row],
        inserted: Sequence[Row],
        insert: Callable[[Iterable[Row]], int],
    ) -> int | None:
        """Insert rows, unless the id of one of them is that of a packed trace.

        Args:
            connection: the session's connection, in a savepoint.
            rows: the rows; read while the statement runs.
            inserted: has all rows, once they were read.
            insert: inserts rows, and returns their number.

        Returns:
            What `insert` returned. None if an id is packed: the caller rolls the savepoint back.
        """
        if not self.kind.keeps_bodies:
            return insert(rows)  # the row of metadata of a packed trace has the id already
        # Not in a transaction: PgBouncer's statement mode has none.
        is_final = in_autocommit(connection)
        if is_final:
            rows = [*rows]
            if self._is_any_packed(connection, rows):
                return None
        count = insert(rows)
        if not self._is_any_packed(connection, inserted):
            return count
        if is_final:
            # Packed between the look before the INSERT and the INSERT.
            withdraw(connection, inserted)
        return None

    def find(self, connection: Connection, rows: Sequence[Row]) -> list[Found | None]:
        """Return, for each row, the stored row with its id, of any organization; None if the id is not stored.

        For full traces, packed ones are looked for, too.

        Stored documents are read only for rows that are the same in all other fields, and a few MB at a time, because
        they may be large.

        Args:
            connection: the session's connection, in a savepoint.
            rows: at least one, and no more than one statement has.

        Raises:
            ProviderTraceUnavailableError: a pack was replaced twice meanwhile.
        """
        try:
            return self._find(connection, rows)
        except ProviderTraceUnavailableError:
            return self._find(connection, rows)

    def _find(self, connection: Connection, rows: Sequence[Row]) -> list[Found | None]:
        heads = self._heads(connection, {row.trace_id for row in rows})
        found: list[Found | None] = []
        candidates: list[_Candidate] = []
        for row in rows:
            stored_heads = heads.get(row.trace_id)
            found.append(Found(stored_heads[0], is_same=False) if stored_heads else None)
            for head in stored_heads or ():
                if not self.kind.layout.has_same_texts(row, head):
                    continue
                if head.size or self.kind.layout.has_documents(row):
                    candidates.append((len(found) - 1, row, head))
                else:
                    found[-1] = Found(head, is_same=True)
        packed = [candidate for candidate in candidates if _is_packed(candidate[2])]
        in_table = [candidate for candidate in candidates if not _is_packed(candidate[2])]
        for part in _parts_by_size(in_table, lambda candidate: candidate[2].size):
            for index, head in self._same_in_table(connection, part):
                found[index] = Found(head, is_same=True)
        for part in _parts_by_size(packed, lambda candidate: candidate[1].size):
            same = same_packed(connection, [(row, head) for _, row, head in part])
            for (index, _, head), is_same in zip(part, same, strict=True):
                if is_same:
                    found[index] = Found(head, is_same=True)
        return found

    def _heads(self, connection: Connection, trace_ids: set[str]) -> defaultdict[str, list[StoredRow[Any]]]:
        heads: defaultdict[str, list[StoredRow[Any]]] = defaultdict(list)
        lookup, parameters = lookup_for(trace_ids, connection.dialect.name)
        stored = connection.execute(statements.heads_under(self.kind, lookup), parameters).all()
        packed = packed_heads(connection, trace_ids) if self.kind.keeps_bodies else ()
        for head in (*stored, *packed):
            heads[head.id].append(head)
        return heads

    def _same_in_table(self, connection: Connection, part: list[_Candidate]) -> Iterator[tuple[int, StoredRow[Any]]]:
        lookup, parameters = lookup_for({row.trace_id for _, row, _ in part}, connection.dialect.name)
        result = connection.execute(statements.documents_under(self.kind, lookup), parameters)
        documents = {(stored.id, stored.created_at): stored for stored in result}
        for index, row, head in part:
            stored = documents.get((head.id, head.created_at))
            if stored is not None and self.kind.layout.has_same_documents(row, stored):
                yield index, head

    def _insert(self, connection: Connection, row: Row) -> None:
        with ids_locked(connection, self.kind, (row.trace_id,)):
            count = self.insert_unpacked(connection, (row,), (row,), lambda _: insert_one(connection, self.kind, row))
            if count is None:
                raise _PackedError(row.trace_id)
            if count == 0:
                # The id is stored, or a trigger of the host's skipped the row. The error also releases the lock: a
                # transaction that writes nothing must not make others wait.
                raise ProviderTraceRejectedError(row.trace_id)

    def _is_any_packed(self, connection: Connection, rows: Sequence[Row]) -> bool:
        return is_any_packed(connection, rows, order_is_plain=len(rows) > 1 and _order_is_plain(connection, METADATA))

    def _same_after(
        self, rejection: ProviderTraceRejectedError, connection: Connection, row: Row
    ) -> StoredRow[Any] | None:
        """Return the stored row if a rejected row is already stored, else raise the error for the rejection.

        A duplicate without a stored row that can be seen has one of three causes: the other row is gone, it was
        committed after this transaction's snapshot, or a policy hides it from this role. `insert_unless_taken` tells
        them apart: it inserts the row (None is returned), raises a serialization failure, or inserts nothing.
        """
        if stored := self._same(connection, row):
            return stored
        if isinstance(rejection, _PackedError):
            # Its trace was unpacked or erased between the two looks.
            raise ProviderTraceUnavailableError(row.trace_id, SERIALIZATION_FAILURE)
        if not self._is_duplicate(rejection, connection):
            raise rejection
        for _ in range(_TRIES):
            with ids_locked(connection, self.kind, (row.trace_id,)):
                is_inserted = insert_unless_taken(connection, self.kind, row)
            if is_inserted:
                return None
            # Between the two statements the other transaction may have committed, or deleted its row.
            if stored := self._same(connection, row):
                return stored
        raise ProviderTraceConflictError(row.trace_id)

    def _same(self, connection: Connection, row: Row) -> StoredRow[Any] | None:
        """Return the stored row if it is the same trace, None if the id is not stored, and raise for other content."""
        found = self.find(connection, [row])[0]
        if found is None:
            return None
        if found.is_same:
            return found.head
        raise ProviderTraceConflictError(row.trace_id)

    def _is_duplicate(self, rejection: ProviderTraceRejectedError, connection: Connection) -> bool:
        """Return whether a row was refused because its id is taken, and not by a unique index of the host's.

        Some distributed engines report the violation without the constraint's name.
        """
        if rejection.sqlstate != UNIQUE_VIOLATION:
            return False
        if rejection.constraint is None:
            return True
        columns = columns_of_index(connection, self.kind.table, rejection.constraint)
        return "id" in columns and columns <= {"id", "created_at"}


def connect(session: Session, kind: Kind, trace_id: str) -> Connection:
    """Flush the host's pending objects, and return the connection that the session uses for a table.

    Args:
        session: the host's session.
        kind: the table.
        trace_id: the trace to be written, for the error.

    Raises:
        ProviderTraceUnavailableError: no connection could be opened.
    """
    # Outside of the try: an error of the host's own objects is the host's, and is not translated.
    session.flush()
    try:
        return session.connection(bind_arguments={"mapper": kind.record})
    except (DBAPIError, PoolTimeoutError, OSError) as error:
        caught = error
    failure = ending_of(caught, trace_id, None, kind.table) or write_error(caught, trace_id, None, kind.table)
    del caught  # as in `guarded`
    raise failure


# The index of a row, the row, and the head of a stored row that is the same in all fields but the documents.
_Candidate = tuple[int, "Row", "StoredRow[Any]"]


def _is_packed(head: StoredRow[Any]) -> bool:
    return getattr(head, "pack_id", None) is not None


def _order_is_plain(connection: Connection, kind: Kind) -> bool:
    key = f"{__name__}.{connection.schema_for_object(kind.table)}.{kind.table.name}"
    if key not in connection.info:
        connection.info[key] = bool(connection.scalar(statements.order_is_plain(kind)))
    return bool(connection.info[key])


def _parts_by_size(candidates: list[_Candidate], size_of: Callable[[_Candidate], int]) -> Iterator[list[_Candidate]]:
    part: list[_Candidate] = []
    size = 0
    for candidate in candidates:
        stored_size = size_of(candidate)
        size += stored_size
        if part and size > _BYTES_AT_ONCE:
            yield part
            part, size = [], stored_size
        part.append(candidate)
    if part:
        yield part
