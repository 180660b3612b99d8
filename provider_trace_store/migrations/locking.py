"""One migration at a time: the lock that queues them, and how long their statements may wait for a table."""

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

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection

DEFAULT_LOCK_TIMEOUT: Final = 5.0

# Any number serves, as long as it stays the same: "provider" in ASCII.
_ADVISORY_LOCK: Final = 0x70726F7669646572
_LOCK_NOT_AVAILABLE: Final = "55P03"
# How long a SQLite file may be in another writer's hands; an upgrade takes a fraction of a second.
_SQLITE_PATIENCE: Final = 60.0
_POLL: Final = 0.02

# Alembic's context is global to the process: two databases cannot be migrated at once in one.
_alembic: Final = Lock()


@contextmanager
def migration_transaction(connection: Connection, lock_timeout: float) -> Iterator[None]:
    """Run a block in a transaction, or a savepoint of the caller's, that no other migration runs beside.

    The lock is the database's, so it queues processes, threads and tasks alike, and it ends with the
    transaction, so it works behind PgBouncer. It must be taken before Alembic is entered, whose context is
    global to the process.

    Args:
        connection: where the block's statements run.
        lock_timeout: for the block's statements, in seconds; 0 for ever. Waiting for another migration does
            not count.

    Raises:
        MigrationLockError: a table's lock was not to be had in time.
        MigrationError: the connection is in autocommit mode.
    """
    joined = connection.in_transaction()
    failure = None
    try:
        with nullcontext() if joined else connection.begin():
            if in_autocommit(connection):
                raise MigrationError("the connection is in autocommit mode, where a migration could stop half-way")
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
        failure = MigrationLockError(
            f"a table's lock was not to be had within {lock_timeout:g} s, and nothing was changed; "
            "run the migration again when traffic is lower, or with a longer lock_timeout"
        )
    if failure:
        raise failure


def offline_preamble(dialect: str, lock_timeout: float) -> list[str]:
    """Return what a script of `--sql` begins with: the lock and the limit that an upgrade online has.

    Args:
        dialect: the name of SQLAlchemy's dialect.
        lock_timeout: how long a statement may wait for a table's lock, in seconds; 0 for ever.
    """
    if dialect != "postgresql":
        return []
    return [
        f"DO $$ BEGIN PERFORM pg_advisory_xact_lock({_ADVISORY_LOCK}); END $$",
        f"SET LOCAL lock_timeout = '{round(lock_timeout * 1000)}ms'",
    ]


def _lock(connection: Connection, lock_timeout: float, *, joined: bool) -> str | None:
    """Queue behind other migrations, then limit how long a statement waits; return the limit that was there."""
    if connection.dialect.name != "postgresql":
        return None
    if not joined:
        # In a snapshot from before the wait, what the migration before this one did would not be seen.
        connection.execute(text("SET TRANSACTION ISOLATION LEVEL READ COMMITTED"))
    previous = str(connection.scalar(text("SELECT current_setting('lock_timeout')")))
    _set_lock_timeout(connection, "0")
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
    _set_lock_timeout(connection, f"{round(lock_timeout * 1000)}ms")
    return previous


def _set_lock_timeout(connection: Connection, value: str) -> None:
    connection.execute(text("SELECT set_config('lock_timeout', :value, true)"), {"value": value})


def _wait_for_sqlite(connection: Connection) -> None:
    """Take the place of SQLite's only writer, which queues migrations as the advisory lock does elsewhere."""
    deadline = time.monotonic() + _SQLITE_PATIENCE
    while True:
        try:
            begin_on_sqlite(connection, "BEGIN IMMEDIATE")
        except DBAPIError as error:
            # The driver's own timeout, 5 s by default, has passed.
            if sqlite_code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        else:
            return


def _wait_for_alembic(connection: Connection) -> None:
    # A task that blocked its thread here would keep the task that holds the lock from running. The statement
    # lets others run: it is what waits in the right way for threads and for tasks.
    pause = "SELECT pg_sleep(0.02)" if connection.dialect.name == "postgresql" else "SELECT 1"
    while not _alembic.acquire(blocking=False):
        connection.execute(text(pause))
        if connection.dialect.name != "postgresql":
            time.sleep(_POLL)
