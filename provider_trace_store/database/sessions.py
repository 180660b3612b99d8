"""The session that a host passes to a repository."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session

if TYPE_CHECKING:
    from collections.abc import Callable

_ASYNCHRONOUS = (AsyncSession, async_scoped_session)


def checked_session(session: object) -> Session:
    """Return the session of a synchronous repository: a `scoped_session` is used like the session of its scope.

    Args:
        session: the argument of a host.

    Raises:
        TypeError: it is not a session.
    """
    if isinstance(session, _ASYNCHRONOUS):
        raise TypeError(f"session is of the class {type(session).__name__}: use AsyncProviderTraceRepository")
    # Not only instances of `Session`: a host may wrap its session, as `scoped_session` does.
    if not _has_methods(session, "connection", "flush"):
        raise _error(session, "Session or scoped_session")
    return cast("Session", session)


def checked_async_session(session: object) -> Callable[[], AsyncSession]:
    """Return a function that returns the session of an asynchronous repository, for a scoped one that of its scope.

    Args:
        session: the argument of a host.

    Raises:
        TypeError: it is not a session.
    """
    if isinstance(session, async_scoped_session):
        return session
    if isinstance(session, Session | scoped_session):
        raise TypeError(f"session is of the class {type(session).__name__}: use ProviderTraceRepository")
    if not (_has_methods(session, "run_sync") and hasattr(session, "sync_session")):
        raise _error(session, "AsyncSession or async_scoped_session")
    made = cast("AsyncSession", session)
    return lambda: made


def _has_methods(session: object, *names: str) -> bool:
    return not isinstance(session, type) and all(callable(getattr(session, name, None)) for name in names)


def _error(session: object, wanted: str) -> TypeError:
    given = f"the class {session.__name__}" if isinstance(session, type) else f"of the class {type(session).__name__}"
    return TypeError(f"session is {given}: pass {wanted}, such as the one that a call of your sessionmaker returns")
