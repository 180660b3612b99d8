"""The file of a SQLite database: whether migrations can use it, and the library that reads it."""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy.exc import DBAPIError

from provider_trace_store.database.drivers import sqlite_code
from provider_trace_store.errors import MigrationError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import URL, Connection

# The first version with the statements of this package: row values (3.15), UPSERT (3.24).
OLDEST: Final = (3, 24, 0)
_PROBLEMS: Final = {
    sqlite3.SQLITE_CANTOPEN: "cannot be opened: create its folder, and give this process the right to write in it",
    sqlite3.SQLITE_PERM: "cannot be opened: give this process the right to read and write it",
    sqlite3.SQLITE_AUTH: "cannot be opened: give this process the right to read and write it",
    sqlite3.SQLITE_READONLY: "is read-only: give this process the right to write it and in its folder",
    sqlite3.SQLITE_NOTADB: "is not a SQLite database: name another file",
    sqlite3.SQLITE_CORRUPT: "is damaged: restore it from a backup",
    sqlite3.SQLITE_IOERR: "cannot be read or written: look for errors of the disk",
    sqlite3.SQLITE_FULL: "cannot grow: free space on its disk",
}


@contextmanager
def usable_file(url: URL) -> Iterator[None]:
    """Run a block of a migration, and raise MigrationError if SQLite reports that the file cannot be used.

    Args:
        url: the database; nothing happens if it is not SQLite's.
    """
    try:
        yield
    except DBAPIError as error:
        problem = _PROBLEMS.get(sqlite_code(error) or 0) if url.get_backend_name() == "sqlite" else None
        if problem is None:
            raise
        message = f"the file {url.database or '(in memory)'!r} {problem}; nothing was changed"
        raise MigrationError(message) from None


def check_version(connection: Connection) -> None:
    """Raise MigrationError if the SQLite library is too old; do nothing on other databases."""
    if connection.dialect.name != "sqlite":
        return
    driver: Any = connection.dialect.loaded_dbapi
    if tuple(driver.sqlite_version_info) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise MigrationError(
            f"SQLite {driver.sqlite_version} is too old, and nothing was changed: use a Python with SQLite {oldest} or "
            "later"
        )
