"""One test body for both forms of the repository: a client whose methods are all awaited."""

from __future__ import annotations

from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, cast

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from provider_trace_store import AsyncProviderTraceRepository, ProviderTraceRepository

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Iterable
    from contextlib import AsyncExitStack
    from datetime import date

    from sqlalchemy import Executable, Result

    from provider_trace_store import (
        BulkResult,
        MetadataPage,
        ProviderTrace,
        ProviderTraceMetadata,
        TracePage,
    )
    from tests.support.servers import Database

Form = Literal["sync", "async"]

_Value = TypeVar("_Value")


class RepositoryClient(Protocol):
    """A repository of either form; every method is awaited."""

    async def create(self, trace: ProviderTrace) -> ProviderTrace | ProviderTraceMetadata:
        """Call the repository's `create`."""

    async def create_many(self, traces: Iterable[ProviderTrace]) -> BulkResult:
        """Call the repository's `create_many`."""

    async def delete(self, trace_id: str) -> bool:
        """Call the repository's `delete`."""

    async def restore(self, trace_id: str) -> bool:
        """Call the repository's `restore`."""

    async def get(self, trace_id: str) -> ProviderTrace | None:
        """Call the repository's `get`."""

    async def get_by_step_id(self, step_id: str) -> ProviderTrace | None:
        """Call the repository's `get_by_step_id`."""

    async def list_by_step_id(self, step_id: str) -> list[ProviderTrace]:
        """Call the repository's `list_by_step_id`."""

    async def list_by_run_id(self, run_id: str, *, limit: int = ..., cursor: str | None = ...) -> TracePage:
        """Call the repository's `list_by_run_id`."""

    async def get_metadata(self, trace_id: str) -> ProviderTraceMetadata | None:
        """Call the repository's `get_metadata`."""

    async def list_metadata(self, **arguments: Any) -> MetadataPage:
        """Call the repository's `list_metadata`."""

    def iter_metadata(self, **arguments: Any) -> AsyncIterator[ProviderTraceMetadata]:
        """Call the repository's `iter_metadata`; what it yields comes asynchronously in both forms."""

    async def count_by(self, field: str, **filters: Any) -> dict[str | None, int]:
        """Call the repository's `count_by`."""

    async def count_by_day(self, **filters: Any) -> dict[date, int]:
        """Call the repository's `count_by_day`."""


class _Awaited:
    """The synchronous repository, called directly by coroutines."""

    def __init__(self, repository: ProviderTraceRepository) -> None:
        self._repository = repository

    async def create(self, trace: ProviderTrace) -> ProviderTrace | ProviderTraceMetadata:
        return self._repository.create(trace)

    async def create_many(self, traces: Iterable[ProviderTrace]) -> BulkResult:
        return self._repository.create_many(traces)

    async def delete(self, trace_id: str) -> bool:
        return self._repository.delete(trace_id)

    async def restore(self, trace_id: str) -> bool:
        return self._repository.restore(trace_id)

    async def get(self, trace_id: str) -> ProviderTrace | None:
        return self._repository.get(trace_id)

    async def get_by_step_id(self, step_id: str) -> ProviderTrace | None:
        return self._repository.get_by_step_id(step_id)

    async def list_by_step_id(self, step_id: str) -> list[ProviderTrace]:
        return self._repository.list_by_step_id(step_id)

    async def list_by_run_id(self, run_id: str, **arguments: Any) -> TracePage:
        return self._repository.list_by_run_id(run_id, **arguments)

    async def get_metadata(self, trace_id: str) -> ProviderTraceMetadata | None:
        return self._repository.get_metadata(trace_id)

    async def list_metadata(self, **arguments: Any) -> MetadataPage:
        return self._repository.list_metadata(**arguments)

    def iter_metadata(self, **arguments: Any) -> AsyncIterator[ProviderTraceMetadata]:
        # Called here and not by the generator, so that what is wrong with the arguments is raised at the call.
        return _asynchronous(self._repository.iter_metadata(**arguments))

    async def count_by(self, field: Any, **filters: Any) -> dict[str | None, int]:
        return self._repository.count_by(field, **filters)

    async def count_by_day(self, **filters: Any) -> dict[date, int]:
        return self._repository.count_by_day(**filters)


class Client:
    """A session of either form, on its own connection, and the repositories on it.

    Args:
        database: where.
        form: `sync` or `async`.
        stack: closing it closes the session.
    """

    def __init__(self, database: Database, form: Form, stack: AsyncExitStack) -> None:
        self.database = database
        self.form = form
        self.session: Session | AsyncSession
        if form == "sync":
            self.session = Session(database.engine())
        else:
            self.session = AsyncSession(database.async_engine())
        self._stack = stack
        stack.push_async_callback(self._close)

    def repository(self, **options: Any) -> RepositoryClient:
        """Return a repository on the session; its methods are awaited in both forms.

        Args:
            options: the repository's own: `organization_id`, `actor_id`, `metadata_only`, `max_body_bytes`.
        """
        if isinstance(self.session, AsyncSession):
            # Tests also pass what the signatures rule out.
            return cast("RepositoryClient", AsyncProviderTraceRepository(self.session, **options))
        return _Awaited(ProviderTraceRepository(self.session, **options))

    @property
    def sync_session(self) -> Session:
        """The synchronous session that the repository uses inside, in both forms."""
        return self.session.sync_session if isinstance(self.session, AsyncSession) else self.session

    async def another(self) -> Client:
        """Return a client with a second session on the same database, closed with this one."""
        return Client(self.database, self.form, self._stack)

    async def commit(self) -> None:
        """Commit the session's transaction."""
        await _result(self.session.commit())

    async def rollback(self) -> None:
        """Roll the session's transaction back."""
        await _result(self.session.rollback())

    async def execute(self, statement: Executable, parameters: Any = None) -> Result[Any]:
        """Execute a statement in the session's transaction."""
        return await _result(self.session.execute(statement, parameters))

    async def scalar(self, statement: Executable, parameters: Any = None) -> Any:
        """Execute a statement and return the first column of its first row, or None."""
        return await _result(self.session.scalar(statement, parameters))

    async def _close(self) -> None:
        await _result(self.session.close())


async def _result(value: _Value | Awaitable[_Value]) -> _Value:
    return await value if isawaitable(value) else value


async def _asynchronous(values: Iterable[_Value]) -> AsyncIterator[_Value]:
    for value in values:
        yield value
