"""Many traces at the speed of COPY, by the rules of one: what `create_many` does.

A chunk of traces is one statement. Where it fails, the ids are looked up, and those that are stored already are
compared and set aside; where none is, the chunk is split, until the rows that the database refuses stand alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Final, TypeVar

from provider_trace_store.database.drivers import (
    blames_a_row,
    errors_of,
    is_unsupported,
    may_be_duplicate,
    place_of,
    write_error,
)
from provider_trace_store.database.transactions import savepoint
from provider_trace_store.errors import (
    ProviderTraceConflictError,
    ProviderTraceRejectedError,
    ProviderTraceStoreError,
    TraceEncodingError,
    TraceTooLargeError,
)
from provider_trace_store.schemas import ProviderTrace
from provider_trace_store.writes.inserts import can_copy, copy_in, insert_many

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from sqlalchemy import Connection

    from provider_trace_store.tables.rows import Row, RowMaker
    from provider_trace_store.writes.single import Found, RowStore

# Where a statement is cut. Larger ones are no faster, and each must fit into memory and fail as a whole.
MAX_ROWS = 1000
MAX_BYTES = 4 * 2**20
_IDS_ARE_TAKEN: Final = Exception("some of the ids are taken")
# Into how many parts a refused chunk is split: more parts repeat less work, fewer need fewer statements.
_PARTS: Final = 4
# How often, for a chunk, it is cut where the server says.
_HINTS: Final = 8


@dataclass(frozen=True, slots=True)
class RejectedTrace:
    """A trace that was not stored, and why.

    Args:
        trace_id: which.
        error: `ProviderTraceConflictError`, `TraceEncodingError`, `TraceTooLargeError` or
            `ProviderTraceRejectedError`.
    """

    trace_id: str
    error: ProviderTraceStoreError


@dataclass(frozen=True, slots=True)
class BulkResult:
    """What became of the traces of one `create_many`; the three together are as many as were given.

    Args:
        created: how many were written.
        unchanged: how many were stored already, with the same content.
        rejected: one entry for each trace that was not stored.
    """

    created: int = 0
    unchanged: int = 0
    rejected: tuple[RejectedTrace, ...] = ()


_Source = TypeVar("_Source")


def parts_of(rows: Sequence[_Source]) -> list[Sequence[_Source]]:
    """Cut rows that a statement or a transaction was refused for into at most four parts, in their order."""
    step = -(-len(rows) // _PARTS)
    return [rows[start : start + step] for start in range(0, len(rows), step)]


def create_many(store: RowStore, maker: RowMaker, traces: Iterable[ProviderTrace]) -> BulkResult:
    """Store traces as `create` would one after the other, a statement for many.

    Args:
        store: where.
        maker: makes their rows.
        traces: read a chunk at a time, and never while a statement runs unless it is a list or a tuple.

    Raises:
        ProviderTraceUnavailableError: the database could not store a chunk now.
        TableMissingError: the database has not been migrated.
        TypeError: one of them is no `ProviderTrace`.
    """

    def make(trace: ProviderTrace) -> Row:
        # Pydantic has an isinstance of its own, in Python.
        if type(trace) is not ProviderTrace and not isinstance(trace, ProviderTrace):
            raise TypeError(f"create_many takes ProviderTrace, not {type(trace).__name__}")
        return maker.make(trace)

    return _Call(store, make).write(traces)


def create_rows(
    store: RowStore,
    sources: Sequence[_Source],
    make: Callable[[_Source], Row],
    on_rejected: Callable[[Row | _Source, ProviderTraceStoreError], None],
) -> BulkResult:
    """Store rows of any number of organizations, by the rules of `create_many`, whose errors it has.

    Args:
        store: where.
        sources: of the rows, each with an `id`.
        make: makes a row of one, while the database writes; TraceEncodingError or TraceTooLargeError where it cannot.
        on_rejected: called with each that was not stored, as its row where one could be made; the transaction may
            still be rolled back.
    """
    return _Call(store, make, on_rejected).write(sources)


class _Call:
    """One call: what is counted so far, and how a chunk is written."""

    def __init__(
        self,
        store: RowStore,
        make: Callable[[Any], Row],
        on_rejected: Callable[[Any, ProviderTraceStoreError], None] | None = None,
    ) -> None:
        self._created = 0
        self._unchanged = 0
        self._rejected: list[RejectedTrace] = []
        self._store = store
        self._make = make
        self._on_rejected = on_rejected
        # A batch that is sent again is sent again as a whole: once an id was taken, look before writing.
        self._looks_first = store.kind.takes_an_id_twice
        self._hints_left = 0
        self._copies = True

    def write(self, traces: Iterable[Any]) -> BulkResult:
        """Write all traces, a window of at most `MAX_ROWS` at a time, cut into chunks by their size."""
        # A list that another task changes meanwhile would lose traces.
        windows = _slices(tuple(traces)) if type(traces) in {list, tuple} else _pulls(iter(traces))
        for window in windows:
            chunk = _Chunk(self._make, window)
            while chunk.begin():
                self._write_chunk(chunk)
                for trace, error in chunk.rejected:
                    # Made around the schema, it may have no id at all.
                    self._reject(str(getattr(trace, "id", "")), error, trace)
        return BulkResult(self._created, self._unchanged, tuple(self._rejected))

    def _write_chunk(self, chunk: _Chunk) -> None:
        ids = chunk.ids_ahead() if self._looks_first else None
        making = iter(chunk)
        if (first := next(making, None)) is None:
            return
        # An iterator of the host's may use the session, and must be done when the statement begins.
        rows: Iterable[Row] = chain((first,), making)
        if not chunk.is_listed or (self._looks_first and ids is None):
            rows = [*rows]
            ids = [row.trace_id for row in rows] if self._looks_first else None
        connection = self._store.connect(first.trace_id)
        outcome = self._attempt(connection, rows, ids)
        for _ in making:
            """What a statement that failed half-way has left."""
        self._hints_left = _HINTS
        self._settle(connection, chunk.rows, outcome)
        self._write_again(connection, chunk.again)

    def _write_again(self, connection: Connection, rows: Sequence[Row]) -> None:
        """Write rows whose ids stood in the chunk before: another is stored now, or was refused."""
        while rows:
            firsts: dict[str, Row] = {}
            rest = self._without_stored(connection, rows)
            rows = [row for row in rest if firsts.setdefault(row.trace_id, row) is not row]
            self._insert(connection, list(firsts.values()))

    def _insert(self, connection: Connection, rows: Sequence[Row]) -> None:
        if len(rows) == 1:
            self._insert_one(rows[0])
        elif rows:
            self._settle(connection, rows, self._attempt(connection, rows))

    def _settle(self, connection: Connection, rows: Sequence[Row], outcome: int | Exception) -> None:
        if isinstance(outcome, Exception):
            self._recover(connection, rows, outcome)
        else:
            self._count_written(connection, rows, outcome)

    def _attempt(self, connection: Connection, rows: Iterable[Row], ids: list[str] | None = None) -> int | Exception:
        """Insert rows whose ids differ, and return how many were (-1 if the driver does not say).

        Or return why it could not be, with the transaction as it was before.
        """
        store = self._store
        try:
            with savepoint(connection):
                if ids and store.is_any_stored(connection, ids):
                    return _IDS_ARE_TAKEN
                insert = copy_in if self._copies and can_copy(connection) else insert_many
                return insert(connection, store.kind, rows)
        except errors_of(connection) as error:
            return error

    def _recover(self, connection: Connection, rows: Sequence[Row], failure: Exception) -> None:
        """Store those of the rows that can be, after the statement for all of them failed."""
        if self._copies and is_unsupported(failure):
            # Such as under row-level security: PostgreSQL's page on COPY, "Notes".
            self._copies = False
            self._insert(connection, rows)
            return
        if failure is not _IDS_ARE_TAKEN and not blames_a_row(failure):
            error = write_error(failure, rows[0].trace_id, connection, self._store.kind.table)
            raise error
        if failure is _IDS_ARE_TAKEN or may_be_duplicate(failure):
            rest = self._without_stored(connection, rows)
            if failure is _IDS_ARE_TAKEN or len(rest) < len(rows):
                self._looks_first = True
                self._insert(connection, rest)
                return
        for part in self._parts(rows, failure):
            self._insert(connection, part)

    def _parts(self, rows: Sequence[Row], failure: Exception) -> list[Sequence[Row]]:
        """Cut refused rows where the server says that the one to blame is, or else evenly."""
        place = place_of(failure, self._store.kind.table)
        if place is not None and 1 <= place <= len(rows) and self._hints_left:
            # Each costs the rest of the rows another attempt: with many to blame, even parts find them sooner.
            self._hints_left -= 1
            return [rows[: place - 1], rows[place - 1 : place], rows[place:]]
        return parts_of(rows)

    def _insert_one(self, row: Row) -> None:
        try:
            stored = self._store.insert(row)
        except (ProviderTraceConflictError, ProviderTraceRejectedError) as error:
            self._reject(row.trace_id, error, row)
        else:
            self._created += stored is None
            self._unchanged += stored is not None

    def _without_stored(self, connection: Connection, rows: Sequence[Row]) -> list[Row]:
        """Settle those of the rows whose id is taken, and return the others."""
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
        """Count what a statement wrote: all rows, unless triggers of the host's skipped some."""
        if count in {len(rows), -1}:
            self._created += len(rows)
            return
        for row, found in zip(rows, self._find(connection, rows), strict=True):
            if found is None:
                self._reject(row.trace_id, ProviderTraceRejectedError(row.trace_id), row)
            else:
                self._created += 1

    def _reject(self, trace_id: str, error: ProviderTraceStoreError, what: object) -> None:
        # The traceback would keep a chunk of traces in memory for as long as the result lives, payloads and all.
        self._rejected.append(RejectedTrace(trace_id, error.with_traceback(None)))
        if self._on_rejected is not None:
            self._on_rejected(what, error)

    def _find(self, connection: Connection, rows: Sequence[Row]) -> list[Found | None]:
        return self._store.guarded(lambda: self._store.find(connection, rows), connection, rows[0].trace_id)


