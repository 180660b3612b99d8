"""A cancelled or interrupted call ends as such, with every driver, and the session works after its rollback."""

from __future__ import annotations

import asyncio
import gc
import signal
from typing import TYPE_CHECKING, Any, Final

import pytest
from sqlalchemy import AsyncAdaptedQueuePool, QueuePool, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from provider_trace_store import (
    AsyncProviderTraceRepository,
    ProviderTrace,
    ProviderTraceConflictError,
    ProviderTraceRepository,
)
from tests.support.batches import both_modes, counts
from tests.support.constants import ORG, PATIENCE, TABLES
from tests.support.traces import a_trace, trace_id

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

    from tests.support.servers import Database


async def all_items(repository: AsyncProviderTraceRepository) -> object:
    return [item async for item in repository.iter_metadata()]


CALLS: Final[dict[str, Callable[[AsyncProviderTraceRepository], Coroutine[Any, Any, Any]]]] = {
    "create": lambda repository: repository.create(a_trace(1)),
    "create_many": lambda repository: repository.create_many([*large(300), a_trace(5, user_id="other")]),
    "delete": lambda repository: repository.delete(trace_id(9000)),
    "get_metadata": lambda repository: repository.get_metadata(trace_id(9000)),
    "list_metadata": lambda repository: repository.list_metadata(),
    "iter_metadata": all_items,
}


def large(size: int) -> list[ProviderTrace]:
    """Return traces that do not fit into the buffers of a driver together."""
    return [a_trace(number, llm_config={"text": "x" * 4_000}) for number in range(10, 10 + size)]


class CancelledAt:
    """Runs a coroutine, and cancels the task when the coroutine waits for the n-th time.

    Args:
        coroutine: the call.
        at: which of its waits, counted from 1.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, Any], at: int) -> None:
        self.is_cancelled = False
        self._coroutine = coroutine
        self._at = at

    def __await__(self) -> Generator[Any, Any, Any]:
        inner = self._coroutine.__await__()
        thrown: BaseException | None = None
        waits = 0
        while True:
            try:
                waited_for = inner.send(None) if thrown is None else inner.throw(thrown)
            except StopIteration as end:
                return end.value
            waits += 1
            if waits == self._at:
                self.is_cancelled = True
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
            try:
                yield waited_for
            except BaseException as error:  # noqa: BLE001  (handed to the coroutine)
                thrown = error
            else:
                thrown = None


every_method = pytest.mark.parametrize("method", CALLS)


@both_modes
@every_method
async def test_a_call_that_is_cancelled_at_any_wait_ends_as_cancelled(
    database: Database, method: str, metadata_only: bool
) -> None:
    await assert_a_cancellation_wins(database, method, metadata_only=metadata_only)


@both_modes
@every_method
async def test_a_call_of_asyncpg_that_is_cancelled_at_any_wait_ends_as_cancelled(
    postgres: Database, method: str, metadata_only: bool
) -> None:
    postgres.url = postgres.url.set(drivername="postgresql+asyncpg")
    await assert_a_cancellation_wins(postgres, method, metadata_only=metadata_only)


async def assert_a_cancellation_wins(database: Database, method: str, *, metadata_only: bool) -> None:
    """Cancel a call at its first wait, then at its second one, and so on, until it ends before."""
    engine = database.async_engine(poolclass=AsyncAdaptedQueuePool, pool_size=1, max_overflow=0)

    async def cancelled(at: int) -> bool:
        async with AsyncSession(engine) as session:
            repository = AsyncProviderTraceRepository(session, organization_id=ORG, metadata_only=metadata_only)
            await repository.create(a_trace(9000))
            await session.commit()
            await repository.create(a_trace(9001))
            call = CancelledAt(CALLS[method](repository), at)
            try:
                await call
            except asyncio.CancelledError:
                task = asyncio.current_task()
                assert task is not None
                assert task.uncancel() == 0
            else:
                assert not call.is_cancelled, "the cancellation was swallowed"
            is_cancelled = call.is_cancelled
            # Python's driver of SQLite keeps a closed connection's locks while a cursor of it is alive, here in frames.
            del call
            if database.backend == "sqlite":
                gc.collect()
            await session.rollback()
            assert await session.scalar(text("SELECT 1")) == 1
            assert counts(await repository.create_many(large(3))) == (3, 0, 0)
            await session.rollback()
            assert len((await repository.list_metadata()).items) == 1
        return is_cancelled

    # A collection looks at the objects of this test alone: the others take most of its time.
    gc.freeze()
    try:
        async with asyncio.timeout(PATIENCE):
            at = 1
            while await asyncio.create_task(cancelled(at)):
                at += 1
    finally:
        gc.unfreeze()
    assert at > 1


async def test_a_call_in_the_handler_of_a_cancellation_has_its_own_error(database: Database) -> None:
    async with AsyncSession(database.async_engine()) as session:
        repository = AsyncProviderTraceRepository(session, organization_id=ORG)
        await repository.create(a_trace(1))
        waiting = asyncio.get_running_loop().create_future()
        waiting.cancel()
        try:
            await waiting
        except asyncio.CancelledError:
            with pytest.raises(ProviderTraceConflictError):
                await repository.create(a_trace(1, user_id="other"))
            assert counts(await repository.create_many([a_trace(1, user_id="other"), a_trace(2)])) == (1, 0, 1)


@both_modes
@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("size", [1, 300])
def test_an_interrupt_of_the_synchronous_form_ends_as_such(
    postgres: Database, kind: type[BaseException], metadata_only: bool, size: int
) -> None:
    """The handler of a signal raises while the call waits for the server."""

    def interrupt(*_: object) -> None:
        raise kind

    before = signal.signal(signal.SIGALRM, interrupt)
    engine = postgres.engine(poolclass=QueuePool, pool_size=1, max_overflow=0)
    try:
        with postgres.engine().connect() as busy, Session(engine) as session:
            repository = ProviderTraceRepository(session, organization_id=ORG, metadata_only=metadata_only)
            session.execute(text("SELECT 1"))
            busy.execute(text(f"LOCK TABLE {TABLES[metadata_only]} IN SHARE MODE"))
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            with pytest.raises(kind):
                repository.create_many(large(size))
            busy.rollback()
            session.rollback()
            assert counts(repository.create_many(large(size))) == (size, 0, 0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
