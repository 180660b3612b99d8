"""One file of the spool: rows that wait for the database, in the order in which they came, in a SQLite database.

The table is the package's own, `provider_traces` or `provider_trace_metadata`, so that a repository on the file reads
it; only its secondary indexes are left out. How far the rows have been stored is SQLite's `user_version`, the `rowid`
of the last one; that a file is the spool's, and which table it has, its `application_id`.

A rollback journal, which SQLite keeps and overwrites (`journal_mode=PERSIST`), is what makes an append fast here: new
pages are not journalled, nothing is copied later, and a reader needs no memory shared with the writer.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing, contextmanager, suppress
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from provider_trace_store.codec import decode
from provider_trace_store.database.drivers import sqlite_code
from provider_trace_store.spool.statements import insert_statement, select_statement, table_statement
from provider_trace_store.tables.kinds import FULL, METADATA
from provider_trace_store.tables.rows import Row, row_size
from provider_trace_store.tables.types import moment_of, sqlite_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from provider_trace_store.tables.kinds import Kind

FILE_SUFFIX: Final = ".db"
JOURNAL_SUFFIX: Final = "-journal"
# Which table a file has; a host that migrates one adds the other, too.
_APPLICATION_IDS: Final[dict[int, Kind]] = {
    0x50545346: FULL,  # "PTSF"
    0x5054534D: METADATA,  # "PTSM"
}
# Of a body of tens of kilobytes: larger pages mean fewer of them, and more to write to the journal for each append.
_PAGE_BYTES: Final = 2**14
# How far a hole in a damaged file is followed where its end cannot be found.
_LARGEST_HOLE: Final = 1000
# How long a damaged file is searched, in seconds: nothing else is done with the spool meanwhile.
_SEARCH: Final = 10.0
# SQLite's result codes (https://sqlite.org/rescode.html) that say nothing about the file's contents.
_NOT_DAMAGE: Final = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_PROTOCOL,
    }
)


class SegmentDamagedError(Exception):
    """A file's contents are not what was written to it."""


class Waiting(NamedTuple):
    """A row that waits.

    Args:
        place: its number in its file; later ones have higher ones.
        row: as an INSERT of the database's table takes it.
    """

    place: int
    row: Row


