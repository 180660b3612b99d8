"""One migration at a time, and a limit on how long its statements wait for table locks."""

from __future__ import annotations

import logging
import math
import sqlite3
import time
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from provider_trace_store.database.drivers import sqlite_code, sqlstate_of
from provider_trace_store.database.transactions import begin_on_sqlite, in_autocommit
from provider_trace_store.errors import InvalidArgumentError, InvalidLimitError, MigrationError, MigrationLockError
from provider_trace_store.migrations.blockers import blocks_writers, holders_of_advisory_lock, holders_of_tables
from provider_trace_store.migrations.sqlite_version import check_version

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

DEFAULT_LOCK_TIMEOUT: Final = 0.5  # seconds
DEFAULT_TRIES: Final = 8

# The key of the advisory lock: "provider" in ASCII. It must never change, or two versions of the package could migrate
# one database at the same time.
_ADVISORY_LOCK: Final = 0x70726F7669646572
# PostgreSQL's lock_not_available and deadlock_detected.
_LOCK_STATES: Final = frozenset({"55P03", "40P01"})
_LOCK_CODES: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_LONGEST_TIMEOUT: Final = 1_000_000.0  # seconds
_MOST_TRIES: Final = 1_000
_FIRST_PAUSE: Final = 0.5  # seconds, doubled from try to try
_LONGEST_PAUSE: Final = 30.0  # seconds
_POLL: Final = 0.05  # seconds

