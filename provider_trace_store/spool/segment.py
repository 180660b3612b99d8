"""One file of the spool: a SQLite database with rows for the database, in the order in which they were appended.

The file's table is one of the package's own, `provider_traces` or `provider_trace_metadata`, without its secondary
indexes: a repository's `get` reads a file of full traces, and all reads do once the file is migrated. SQLite's
`user_version` is the `rowid` of the last row that was stored in the database. SQLite's `application_id` marks the file
as the spool's, and says which table it has.

A trace that is submitted again while its row is in the file gets a row, too: its id is followed by a NUL and a number,
so that the file's primary key takes it. Reading a row removes both.

The journal mode is `PERSIST`: SQLite keeps the rollback journal's file and overwrites it. Appends are fast with it: new
pages are not written to the journal, nothing is copied later, and a reader shares no memory with the writer.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from provider_trace_store.codec import decode
from provider_trace_store.spool.connections import Guard, Stop, create_file, has_plain_table, open_file, transaction
from provider_trace_store.spool.errors import SegmentDamagedError
from provider_trace_store.spool.files import delete_file, size_on_disk
from provider_trace_store.spool.statements import insert_statement, select_statement, table_statement
from provider_trace_store.tables.kinds import FULL, METADATA
from provider_trace_store.tables.moments import moment_of, sqlite_text
from provider_trace_store.tables.rows import LARGEST_MAX_BODY_BYTES, Row, row_size

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from provider_trace_store.tables.kinds import Kind

FILE_SUFFIX: Final = ".db"
# By id and not by table name: a host that migrates such a file adds the other table, too.
_KINDS: Final[dict[int, Kind]] = {
    0x50545346: FULL,  # "PTSF"
    0x5054534D: METADATA,  # "PTSM"
}
# Small, so that a file of a few rows is small, and a small `max_spool_bytes` holds some. With pages of 16 KiB, an
# append of 5 KB takes about a fifth less time.
PAGE_BYTES: Final = 2**12
# Follows the id of a row whose id an earlier row of the file has: a number comes after it. No id has this character.
_REPEAT: Final = "\0"


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
        guard: ends the connection's statements in time.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, kind: Kind, guard: Guard) -> None:
        self.path = path
        self.kind = kind
        self._connection = connection
        self._guard = guard
        self._table = kind.table.name
        self._insert = insert_statement(self._table, kind)
        self._select = select_statement(kind)
        self._file = os.lstat(path)
        self._size_on_disk = size_on_disk(path)

    @classmethod
    def create(cls, path: Path, kind: Kind, *, fsync: bool) -> Segment:
        """Create a file.

        Args:
            path: the file, which does not exist.
            kind: the table that it gets.
            fsync: whether an append waits until its rows would survive a loss of power.

        Raises:
            OSError, sqlite3.Error: it cannot be created.
        """
        connection = create_file(path)
        try:
            connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
            _configure(connection, fsync=fsync)
            # No other process uses the file, and a reader would make an append wait.
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("BEGIN")
            [application_id] = [number for number, other in _KINDS.items() if other is kind]
            connection.execute(f"PRAGMA application_id = {application_id}")
            connection.execute(table_statement(kind))
            connection.execute("COMMIT")
            return cls(path, connection, kind, Guard(connection, Stop()))
        except BaseException:
            connection.close()
            with suppress(OSError):
                delete_file(path)
            raise

    @classmethod
    def open(cls, path: Path, stop: Stop | None = None, *, is_damaged: bool = False) -> Segment:
        """Open a file to read it; SQLite rolls back a transaction that the file's writer did not end.

        Args:
            path: the file.
            stop: whether the spool is being closed.
            is_damaged: whether to open it even if it is shorter than its header says.

        Raises:
            SegmentDamagedError: it is not a file of the spool, or its header cannot be read.
            FileNotFoundError, ForeignFileError: it does not exist, or must not be opened.
            OSError, sqlite3.Error: it cannot be opened now.
        """
        connection = open_file(path)
        try:
            guard = Guard(connection, stop or Stop())
            # A value that no writer has written is not read into memory.
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LARGEST_MAX_BODY_BYTES)
            with guard.damage_named():
                if is_damaged:
                    # Without this pragma SQLite reads nothing of a truncated file.
                    connection.execute("PRAGMA writable_schema = ON")
                _configure(connection, fsync=False)
                [application_id] = connection.execute("PRAGMA application_id").fetchone()
                kind = _KINDS.get(application_id)
                is_ours = kind is not None and has_plain_table(connection, kind.table.name)
            if kind is not None and is_ours:
                return cls(path, connection, kind, guard)
        except BaseException:
            connection.close()
            raise
        connection.close()
        raise SegmentDamagedError

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
        with transaction(self._connection):
            self._connection.executemany(self._insert, values)

    def append_repeats(self, rows: Iterable[Row]) -> None:
        """Append rows whose ids may be in the file already, otherwise as `append`."""
        with transaction(self._connection):
            for row in rows:
                values = _stored_values(self.kind, row)
                try:
                    self._connection.execute(self._insert, values)
                except sqlite3.IntegrityError:
                    values[0] = f"{values[0]}{_REPEAT}{self.last_place() + 1}"
                    self._connection.execute(self._insert, values)

    def size_in_place(self) -> int | None:
        """Return the bytes of the file and its journal, or None if the file is not in its directory any more."""
        try:
            found = os.lstat(self.path)
        except OSError:
            return None
        if found.st_ino != self._file.st_ino or found.st_dev != self._file.st_dev:
            return None
        if found.st_size != self._file.st_size:
            # The journal grows only in a transaction in which the file grows.
            self._file, self._size_on_disk = found, size_on_disk(self.path)
        return self._size_on_disk

    def stored_up_to(self) -> int:
        """Return the place of the last row that was stored in the database, 0 if none was."""
        with self._guard.damage_named():
            [place] = self._connection.execute("PRAGMA user_version").fetchone()
        return int(place)

    def mark_stored(self, place: int) -> None:
        """Mark all rows up to a place as stored in the database.

        Raises:
            sqlite3.Error: the disk is full or fails; the next process sends the rows again.
        """
        self._connection.execute(f"PRAGMA user_version = {int(place)}")

    def count_waiting(self) -> int:
        """Return the number of rows that are not stored yet; SegmentDamagedError if that cannot be true."""
        stored = self.stored_up_to()
        if not 0 <= stored <= self.last_place():
            raise SegmentDamagedError
        return self.count_after(stored)

    def count_after(self, place: int) -> int:
        """Return the number of rows after a place; SegmentDamagedError if it cannot be read."""
        statement = f"SELECT count(*) FROM {self._table} WHERE rowid > ?"  # noqa: S608  (a constant)
        with self._guard.damage_named():
            [count] = self._connection.execute(statement, (place,)).fetchone()
        return int(count)

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
        with self._guard.damage_named(), closing(self._connection.execute(self._select, (after, max_rows))) as cursor:
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
        with suppress(sqlite3.Error, SegmentDamagedError), self._guard.damage_named():
            [found] = self._connection.execute(statement, (place,)).fetchone()
            if found is not None:
                # The key of a row may be readable although the row is not.
                return max(place + 1, int(found))
        return place + 1

    def last_place(self) -> int:
        """Return the place of the last row, 0 if there is none; SegmentDamagedError if it cannot be read."""
        statement = f"SELECT max(rowid) FROM {self._table}"  # noqa: S608  (a constant)
        with self._guard.damage_named():
            [found] = self._connection.execute(statement).fetchone()
            return int(found or 0)

    def close(self) -> None:
        """Close the file, which stays on disk."""
        with suppress(sqlite3.Error):
            self._connection.close()


def _stored_values(kind: Kind, row: Row) -> list[Any]:
    values = list(row.values)
    for place in kind.layout.moments:
        if values[place] is not None:
            values[place] = sqlite_text(values[place])
    return values


def _spooled(kind: Kind, found: tuple[Any, ...]) -> Spooled:
    place, *values = found
    values[0] = values[0].partition(_REPEAT)[0]
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


def _configure(connection: sqlite3.Connection, *, fsync: bool) -> None:
    connection.execute("PRAGMA journal_mode = PERSIST")
    connection.execute(f"PRAGMA synchronous = {'FULL' if fsync else 'OFF'}")
    connection.execute(f"PRAGMA fullfsync = {'ON' if fsync else 'OFF'}")
