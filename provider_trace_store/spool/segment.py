"""One file of the spool: a SQLite database with rows for the database, in the order in which they were appended.

The file's table is one of the package's own, `provider_traces` or `provider_trace_metadata`, without its secondary
indexes: a repository on the file can read it. SQLite's `user_version` is the `rowid` of the last row that was stored in
the database. SQLite's `application_id` marks the file as the spool's, and says which table it has.

The journal mode is `PERSIST`: SQLite keeps the rollback journal's file and overwrites it. Appends are fast with it: new
pages are not written to the journal, nothing is copied later, and a reader shares no memory with the writer.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from provider_trace_store.codec import decode
from provider_trace_store.database.drivers import sqlite_code
from provider_trace_store.spool.errors import SegmentDamagedError
from provider_trace_store.spool.statements import insert_statement, select_statement, table_statement
from provider_trace_store.tables.kinds import FULL, METADATA
from provider_trace_store.tables.moments import moment_of, sqlite_text
from provider_trace_store.tables.rows import Row, row_size

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from provider_trace_store.tables.kinds import Kind

FILE_SUFFIX: Final = ".db"
JOURNAL_SUFFIX: Final = "-journal"
# By id and not by table name: a host that migrates such a file adds the other table, too.
_KINDS: Final[dict[int, Kind]] = {
    0x50545346: FULL,  # "PTSF"
    0x5054534D: METADATA,  # "PTSM"
}
# For bodies of tens of kilobytes. Larger pages mean fewer pages, and more bytes in the journal for each append.
_PAGE_BYTES: Final = 2**14
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


class Spooled(NamedTuple):
    """A row in a file.

    Args:
        place: its `rowid`; rows that were appended later have higher ones.
        row: the row, as an INSERT into the database's table takes it.
    """

    place: int
    row: Row


class Segment:
    """An open file of the spool. One thread at a time may use it, and only the process that opened it.

    Args:
        path: the file.
        connection: the connection to it.
        kind: the table that it has.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, kind: Kind) -> None:
        self.path = path
        self.kind = kind
        self._connection = connection
        self._table = kind.table.name
        self._insert = insert_statement(self._table, kind)
        self._select = select_statement(kind)

    @classmethod
    def create(cls, path: Path, kind: Kind, *, fsync: bool) -> Segment:
        """Create a file.

        Args:
            path: the file, which does not exist.
            kind: the table that it gets.
            fsync: whether an append waits until its rows would survive a loss of power.

        Raises:
            sqlite3.Error: it cannot be created.
        """
        connection = _connect(path)
        try:
            connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
            _configure(connection, fsync=fsync)
            # No other process uses the file, and a reader would make an append wait.
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("BEGIN")
            [application_id] = [number for number, other in _KINDS.items() if other is kind]
            connection.execute(f"PRAGMA application_id = {application_id}")
            connection.execute(table_statement(kind))
            connection.execute("COMMIT")
        except BaseException:
            connection.close()
            raise
        return cls(path, connection, kind)

    @classmethod
    def open(cls, path: Path, *, is_damaged: bool = False) -> Segment:
        """Open a file to read it; SQLite rolls back a transaction that the file's writer did not end.

        Args:
            path: the file.
            is_damaged: whether to open it even if it is shorter than its header says.

        Raises:
            SegmentDamagedError: it is not a file of the spool, or its header cannot be read.
            sqlite3.Error: it cannot be opened now.
        """
        connection = _connect(path)
        try:
            with _damage_named():
                if is_damaged:
                    # Without this pragma SQLite reads nothing of a truncated file.
                    connection.execute("PRAGMA writable_schema = ON")
                _configure(connection, fsync=False)
                [application_id] = connection.execute("PRAGMA application_id").fetchone()
        except BaseException:
            connection.close()
            raise
        kind = _KINDS.get(application_id)
        if kind is None:
            connection.close()
            raise SegmentDamagedError
        return cls(path, connection, kind)

    def append(self, rows: Iterable[Row]) -> None:
        """Append rows in one transaction; a kill of the process afterwards does not lose them.

        Raises:
            sqlite3.IntegrityError: an id is in the file already; no row was appended.
            sqlite3.Error: the disk is full or fails; no row was appended.
        """
        values = [_stored_values(self.kind, row) for row in rows]
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
        """Return the place of the last row that was stored in the database, 0 if none was."""
        with _damage_named():
            [place] = self._connection.execute("PRAGMA user_version").fetchone()
        return int(place)

    def mark_stored(self, place: int) -> None:
        """Mark all rows up to a place as stored in the database.

        Raises:
            sqlite3.Error: the disk is full or fails; the next process sends the rows again.
        """
        self._connection.execute(f"PRAGMA user_version = {int(place)}")

    def count_after(self, place: int) -> int:
        """Return the number of rows after a place; SegmentDamagedError if it cannot be read."""
        statement = f"SELECT count(*) FROM {self._table} WHERE rowid > ?"  # noqa: S608  (a constant)
        with _damage_named():
            [count] = self._connection.execute(statement, (place,)).fetchone()
        return int(count)

    def may_have_rows(self) -> bool:
        """Say whether the file has a row, or cannot be read."""
        try:
            return self.count_after(0) > 0
        except (SegmentDamagedError, sqlite3.Error):
            return True

    def read(self, after: int, max_rows: int, max_bytes: int, *, check: bool = False) -> list[Spooled]:
        """Return rows in their order, the first one however large it is.

        Args:
            after: the place before the first row.
            max_rows: the most rows to return.
            max_bytes: the most bytes to return, about.
            check: whether to check that documents are JSON: after a loss of power SQLite may read bytes that were
                never written.

        Raises:
            SegmentDamagedError: the rows cannot be read, or are not what was written.
        """
        found: list[Spooled] = []
        size = 0
        with _damage_named(), closing(self._connection.execute(self._select, (after, max_rows))) as cursor:
            for values in cursor:
                spooled = _spooled(self.kind, values)
                if spooled.place <= (found[-1].place if found else after):
                    # A damaged B-tree may lead in a circle.
                    raise SegmentDamagedError
                if check:
                    _check_documents(self.kind, spooled.row)
                size += spooled.row.size
                if found and size > max_bytes:
                    break
                found.append(spooled)
        return found

    def next_place(self, place: int) -> int:
        """Return the place of the next row of a damaged file, or the next number if that cannot be read."""
        statement = f"SELECT min(rowid) FROM {self._table} WHERE rowid > ?"  # noqa: S608  (a constant)
        with suppress(sqlite3.Error):
            [found] = self._connection.execute(statement, (place,)).fetchone()
            if found is not None:
                # The key of a row may be readable although the row is not.
                return max(place + 1, int(found))
        return place + 1

    def last_place(self) -> int | None:
        """Return the place of the last row of a damaged file, None if that cannot be read."""
        statement = f"SELECT max(rowid) FROM {self._table}"  # noqa: S608  (a constant)
        with suppress(sqlite3.Error):
            [found] = self._connection.execute(statement).fetchone()
            return int(found or 0)
        return None

    def close(self) -> None:
        """Close the file, which stays on disk."""
        with suppress(sqlite3.Error):
            self._connection.close()