logger: Final = logging.getLogger("provider_trace_store.migrations")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a migration waits for locks.

    While a statement waits for a table lock, later statements of other sessions wait behind it. So a single wait is
    short, and the migration is tried again after a pause in which it holds no lock.

    Args:
        schema: the schema of the tables; None for the connection's default.
        lock_timeout: how long a statement may wait for a table lock, in seconds; 0 waits without a limit.
        tries: how often the migration is tried, at least once.

    Raises:
        InvalidArgumentError: one of the numbers is out of its range.
    """

    schema: str | None
    lock_timeout: float
    tries: int

    def __post_init__(self) -> None:
        if not 0 <= self.lock_timeout <= _LONGEST_TIMEOUT:  # written so that nan is refused, too
            reason = "must be a number of seconds, such as 0.5; 0 waits without a limit"
            raise InvalidArgumentError("lock_timeout", reason)
        if not 1 <= self.tries <= _MOST_TRIES:
            raise InvalidLimitError("tries", 1, _MOST_TRIES)

    @property
    def pauses(self) -> list[float]:
        """The pauses between the tries, in seconds: they double, up to 30 s."""
        return [min(_FIRST_PAUSE * 2**number, _LONGEST_PAUSE) for number in range(self.tries - 1)]

    @property
    def total(self) -> float:
        """How long the migration waits for another one, in seconds: as long as all tries and pauses take."""
        return self.tries * self.lock_timeout + sum(self.pauses) if self.lock_timeout else math.inf


def run_exclusively(connection: Connection, action: Callable[[], None], patience: Patience) -> None:
    """Run an action in a transaction while no other migration of the database runs, and retry it after a lock timeout.

    If the caller has a transaction open, the action runs in a savepoint of it. The lock between migrations is a lock
    of the database. Processes, threads and asyncio tasks therefore all wait for it; and it ends with the transaction,
    so it works behind PgBouncer.

    Args:
        connection: the connection that the action uses.
        action: the migration.
        patience: how long to wait for locks.

    Raises:
        MigrationLockError: a lock could not be acquired in time.
        MigrationError: the connection is in autocommit mode.
    """
    joined = connection.in_transaction()
    for pause in [*patience.pauses, None]:
        failure = _try(connection, action, patience)
        if failure is None:
            return
        # A pause must not make others wait for the locks that the caller's transaction holds.
        if pause is None or (joined and blocks_writers(connection)):
            raise failure
        logger.warning("%s; the next try begins in %g s", failure, pause)
        _sleep(connection, pause)
        if not joined:
            connection.rollback()


def offline_frame(dialect: str, lock_timeout: float, *, nested: bool) -> tuple[list[str], list[str]]:
    """Return the first and the last statements of a script: the same lock and limit as without `--sql`.

    Args:
        dialect: SQLAlchemy's name of the database.
        lock_timeout: how long a statement may wait for a table lock, in seconds; 0 waits without a limit.
        nested: whether other statements follow in the same transaction, for which the limit must be as before.
    """
    if dialect != "postgresql":
        return [], []
    lock = f"DO $$ BEGIN PERFORM pg_advisory_xact_lock({_ADVISORY_LOCK}); END $$"
    limit = f"SET LOCAL lock_timeout = '{round(lock_timeout * 1000)}ms'"
    if not nested:
        return [lock, limit], []
    copy = "DO $$ BEGIN PERFORM set_config('{}', current_setting('{}'), true); END $$"
    before = "provider_trace_store.lock_timeout"
    return [lock, copy.format(before, "lock_timeout"), limit], [copy.format("lock_timeout", before)]


def _try(connection: Connection, action: Callable[[], None], patience: Patience) -> MigrationLockError | None:
    """Run the action once; return the error if a lock could not be acquired in time."""
    joined = connection.in_transaction()
    try:
        with nullcontext() if joined else connection.begin():
            if in_autocommit(connection):
                raise MigrationError(
                    "the connection is in autocommit mode, in which a migration could stop half-way; nothing was "
                    "changed: pass a connection of an engine that begins transactions"
                )
            check_version(connection)
            _wait_for_sqlite(connection, patience)
            with connection.begin_nested() if joined else nullcontext():
                previous = _lock(connection, patience, joined=joined)
                action()
                if previous is not None and joined:
                    _set_lock_timeout(connection, previous)
    except DBAPIError as error:
        if sqlite_code(error) not in _LOCK_CODES and sqlstate_of(error) not in _LOCK_STATES:
            raise
        statement = " ".join((error.statement or "COMMIT").split())
    else:
        return None
    if connection.dialect.name == "sqlite":
        return _locked_file(connection, patience)
    blockers = holders_of_tables(connection, patience.schema, statement)
    if not joined:
        connection.rollback()
    return MigrationLockError(
        f"could not acquire a table lock within {patience.lock_timeout:g} s, for {statement}; nothing was changed, and "
        f"{blockers}"
    )


def _lock(connection: Connection, patience: Patience, *, joined: bool) -> str | None:
    """Wait for other migrations, then set the limit for table locks; return the limit that was set before."""
    if connection.dialect.name != "postgresql":
        return None
    if not joined:
        # With a snapshot from before the wait, this migration would not see the changes of the one it waited for.
        connection.execute(text("SET TRANSACTION ISOLATION LEVEL READ COMMITTED"))
    previous = str(connection.scalar(text("SELECT current_setting('lock_timeout')")))
    _wait_for_migrations(connection, patience)
    _set_lock_timeout(connection, f"{round(patience.lock_timeout * 1000)}ms")
    return previous


def _wait_for_migrations(connection: Connection, patience: Patience) -> None:
    deadline = time.monotonic() + patience.total
    is_told = False
    while not connection.scalar(text("SELECT pg_try_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK}):
        if time.monotonic() > deadline:
            holders = holders_of_advisory_lock(connection, _ADVISORY_LOCK)
            raise MigrationLockError(
                f"another migration of this database did not end within {patience.total:g} s, the lock is "
                f"pg_advisory_xact_lock({_ADVISORY_LOCK}); nothing was changed, and {holders}"
            )
        if not is_told:
            holders = holders_of_advisory_lock(connection, _ADVISORY_LOCK)
            logger.warning("waiting up to %g s for another migration of this database: %s", patience.total, holders)
            is_told = True
        _sleep(connection, _POLL)


def _set_lock_timeout(connection: Connection, value: str) -> None:
    connection.execute(text("SELECT set_config('lock_timeout', :value, true)"), {"value": value})


def _wait_for_sqlite(connection: Connection, patience: Patience) -> None:
    """Take SQLite's write lock, which makes migrations wait for each other as the advisory lock does on PostgreSQL."""
    deadline = time.monotonic() + patience.total
    is_told = False
    while True:
        try:
            begin_on_sqlite(connection, "BEGIN IMMEDIATE")
        except DBAPIError as error:
            # The driver itself has waited for its own timeout by now, 5 s by default.
            if sqlite_code(error) not in _LOCK_CODES:
                raise
        else:
            return
        if time.monotonic() > deadline:
            raise _locked_file(connection, patience)
        if not is_told:
            logger.warning("waiting up to %g s for another connection that writes the SQLite file", patience.total)
            is_told = True
        _sleep(connection, _POLL)


def _locked_file(connection: Connection, patience: Patience) -> MigrationLockError:
    file = connection.engine.url.database or "the database in memory"
    return MigrationLockError(
        f"the SQLite database {file} was locked by another connection or an open cursor for longer than "
        f"{patience.total:g} s; nothing was changed: end the other transaction and run the migration again (SQLite "
        f"does not report whose it is; `fuser {file}` lists the processes that have the file open)"
    )


def _sleep(connection: Connection, seconds: float) -> None:
    """Wait; on PostgreSQL in statements, so that other tasks of an event loop can run, in the server meanwhile."""
    if connection.dialect.name != "postgresql":
        time.sleep(seconds)
        return
    end = time.monotonic() + seconds
    # Each is shorter than any statement_timeout with which the migration itself could succeed.
    while (left := end - time.monotonic()) > 0:
        connection.execute(text("SELECT pg_sleep(:seconds)"), {"seconds": min(left, _POLL)})
