"""What differs between database drivers: how a savepoint is opened, and what an error of theirs means."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import inspect
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from provider_trace_store.errors import (
    ProviderTraceRejectedError,
    ProviderTraceStoreError,
    ProviderTraceUnavailableError,
    TableMissingError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection, Table

# PostgreSQL's appendix A, "Error Codes": what the row itself is to blame for.
_ROW_CLASSES: Final = frozenset({"22", "23", "44", "54"})  # data, integrity, check option, program limit
_ROW_STATES: Final = frozenset({"42501", "P0001"})  # row-level security, a trigger's RAISE
_INTERNAL_CLASSES: Final = frozenset({"XX"})
_UNDEFINED_TABLE: Final = "42P01"
UNIQUE_VIOLATION: Final = "23505"
# PQTRANS_IDLE of libpq's PGTransactionStatusType: psycopg itself needs libpq, which not every host has.
_PSYCOPG_IDLE: Final = 0


@contextmanager
def savepoint(connection: Connection) -> Iterator[None]:
    """Run a block so that its failure leaves the transaction before it usable.

    A connection in the driver's autocommit mode has no transaction to protect and gets no savepoint. Neither
    does one whose transaction the server has not begun yet: rolled back, it is as it was before, and a commit
    of one trace takes three round trips instead of five.
    """
    if in_autocommit(connection):
        yield
        return
    begin_on_sqlite(connection)
    if not _is_idle(connection):
        with connection.begin_nested():
            yield
        return
    try:
        yield
    except BaseException as error:
        _roll_back(connection, error)
        raise


@contextmanager
def one_transaction(connection: Connection) -> Iterator[None]:
    """Run a block as one transaction where each statement would commit by itself; elsewhere do nothing.

    The `executemany` of a driver in autocommit mode may otherwise commit every row.
    """
    if not in_autocommit(connection):
        yield
        return
    connection.exec_driver_sql("BEGIN")
    try:
        yield
        connection.exec_driver_sql("COMMIT")
    except BaseException as error:
        # SQLite's transaction stays open where its commit failed.
        _end(connection, error)
        raise


def _end(connection: Connection, error: BaseException) -> None:
    if connection.invalidated or in_autocommit(connection):
        return
    try:
        connection.exec_driver_sql("ROLLBACK")
    except Exception:  # noqa: BLE001  (as in `_roll_back`)
        connection.invalidate(error)


def in_autocommit(connection: Connection) -> bool:
    """Say whether the next statement commits by itself: the host has set up its driver so, and has begun nothing.

    Args:
        connection: a connection in SQLAlchemy's transaction, where hosts that begin SQLite's by an event have.
    """
    driver_connection: Any = connection.connection.driver_connection
    if connection.dialect.name == "sqlite":
        autocommit = getattr(driver_connection, "isolation_level", "") is None
        autocommit |= getattr(connection.connection.dbapi_connection, "autocommit", None) is True
        return autocommit and not getattr(driver_connection, "in_transaction", True)
    if getattr(connection.connection.dbapi_connection, "autocommit", None) is not True:
        return False
    if connection.dialect.driver == "psycopg":
        return _is_idle(connection)
    if connection.dialect.driver == "asyncpg":
        return not driver_connection.is_in_transaction()
    return True


def _is_idle(connection: Connection) -> bool:
    """Say whether the server knows of no transaction yet; only of psycopg is that known."""
    if connection.dialect.driver != "psycopg":
        return False
    driver_connection: Any = connection.connection.driver_connection
    return int(driver_connection.pgconn.transaction_status) == _PSYCOPG_IDLE


def _roll_back(connection: Connection, error: BaseException) -> None:
    if connection.invalidated:
        return
    try:
        connection.dialect.do_rollback(connection.connection)
    except Exception:  # noqa: BLE001  (whatever it is, the error of the block is what the caller must see)
        # The connection is lost, or still at what was cancelled: the host rolls back, and gets another.
        connection.invalidate(error)


def begin_on_sqlite(connection: Connection, statement: str = "BEGIN") -> None:
    """Begin a transaction on SQLite where none is open; do nothing on another database.

    Python's driver begins one only before an INSERT, UPDATE or DELETE. A savepoint that is opened before
    would be the transaction itself, and its release a commit behind the host's back.

    Args:
        connection: a connection of any database.
        statement: `BEGIN`, or `BEGIN IMMEDIATE` to wait for the only writer's place at once.
    """
    if connection.dialect.name != "sqlite":
        return
    if not getattr(connection.connection.driver_connection, "in_transaction", True):
        connection.exec_driver_sql(statement)


def sqlstate_of(error: Exception) -> str | None:
    """Return the five characters of PostgreSQL's error code, where the driver reports one."""
    state = getattr(_of_the_driver(error), "sqlstate", None)
    return state if isinstance(state, str) else None


