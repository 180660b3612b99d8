"""A batch on its way into the database: one session and one transaction, and what their failure means.

What may pass is tried again for as long as it takes; what will not is narrowed down to the row that is to blame, by the
class of the error and never by its text.
"""

from __future__ import annotations

from time import perf_counter, sleep
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from provider_trace_store.database.drivers import blames_a_row, constraint_of, sqlstate_of
from provider_trace_store.database.names import quoted_table
from provider_trace_store.errors import (
    ProviderTraceRejectedError,
    ProviderTraceStoreError,
    ProviderTraceUnavailableError,
    TableMissingError,
)
from provider_trace_store.writes.bulk import create_rows
from provider_trace_store.writes.single import RowStore

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy.orm import Session

    from provider_trace_store.tables.kinds import Kind
    from provider_trace_store.tables.rows import Row

# How long rows are made without a break, and how long one is at least, in seconds.
_TURN: Final = 0.001
_BREAK: Final = 0.00001
# PostgreSQL's appendix A, "Error Codes". Of the latter a row may be the cause, though they read like the server's.
_INSUFFICIENT_PRIVILEGE: Final = "42501"
_MAY_BE_THE_ROW: Final = frozenset({"57014", "53200"})  # query canceled (statement_timeout), out of memory


class RowSource(Protocol):
    """What a row is made of, when its turn comes."""

    @property
    def id(self) -> str:
        """The trace's id."""

    def make(self) -> Row:
        """Return the row; TraceEncodingError or TraceTooLargeError where it cannot be stored."""


class Refusal(NamedTuple):
    """A row that the database refused for good.

    Args:
        what: the row, or what it could not be made of.
        error: why.
    """

    what: Row | RowSource
    error: ProviderTraceStoreError


class Delivered(NamedTuple):
    """What became of rows whose transaction is committed.

    Args:
        created: how many were written.
        unchanged: how many were stored already.
        refusals: the others.
    """

    created: int
    unchanged: int
    refusals: Sequence[Refusal]


class NotNowError(Exception):
    """The database could not store rows now.

    Args:
        kind: the name of the error's class, and its SQLSTATE.
        advice: what somebody should do about it.
        may_be_the_row: whether it may be one of them that is too much for it.
    """

    def __init__(self, kind: str, advice: str = "", *, may_be_the_row: bool = False) -> None:
        super().__init__(kind)
        self.kind = kind
        self.advice = advice
        self.may_be_the_row = may_be_the_row


class NotTogetherError(Exception):
    """The database refuses a transaction with these rows, and it is one of them that is to blame.

    Args:
        error: what is wrong with it, where it is a single one.
    """

    def __init__(self, error: ProviderTraceStoreError) -> None:
        super().__init__()
        self.kind = type(error).__qualname__
        self.error = error


class _PrivilegeError(Exception):
    """A row was refused for want of a privilege that the role has."""


def deliver(sessions: Callable[[], Session], kind: Kind, sources: Sequence[RowSource]) -> Delivered:
    """Store rows in a transaction of their own.

    Args:
        sessions: makes a session.
        kind: the table.
        sources: of the rows; at least one.

    Raises:
        NotNowError: none of them was stored, or it is not known; sending them again is safe.
        NotTogetherError: none of them was stored, and one of them is to blame.
    """
    try:
        return _delivered(sessions, kind, sources)
    except _PrivilegeError:
        """It has the privilege now, and may have got it in the middle of the transaction."""
    return _delivered(sessions, kind, sources, had_privileges=True)


def _delivered(
    sessions: Callable[[], Session], kind: Kind, sources: Sequence[RowSource], *, had_privileges: bool = False
) -> Delivered:
    refusals: list[Refusal] = []
    blamed: ProviderTraceStoreError | None = None
    try:
        with _opened(sessions, kind) as session:
            result = create_rows(
                RowStore(session, kind),
                sources,
                _Turns().make,
                lambda what, error: refusals.append(Refusal(what, error)),
            )
            if not had_privileges:
                _check_privileges(session, kind, refusals)
            session.commit()
    except (NotNowError, _PrivilegeError):
        raise
    except TableMissingError as error:
        problem = NotNowError(type(error).__qualname__, f" ({error})")
    except ProviderTraceUnavailableError as error:
        problem = NotNowError(_without_id(error), may_be_the_row=error.sqlstate in _MAY_BE_THE_ROW)
    except (DBAPIError, PoolTimeoutError, OSError, MemoryError) as error:
        # Of the commit, which is where deferred constraints are checked.
        # Engines of several nodes report what went wrong on one of them as an internal error, whosever fault it is.
        is_internal = (sqlstate_of(error) or "").startswith("XX")
        problem = NotNowError(_name_of(error), may_be_the_row=is_internal)
        if blames_a_row(error) and not is_internal:
            blamed = ProviderTraceRejectedError(sources[0].id, sqlstate_of(error), constraint_of(error))
    except Exception as error:  # noqa: BLE001  # a host's event, a bug: it must neither end the writer nor block it
        problem = NotNowError(_name_of(error), may_be_the_row=True)
    else:
        return Delivered(result.created, result.unchanged, refusals)
    # Outside of the handlers, so that the driver's error, which may repeat a payload, is not chained.
    if blamed is not None:
        raise NotTogetherError(blamed)
    raise problem


class _Turns:
    """Makes rows, and lets the host's threads have their turn in between.

    Python's interpreter would let them wait for `sys.getswitchinterval`, 5 ms, each time that one of them wants to go
    on: an event loop would be late by as much. A sleep of nothing does not help: this thread would be back first.
    """

    def __init__(self) -> None:
        self._end = perf_counter() + _TURN

    def make(self, source: RowSource) -> Row:
        if perf_counter() > self._end:
            sleep(_BREAK)
            self._end = perf_counter() + _TURN
        return source.make()


def _opened(sessions: Callable[[], Session], kind: Kind) -> Session:
    """Return a session that has its connection: whatever fails until then is not the rows' fault."""
    try:
        session = sessions()
        try:
            if not session.in_transaction():
                session.begin()
            session.connection(bind_arguments={"mapper": kind.record})
        except BaseException:
            session.close()
            raise
    except Exception as error:  # noqa: BLE001  # also what a host's own hooks raise, such as one that fetches a password
        problem = NotNowError(_name_of(error))
    else:
        return session
    raise problem


def _check_privileges(session: Session, kind: Kind, refusals: Sequence[Refusal]) -> None:
    """Tell a table that this role may not write to, which somebody will mend, from a row that its policies refuse."""
    if not any(getattr(refusal.error, "sqlstate", None) == _INSUFFICIENT_PRIVILEGE for refusal in refusals):
        return
    connection = session.connection(bind_arguments={"mapper": kind.record})
    name = quoted_table(connection, kind.table)
    may = "SELECT has_table_privilege(:name, 'INSERT') AND has_table_privilege(:name, 'SELECT')"
    if not session.scalar(text(may), {"name": name}):
        raise NotNowError("ProviderTraceRejectedError (SQLSTATE 42501)", f" (grant INSERT and SELECT on {name})")
    raise _PrivilegeError


def _name_of(error: Exception) -> str:
    state = sqlstate_of(error)
    name = f"{type(error).__module__}.{type(error).__qualname__}"
    return f"{name} (SQLSTATE {state})" if state else name


def _without_id(error: ProviderTraceUnavailableError) -> str:
    # It names the first of the rows, which may have nothing to do with it.
    return f"{type(error).__name__} (SQLSTATE {error.sqlstate})" if error.sqlstate else type(error).__name__
