"""Behind a connection pooler, the defaults of the drivers end in an error that names the setting."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

import pytest
from sqlalchemy import AsyncAdaptedQueuePool, QueuePool
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from provider_trace_store import AsyncProviderTraceRepository, PoolerSettingError, ProviderTraceRepository
from tests.support.batches import assert_keeps_the_secret, both_modes
from tests.support.constants import ORG
from tests.support.traces import a_batch, a_trace
from tests.support.waiting import wait_until
from tests.support.writers import a_writer

if TYPE_CHECKING:
    from tests.support.servers import Database

# psycopg prepares a statement when it is executed for the sixth time.
ROUNDS: Final = 12
ASYNCPG: Final[dict[str, Any]] = {
    "statement_cache_size": 0,
    "prepared_statement_cache_size": 0,
    "prepared_statement_name_func": lambda: "",
}


def is_pooled(database: Database) -> bool:
    return database.name == "pgbouncer"


@pytest.mark.pgbouncer
@both_modes
@pytest.mark.parametrize("method", ["create", "create_many"])
def test_psycopgs_default_behind_a_pooler_is_named(database: Database, metadata_only: bool, method: str) -> None:
    found = _error_of(database, {}, metadata_only=metadata_only, method=method)
    assert (found is not None) == is_pooled(database)
    if found is not None:
        assert "prepare_threshold" in str(found)
        assert_keeps_the_secret(found)
        assert _error_of(database, {"prepare_threshold": None}, metadata_only=metadata_only, method=method) is None


def _error_of(
    database: Database, connect_args: dict[str, Any], *, metadata_only: bool, method: str
) -> PoolerSettingError | None:
    engine = database.engine(poolclass=QueuePool, connect_args=connect_args)
    for number in range(ROUNDS):
        with Session(engine) as session:
            repository = ProviderTraceRepository(session, organization_id=ORG, metadata_only=metadata_only)
            first = number * 10
            try:
                repository.create(a_trace(first))
                if method == "create_many":
                    repository.create_many([*a_batch(3, first), a_trace(first, user_id="other")])
            except PoolerSettingError as error:
                return error
            session.commit()
    return None


@pytest.mark.pgbouncer
async def test_asyncpgs_default_behind_a_pooler_is_named(database: Database) -> None:
    if database.backend == "postgresql":
        database.url = database.url.set(drivername="postgresql+asyncpg")
    for connect_args in ({}, ASYNCPG if database.backend == "postgresql" else {}):
        engine = database.async_engine(poolclass=AsyncAdaptedQueuePool, connect_args=connect_args)
        found: list[PoolerSettingError] = []
        for number in range(ROUNDS):
            async with AsyncSession(engine) as session:
                repository = AsyncProviderTraceRepository(session, organization_id=ORG)
                try:
                    await repository.create(a_trace(number))
                    await repository.create_many(a_batch(3, 1000 + number * 10))
                    await session.commit()
                except PoolerSettingError as error:
                    found.append(error)
        assert bool(found) == (is_pooled(database) and not connect_args)
        assert all("statement_cache_size" in str(error) for error in found)


@pytest.mark.pgbouncer
def test_the_writers_log_names_the_setting(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    engine = database.engine(poolclass=QueuePool, connect_args={})
    with caplog.at_level(logging.WARNING), a_writer(database, bind=engine, metadata_only=True) as writer:
        for number in range(ROUNDS if is_pooled(database) else 0):
            before = writer.stats.stored + writer.stats.retries
            writer.submit(a_trace(number), organization_id=ORG)
            wait_until(lambda before=before: writer.stats.stored + writer.stats.retries > before)  # type: ignore[misc]
            if "prepare_threshold" in caplog.text:
                break
    assert ("prepare_threshold" in caplog.text) == is_pooled(database)
