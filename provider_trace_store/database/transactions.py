"""Savepoints and transactions on a host's connection, the same for each driver."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sqlalchemy import Boolean, literal_column

from provider_trace_store.database.drivers import errors_of, write_error
from provider_trace_store.errors import ProviderTraceRejectedError, TransactionEndedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sqlalchemy import ColumnElement, Connection, NestedTransaction, Table

# PQTRANS_IDLE of libpq's PGTransactionStatusType. Written as a number, because importing psycopg fails without libpq,
# which a host that only uses SQLite need not have.
_PSYCOPG_IDLE: Final = 0

# The exception whose handler awaits the package: `sys.exception()` does not show it to the greenlet of the call, but
# Python chains it to the errors of the driver's coroutines.
HANDLED: Final[ContextVar[BaseException | None]] = ContextVar("HANDLED", default=None)

_Result = TypeVar("_Result")


def guarded(
    action: Callable[[], _Result],
    connection: Connection,
    trace_id: str,
    *tables: Table,
    reads: Sequence[Table] = (),
) -> _Result:
    """Run an action in a savepoint, and replace the driver's error by the package's error for it.

    A function rather than a context manager: Python chains the driver's error, which may repeat a payload, to any
    error that a context manager raises.

    Args:
        action: runs the statements; errors of this package that it raises pass through.
        connection: the connection that the action uses.
        trace_id: the trace that is being written, for the error.
        tables: the tables that the action writes; at least one.
        reads: the tables that it only reads.

    Returns:
        The action's result.

    Raises:
        ProviderTraceRejectedError: the database refused a row.
        ProviderTraceUnavailableError: the database could not do it now.
        TableMissingError: one of the tables does not exist.
        PoolerSettingError: a connection pooler mixes up prepared statements.
        TransactionEndedError: SQLite rolled the host's transaction back.
    """
    try:
        with savepoint(connection):
            return action()
    except errors_of(connection) as error:
        caught = error
    failure = ending_of(caught, trace_id, connection, *tables)
    failure = failure or write_error(caught, trace_id, connection, *tables, reads=reads)
    del caught  # an error tracker that shows local variables must not show it
    raise failure


def ending_of(error: Exception, trace_id: str, connection: Connection | None, *tables: Table) -> BaseException | None:
    """Return the exception to raise if the host's transaction cannot go on after an error of a `savepoint`.

    Call it outside of the `except` block: an interruption that the caller of the package handles is no new one.

    Args:
        error: the driver's error.
        trace_id: the trace that was being written.
        connection: the connection of the savepoint; None if none could be opened.
        tables: the tables that the savepoint uses; at least one.

    Returns:
        The interruption (CancelledError, KeyboardInterrupt, SystemExit ...) that made a driver raise the error, a
        TransactionEndedError, or None if the transaction can go on.
    """
    handled = sys.exception(), HANDLED.get()
    link: BaseException | None = error
    while link is not None and link not in handled:
        if not isinstance(link, Exception):
            return link
        link = link.__cause__ or link.__context__
    if connection is None or connection.dialect.name != "sqlite" or connection.invalidated:
        return None
    transaction = connection.get_transaction()
    if transaction is None or transaction.is_active:
        return None
    # Without the connection: no statement can run before the host's rollback.
    is_refusal = isinstance(write_error(error, trace_id, None, *tables), ProviderTraceRejectedError)
    return TransactionEndedError(trace_id, is_refusal=is_refusal)


@contextmanager
def savepoint(connection: Connection) -> Iterator[None]:
    """Run a block so that the surrounding transaction stays usable if the block fails.

    A connection in the driver's autocommit mode has no transaction to protect, and gets no savepoint. Neither does
    a transaction that the server has not begun yet: if the block fails, it is rolled back as a whole, and nothing is
    lost. This saves two of the five round trips that storing and committing one trace would take.

    After an interruption, such as a cancelled task, the connection is closed: the driver may be in the middle of a
    statement, and a rollback could wait for the server. SQLAlchemy does the same after an interrupted statement. If
    SQLite itself has ended the host's transaction, the host must roll back before the next statement.
    """
    if in_autocommit(connection):
        try:
            yield
        except BaseException as error:
            _undo(connection, error)
            raise
        return
    is_ours = begin_on_sqlite(connection)
    nested = None if _is_idle(connection) else connection.begin_nested()
    try:
        yield
        if nested is not None:
            nested.commit()
    except BaseException as error:
        if nested is None:
            _undo(connection, error, lambda: connection.dialect.do_rollback(connection.connection))
        else:
            _note_end(connection, nested, error, is_ours=is_ours)
            _undo(connection, error, nested.rollback)
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
        return autocommit and not _is_in_transaction(connection)
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


def _undo(connection: Connection, error: BaseException, roll_back: Callable[[], object] | None = None) -> None:
    """Roll back after the error of a block; close the connection after an interruption, and if the rollback fails.

    The host's own rollback then gets a new connection.
    """
    if not isinstance(error, Exception):
        connection.invalidate(error)
    if roll_back is None or connection.invalidated:
        return
    try:
        roll_back()
    except BaseException as failure:
        # The connection is lost, or still busy with a statement.
        connection.invalidate(failure)
        if not isinstance(failure, Exception):
            raise
        # The caller must see the block's error, not this one.


def _note_end(connection: Connection, nested: NestedTransaction, error: BaseException, *, is_ours: bool) -> None:
    """Tell SQLAlchemy if SQLite has ended the transaction: file full, RAISE(ROLLBACK), interrupt, I/O error.

    SQLAlchemy then refuses statements and the commit until the host has rolled back.

    Args:
        connection: the connection.
        nested: the savepoint, which is gone with the transaction.
        error: the error of the block.
        is_ours: whether the package began the transaction right before the savepoint, so that nothing else is lost.
    """
    is_sqlite = connection.dialect.name == "sqlite" and isinstance(error, Exception)
    if not is_sqlite or connection.invalidated or _is_in_transaction(connection):
        return
    nested.is_active = False
    transaction = connection.get_transaction()
    if is_ours or transaction is None:
        return
    if getattr(connection.connection.dbapi_connection, "autocommit", None) is False:
        # The driver itself begins a transaction only after a rollback, which fails if none is open.
        connection.exec_driver_sql("BEGIN")
    transaction.is_active = False


def has_one_snapshot() -> ColumnElement[bool]:
    """Return a column for PostgreSQL: whether all statements of the transaction see the rows of one moment only.

    The server compares: in a session whose encoding is SQL_ASCII, a driver returns text as bytes.
    """
    level = "current_setting('transaction_isolation')"
    return literal_column(f"{level} NOT IN ('read committed', 'read uncommitted')", Boolean)


def begin_on_sqlite(connection: Connection, statement: str = "BEGIN") -> bool:
    """Begin a transaction on SQLite if none is open; do nothing on other databases. Return whether it began one.

    Python's driver begins one only before an INSERT, UPDATE or DELETE. A savepoint outside of a transaction is a
    transaction itself, and its release would commit without the host's knowledge.

    Args:
        connection: a connection of any database.
        statement: `BEGIN`, or `BEGIN IMMEDIATE` to take SQLite's write lock at once.
    """
    if connection.dialect.name != "sqlite" or _is_in_transaction(connection):
        return False
    connection.exec_driver_sql(statement)
    return True


def _is_in_transaction(connection: Connection) -> bool:
    """Return whether SQLite has a transaction open; True for drivers that do not report it."""
    return bool(getattr(connection.connection.driver_connection, "in_transaction", True))
