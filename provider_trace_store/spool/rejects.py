"""Rejected traces: kept in a table of the spool until an operator has looked at them.

`rejected.db` is shared by all writers of a spool. Its table `rejected_traces` has the columns of `provider_traces`, as
far as the trace could be encoded, and four columns before them: when, from which table and why it was rejected.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy.dialects import sqlite

from provider_trace_store.database.drivers import sqlite_code
from provider_trace_store.spool.statements import insert_statement
from provider_trace_store.tables.kinds import FULL
from provider_trace_store.tables.moments import sqlite_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from threading import Lock

    from provider_trace_store.errors import ProviderTraceStoreError

FILE: Final = "rejected.db"
TABLE: Final = "rejected_traces"
# How long to wait for another process that writes to the file, in seconds.
_BUSY_TIMEOUT: Final = 5.0
_REASONS: Final = ("rejected_at", "rejected_from", "error", "reason")


class Reject(NamedTuple):
    """A rejected trace.

    Args:
        table: the table that it was sent to.
        fields: the row's values by field; documents are stored text in UTF-8, and those that could not be encoded are
            left out.
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
    """

    def __init__(self, directory: Path, lock: Lock) -> None:
        self._path = directory / FILE
        self._lock = lock

    def add(self, rejects: Sequence[Reject]) -> None:
        """Add traces.

        Raises:
            sqlite3.Error: no trace was added.
        """
        fields = FULL.layout.fields
        values = [_values(reject, fields) for reject in rejects]
        with self._lock:
            try:
                self._insert(values)
            except sqlite3.DatabaseError as error:
                if sqlite_code(error) not in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
                    raise
                self._path.replace(self._path.with_name(f"{FILE}.damaged"))
                self._insert(values)

    def _insert(self, values: Sequence[Sequence[Any]]) -> None:
        with closing(sqlite3.connect(self._path, timeout=_BUSY_TIMEOUT)) as connection, connection:
            connection.execute(_table_statement())
            connection.executemany(_insert_statement(), values)


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
