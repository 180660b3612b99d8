"""The database as a destination: one session and one transaction for each batch, and what their failure means.

A failure that may pass is a NotNowError, which is retried for as long as it takes. A failure that will not pass is
narrowed down to the row that caused it. Both are decided by the error's class and SQLSTATE, never by its text.
"""

from __future__ import annotations

from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from time import perf_counter, sleep
from typing import TYPE_CHECKING, Final

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from provider_trace_store.database.drivers import Fault, blames_a_row, constraint_of, fault_of, is_internal, sqlstate_of
from provider_trace_store.errors import (
    PartitionMissingError,
    PoolerSettingError,
    PrivilegeMissingError,
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
# PostgreSQL's appendix A, "Error Codes": errors of the server that one row may cause, by a lock that its trigger waits
# for, by its size or by its time: serialization, deadlock, lock_timeout, statement_timeout, memory; internal errors.
_MAY_BE_THE_ROW: Final = frozenset({"40001", "40P01", "55P03", "57014", "53200"})
# A missing partition of a month as near as this is going to be created: its traces wait.
_CURRENT: Final = timedelta(days=31)


class DatabaseDestination:
    """Stores rows in the host's database.

    Args:
        sessions: makes sessions, which are used one after the other.
        timeout: how long a transaction may take, in seconds.
    """

    def __init__(self, sessions: Callable[[], Session], timeout: float) -> None:
        self._sessions = sessions
        self._deadline = Deadline(timeout)

    def deliver(self, kind: Kind, sources: Sequence[RowSource]) -> Delivered:
        """Store rows in a transaction of their own; see `Destination.deliver`."""
        refusals: list[Refusal] = []
        unplaced: list[tuple[Row, PartitionMissingError]] = []
        blamed: ProviderTraceStoreError | None = None
        deadline = self._deadline
        try:
            with self._session(kind) as session:
                result = create_rows(
                    RowStore(session, kind),
                    sources,
                    _Turns().make,
                    lambda source, error: refusals.append(Refusal(source, error)),
                    lambda row, error: unplaced.append((row, error)),
                )
                session.commit()
        except NotNowError:
            raise
        except ProviderTraceStoreError as error:
            problem = _problem_of(error)
            if isinstance(error, TransactionEndedError) and error.is_refusal:
                blamed = ProviderTraceRejectedError(error.trace_id)
        except (DBAPIError, PoolTimeoutError, OSError, MemoryError) as error:
            # An error of the commit, which is where deferred constraints are checked. Distributed engines report an
            # error of one of their nodes as an internal error, whatever its cause.
            state = sqlstate_of(error)
            fault = fault_of(error)
            is_undecided = fault is Fault.UNDECIDED
            problem = NotNowError(
                _name_of(error),
                may_be_the_row=is_undecided or is_internal(state),
                may_be_a_rule=is_undecided,
                sqlstate=state,
            )
            if fault is Fault.ROW:
                blamed = ProviderTraceRejectedError(sources[0].id, state, constraint_of(error))
        except Exception as error:  # noqa: BLE001  # a host's event, or a bug: it must neither end the writer nor block it
            problem = NotNowError(_name_of(error), may_be_the_row=True)
        else:
            return Delivered(result.created, result.unchanged, refusals, _with_sources(unplaced, sources))
        # Outside of the handlers: the driver's error, which may repeat a payload, is not chained.
        if blamed is not None:
            raise NotTogetherError(blamed)
        problem.may_be_the_row |= deadline.is_over
        raise problem

    def close(self) -> None:
        """End the thread that watches the transactions."""
        self._deadline.close()

    @contextmanager
    def _session(self, kind: Kind) -> Iterator[Session]:
        """Return a session that has a connection, and close that connection after an error.

        The error may come from the state of the server's session, such as a default that made it read-only, or a
        failed-over host: the next try needs another connection. SQLite's has no such state, and may be the database.
        """
        deadline = self._deadline
        deadline.start()
        try:
            session = self._opened(kind)
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

    def _opened(self, kind: Kind) -> Session:
        """Return a session that has a connection: a failure before that has nothing to do with the rows."""
        try:
            session = self._sessions()
            try:
                if not session.in_transaction():
                    session.begin()
                self._deadline.watch(session.connection(bind_arguments={"mapper": kind.record}))
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


def _with_sources(
    unplaced: Sequence[tuple[Row, PartitionMissingError]], sources: Sequence[RowSource]
) -> list[tuple[RowSource, NotNowError]]:
    """Return each row's error with the source that the row was made of, or with one that makes an equal row."""
    by_id: dict[str, list[RowSource]] = {}
    for source in sources if unplaced else ():
        by_id.setdefault(source.id, []).append(source)
    found = []
    for row, error in unplaced:
        alike = by_id[row.trace_id]
        place = 0 if len(alike) == 1 else next(n for n, source in enumerate(alike) if source.make() == row)
        found.append((alike.pop(place), _unplaced(error)))
    return found


def _unplaced(error: PartitionMissingError) -> NotNowError:
    is_current = error.created_at is None or abs(datetime.now(UTC) - error.created_at) < _CURRENT
    return NotNowError(
        type(error).__qualname__,
        f" ({error})",
        may_be_the_row=not is_current,
        is_each_row=True,
        sqlstate="23514",
        reason=f"{error.table} has no partition for it",
    )


def _unavailable(error: ProviderTraceUnavailableError) -> NotNowError:
    state = error.sqlstate
    # The error's text names the first of the rows, which may have nothing to do with it.
    return NotNowError(
        f"{type(error).__name__} (SQLSTATE {state})" if state else type(error).__name__,
        f" ({error.reason})" if error.reason else "",
        may_be_the_row=error.may_be_the_trace or state in _MAY_BE_THE_ROW or is_internal(state),
        may_be_a_rule=error.may_be_the_trace,
        is_each_row=error.may_be_the_trace,
        sqlstate=state,
        reason=error.reason,
    )


def _name_of(error: Exception) -> str:
    state = sqlstate_of(error)
    name = f"{type(error).__module__}.{type(error).__qualname__}"
    return f"{name} (SQLSTATE {state})" if state else name


def _problem_of(error: ProviderTraceStoreError) -> NotNowError:
    """Return what the package's error means for a batch: try again; the operator has to act on some errors."""
    if isinstance(error, ProviderTraceUnavailableError):
        return _unavailable(error)
    if isinstance(error, PartitionMissingError):
        return _unplaced(error)
    if isinstance(error, TableMissingError | PrivilegeMissingError | PoolerSettingError):
        return NotNowError(type(error).__qualname__, f" ({error})")
    return NotNowError(_name_of(error), may_be_the_row=not isinstance(error, TransactionEndedError))
