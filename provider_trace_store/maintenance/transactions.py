"""The transactions of maintenance: a connection for them, their limits, and another try where a lock is not free."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Final, TypeVar

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from provider_trace_store.database.drivers import sqlite_code, sqlstate_of
from provider_trace_store.database.transactions import begin_on_sqlite
from provider_trace_store.errors import MaintenanceError

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection, Engine, TextClause

    from provider_trace_store.maintenance.progress import Stop

_Result = TypeVar("_Result")

_LOCK_TIMEOUT: Final = text("SET LOCAL lock_timeout = '5s'")
# A transaction that waits for one row keeps the locks of the others: it waits for a short time, and is tried again.
_SHORT_LOCK_TIMEOUT: Final = text("SET LOCAL lock_timeout = '200ms'")
_TRIES: Final = 20
_BETWEEN_TRIES: Final = 0.5  # seconds
# PostgreSQL's lock_not_available, deadlock_detected and serialization_failure.
_LOCK_STATES: Final = frozenset({"55P03", "40P01", "40001"})
_LOCK_CODES: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})


class UnexpectedCountError(Exception):
    """The database changed another number of rows than there are; the caller rolls back."""

    def __init__(self, what: str, expected: int, changed: int) -> None:
        super().__init__(f"{what}: {changed} of {expected} rows; look for triggers, rules and row-level security")


def connected(engine: Engine) -> Connection:
    """Return a connection of which each statement sees what other sessions have committed.

    Args:
        engine: in any isolation level, autocommit among them.
    """
    connection = engine.connect()
    if engine.dialect.name == "postgresql":
        connection = connection.execution_options(isolation_level="READ COMMITTED")
    return connection


def begin(connection: Connection, lock_timeout: TextClause = _LOCK_TIMEOUT) -> None:
    """Begin a transaction that changes rows: SQLite's write lock at once, PostgreSQL's waits for locks limited.

    Args:
        connection: in a transaction that has run no statement.
        lock_timeout: the statement that limits the waits.
    """
    if not begin_on_sqlite(connection, "BEGIN IMMEDIATE") and connection.dialect.name == "postgresql":
        connection.execute(lock_timeout)


def is_lock_failure(error: Exception) -> bool:
    """Return whether the same transaction can succeed when other sessions have ended theirs.

    Args:
        error: the driver's error, wrapped by SQLAlchemy or not.
    """
    return sqlstate_of(error) in _LOCK_STATES or sqlite_code(error) in _LOCK_CODES


def retried(connection: Connection, stop: Stop, action: Callable[[], _Result]) -> _Result:
    """Run an action that changes rows in a transaction of its own; try again where a lock is not free.

    Args:
        connection: without a transaction.
        stop: ends a wait between two tries.
        action: runs the statements.

    Raises:
        MaintenanceError: the database refused the change, or changed another number of rows.
    """
    for _ in range(_TRIES):
        try:
            with connection.begin():
                begin(connection, _SHORT_LOCK_TIMEOUT)
                return action()
        except UnexpectedCountError as error:
            problem = str(error)
            break
        except DBAPIError as error:
            if error.connection_invalidated:
                raise
            # The driver's message can have content.
            problem = sqlstate_of(error) or type(error.orig).__name__
            if not is_lock_failure(error):
                break
        stop.wait(_BETWEEN_TRIES)
    raise MaintenanceError(f"the database refused a batch: {problem}; earlier batches stay, run the command again")