class Segment:
    """A file of the spool, open. Only one thread at a time may use it, and only the process that opened it.

    Args:
        path: of the file.
        connection: to it.
        kind: the table that it has.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, kind: Kind) -> None:
        self.path = path
        self.kind = kind
        self._connection = connection
        self._layout = kind.layout
        self._insert = insert_statement(kind.table.name, kind)
        self._select = select_statement(kind)

    @classmethod
    def create(cls, path: Path, kind: Kind, *, fsync: bool) -> Segment:
        """Make a file.

        Args:
            path: of the file, which does not exist.
            kind: the table that it is to have.
            fsync: whether an append waits until its row would survive a loss of power.

        Raises:
            sqlite3.Error: it cannot be made.
        """
        connection = _connect(path)
        try:
            connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
            _configure(connection, fsync=fsync)
            # Nobody else has anything to do in it, and a reader would keep an append waiting.
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("BEGIN")
            [application_id] = [number for number, other in _APPLICATION_IDS.items() if other is kind]
            connection.execute(f"PRAGMA application_id = {application_id}")
            connection.execute(table_statement(kind))
            connection.execute("COMMIT")
        except BaseException:
            connection.close()
            raise
        return cls(path, connection, kind)

    @classmethod
    def open(cls, path: Path, *, is_damaged: bool = False) -> Segment:
        """Open a file to read it; a transaction that its writer did not end is rolled back.

        Args:
            path: of the file.
            is_damaged: whether to read it although it is shorter than it says.

        Raises:
            SegmentDamagedError: it is none of the spool's files, or what it says of itself cannot be read.
            sqlite3.Error: it cannot be opened now.
        """
        connection = _connect(path)
        try:
            with _damage_named():
                if is_damaged:
                    # Without it SQLite reads nothing of a file that was cut.
                    connection.execute("PRAGMA writable_schema = ON")
                _configure(connection, fsync=False)
                [application_id] = connection.execute("PRAGMA application_id").fetchone()
        except BaseException:
            connection.close()
            raise
        kind = _APPLICATION_IDS.get(application_id)
        if kind is None:
            connection.close()
            raise SegmentDamagedError
        return cls(path, connection, kind)

    def append(self, rows: Iterable[Row]) -> None:
        """Add rows in one transaction, after which a kill of the process does not cost them.

        Raises:
            sqlite3.IntegrityError: an id is in the file already; nothing was added.
            sqlite3.Error: the disk is full or fails; likewise.
        """
        values = [self._values(row) for row in rows]
        if len(values) == 1:
            self._connection.execute(self._insert, values[0])
            return
        self._connection.execute("BEGIN")
        try:
            self._connection.executemany(self._insert, values)
            self._connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            raise

    def stored_up_to(self) -> int:
        """Return the place of the last row that was stored, 0 where none was."""
        with _damage_named():
            [place] = self._connection.execute("PRAGMA user_version").fetchone()
        return int(place)

    def mark_stored(self, place: int) -> None:
        """Note that all rows up to a place were stored.

        Raises:
            sqlite3.Error: the disk is full or fails; the rows are then sent once more, by the next process.
        """
        self._connection.execute(f"PRAGMA user_version = {int(place)}")

    def count_after(self, place: int) -> int:
        """Return how many rows there are behind a place; SegmentDamagedError where that cannot be known."""
        statement = f"SELECT count(*) FROM {self.kind.table.name} WHERE rowid > ?"  # noqa: S608  (a constant)
        with _damage_named():
            [count] = self._connection.execute(statement, (place,)).fetchone()
        return int(count)

    def has_rows(self) -> bool:
        """Return whether there is any row, or nobody can say that there is none."""
        try:
            return self.count_after(0) > 0
        except (SegmentDamagedError, sqlite3.Error):
            return True

    def read(self, after: int, max_rows: int, max_bytes: int, *, check: bool = False) -> list[Waiting]:
        """Return rows in their order, the first one however large it is.

        Args:
            after: the place before them.
            max_rows: the most to return.
            max_bytes: of about so many bytes together, likewise.
            check: whether documents must be JSON: after a loss of power SQLite may read what nobody wrote.

        Raises:
            SegmentDamagedError: they cannot be read, or are not what was written.
        """
        found: list[Waiting] = []
        size = 0
        with _damage_named(), closing(self._connection.execute(self._select, (after, max_rows))) as cursor:
            for values in cursor:
                waiting = self._waiting(values)
                if waiting.place <= (found[-1].place if found else after):
                    # A damaged tree may lead in a circle.
                    raise SegmentDamagedError
                if check:
                    self._check(waiting.row)
                size += waiting.row.size
                if found and size > max_bytes:
                    break
                found.append(waiting)
        return found

    def readable(self, after: int) -> Iterator[Row]:
        """Yield the rows of a damaged file that can be read, and whose documents are JSON.

        Args:
            after: the place before them.
        """
        place = after
        last = self._last_place()
        missed = 0
        end = monotonic() + _SEARCH
        while (last is None or place < last) and missed < _LARGEST_HOLE and monotonic() < end:
            try:
                for waiting in self.read(place, 1, 0, check=True):
                    yield waiting.row
                    place = waiting.place
                    missed = 0
                    break
                else:
                    return
            except SegmentDamagedError:
                place, missed = self._behind(place), missed + 1

    def close(self) -> None:
        """Close the file, which stays."""
        with suppress(sqlite3.Error):
            self._connection.close()

    def _values(self, row: Row) -> list[Any]:
        values = list(row.values)
        for place in self._layout.moments:
            if values[place] is not None:
                values[place] = sqlite_text(moment_of(values[place]))
        return values

    def _waiting(self, found: tuple[Any, ...]) -> Waiting:
        place, *values = found
        for number in self._layout.moments:
            if values[number] is not None:
                values[number] = moment_of(values[number])
        values[-1] = bool(values[-1])
        return Waiting(place, Row(values[0], values, row_size(values)))

    def _check(self, row: Row) -> None:
        for place, _ in self._layout.documents:
            if row.values[place] is not None:
                decode(row.values[place])

    def _behind(self, place: int) -> int:
        """Return the place of the row that could not be read, as its key alone may be readable, or the next number."""
        statement = f"SELECT min(rowid) FROM {self.kind.table.name} WHERE rowid > ?"  # noqa: S608  (a constant)
        with suppress(sqlite3.Error):
            [found] = self._connection.execute(statement, (place,)).fetchone()
            if found is not None:
                return max(place + 1, int(found))
        return place + 1

    def _last_place(self) -> int | None:
        with suppress(sqlite3.Error):
            [found] = self._connection.execute(
                f"SELECT max(rowid) FROM {self.kind.table.name}"  # noqa: S608  (a constant)
            ).fetchone()
            return int(found or 0)
        return None


def delete_file(path: Path) -> None:
    """Delete a file of the spool, and its journal first: without the file it would be another's."""
    path.with_name(path.name + JOURNAL_SUFFIX).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def _connect(path: Path) -> sqlite3.Connection:
    # Used by one thread after the other.
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=0)


def _configure(connection: sqlite3.Connection, *, fsync: bool) -> None:
    connection.execute("PRAGMA journal_mode = PERSIST")
    connection.execute(f"PRAGMA synchronous = {'FULL' if fsync else 'OFF'}")
    connection.execute(f"PRAGMA fullfsync = {'ON' if fsync else 'OFF'}")


@contextmanager
def _damage_named() -> Iterator[None]:
    """Turn the errors that say that a file's contents are wrong into SegmentDamagedError."""
    try:
        yield
    except sqlite3.Error as error:
        if sqlite_code(error) in _NOT_DAMAGE:
            raise
    except (ValueError, OverflowError, TypeError):
        """A date that is none, or a value of another type."""
    else:
        return
    raise SegmentDamagedError
