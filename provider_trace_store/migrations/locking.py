"""One migration at a time, and a limit on how long its statements wait for table locks."""

from __future__ import annotations

import sqlite3
import time
from contextlib import contextmanager, nullcontext
from threading import Lock
from typing import TYPE_CHECKING, Final

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from provider_trace_store.database.drivers import sqlite_code, sqlstate_of
from provider_trace_store.database.transactions import begin_on_sqlite, in_autocommit
from provider_trace_store.errors import MigrationError, MigrationLockError
from provider_trace_store.migrations.sqlite_file import check_version, usable_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection

DEFAULT_LOCK_TIMEOUT: Final = 5.0

# The key of the advisory lock: "provider" in ASCII. It must never change, or two versions of the package could migrate
# one database at the same time.
_ADVISORY_LOCK: Final = 0x70726F7669646572
_LOCK_NOT_AVAILABLE: Final = "55P03"
# How long a migration waits for other writers of a SQLite file, in seconds. An upgrade takes a fraction of a second.
_SQLITE_TIMEOUT: Final = 60.0
_POLL: Final = 0.02  # seconds

# Alembic's context is global to the process, so one process migrates one database at a time.
_alembic: Final = Lock()


@contextmanager
def migration_transaction(connection: Connection, lock_timeout: float) -> Iterator[None]:
    """Run a block in a transaction while no other migration of the database runs.

    If the caller has a transaction open, the block runs in a savepoint of it. The lock between migrations is a lock
    of the database. Processes, threads and asyncio tasks therefore all wait for it; and it ends with the transaction,
    so it works behind PgBouncer. It must be taken before Alembic is called, because Alembic's context is global to the
    process.

    Args:
        connection: the connection that the block uses.
        lock_timeout: how long each of the block's statements may wait for a table lock, in seconds; 0 waits without a
            limit. The wait for another migration has no limit on PostgreSQL.

    Raises:
        MigrationLockError: a table lock could not be acquired within `lock_timeout`.
        MigrationError: the connection is in autocommit mode, or SQLite cannot use the file, or is too old.
    """
    joined = connection.in_transaction()
    try:
        with usable_file(connection.engine.url), nullcontext() if joined else connection.begin():
            if in_autocommit(connection):
                raise MigrationError(
                    "the connection is in autocommit mode, in which a migration could stop half-way; nothing was "
                    "changed: pass a connection of an engine that begins transactions"
                )
            check_version(connection)
            _wait_for_sqlite(connection)
            with connection.begin_nested() if joined else nullcontext():
                previous = _lock(connection, lock_timeout, joined=joined)
                _wait_for_alembic(connection)
                try:
                    yield
                finally:
                    _alembic.release()
                if previous is not None and joined:
                    _set_lock_timeout(connection, previous)
    except DBAPIError as error:
        if sqlstate_of(error) != _LOCK_NOT_AVAILABLE:
            raise
        blocked = " ".join((error.statement or "COMMIT").split())
        raise MigrationLockError(
            f"could not acquire a table lock within {lock_timeout:g} s, for {blocked}; nothing was changed: run the "
            "migration again when traffic is lower, or with a longer lock_timeout "
            "(`--lock-timeout SECONDS`, `-x lock-timeout=SECONDS`)"
        ) from None


def offline_preamble(dialect: str, lock_timeout: float) -> list[str]:
    """Return the first statements of a script that `--sql` prints: the same lock and limit as without `--sql`.

    Args:
        dialect: SQLAlchemy's name of the database.
        lock_timeout: how long a statement may wait for a table lock, in seconds; 0 waits without a limit.
    """
    if dialect != "postgresql":
        return []
    return [
        f"DO $$ BEGIN PERFORM pg_advisory_xact_lock({_ADVISORY_LOCK}); END $$",
        f"SET LOCAL lock_timeout = '{round(lock_timeout * 1000)}ms'",
    ]


def _lock(connection: Connection, lock_timeout: float, *, joined: bool) -> str | None:
    """Wait for other migrations, then set the limit for table locks; return the limit that was set before."""
    if connection.dialect.name != "postgresql":
        return None
    if not joined:
        # With a snapshot from before the wait, this migration would not see the changes of the one it waited for.
        connection.execute(text("SET TRANSACTION ISOLATION LEVEL READ COMMITTED"))
    previous = str(connection.scalar(text("SELECT current_setting('lock_timeout')")))
    _set_lock_timeout(connection, "0")
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
    _set_lock_timeout(connection, f"{round(lock_timeout * 1000)}ms")
    return previous


def _set_lock_timeout(connection: Connection, value: str) -> None:
    connection.execute(text("SELECT set_config('lock_timeout', :value, true)"), {"value": value})


def _wait_for_sqlite(connection: Connection) -> None:
    """Take SQLite's write lock, which makes migrations wait for each other as the advisory lock does on PostgreSQL."""
    deadline = time.monotonic() + _SQLITE_TIMEOUT
    while True:
        try:
            begin_on_sqlite(connection, "BEGIN IMMEDIATE")
        except DBAPIError as error:
            # The driver itself has waited for its own timeout by now, 5 s by default.
            if sqlite_code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        else:
            return


def _wait_for_alembic(connection: Connection) -> None:
    # Waiting for the lock itself would block an event loop, and with it the task that holds the lock. A statement
    # lets other tasks and threads run while it waits.
    pause = "SELECT pg_sleep(0.02)" if connection.dialect.name == "postgresql" else "SELECT 1"
    while not _alembic.acquire(blocking=False):
        connection.execute(text(pause))
        if connection.dialect.name != "postgresql":
            time.sleep(_POLL)
