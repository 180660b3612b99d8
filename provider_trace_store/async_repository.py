"""The asynchronous form of the repository, for an `AsyncSession`."""

from __future__ import annotations

import sys
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from sqlalchemy.ext.asyncio import async_scoped_session

from provider_trace_store.database.sessions import checked_async_session
from provider_trace_store.database.transactions import HANDLED
from provider_trace_store.reads.pages import MAX_LIMIT
from provider_trace_store.repository import ProviderTraceRepository
from provider_trace_store.tables.rows import DEFAULT_MAX_BODY_BYTES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator
    from datetime import date
    from typing import Unpack

    from sqlalchemy.ext.asyncio import AsyncSession

    from provider_trace_store.reads.filters import TraceFilters
    from provider_trace_store.reads.page_statements import CountField, Order
    from provider_trace_store.schemas import MetadataPage, ProviderTrace, ProviderTraceMetadata, TracePage
    from provider_trace_store.writes.results import BulkResult

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


class AsyncProviderTraceRepository:
    """Writes and reads the traces of one organization, in an asynchronous session of the host.

    It has the methods of `ProviderTraceRepository`, with `await`, and runs them by `AsyncSession.run_sync`.

    Args:
        session: the host's session; with an `async_scoped_session`, each call uses the session of its scope. For its
            binds see `ProviderTraceRepository`.
        organization_id: as in `ProviderTraceRepository`.
        actor_id: as in `ProviderTraceRepository`.
        metadata_only: as in `ProviderTraceRepository`.
        max_body_bytes: as in `ProviderTraceRepository`.

    Raises:
        InvalidIdentifierError: `organization_id` or `actor_id` is not text that a column can store.
        InvalidLimitError: `max_body_bytes` is out of its range.
        TypeError: `session` is not a session, but for example an engine or an `async_sessionmaker`.
    """

    def __init__(
        self,
        session: AsyncSession | async_scoped_session[Any],
        *,
        organization_id: str,
        actor_id: str | None = None,
        metadata_only: bool = False,
        max_body_bytes: int = DEFAULT_MAX_BODY_BYTES,
    ) -> None:
        self._session = checked_async_session(session)
        self._make = partial(
            ProviderTraceRepository,
            organization_id=organization_id,
            actor_id=actor_id,
            metadata_only=metadata_only,
            max_body_bytes=max_body_bytes,
        )
        self._made = self._make(self._session().sync_session)
        self._is_scoped = isinstance(session, async_scoped_session)

    @property
    def _repository(self) -> ProviderTraceRepository:
        """The synchronous repository; for a scoped session, one of the session that the current scope has."""
        return self._make(self._session().sync_session) if self._is_scoped else self._made

    async def create(self, trace: ProviderTrace) -> ProviderTrace | ProviderTraceMetadata:
        """Store a trace and return it as it is stored; see `ProviderTraceRepository.create`."""
        return await self._run(self._repository.create, trace)

    async def create_many(self, traces: Iterable[ProviderTrace]) -> BulkResult:
        """Store many traces at the speed of COPY; see `ProviderTraceRepository.create_many`."""
        return await self._run(self._repository.create_many, traces)

    async def delete(self, trace_id: str) -> bool:
        """Mark a trace as deleted; see `ProviderTraceRepository.delete`."""
        return await self._run(self._repository.delete, trace_id)

    async def restore(self, trace_id: str) -> bool:
        """Undo the deletion of a trace; see `ProviderTraceRepository.restore`."""
        return await self._run(self._repository.restore, trace_id)

    async def get(self, trace_id: str) -> ProviderTrace | None:
        """Return a whole trace, or None; see `ProviderTraceRepository.get`."""
        return await self._run(self._repository.get, trace_id)

    async def get_by_step_id(self, step_id: str) -> ProviderTrace | None:
        """Return the newest whole trace of a step, or None; see `ProviderTraceRepository.get_by_step_id`."""
        return await self._run(self._repository.get_by_step_id, step_id)

    async def list_by_step_id(self, step_id: str) -> list[ProviderTrace]:
        """Return all whole traces of a step; see `ProviderTraceRepository.list_by_step_id`."""
        return await self._run(self._repository.list_by_step_id, step_id)

    async def list_by_run_id(self, run_id: str, *, limit: int = 20, cursor: str | None = None) -> TracePage:
        """Return a page of the whole traces of a run; see `ProviderTraceRepository.list_by_run_id`."""
        return await self._run(self._repository.list_by_run_id, run_id, limit=limit, cursor=cursor)

    async def get_metadata(self, trace_id: str) -> ProviderTraceMetadata | None:
        """Return the metadata of a trace, or None; see `ProviderTraceRepository.get_metadata`."""
        return await self._run(self._repository.get_metadata, trace_id)

    async def list_metadata(
        self,
        *,
        order: Order = "newest",
        limit: int = 100,
        cursor: str | None = None,
        **filters: Unpack[TraceFilters],
    ) -> MetadataPage:
        """Return a page of metadata; see `ProviderTraceRepository.list_metadata`."""
        return await self._run(self._repository.list_metadata, order=order, limit=limit, cursor=cursor, **filters)

    def iter_metadata(
        self, *, order: Order = "newest", **filters: Unpack[TraceFilters]
    ) -> AsyncIterator[ProviderTraceMetadata]:
        """Return an iterator over the metadata of all traces; see `ProviderTraceRepository.iter_metadata`.

        The call itself checks the arguments and raises their errors; it is not awaited.
        """
        return self._items(self._repository.iter_metadata(order=order, **filters))

    async def count_by(self, field: CountField, **filters: Unpack[TraceFilters]) -> dict[str | None, int]:
        """Return the number of traces for each value of a field; see `ProviderTraceRepository.count_by`."""
        return await self._run(self._repository.count_by, field, **filters)

    async def count_by_day(self, **filters: Unpack[TraceFilters]) -> dict[date, int]:
        """Return the number of traces for each day in UTC; see `ProviderTraceRepository.count_by_day`."""
        return await self._run(self._repository.count_by_day, **filters)

    async def _run(
        self, method: Callable[_Parameters, _Result], *args: _Parameters.args, **kwargs: _Parameters.kwargs
    ) -> _Result:
        if (handled := sys.exception()) is None:
            return await self._session().run_sync(lambda _: method(*args, **kwargs))
        token = HANDLED.set(handled)
        try:
            return await self._session().run_sync(lambda _: method(*args, **kwargs))
        finally:
            HANDLED.reset(token)

    async def _items(self, found: Iterator[ProviderTraceMetadata]) -> AsyncIterator[ProviderTraceMetadata]:
        # One switch to the synchronous session for each page that the iterator reads, not for each trace.
        while traces := await self._run(list, islice(found, MAX_LIMIT)):
            for trace in traces:
                yield trace
