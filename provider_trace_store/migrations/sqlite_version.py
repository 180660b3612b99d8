"""The version of the SQLite library that migrations and reads need."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any, Final

from provider_trace_store.errors import MigrationError

if TYPE_CHECKING:
    from sqlalchemy import Connection

# The first version with the statements of this package: row values (3.15), UPSERT (3.24).
OLDEST: Final = (3, 24, 0)


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


def drops_columns() -> bool:
    """Return whether this SQLite has ALTER TABLE … DROP COLUMN: https://sqlite.org/changes.html#version_3_35_0."""
    return sqlite3.sqlite_version_info >= (3, 35)
