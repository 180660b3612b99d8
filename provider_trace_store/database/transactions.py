"""Savepoints and transactions on a host's connection, whichever driver it has."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

from provider_trace_store.database.drivers import errors_of, write_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Connection, Table

# PQTRANS_IDLE of libpq's PGTransactionStatusType: psycopg itself needs libpq, which not every host has.
_PSYCOPG_IDLE: Final = 0

_Result = TypeVar("_Result")


def guarded(action: Callable[[], _Result], connection: Connection, trace_id: str, *tables: Table) -> _Result:
    """Run an action in a savepoint, and raise an error of the driver's as the error of ours that it means.

    A function and not a context manager: Python would chain the driver's error, which may repeat a payload, to an
    error that a context manager raises.

    Args:
        action: may raise errors of ours, which pass through.
        connection: where the action's statements run.
        trace_id: the trace that is being written, for the error.
        tables: the tables that the action uses; at least one.

    Returns:
        What the action returns.

    Raises:
        ProviderTraceRejectedError: the database refused a row.
        ProviderTraceUnavailableError: the database could not do it now.
        TableMissingError: one of the tables does not exist.
    """
    try:
        with savepoint(connection):
            return action()
    except errors_of(connection) as error:
        failure = write_error(error, trace_id, connection, *tables)
    raise failure


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
