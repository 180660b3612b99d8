"""Savepoints and transactions on a host's connection, the same for each driver."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

from provider_trace_store.database.drivers import errors_of, write_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Connection, Table

# PQTRANS_IDLE of libpq's PGTransactionStatusType. Written as a number, because importing psycopg fails without libpq,
# which a host that only uses SQLite need not have.
_PSYCOPG_IDLE: Final = 0

_Result = TypeVar("_Result")


def guarded(action: Callable[[], _Result], connection: Connection, trace_id: str, *tables: Table) -> _Result:
    """Run an action in a savepoint, and replace the driver's error by the package's error for it.

    A function rather than a context manager: Python chains the driver's error, which may repeat a payload, to any
    error that a context manager raises.

    Args:
        action: runs the statements; errors of this package that it raises pass through.
        connection: the connection that the action uses.
        trace_id: the trace that is being written, for the error.
        tables: the tables that the action uses; at least one.

    Returns:
        The action's result.

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
    """Run a block so that the surrounding transaction stays usable if the block fails.

    A connection in the driver's autocommit mode has no transaction to protect, and gets no savepoint. Neither does
    a transaction that the server has not begun yet: if the block fails, it is rolled back as a whole, and nothing is
    lost. This saves two of the five round trips that storing and committing one trace would take.
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
        _undo(connection, error, lambda: connection.dialect.do_rollback(connection.connection))
        raise


@contextmanager
def one_transaction(connection: Connection) -> Iterator[None]:
    """Run a block as one transaction if the connection is in autocommit mode; otherwise just run it.

    Without it, the `executemany` of a driver in autocommit mode may commit each row by itself.
    """
    if not in_autocommit(connection):
        yield
        return
    # SQLite refuses at once, without waiting, to turn a transaction that has read into one that writes.
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.dialect.name == "sqlite" else "BEGIN")
    try:
        yield
        connection.exec_driver_sql("COMMIT")
    except BaseException as error:
        _undo(connection, error, lambda: _roll_back_if_open(connection))
        raise


def in_autocommit(connection: Connection) -> bool:
    """Return whether the next statement commits by itself: the driver is in autocommit mode and no transaction is open.

    Args:
        connection: a connection in SQLAlchemy's transaction. Hosts that begin SQLite's transaction in an event handler
            have begun it by then.
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
    """Return whether the server has not begun a transaction yet; False for drivers that do not report it."""
    if connection.dialect.driver != "psycopg":
        return False
    driver_connection: Any = connection.connection.driver_connection
    return int(driver_connection.pgconn.transaction_status) == _PSYCOPG_IDLE


def _roll_back_if_open(connection: Connection) -> None:
    # A failed COMMIT ends the transaction, except on SQLite.
    if not in_autocommit(connection):
        connection.exec_driver_sql("ROLLBACK")


def _undo(connection: Connection, error: BaseException, roll_back: Callable[[], object]) -> None:
    """Roll back after the error of a block, and give the connection up if that fails."""
    if connection.invalidated:
        return
    try:
        roll_back()
    except Exception:  # noqa: BLE001  # the caller must see the block's error, not this one
        # The connection is lost, or still busy with a cancelled statement. The host's rollback then gets a new one.
        connection.invalidate(error)


def begin_on_sqlite(connection: Connection, statement: str = "BEGIN") -> None:
    """Begin a transaction on SQLite if none is open; do nothing on other databases.

    Python's driver begins one only before an INSERT, UPDATE or DELETE. A savepoint outside of a transaction is a
    transaction itself, and its release would commit without the host's knowledge.

    Args:
        connection: a connection of any database.
        statement: `BEGIN`, or `BEGIN IMMEDIATE` to take SQLite's write lock at once.
    """
    if connection.dialect.name != "sqlite":
        return
    if not getattr(connection.connection.driver_connection, "in_transaction", True):
        connection.exec_driver_sql(statement)
