"""The database as a destination: one session and one transaction for each batch, and what their failure means.

A failure that may pass is a NotNowError, which is retried for as long as it takes. A failure that will not pass is
narrowed down to the row that caused it. Both are decided by the error's class and SQLSTATE, never by its text.
"""

from __future__ import annotations

from contextlib import contextmanager
from time import perf_counter, sleep
from typing import TYPE_CHECKING, Final

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from provider_trace_store.database.drivers import blames_a_row, constraint_of, sqlstate_of
from provider_trace_store.database.names import quoted_table
from provider_trace_store.errors import (
    PoolerSettingError,
    ProviderTraceRejectedError,
    ProviderTraceStoreError,
    ProviderTraceUnavailableError,
    TableMissingError,
    TransactionEndedError,
)
from provider_trace_store.writer.deadline import Deadline
from provider_trace_store.writer.destination import Delivered, NotNowError, NotTogetherError, Refusal
from provider_trace_store.writes.bulk import create_rows
from provider_trace_store.writes.single import RowStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sqlalchemy.orm import Session

    from provider_trace_store.tables.kinds import Kind
    from provider_trace_store.tables.rows import Row
    from provider_trace_store.writer.destination import RowSource

# Yield the interpreter after this much work, for at least this long; seconds.
_TURN: Final = 0.001
_BREAK: Final = 0.00001
# PostgreSQL's appendix A, "Error Codes".
_INSUFFICIENT_PRIVILEGE: Final = "42501"
# Query canceled (statement_timeout) and out of memory: errors of the server that one row may cause.
_MAY_BE_THE_ROW: Final = frozenset({"57014", "53200"})


class _GrantedMeanwhileError(Exception):
    """The server reported a missing privilege that the role does have: probably granted during the transaction."""


class DatabaseDestination:
    """Stores rows in the host's database.

    Args:
        sessions: makes sessions, which are used one after the other.
        timeout: how long a transaction may take, in seconds.
    """

    def __init__(self, sessions: Callable[[], Session], timeout: float) -> None:
        self._sessions = sessions
        self._timeout = timeout

    def deliver(self, kind: Kind, sources: Sequence[RowSource]) -> Delivered:
        """Store rows in a transaction of their own; see `Destination.deliver`."""
        try:
            return self._deliver(kind, sources, checks_privileges=True)
        except _GrantedMeanwhileError:
            pass  # once more: a statement after the grant is not refused
        return self._deliver(kind, sources, checks_privileges=False)

    def _deliver(self, kind: Kind, sources: Sequence[RowSource], *, checks_privileges: bool) -> Delivered:
        refusals: list[Refusal] = []
        blamed: ProviderTraceStoreError | None = None
        deadline = Deadline(self._timeout)
        try:
            with self._session(kind, deadline) as session:
                result = create_rows(
                    RowStore(session, kind),
                    sources,
                    _Turns().make,
                    lambda source, error: refusals.append(Refusal(source, error)),
                )
                if checks_privileges:
                    _check_privileges(session, kind, refusals)
                session.commit()
        except (NotNowError, _GrantedMeanwhileError):
            raise
        except ProviderTraceStoreError as error:
            problem = _problem_of(error)
            if isinstance(error, TransactionEndedError) and error.is_refusal:
                blamed = ProviderTraceRejectedError(error.trace_id)
        except (DBAPIError, PoolTimeoutError, OSError, MemoryError) as error:
            # An error of the commit, which is where deferred constraints are checked. Distributed engines report an
            # error of one of their nodes as an internal error, whatever its cause.
            is_internal = (sqlstate_of(error) or "").startswith("XX")
            problem = NotNowError(_name_of(error), may_be_the_row=is_internal)
            if blames_a_row(error) and not is_internal:
                blamed = ProviderTraceRejectedError(sources[0].id, sqlstate_of(error), constraint_of(error))
        except Exception as error:  # noqa: BLE001  # a host's event, or a bug: it must neither end the writer nor block it
            problem = NotNowError(_name_of(error), may_be_the_row=True)
        else:
            return Delivered(result.created, result.unchanged, refusals)
        # Outside of the handlers: the driver's error, which may repeat a payload, is not chained.
        if blamed is not None:
            raise NotTogetherError(blamed)
        problem.may_be_the_row |= deadline.is_over
        raise problem

    @contextmanager
    def _session(self, kind: Kind, deadline: Deadline) -> Iterator[Session]:
        """Return a session that has a connection, and close that connection after an error.

        The error may come from the state of the server's session, such as a default that made it read-only, or a
        failed-over host: the next try needs another connection. SQLite's has no such state, and may be the database.
        """
        deadline.start()
        try:
            session = self._opened(kind, deadline)
        except BaseException:
            deadline.stop()
            raise
        is_sqlite = session.get_bind(kind.record).dialect.name == "sqlite"
        try:
            yield session
        except BaseException as error:
            deadline.stop()
            if is_sqlite or (isinstance(error, DBAPIError) and blames_a_row(error)):
                session.close()
            else:
                session.invalidate()
            raise
        deadline.stop()
        session.close()

    def _opened(self, kind: Kind, deadline: Deadline) -> Session:
        """Return a session that has a connection: a failure before that has nothing to do with the rows."""
        try:
            session = self._sessions()
            try:
                if not session.in_transaction():
                    session.begin()
                deadline.watch(session.connection(bind_arguments={"mapper": kind.record}))
            except BaseException:
                session.close()
                raise
        except Exception as error:  # noqa: BLE001  # also an error of a host's hook, such as one that fetches a password
            problem = NotNowError(_name_of(error))
        else:
            return session
        raise problem