def constraint_of(error: Exception) -> str | None:
    """Return the name of the violated constraint, where the driver reports one."""
    psycopg_diagnostics = getattr(_of_the_driver(error), "diag", None)
    asyncpg_error = getattr(_of_the_driver(error), "__cause__", None)
    for source in (psycopg_diagnostics, asyncpg_error):
        name = getattr(source, "constraint_name", None)
        if isinstance(name, str):
            return name
    return None


def primary_key_of(connection: Connection, table: Table) -> str | None:
    """Return the name of a table's primary key in the database, which adoption may have left as it was."""
    schema = connection.schema_for_object(table)
    return inspect(connection).get_pk_constraint(table.name, schema=schema)["name"]


def write_error(
    error: Exception, trace_id: str, connection: Connection | None, table: Table
) -> ProviderTraceStoreError:
    """Return the error of ours that says what a failed write means for the caller.

    It is decided by the driver's class and SQLSTATE, never by the message, which may hold the payload; for
    the same reason the driver's error must not be chained to it.

    Args:
        error: what the driver raised, wrapped by SQLAlchemy or not.
        trace_id: the trace that was being written.
        connection: where it happened, rolled back to before the write; None where there was none to be had.
        table: the table that was written to.
    """
    state = sqlstate_of(error)
    if state == _UNDEFINED_TABLE or _is_missing_on_sqlite(error, connection, table):
        return TableMissingError(table.name)
    if state is None:
        refused = isinstance(error, IntegrityError | DataError | UnicodeEncodeError)
    else:
        refused = state[:2] in _ROW_CLASSES or state in _ROW_STATES
    if refused:
        return ProviderTraceRejectedError(trace_id, state, constraint_of(error))
    return ProviderTraceUnavailableError(trace_id, state)


def errors_of(connection: Connection) -> tuple[type[Exception], ...]:
    """Return the classes of a driver's errors, as SQLAlchemy wraps them and bare.

    A driver encodes text in the connection's encoding, which need not be UTF-8, and fails with Python's error; some
    pass the network's errors and timeouts on.
    """
    return DBAPIError, OSError, UnicodeEncodeError, connection.dialect.loaded_dbapi.Error


def blames_a_row(error: Exception) -> bool:
    """Say whether a failed statement of many rows may have failed for one of them, rather than for the database.

    Distributed engines report what went wrong on one of their nodes as an internal error.
    """
    state = sqlstate_of(error)
    if state is None:
        return isinstance(error, IntegrityError | DataError | UnicodeEncodeError)
    return state[:2] in _ROW_CLASSES | _INTERNAL_CLASSES or state in _ROW_STATES


def is_unsupported(error: Exception) -> bool:
    """Say whether a statement failed because the database has no such statement for this table and role."""
    return sqlstate_of(error) in {"0A000", "42809"}  # feature not supported, wrong object type: a view


def may_be_duplicate(error: Exception) -> bool:
    """Say whether a failed statement may have failed for an id that is stored already."""
    state = sqlstate_of(error)
    return state is None or state == UNIQUE_VIOLATION or state[:2] in _INTERNAL_CLASSES


def place_of(error: Exception, table: Table) -> int | None:
    """Return where in a COPY the server says that it was, from 1, or None.

    A hint: it stands in the text of the error's context, which the server's locale translates.
    """
    context = getattr(getattr(_of_the_driver(error), "diag", None), "context", None) or ""
    _, _, behind = context.partition(f"COPY {table.name}")
    place = re.search(r"\d+", behind)
    return int(place[0]) if place else None


def _of_the_driver(error: Exception) -> object:
    return error.orig if isinstance(error, DBAPIError) else error


def _is_missing_on_sqlite(error: Exception, connection: Connection | None, table: Table) -> bool:
    if connection is None or connection.dialect.name != "sqlite" or isinstance(error, IntegrityError):
        return False
    return not inspect(connection).has_table(table.name, schema=connection.schema_for_object(table))