class _Chunk:
    """The rows of one statement, made while they are read, and what was set aside on the way.

    Args:
        make: makes them.
        window: the traces; a chunk after the first one begins where the one before was full.
    """

    def __init__(self, make: Callable[[Any], Row], window: Iterable[Any]) -> None:
        self.is_listed = isinstance(window, tuple)
        self.rows: list[Row] = []
        self.again: list[Row] = []
        self.rejected: list[tuple[object, ProviderTraceStoreError]] = []
        self._make = make
        self._window: Iterable[Any] | None = window
        self._traces = iter(window)
        self._next: Row | None = None
        self._is_read = False

    def begin(self) -> bool:
        """Begin the next chunk; say whether there is one."""
        if self._is_read:
            return False
        self.rows, self.again, self.rejected = [], [], []
        return True

    def ids_ahead(self) -> list[str] | None:
        """Return at least the ids of a chunk that was not read yet, or None where nobody knows them."""
        if not self.is_listed or self._window is None:
            return None
        try:
            ids = [trace.id for trace in self._window]
            joined = "".join(ids)
        except (AttributeError, TypeError):
            # Made around the schema; reading the chunk will say so.
            return None
        return ids if joined.isascii() and "\0" not in joined else None

    def __iter__(self) -> Iterator[Row]:
        rows, make = self.rows, self._make
        ids: set[str] = set()
        size = 0
        if (row := self._next) is not None:
            self._next = None
            size = row.size
            ids.add(row.trace_id)
            rows.append(row)
            yield row
        for trace in self._traces:
            try:
                row = make(trace)
            except (TraceEncodingError, TraceTooLargeError) as error:
                self.rejected.append((trace, error))
                continue
            trace_id, _, row_size = row
            size += row_size
            if size > MAX_BYTES and ids:
                self._next = row
                self._window = None
                return
            if trace_id in ids:
                self.again.append(row)
                continue
            ids.add(trace_id)
            rows.append(row)
            yield row
        self._is_read = True


def _slices(traces: tuple[Any, ...]) -> Iterator[Iterable[Any]]:
    return (traces[start : start + MAX_ROWS] for start in range(0, len(traces), MAX_ROWS))


def _pulls(traces: Iterator[Any]) -> Iterator[Iterable[Any]]:
    for first in traces:
        yield chain((first,), islice(traces, MAX_ROWS - 1))
