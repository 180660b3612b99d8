"""Rejected traces: kept in a table of the spool until an operator has looked at them.

`rejected.db` is shared by all writers of a spool. Its table `rejected_traces` has the columns of `provider_traces`, and
four columns before them: when, from which table and why the trace was rejected. A value that cannot be stored has the
form of `codec.kept`.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy.dialects import sqlite

from provider_trace_store.database.drivers import sqlite_code
from provider_trace_store.spool.connections import create_file, has_plain_table, open_file, transaction
from provider_trace_store.spool.directory import DAMAGED_SUFFIX, logger
from provider_trace_store.spool.directory import REJECTS as FILE
from provider_trace_store.spool.errors import SegmentDamagedError
from provider_trace_store.spool.files import size_on_disk
from provider_trace_store.spool.statements import insert_statement
from provider_trace_store.tables.kinds import FULL
from provider_trace_store.tables.moments import sqlite_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from threading import Lock

    from provider_trace_store.errors import ProviderTraceStoreError

TABLE: Final = "rejected_traces"
# How long to wait for another process that writes to the file, in seconds.
_BUSY_TIMEOUT: Final = 1.0
# After how many traces that were not kept the log says so again.
_LOGGED: Final = 1000
_REASONS: Final = ("rejected_at", "rejected_from", "error", "reason")


class Reject(NamedTuple):
    """A rejected trace.

    Args:
        table: the table that it was sent to.
        fields: the row's values by field; documents are text of `codec.kept` in UTF-8, and one that is too large to be
            kept is left out.
        error: the reason; it holds nothing of the trace but its id.
    """

    table: str
    fields: Mapping[str, Any]
    error: ProviderTraceStoreError

    def __repr__(self) -> str:
        return f"<Reject {self.error}>"


class Rejects:
    """The table of rejected traces in a spool directory.

    Args:
        directory: the spool's directory.
        lock: the lock that is held while the file is used.
        max_bytes: how large the file may be.
    """

    def __init__(self, directory: Path, lock: Lock, max_bytes: int) -> None:
        self._path = directory / FILE
        self._lock = lock
        self._max_bytes = max_bytes
        self._not_kept = 0
        # What the file takes on the disk, in bytes.
        self.size = size_on_disk(self._path)

    def add(self, rejects: Sequence[Reject]) -> None:
        """Add traces, as far as the file has room; the others are counted in the log.

        Raises:
            OSError, sqlite3.Error: the file cannot be opened or written to.
        """
        fields = FULL.layout.fields
        values = [_values(reject, fields) for reject in rejects]
        with self._lock:
            try:
                not_kept = self._insert(values)
            except sqlite3.DatabaseError as error:
                if sqlite_code(error) not in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
                    raise
                not_kept = self._start_anew(values)
            except SegmentDamagedError:
                not_kept = self._start_anew(values)
            finally:
                self.size = size_on_disk(self._path)
        self._note(not_kept)

    def _start_anew(self, values: Sequence[Sequence[Any]]) -> int:
        self._path.replace(self._path.with_name(f"{FILE}{DAMAGED_SUFFIX}"))
        return self._insert(values)

    def _insert(self, values: Sequence[Sequence[Any]]) -> int:
        """Insert rows, and return the number of those that the file has no room for."""
        not_kept = 0
        with closing(self._connect()) as connection:
            [page_bytes] = connection.execute("PRAGMA page_size").fetchone()
            with transaction(connection):
                try:
                    connection.execute(f"PRAGMA max_page_count = {max(1, self._max_bytes // page_bytes)}")
                    connection.execute(_table_statement())
                except sqlite3.OperationalError as error:
                    if sqlite_code(error) == sqlite3.SQLITE_FULL:
                        return len(values)
                    raise
                if not has_plain_table(connection, TABLE):
                    raise SegmentDamagedError
            for row in values:
                try:
                    connection.execute(_insert_statement(), row)
                except sqlite3.OperationalError as error:
                    if sqlite_code(error) != sqlite3.SQLITE_FULL:
                        raise
                    not_kept += 1
        return not_kept

    def _connect(self) -> sqlite3.Connection:
        with suppress(FileNotFoundError):
            return open_file(self._path, _BUSY_TIMEOUT)
        with suppress(FileExistsError):
            return create_file(self._path)
        # Another process has just created it.
        return open_file(self._path, _BUSY_TIMEOUT)

    def _note(self, not_kept: int) -> None:
        before, self._not_kept = self._not_kept, self._not_kept + not_kept
        if before // _LOGGED != self._not_kept // _LOGGED or (not_kept and not before):
            logger.error(
                "%s has no room (%d bytes): %d rejected traces were not kept since the start. Look at its rows, and"
                " delete them or move the file away",
                self._path,
                self._max_bytes,
                self._not_kept,
            )


@cache
def _table_statement() -> str:
    columns = [f"{name} {FULL.table.c[name].type.compile(sqlite.dialect())}" for name in FULL.row_columns]
    reasons = [f"{name} VARCHAR" for name in _REASONS]
    return f"CREATE TABLE IF NOT EXISTS {TABLE} ({', '.join([*reasons, *columns])})"


@cache
def _insert_statement() -> str:
    return insert_statement(TABLE, FULL, _REASONS)


def _values(reject: Reject, fields: Sequence[str]) -> list[Any]:
    values: list[Any] = [sqlite_text(datetime.now(UTC)), reject.table, type(reject.error).__name__, str(reject.error)]
    for name in fields:
        value = reject.fields.get(name)
        if isinstance(value, datetime):
            try:
                value = sqlite_text(value)
            except OverflowError:
                value = str(value)
        values.append(value if isinstance(value, str | bytes | int) else None)
    return values