class _Turns:
    """Makes rows, and lets the host's threads run in between.

    Python lets another thread wait for `sys.getswitchinterval`, 5 ms, each time that it wants to run: an event loop
    would be late by that much. `sleep(0)` does not help: this thread would run again before the other one wakes up.
    """

    def __init__(self) -> None:
        self._end = perf_counter() + _TURN

    def make(self, source: RowSource) -> Row:
        if perf_counter() > self._end:
            sleep(_BREAK)
            self._end = perf_counter() + _TURN
        return source.make()


def _check_privileges(session: Session, kind: Kind, refusals: Sequence[Refusal]) -> None:
    """Tell a missing grant, which an operator adds, from a row that a policy refuses."""
    if not any(getattr(refusal.error, "sqlstate", None) == _INSUFFICIENT_PRIVILEGE for refusal in refusals):
        return
    connection = session.connection(bind_arguments={"mapper": kind.record})
    name = quoted_table(connection, kind.table)
    may = "SELECT has_table_privilege(:name, 'INSERT') AND has_table_privilege(:name, 'SELECT')"
    if not session.scalar(text(may), {"name": name}):
        raise NotNowError("ProviderTraceRejectedError (SQLSTATE 42501)", f" (grant INSERT and SELECT on {name})")
    raise _GrantedMeanwhileError


def _name_of(error: Exception) -> str:
    state = sqlstate_of(error)
    name = f"{type(error).__module__}.{type(error).__qualname__}"
    return f"{name} (SQLSTATE {state})" if state else name


def _problem_of(error: ProviderTraceStoreError) -> NotNowError:
    """Return what the package's error means for a batch: try again; the operator has to act on some errors."""
    if isinstance(error, ProviderTraceUnavailableError):
        return NotNowError(_without_id(error), may_be_the_row=error.sqlstate in _MAY_BE_THE_ROW)
    if isinstance(error, TableMissingError | PoolerSettingError):
        return NotNowError(type(error).__qualname__, f" ({error})")
    return NotNowError(_name_of(error), may_be_the_row=not isinstance(error, TransactionEndedError))


def _without_id(error: ProviderTraceUnavailableError) -> str:
    # The error's text names the first of the rows, which may have nothing to do with it.
    return f"{type(error).__name__} (SQLSTATE {error.sqlstate})" if error.sqlstate else type(error).__name__
