"""`create_many` beside other writers, at each isolation level, and cancelled."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from provider_trace_store import (
    AsyncProviderTraceRepository,
    ProviderTraceConflictError,
    ProviderTraceRepository,
    ProviderTraceUnavailableError,
)
from provider_trace_store.writes import chunks
from tests.support.batches import POISON, assert_keeps_the_secret, both_modes, count, counts, refusals, refuse_poison
from tests.support.clients import Client
from tests.support.constants import ORG, TABLES
from tests.support.traces import a_batch, a_trace, trace_id
from tests.support.waiting import until_a_session_waits_for_a_lock

if TYPE_CHECKING:
    from tests.support.clients import Form
    from tests.support.servers import Database


@both_modes
@pytest.mark.parametrize("outcome", ["commit", "rollback"])
async def test_of_two_overlapping_batches_the_second_waits_and_then_knows(
    postgres: Database, form: Form, metadata_only: bool, outcome: str
) -> None:
    async with AsyncExitStack() as stack:
        client = Client(postgres, form, stack)
        repository = client.repository(organization_id=ORG, metadata_only=metadata_only)
        with Session(postgres.engine()) as first:
            other = ProviderTraceRepository(first, organization_id=ORG, metadata_only=metadata_only)
            assert counts(other.create_many(a_batch(30))) == (30, 0, 0)
            second = [*a_batch(29, 20), a_trace(3, user_id="other")]
            waiting = _in_the_background(client, repository.create_many(second))
            await until_a_session_waits_for_a_lock(first)
            assert not waiting.done()
            if outcome == "commit":
                first.commit()
            else:
                first.rollback()
            result = await waiting
        await client.commit()
        if outcome == "commit":
            assert counts(result) == (19, 10, 1)
            assert refusals(result) == [(trace_id(3), ProviderTraceConflictError)]
        else:
            assert counts(result) == (30, 0, 0)
        total = 49 if outcome == "commit" else 30
        assert await count(client, metadata_only=metadata_only) == total


def _in_the_background(client: Client, call: Any) -> asyncio.Task[Any]:
    """Run a call of either form beside the test; the synchronous form blocks a thread of its own."""
    if client.form == "async":
        return asyncio.create_task(call)

    async def in_thread() -> Any:
        return await asyncio.to_thread(lambda: asyncio.run(call))

    return asyncio.create_task(in_thread())


@pytest.mark.every_server
@both_modes
@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_strict_isolation_stores_and_isolates_as_ever(postgres: Database, metadata_only: bool, level: str) -> None:
    refuse_poison(postgres)
    batch = [*a_batch(20), a_trace(30, **POISON), a_trace(5), a_trace(6, user_id="other")]
    with Session(postgres.engine(isolation_level=level)) as session:
        repository = ProviderTraceRepository(session, organization_id=ORG, metadata_only=metadata_only)
        assert counts(repository.create_many(batch)) == (20, 1, 2)
        session.commit()
        assert counts(repository.create_many(batch)) == (0, 21, 2)
        session.commit()


@both_modes
@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_trace_stored_after_the_transactions_snapshot_asks_for_a_retry(
    postgres: Database, metadata_only: bool, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "MAX_ROWS", 10)
    table = TABLES[metadata_only]
    with Session(postgres.engine(isolation_level=level)) as late, Session(postgres.engine()) as early:
        repository = ProviderTraceRepository(late, organization_id=ORG, metadata_only=metadata_only)
        repository.create_many(a_batch(3, 100))
        ProviderTraceRepository(early, organization_id=ORG, metadata_only=metadata_only).create(a_trace(15))
        early.commit()
        with pytest.raises(ProviderTraceUnavailableError) as caught:
            repository.create_many(a_batch(30))
        assert_keeps_the_secret(caught.value)
        # Of the three chunks, the first is written, and nothing of the second that is not there for itself.
        assert 13 <= (late.scalar(text(f"SELECT count(*) FROM {table}")) or 0) < 23  # noqa: S608  (our own names)
        late.rollback()
        assert counts(repository.create_many(a_batch(30))) == (29, 1, 0)


# Cancelled calls


async def test_a_cancelled_call_leaves_nothing_and_a_retry_completes(postgres: Database) -> None:
    for metadata_only in (False, True):
        async with AsyncSession(postgres.async_engine()) as session:
            repository = AsyncProviderTraceRepository(session, organization_id=ORG, metadata_only=metadata_only)
            with Session(postgres.engine()) as busy:
                ProviderTraceRepository(busy, organization_id=ORG, metadata_only=metadata_only).create(a_trace(7))
                call = asyncio.create_task(repository.create_many(a_batch(20)))
                await until_a_session_waits_for_a_lock(busy)
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call
            await session.rollback()
            assert counts(await repository.create_many(a_batch(20))) == (20, 0, 0)
            await session.commit()
            assert counts(await repository.create_many(a_batch(20))) == (0, 20, 0)


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
async def test_a_cancelled_call_ends_as_cancelled_and_the_host_can_roll_back(postgres: Database, turns: int) -> None:
    engine = postgres.async_engine()
    async with AsyncSession(engine) as session:
        await session.connection()
        repository = AsyncProviderTraceRepository(session, organization_id=ORG)
        task = asyncio.create_task(repository.create_many(a_batch(10)))
        for _ in range(turns + 1):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await session.rollback()
        assert counts(await repository.create_many(a_batch(10))) == (10, 0, 0)


async def test_a_list_that_is_emptied_meanwhile_is_stored_as_it_was_given(postgres: Database) -> None:
    buffer = a_batch(2_500)
    async with AsyncSession(postgres.async_engine()) as session:
        task = asyncio.create_task(AsyncProviderTraceRepository(session, organization_id=ORG).create_many(buffer))
        await asyncio.sleep(0)
        buffer.clear()
        assert counts(await task) == (2_500, 0, 0)