def delete_file(path: Path) -> None:
    """Delete a file of the spool, its journal first: a journal without its file would be applied to a later one."""
    path.with_name(path.name + JOURNAL_SUFFIX).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def _stored_values(kind: Kind, row: Row) -> list[Any]:
    values = list(row.values)
    for place in kind.layout.moments:
        if values[place] is not None:
            values[place] = sqlite_text(values[place])
    return values


def _spooled(kind: Kind, found: tuple[Any, ...]) -> Spooled:
    place, *values = found
    for number in kind.layout.moments:
        if values[number] is not None:
            values[number] = moment_of(values[number])
    # The last column is `is_deleted`, which SQLite returns as an integer.
    values[-1] = bool(values[-1])
    return Spooled(place, Row(values[0], values, row_size(values)))


def _check_documents(kind: Kind, row: Row) -> None:
    for place, _ in kind.layout.documents:
        if row.values[place] is not None:
            decode(row.values[place])


def _connect(path: Path) -> sqlite3.Connection:
    # Several threads use the connection, one after the other.
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=0)


def _configure(connection: sqlite3.Connection, *, fsync: bool) -> None:
    connection.execute("PRAGMA journal_mode = PERSIST")
    connection.execute(f"PRAGMA synchronous = {'FULL' if fsync else 'OFF'}")
    connection.execute(f"PRAGMA fullfsync = {'ON' if fsync else 'OFF'}")


@contextmanager
def _damage_named() -> Iterator[None]:
    """Raise SegmentDamagedError for an error that says that a file's contents are wrong."""
    try:
        yield
    except sqlite3.Error as error:
        if sqlite_code(error) in _NOT_DAMAGE:
            raise
    except (ValueError, OverflowError, TypeError):
        pass  # a column holds a value of another type, or text that is not a date
    else:
        return
    raise SegmentDamagedError
