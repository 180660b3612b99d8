"""Runs the statements of maintenance that change tables and indexes, one after the other, and keeps what it ran."""

from __future__ import annotations

from contextlib import contextmanager
from threading import Thread
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from provider_trace_store.database.drivers import sqlstate_of
from provider_trace_store.database.names import without_parameters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sqlalchemy import Connection, Engine

    from provider_trace_store.maintenance.progress import Stop
    from provider_trace_store.migrations.locking import Patience

_Result = TypeVar("_Result")

_POLL: Final = 0.5  # seconds
# PostgreSQL's lock_not_available and deadlock_detected: the statement is tried again.
RETRIED: Final = frozenset({"55P03", "40P01"})
_REASONS: Final = {
    "2BP01": "other objects, such as views, depend on it: drop or change them, and run the command again",
    "42501": "the role must own the table and may need CREATE on its schema",
    "42P07": "another relation has this name: rename it, or drop it, and run the command again",
    "53100": "the disk is full: make room, and run the command again",
    "57014": "it was cancelled: run the command again",
    "57P01": "the connection was ended: run the command again",
}
# Limits of the role or the database that would end a long statement; a build waits for transactions, blocking nobody.
_LIMITS: Final = text(
    "SELECT name FROM pg_settings WHERE name IN ('statement_timeout', 'lock_timeout') AND setting <> '0'"
)


class Ddl:
    """Runs statements that change tables and indexes, each on a connection of its own.

    Args:
        engine: for the connections.
        patience: how long a statement that blocks others waits for its lock, and how often it is tried.
        stop: whether Ctrl-C was pressed.
    """

    def __init__(self, engine: Engine, patience: Patience, stop: Stop) -> None:
        self.statements: list[str] = []
        self._engine = engine
        self._patience = patience
        self._stop = stop

    def run_long(self, statement: str, watch: Callable[[], object] = lambda: None) -> None:
        """Run a statement that blocks no writer, such as CREATE INDEX CONCURRENTLY; Ctrl-C cancels it.

        It runs outside of a transaction on PostgreSQL, without a limit of time. On SQLite it has a transaction.

        Args:
            statement: the statement.
            watch: called twice a second while PostgreSQL runs it.
        """
        self._stop.check()
        if self._engine.dialect.name != "postgresql":
            with self._engine.begin() as connection:
                connection.execute(without_parameters(statement))
        else:
            engine = self._engine.execution_options(isolation_level="AUTOCOMMIT")
            with engine.connect() as connection, _without_limits(connection):
                self._wait_for(connection, statement, watch)
        self.statements.append(statement)

    def run_quick(self, *statements: str) -> None:
        """Run statements that block others for a moment, in a transaction that waits for locks for a limited time."""
        self._stop.check()
        engine = self._engine.execution_options(isolation_level="READ COMMITTED")
        with engine.begin() as connection:
            connection.execute(without_parameters(f"SET LOCAL lock_timeout = {self._lock_timeout}"))
            for statement in statements:
                connection.execute(without_parameters(statement))
        self.statements += statements

    def run_alone(self, statement: str) -> None:
        """Run a statement that PostgreSQL refuses in a transaction; it waits for locks for a limited time."""
        self._stop.check()
        with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(without_parameters(f"SET lock_timeout = {self._lock_timeout}"))
            try:
                connection.execute(without_parameters(statement))
            finally:
                if not connection.invalidated:
                    connection.execute(text("RESET lock_timeout"))
        self.statements.append(statement)

    def insist(self, action: Callable[[], _Result]) -> _Result:
        """Run an action until it returns, with a pause after each try in which a lock was not free.

        Args:
            action: looks at the database and runs statements by this object; it goes on where an earlier try failed.

        Raises:
            DBAPIError: the last try failed, or the database refused a statement for another reason.
        """
        for pause in self._patience.pauses:
            try:
                return action()
            except DBAPIError as error:
                if sqlstate_of(error) not in RETRIED:
                    raise
            self._stop.wait(pause)
            self._stop.check()
        return action()

    @property
    def _lock_timeout(self) -> str:
        return f"'{round(self._patience.lock_timeout * 1000)}ms'"

    def _wait_for(self, connection: Connection, statement: str, watch: Callable[[], object]) -> None:
        """Run a statement in a thread, and tell its progress meanwhile."""
        failures: list[BaseException] = []

        def run() -> None:
            try:
                connection.execute(without_parameters(statement))
            except BaseException as error:  # noqa: BLE001  # raised again by the thread that waits
                failures.append(error)

        thread = Thread(target=run, name="provider_trace_store.ddl", daemon=True)
        thread.start()
        try:
            while thread.is_alive():
                thread.join(_POLL)
                self._stop.check()
                watch()
        except BaseException:
            driver: Any = connection.connection.driver_connection
            driver.cancel()
            thread.join()
            raise
        if failures:
            raise failures[0]


def refusal(error: DBAPIError) -> str:
    """Return the code and the reason of a statement that the database refused, for a message.

    Args:
        error: the driver's error of the last try.
    """
    state = sqlstate_of(error)
    default = "see the server's log, and run the command again"
    if state in RETRIED:
        default = "the table's lock was not free in time: end the transactions that hold it, and run it again"
    code = f"SQLSTATE {state}" if state else type(error.orig).__name__
    return f"({code}): {_REASONS.get(state or '', default)}"


@contextmanager
def _without_limits(connection: Connection) -> Iterator[None]:
    """Switch off the limits that would end a long statement; a pooled connection gets them back."""
    limits: Sequence[str] = [str(name) for name in connection.scalars(_LIMITS)]
    for limit in limits:
        connection.execute(without_parameters(f"SET {limit} = 0"))
    try:
        yield
    finally:
        for limit in limits:
            connection.execute(without_parameters(f"RESET {limit}"))
