"""The `session` argument of the repositories: sessions and scoped sessions of either form, and what is refused."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from provider_trace_store import AsyncProviderTraceRepository, ProviderTraceRepository
from tests.support.constants import ORG
from tests.support.traces import a_batch, a_trace, trace_id

if TYPE_CHECKING:
    from tests.support.servers import Database


def test_a_scoped_session_is_used_like_the_session_of_its_scope(database: Database) -> None:
    sessions = scoped_session(sessionmaker(database.engine()))
    repository = ProviderTraceRepository(sessions, organization_id=ORG)
    repository.create(a_trace(1))
    sessions.commit()
    sessions.remove()
    assert repository.get(trace_id(1)) == a_trace(1)
    assert sessions().in_transaction()
    sessions.remove()


async def test_an_asynchronous_scoped_session_serves_each_task_with_its_own_session(database: Database) -> None:
    sessions = async_scoped_session(async_sessionmaker(database.async_engine()), scopefunc=asyncio.current_task)
    repository = AsyncProviderTraceRepository(sessions, organization_id=ORG)
    used: set[AsyncSession] = set()

    async def write(number: int) -> None:
        used.add(sessions())
        await repository.create(a_trace(number))
        await repository.create_many(a_batch(3, 10 * number))
        assert sessions().sync_session.in_transaction()
        await sessions.commit()
        await sessions.remove()

    await write(0)
    for number in range(1, 4):
        await asyncio.create_task(write(number))
    assert len(used) == 4
    listed = [trace.id async for trace in repository.iter_metadata()]
    assert len(listed) == len((await repository.list_metadata()).items) == 13
    assert await repository.get(trace_id(12)) == a_trace(12)
    await sessions.remove()


def test_what_is_not_a_session_is_refused_with_what_is_wanted(database: Database) -> None:
    engine, async_engine = database.engine(), database.async_engine()
    makers: Any = sessionmaker(engine), async_sessionmaker(async_engine)
    with engine.connect() as connection:
        wrong: list[Any] = [*makers, engine, async_engine, connection, Session, AsyncSession, None, "sqlite://"]
        for value in wrong:
            for repository in (ProviderTraceRepository, AsyncProviderTraceRepository):
                with pytest.raises(TypeError, match=r"session is .* pass (Session|AsyncSession) or "):
                    repository(value, organization_id=ORG)


def test_a_session_of_the_other_form_is_refused_with_the_name_of_the_other_repository(database: Database) -> None:
    scoped = async_scoped_session(async_sessionmaker(database.async_engine()), scopefunc=asyncio.current_task)
    asynchronous: list[Any] = [AsyncSession(database.async_engine()), scoped]
    for session in asynchronous:
        with pytest.raises(TypeError, match="use AsyncProviderTraceRepository"):
            ProviderTraceRepository(session, organization_id=ORG)
    synchronous: list[Any] = [Session(database.engine()), scoped_session(sessionmaker(database.engine()))]
    for session in synchronous:
        with pytest.raises(TypeError, match="use ProviderTraceRepository"):
            AsyncProviderTraceRepository(session, organization_id=ORG)
