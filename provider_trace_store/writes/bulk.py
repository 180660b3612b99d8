"""`create_many`: many traces at the speed of COPY, each with the result that `create` would have.

One statement inserts a chunk of traces. If it fails, the ids that are already stored are looked up: their rows are
compared with the stored ones, counted as unchanged or as a conflict, and the rest is inserted again. If none of the
ids is stored, the chunk is split into parts, which are inserted one after the other, until each row that the database
refuses is in a part of its own and is rejected alone.

Some errors may belong to a row or to the table, such as a trigger's error of any SQLSTATE, or a missing partition. The
other rows decide: if one of them is stored, the row is rejected; if none is, the error is raised.
"""

from __future__ import annotations

from functools import partial
from itertools import chain
from random import sample
from typing import TYPE_CHECKING, Any, Final, TypeVar

from provider_trace_store.database.drivers import (
    blames_a_row,
    copy_line_of,
    errors_of,
    is_unsupported,
    may_be_duplicate,
    write_error,
)
from provider_trace_store.database.transactions import ending_of, savepoint
from provider_trace_store.errors import (
    PartitionMissingError,
    PrivilegeMissingError,
    ProviderTraceConflictError,
    ProviderTraceRejectedError,
    ProviderTraceStoreError,
    ProviderTraceUnavailableError,
    TableMissingError,
)
from provider_trace_store.schemas import ProviderTrace
from provider_trace_store.writes.chunks import Chunk, parts_of, windows_of
from provider_trace_store.writes.id_locks import ids_locked
from provider_trace_store.writes.inserts import can_copy, copy_in, insert_many
from provider_trace_store.writes.results import BulkResult, RejectedTrace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sqlalchemy import Connection

    from provider_trace_store.tables.rows import Row, RowMaker
    from provider_trace_store.writes.single import Found, RowStore


class _IdIsStoredError(Exception):
    """Takes the place of the driver's error if a look before or after the insert finds one of the ids stored.

    It is raised so that the rollback of the savepoint releases the locks of the ids.
    """


# How often a chunk is cut at the row that the server names, before it is cut into even parts.
_HINTS: Final = 8
# How many single rows of a chunk are tried before an error that may be the table's is taken for it.
_PROBES: Final = 32


_Source = TypeVar("_Source")
_UndecidedError = PartitionMissingError | ProviderTraceUnavailableError


def create_many(store: RowStore, maker: RowMaker, traces: Iterable[ProviderTrace]) -> BulkResult:
    """Store traces with the results of one `create` after the other, but many rows in one statement.

    Args:
        store: the table that gets the traces.
        maker: makes the row of a trace.
        traces: read a chunk at a time. Only a list or a tuple is read while a statement runs: an iterator of the
            host's may itself use the session.

    Raises:
        PartitionMissingError: the table has no partition for any of the rows.
        PrivilegeMissingError: the role lacks a privilege on the table.
        ProviderTraceUnavailableError: the database could not store a chunk now.
        TableMissingError: the database has not been migrated.
        TransactionEndedError: SQLite rolled the host's transaction back.
        TypeError: one of the traces is not a `ProviderTrace`.
    """

    def make(trace: ProviderTrace) -> Row:
        # The comparison of types is only for speed: isinstance with a Pydantic class runs Python code.
        if type(trace) is not ProviderTrace and not isinstance(trace, ProviderTrace):
            raise TypeError(f"create_many takes ProviderTrace, not {type(trace).__name__}")
        return maker.make(trace)

    return _BulkWrite(store, make).write(traces)


def create_rows(
    store: RowStore,
    sources: Sequence[_Source],
    make: Callable[[_Source], Row],
    on_rejected: Callable[[Row | _Source, ProviderTraceStoreError], None],
    on_unplaced: Callable[[Row, PartitionMissingError], None],
) -> BulkResult:
    """Store the rows of any number of organizations by the rules of `create_many`, with the same errors.

    Args:
        store: the table that gets the rows.
        sources: objects that rows are made of, each with an `id`.
        make: makes the row of a source, while the database writes others; raises TraceEncodingError or
            TraceTooLargeError if the source cannot be stored.
        on_rejected: called for each source that was not stored, with its row (or the source itself if no row could
            be made) and the reason. The transaction may still be rolled back.
        on_unplaced: called for each row that the table has no partition for, while others are stored; it is not
            rejected.
    """
    return _BulkWrite(store, make, on_rejected, on_unplaced).write(sources)


