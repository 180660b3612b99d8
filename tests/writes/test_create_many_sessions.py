"""`create_many` in the sessions of hosts: their drivers, settings, encodings, pools and autocommit engines."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final, cast

import psycopg
import pytest
from psycopg.types.string import StrBinaryDumper
from sqlalchemy import QueuePool, event, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from provider_trace_store import (
    AsyncProviderTraceRepository,
    ProviderTraceConflictError,
    ProviderTraceRejectedError,
    ProviderTraceRepository,
    ProviderTraceUnavailableError,
)
from tests.support.batches import (
    POISON,
    assert_keeps_the_secret,
    assert_result_keeps_the_secret,
    assert_stored,
    both_modes,
    count,
    counts,
    refusals,
    refuse_poison,
    run_script,
)
from tests.support.clients import Client
from tests.support.constants import ORG, SECRET, TABLES
from tests.support.documents import same
from tests.support.traces import a_batch, a_trace, odd_traces, trace_id

if TYPE_CHECKING:
    from tests.support.clients import Client, RepositoryClient
    from tests.support.servers import Database

SETTINGS: Final = {
    "time zone": "SET timezone TO 'Asia/Tokyo'",
    "date style": "SET datestyle TO 'German, DMY'",
    "SQL_ASCII": "SET client_encoding TO 'SQL_ASCII'",
    "LATIN1": "SET client_encoding TO 'LATIN1'",
    "UTF8 by another name": "SET client_encoding TO 'unicode'",
    "backslashes": "SET standard_conforming_strings TO off",
    "role of replication": "SET session_replication_role TO replica",
}


@pytest.mark.every_server
@both_modes
async def test_asyncpg_stores_exactly_and_isolates(postgres: Database, metadata_only: bool) -> None:
    refuse_poison(postgres)
    engine = create_async_engine(postgres.url.set(drivername="postgresql+asyncpg"))
    try:
        async with AsyncSession(engine) as session:
            repository = AsyncProviderTraceRepository(session, organization_id=ORG, metadata_only=metadata_only)
            traces = odd_traces()
            poisoned = [*a_batch(10, 1000), a_trace(1010, **POISON), a_trace(0, user_id="other")]
            assert counts(await repository.create_many(traces)) == (len(traces), 0, 0)
            result = await repository.create_many(poisoned)
            assert counts(result) == (10, 0, 2)
            assert refusals(result) == [
                (trace_id(0), ProviderTraceConflictError),
                (trace_id(1010), ProviderTraceRejectedError),
            ]
            assert_result_keeps_the_secret(result)
            await session.commit()
            assert counts(await repository.create_many(traces)) == (0, len(traces), 0)
            await assert_stored(cast("RepositoryClient", repository), traces, metadata_only=metadata_only)
    finally:
        await engine.dispose()


@both_modes
@pytest.mark.parametrize("setting", SETTINGS)
async def test_traces_are_stored_exactly_whatever_the_sessions_settings(
    postgres_client: Client, metadata_only: bool, setting: str
) -> None:
    traces = odd_traces()
    if setting == "LATIN1":
        # What the connection's own encoding cannot say is no part of this.
        traces = [trace for trace in traces if not _beyond_latin1(dict(trace))]
        assert len(traces) > 10
    await postgres_client.execute(text(SETTINGS[setting]))
    writer = postgres_client.repository(organization_id=ORG, metadata_only=metadata_only)
    assert counts(await writer.create_many(traces)) == (len(traces), 0, 0)
    await postgres_client.commit()
    reader = (await postgres_client.another()).repository(organization_id=ORG)
    await assert_stored(reader, traces, metadata_only=metadata_only)
    assert counts(await writer.create_many(traces)) == (0, len(traces), 0)


def _beyond_latin1(value: Any) -> bool:
    if isinstance(value, str):
        return any("\xff" < character < "\ud800" or character > "\udfff" for character in value)
    if isinstance(value, dict):
        return any(_beyond_latin1(key) or _beyond_latin1(inner) for key, inner in value.items())
    return isinstance(value, list | tuple) and any(map(_beyond_latin1, value))


@both_modes
async def test_text_that_the_connections_encoding_cannot_say_is_stored_exactly_or_refused(
    postgres_client: Client, metadata_only: bool
) -> None:
    await postgres_client.execute(text("SET client_encoding TO 'LATIN1'"))
    repository = postgres_client.repository(organization_id=ORG, metadata_only=metadata_only)
    odd = [a_trace(5, user_id="€"), a_trace(6, request_json={"text": "€😀"}), a_trace(7, agent_tags=["€"])]
    batch = [*a_batch(5), *odd, *a_batch(5, 100)]
    result = await repository.create_many(batch)
    await postgres_client.commit()
    assert result.created + len(result.rejected) == len(batch)
    assert_result_keeps_the_secret(result)
    refused = {item.trace_id for item in result.rejected}
    assert refused <= {trace.id for trace in odd}
    reader = (await postgres_client.another()).repository(organization_id=ORG)
    stored = [trace for trace in batch if trace.id not in refused]
    await assert_stored(reader, stored, metadata_only=metadata_only)
    assert await count(postgres_client, metadata_only=metadata_only) == len(stored)


@both_modes
def test_adapters_and_cursors_of_the_hosts_change_nothing(postgres: Database, metadata_only: bool) -> None:
    engine = postgres.engine(connect_args={"cursor_factory": psycopg.ClientCursor})

    @event.listens_for(engine, "connect")
    def adapt(connection: psycopg.Connection[Any], _record: object) -> None:
        connection.adapters.register_dumper(str, StrBinaryDumper)

    traces = odd_traces()
    with Session(engine) as session:
        repository = ProviderTraceRepository(session, organization_id=ORG, metadata_only=metadata_only)
        assert counts(repository.create_many(traces)) == (len(traces), 0, 0)
        assert counts(repository.create_many(traces)) == (0, len(traces), 0)
        session.commit()
        for trace in [] if metadata_only else traces:
            stored = repository.get(trace.id)
            assert stored is not None
            assert same(dict(stored), dict(trace))


@both_modes
def test_a_prepared_statement_threshold_of_zero_and_a_pool(postgres: Database, metadata_only: bool) -> None:
    from sqlalchemy import QueuePool  # noqa: PLC0415  (only here)

    engine = postgres.engine(poolclass=QueuePool, pool_size=1, connect_args={"prepare_threshold": 0})
    for _ in range(3):
        with Session(engine) as session:
            repository = ProviderTraceRepository(session, organization_id=ORG, metadata_only=metadata_only)
            repository.create_many([*a_batch(20), a_trace(5, user_id="other")])
            session.commit()
            assert session.scalar(text(f"SELECT count(*) FROM {TABLES[metadata_only]}")) == 20  # noqa: S608  (our own names)


async def test_a_pool_without_a_free_connection_is_unavailable(postgres: Database) -> None:
    engine = postgres.engine(poolclass=QueuePool, pool_size=1, max_overflow=0, pool_timeout=0.05)
    with engine.connect(), Session(engine) as session:
        repository = ProviderTraceRepository(session, organization_id=ORG)
        for write in (lambda: repository.create(a_trace(1)), lambda: repository.create_many(a_batch(3))):
            with pytest.raises(ProviderTraceUnavailableError) as caught:
                write()
            assert_keeps_the_secret(caught.value)


@both_modes
def test_the_log_of_the_engine_shows_no_body(
    database: Database, metadata_only: bool, caplog: pytest.LogCaptureFixture
) -> None:
    refuse_poison(database)
    batch = [a_trace(number, source=None) for number in range(5)]
    batch[3] = a_trace(3, source=None, **POISON)
    with caplog.at_level(logging.DEBUG), Session(database.engine(echo=True)) as session:
        repository = ProviderTraceRepository(session, organization_id=ORG, metadata_only=metadata_only)
        assert counts(repository.create_many(batch)) == (4, 0, 1)
        assert counts(repository.create_many(batch)) == (0, 4, 1)
    assert caplog.records
    assert SECRET not in caplog.text


# Autocommit


sqlite_only = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


def counted(database: Database, table: str) -> int:
    with database.engine().connect() as connection:
        return int(connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())  # noqa: S608  (our own names)


@pytest.mark.pgbouncer
@both_modes
def test_an_autocommit_engine_keeps_each_statement_at_once(database: Database, metadata_only: bool) -> None:
    refuse_poison(database)
    batch = a_batch(20)
    batch[7] = a_trace(7, **POISON)
    with Session(database.engine(isolation_level="AUTOCOMMIT")) as session:
        repository = ProviderTraceRepository(session, organization_id=ORG, metadata_only=metadata_only)
        result = repository.create_many([*batch, a_trace(3), a_trace(4, user_id="other")])
        assert refusals(result) == [
            (trace_id(4), ProviderTraceConflictError),
            (trace_id(7), ProviderTraceRejectedError),
        ]
        assert counts(result) == (19, 1, 2)
        session.rollback()
        assert counts(repository.create_many(batch)) == (0, 19, 1)
    with Session(database.engine()) as session:
        assert session.scalar(text(f"SELECT count(*) FROM {TABLES[metadata_only]}")) == 19  # noqa: S608  (our own names)


@sqlite_only
def test_an_autocommit_whose_commit_fails_for_a_row_stores_the_others(database: Database) -> None:
    run_script(
        database,
        "CREATE TABLE runs (id varchar PRIMARY KEY)",
        "INSERT INTO runs VALUES ('known')",
        "CREATE TABLE links (run_id varchar REFERENCES runs DEFERRABLE INITIALLY DEFERRED)",
        "CREATE TRIGGER hosts_link AFTER INSERT ON provider_traces BEGIN INSERT INTO links VALUES (new.run_id); END",
    )
    batch = [a_trace(number, run_id="unknown" if number == 3 else "known") for number in range(10)]
    with Session(database.engine(isolation_level="AUTOCOMMIT")) as session:
        session.execute(text("PRAGMA foreign_keys = ON"))
        result = ProviderTraceRepository(session, organization_id=ORG).create_many(batch)
        assert counts(result) == (9, 0, 1)
        assert refusals(result) == [(trace_id(3), ProviderTraceRejectedError)]
        assert counted(database, "provider_traces") == 9


@sqlite_only
def test_an_autocommit_that_is_locked_out_leaves_nothing_that_a_retry_takes_for_stored(database: Database) -> None:
    with (
        database.engine().connect() as reader,
        Session(database.engine(isolation_level="AUTOCOMMIT", connect_args={"timeout": 0})) as session,
    ):
        repository = ProviderTraceRepository(session, organization_id=ORG)
        open_cursor = reader.execute(text("SELECT name FROM sqlite_master, (SELECT 1 UNION SELECT 2)"))
        assert open_cursor.fetchone()
        with pytest.raises(ProviderTraceUnavailableError) as caught:
            repository.create_many(a_batch(5))
        assert_keeps_the_secret(caught.value)
        open_cursor.close()
        reader.rollback()
        assert counts(repository.create_many(a_batch(5))) == (5, 0, 0)
    assert counted(database, "provider_traces") == 5


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_a_transaction_that_the_host_began_itself_in_autocommit_stays_the_hosts(
    postgres: Database, driver: str
) -> None:
    engine = postgres.async_engine(isolation_level="AUTOCOMMIT")
    if driver == "asyncpg":
        postgres.url = postgres.url.set(drivername="postgresql+asyncpg")
        engine = postgres.async_engine(isolation_level="AUTOCOMMIT")
    async with AsyncSession(engine) as session:
        repository = AsyncProviderTraceRepository(session, organization_id=ORG)
        await repository.create(a_trace(1))
        await session.execute(text("BEGIN"))
        assert counts(await repository.create_many([a_trace(1), a_trace(2), a_trace(1, run_id="other")])) == (1, 1, 1)
        await session.execute(text("ROLLBACK"))
        assert await session.scalar(text("SELECT count(*) FROM provider_traces")) == 1