class _BulkWrite:
    """One call of `create_many` or `create_rows`: writes the chunks and keeps the counts."""

    def __init__(
        self,
        store: RowStore,
        make: Callable[[Any], Row],
        on_rejected: Callable[[Any, ProviderTraceStoreError], None] | None = None,
        on_unplaced: Callable[[Row, PartitionMissingError], None] | None = None,
    ) -> None:
        self._created = 0
        self._unchanged = 0
        # Rows of the chunk that failed alone, with an error that may be the table's.
        self._undecided: list[tuple[Row, _UndecidedError]] = []
        self._rejected: list[RejectedTrace] = []
        self._store = store
        self._make = make
        self._on_rejected = on_rejected
        self._on_unplaced = on_unplaced
        # A retry usually sends a whole batch again: after the first stored id, look before each insert.
        self._looks_first = store.kind.takes_an_id_twice
        self._hints_left = 0
        self._must_probe = True
        self._uses_copy = True

    def write(self, traces: Iterable[Any]) -> BulkResult:
        """Write all traces and return the counts."""
        for window in windows_of(traces):
            chunk = Chunk(self._make, window)
            while chunk.begin():
                self._write_chunk(chunk)
                for trace, error in chunk.rejected:
                    # A trace that bypassed the schema's checks may have no id.
                    self._reject(str(getattr(trace, "id", "")), error, trace)
        return BulkResult(self._created, self._unchanged, tuple(self._rejected))

    def _write_chunk(self, chunk: Chunk) -> None:
        ids = chunk.ids_ahead() if self._looks_first else None
        making = iter(chunk)
        if (first := next(making, None)) is None:
            return
        # An iterator of the host's may use the session, so it must be read before the statement begins.
        rows: Iterable[Row] = chain((first,), making)
        if not chunk.is_listed or (self._looks_first and ids is None):
            rows = [*rows]
            ids = [row.trace_id for row in rows] if self._looks_first else None
        connection = self._store.connect(first.trace_id)
        outcome = self._attempt(connection, rows, ids, chunk.rows)
        for _ in making:
            pass  # a statement that failed has not read all rows; `chunk.rows` must have them
        self._hints_left = _HINTS
        self._must_probe = True
        self._finish(connection, chunk.rows, outcome)
        self._write_repeats(connection, chunk.repeats)
        self._decide()

    def _write_repeats(self, connection: Connection, rows: Sequence[Row]) -> None:
        """Write rows whose id an earlier row of the chunk has: that row is stored by now, or was refused."""
        while rows:
            firsts: dict[str, Row] = {}
            rest = self._without_stored(connection, rows)
            rows = [row for row in rest if firsts.setdefault(row.trace_id, row) is not row]
            self._insert(connection, list(firsts.values()))

    def _insert(self, connection: Connection, rows: Sequence[Row]) -> None:
        if len(rows) == 1:
            self._insert_one(rows[0])
        elif rows:
            ids = [row.trace_id for row in rows] if self._store.kind.takes_an_id_twice else None
            self._finish(connection, rows, self._attempt(connection, rows, ids, rows))

    def _finish(self, connection: Connection, rows: Sequence[Row], outcome: int | Exception) -> None:
        if isinstance(outcome, Exception):
            self._recover(connection, rows, outcome)
        else:
            self._count_written(connection, rows, outcome)

    def _attempt(
        self, connection: Connection, rows: Iterable[Row], ids: list[str] | None, inserted: Sequence[Row]
    ) -> int | Exception:
        """Insert rows with different ids in one statement.

        Args:
            connection: the session's connection.
            rows: read while the statement runs.
            ids: the ids to look for before the insert; None to insert without a look into a table that takes no id
                twice.
            inserted: has all rows, once they were read.

        Returns:
            The number of inserted rows, or -1 if the driver does not report it. If the statement failed, the driver's
            error; the transaction is then rolled back to the state before the statement.
        """
        store = self._store
        try:
            with savepoint(connection), ids_locked(connection, store.kind, ids or ()):
                if ids and store.is_any_stored(connection, ids):
                    raise _IdIsStoredError  # noqa: TRY301  (the savepoint must see it)
                insert = copy_in if self._uses_copy and can_copy(connection) else insert_many
                count = store.insert_unpacked(connection, rows, inserted, partial(insert, connection, store.kind))
                if count is None:
                    raise _IdIsStoredError  # noqa: TRY301  (as above)
                return count
        except _IdIsStoredError as error:
            return error
        except errors_of(connection) as error:
            return error

    def _recover(self, connection: Connection, rows: Sequence[Row], failure: Exception) -> None:
        """Store the rows that can be stored, after the statement for all of them failed."""
        if ending := ending_of(failure, rows[0].trace_id, connection, self._store.kind.table):
            raise ending
        if self._uses_copy and is_unsupported(failure):
            # Such as a table with row-level security: see "Notes" on PostgreSQL's page about COPY.
            self._uses_copy = False
            self._insert(connection, rows)
            return
        is_stored = isinstance(failure, _IdIsStoredError)
        may_be_the_table = False
        if not is_stored:
            kind = self._store.kind
            error = write_error(failure, rows[0].trace_id, connection, kind.table, reads=kind.looked_at)
            if isinstance(error, TableMissingError | PrivilegeMissingError) or not blames_a_row(failure):
                raise error
            may_be_the_table = not isinstance(error, ProviderTraceRejectedError)
        if is_stored or may_be_duplicate(failure):
            rest = self._without_stored(connection, rows)
            if is_stored or len(rest) < len(rows):
                self._looks_first = True
                self._insert(connection, rest)
                return
        if may_be_the_table and self._must_probe:
            self._insert(connection, self._probe(rows))
            return
        for part in self._parts(rows, failure):
            self._insert(connection, part)

    def _probe(self, rows: Sequence[Row]) -> list[Row]:
        """Try single rows until one of them is stored, and return the rows that were not tried.

        Raises:
            PartitionMissingError: the table has no partition for any of the rows that were tried.
            ProviderTraceUnavailableError: each of the rows failed with an error that may be the table's.
        """
        self._must_probe = False
        before = self._created + self._unchanged
        tried: set[int] = set()
        # Drawn anew each time: if only few rows can be stored, sending the chunk again finds them.
        for place in sample(range(len(rows)), min(_PROBES, len(rows))):
            tried.add(place)
            self._insert_one(rows[place])
            if self._created + self._unchanged > before:
                break
        else:
            if len(self._undecided) == len(tried) == _PROBES:
                raise self._undecided[0][1]
        return [row for place, row in enumerate(rows) if place not in tried]

    def _decide(self) -> None:
        """Reject the undecided rows, after a last try, if another row of the call is stored.

        Raises:
            PartitionMissingError: no row of the call is stored, and the table has no partition for the first one.
            ProviderTraceUnavailableError: no row of the call is stored.
        """
        undecided, self._undecided = self._undecided, []
        if undecided and not (self._created or self._unchanged):
            raise undecided[0][1]
        for row, _ in undecided:
            self._insert_one(row)
        for row, error in self._undecided:
            if isinstance(error, ProviderTraceUnavailableError):
                self._reject(
                    row.trace_id, ProviderTraceRejectedError(row.trace_id, error.sqlstate, None, error.reason), row
                )
            elif self._on_unplaced is not None:
                self._on_unplaced(row, error)
            else:
                reason = f"{error.table} has no partition for it"
                self._reject(row.trace_id, ProviderTraceRejectedError(row.trace_id, "23514", None, reason), row)
        self._undecided = []

    def _parts(self, rows: Sequence[Row], failure: Exception) -> list[Sequence[Row]]:
        """Split refused rows around the row that the server names, or into even parts if it names none."""
        line = copy_line_of(failure, self._store.kind.table)
        if line is not None and 1 <= line <= len(rows) and self._hints_left:
            # Each such cut sends the rows behind the line once more. If many rows are refused, even parts find them
            # sooner.
            self._hints_left -= 1
            return [rows[: line - 1], rows[line - 1 : line], rows[line:]]
        return parts_of(rows)

    def _insert_one(self, row: Row) -> None:
        try:
            stored = self._store.insert(row)
        except (ProviderTraceConflictError, ProviderTraceRejectedError) as error:
            self._reject(row.trace_id, error, row)
        except PartitionMissingError as error:
            self._undecided.append((row, error.with_traceback(None)))
        except ProviderTraceUnavailableError as error:
            if not error.may_be_the_trace:
                raise
            self._undecided.append((row, error.with_traceback(None)))
        else:
            self._created += stored is None
            self._unchanged += stored is not None

    def _without_stored(self, connection: Connection, rows: Sequence[Row]) -> list[Row]:
        """Count or reject the rows whose id is already stored, and return the others."""
        rest = []
        for row, found in zip(rows, self._find(connection, rows), strict=True):
            if found is None:
                rest.append(row)
            elif found.is_same:
                self._unchanged += 1
            else:
                self._reject(row.trace_id, ProviderTraceConflictError(row.trace_id), row)
        return rest

    def _count_written(self, connection: Connection, rows: Sequence[Row], count: int) -> None:
        """Count the rows that a statement wrote: all of them, unless a trigger of the host's skipped some."""
        if count in {len(rows), -1}:
            self._created += len(rows)
            return
        for row, found in zip(rows, self._find(connection, rows), strict=True):
            if found is None:
                self._reject(row.trace_id, ProviderTraceRejectedError(row.trace_id), row)
            else:
                self._created += 1

    def _reject(self, trace_id: str, error: ProviderTraceStoreError, source: object) -> None:
        # The traceback refers to the chunk's traces, which would stay in memory as long as the result does.
        self._rejected.append(RejectedTrace(trace_id, error.with_traceback(None)))
        if self._on_rejected is not None:
            self._on_rejected(source, error)

    def _find(self, connection: Connection, rows: Sequence[Row]) -> list[Found | None]:
        return self._store.guarded(lambda: self._store.find(connection, rows), connection, rows[0].trace_id)
