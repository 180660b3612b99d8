"""What once went wrong with bulk writes, or nearly: each bug found by review has the test that shows it."""

from __future__ import annotations

import asyncio
import copy
import pickle
import tracemalloc
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import QueuePool, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from provider_trace_store import (
    AsyncProviderTraceRepository,
    ProviderTraceConflictError,
    ProviderTraceRejectedError,
    ProviderTraceRepository,
    ProviderTraceStoreError,
    ProviderTraceUnavailableError,
    TraceEncodingError,
    TraceTooLargeError,
)
from provider_trace_store.migrations import upgrade
from provider_trace_store.tables.ids import look_up
from provider_trace_store.tables.kinds import kind_for
from provider_trace_store.writes import statements
from tests.support.batches import POISON, assert_keeps_the_secret, both_modes, count, counts, refusals, run_script
from tests.support.constants import ORG, TABLES
from tests.support.traces import a_batch, a_trace, trace_id

if TYPE_CHECKING:
    from tests.support.clients import Client
    from tests.support.servers import Database


sqlite_only = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


def counted(database: Database, table: str) -> int:
    with database.engine().connect() as connection:
        return int(connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())  # noqa: S608  (our own names)


# A commit that fails in autocommit mode


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


# Ids


async def test_an_id_under_another_date_is_found_in_any_collation(postgres: Database) -> None:
    """ICU can be told to take runs of digits for numbers: 1a… then stands before 10…."""
    with Session(postgres.engine()) as session:
        has_icu = session.scalar(text("SELECT count(*) > 0 FROM pg_collation WHERE collname = 'en-x-icu'"))
        if has_icu:
            session.execute(text("CREATE COLLATION hosts (provider = icu, locale = 'und-u-kn-true')"))
            session.execute(text("ALTER TABLE provider_trace_metadata ALTER COLUMN id TYPE varchar COLLATE hosts"))
        repository = ProviderTraceRepository(session, organization_id=ORG, metadata_only=True)
        ids = [f"provider_trace-{head}000000-0000-7000-8000-000000000000" for head in ("10", "1a", "2f", "f2")]
        for head in range(len(ids)):
            for tail in range(head + 1, len(ids) + 1):
                some = ids[head:tail]
                repository.create_many([a_trace(1, id=one) for one in some])
                again = repository.create_many([a_trace(2, id=one) for one in some])
                assert refusals(again) == [(one, ProviderTraceConflictError) for one in some]
        assert session.scalar(text("SELECT count(*) FROM provider_trace_metadata")) == len(ids)


@both_modes
async def test_a_retry_compares_no_row_with_each_of_its_ids_on_a_table_without_statistics(
    postgres: Database, metadata_only: bool
) -> None:
    kind = kind_for(metadata_only=metadata_only)
    with Session(postgres.engine()) as session:
        repository = ProviderTraceRepository(session, organization_id=ORG, metadata_only=metadata_only)
        repository.create_many(a_batch(3_000))
        connection = session.connection()
        lookup, parameters = look_up([trace_id(number) for number in range(1_000)], "postgresql")
        for statement in (
            statements.heads_under(kind, lookup),
            statements.documents_under(kind, lookup),
            statements.any_stored_under(kind, lookup),
        ):
            compiled = statement.compile(dialect=connection.dialect)
            plan = connection.exec_driver_sql(f"EXPLAIN {compiled}", compiled.params | parameters).scalars().all()
            assert not any("= ANY" in line for line in plan), plan


@both_modes
@pytest.mark.parametrize("owner", ["org-2", ORG])
async def test_a_comparison_reads_no_more_bodies_than_it_holds_rows_of_its_own(
    client: Client, metadata_only: bool, owner: str
) -> None:
    large = {"agent_tags": ["x" * 500_000]} if metadata_only else {"request_json": {"text": "x" * 500_000}}
    stored = [a_trace(number, **large) for number in range(60)]
    repository = client.repository(organization_id=owner, metadata_only=metadata_only)
    assert counts(await repository.create_many(stored)) == (60, 0, 0)
    small = client.repository(organization_id=ORG, metadata_only=metadata_only)
    tracemalloc.start()
    try:
        result = await small.create_many(a_batch(60))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert counts(result) == (0, 0, 60)
    assert peak < 20_000_000


# The host's own


@both_modes
async def test_a_row_that_a_trigger_of_the_host_skips_is_not_counted_as_created(
    client: Client, metadata_only: bool
) -> None:
    table = TABLES[metadata_only]
    if client.database.backend == "postgresql":
        run_script(
            client.database,
            "CREATE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$",
            f"CREATE TRIGGER hosts_skip BEFORE INSERT ON {table} FOR EACH ROW "
            "WHEN (new.call_type = 'poison') EXECUTE FUNCTION skip()",
        )
    else:
        run_script(
            client.database,
            f"CREATE TRIGGER hosts_skip BEFORE INSERT ON {table} WHEN new.call_type = 'poison' "
            "BEGIN SELECT RAISE(IGNORE); END",
        )
    repository = client.repository(organization_id=ORG, metadata_only=metadata_only)
    batch = a_batch(10)
    batch[4] = a_trace(4, **POISON)
    result = await repository.create_many(batch)
    assert counts(result) == (9, 0, 1)
    assert refusals(result) == [(trace_id(4), ProviderTraceRejectedError)]
    with pytest.raises(ProviderTraceRejectedError):
        await repository.create(a_trace(11, **POISON))
    await repository.create(a_trace(12))
    await client.commit()
    assert await count(client, metadata_only=metadata_only) == 10


async def test_a_view_in_the_tables_place_is_written_through(postgres: Database) -> None:
    run_script(
        postgres,
        "ALTER TABLE provider_traces RENAME TO the_hosts_table",
        "CREATE VIEW provider_traces AS SELECT * FROM the_hosts_table",
    )
    with Session(postgres.engine()) as session:
        repository = ProviderTraceRepository(session, organization_id=ORG)
        assert counts(repository.create_many(a_batch(20))) == (20, 0, 0)
        assert counts(repository.create_many(a_batch(30))) == (10, 20, 0)


async def test_a_schema_may_have_any_name(empty_postgres: Database) -> None:
    run_script(empty_postgres, 'CREATE SCHEMA "ten%ant ""1"""')
    name = 'ten%ant "1"'
    with empty_postgres.engine().connect() as connection:
        upgrade(connection, schema=name)
    engine = empty_postgres.engine(execution_options={"schema_translate_map": {None: name}})
    with Session(engine) as session:
        for metadata_only in (False, True):
            repository = ProviderTraceRepository(session, organization_id=ORG, metadata_only=metadata_only)
            assert counts(repository.create_many(a_batch(20))) == (20, 0, 0)
            assert counts(repository.create_many(a_batch(20))) == (0, 20, 0)


async def test_a_pool_without_a_connection_is_a_database_that_cannot_now(postgres: Database) -> None:
    engine = postgres.engine(poolclass=QueuePool, pool_size=1, max_overflow=0, pool_timeout=0.05)
    with engine.connect(), Session(engine) as session:
        repository = ProviderTraceRepository(session, organization_id=ORG)
        for write in (lambda: repository.create(a_trace(1)), lambda: repository.create_many(a_batch(3))):
            with pytest.raises(ProviderTraceUnavailableError) as caught:
                write()
            assert_keeps_the_secret(caught.value)


# Asynchronous callers


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


@both_modes
async def test_a_trace_made_around_the_schema_without_an_id_costs_only_itself(
    client: Client, metadata_only: bool
) -> None:
    batch = a_batch(3)
    del batch[1].__dict__["id"]
    result = await client.repository(organization_id=ORG, metadata_only=metadata_only).create_many(batch)
    assert counts(result) == (2, 0, 1)
    assert refusals(result) == [("", TraceEncodingError)]


# Results


@pytest.mark.parametrize(
    "error",
    [
        ProviderTraceConflictError(trace_id(1)),
        ProviderTraceRejectedError(trace_id(1), "23514", "hosts_rule"),
        ProviderTraceUnavailableError(trace_id(1), "57014"),
        TraceEncodingError("request_json.a", "is a set", trace_id(1)),
        TraceTooLargeError("request_json", 2, 1, trace_id(1)),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_crosses_to_another_process(error: ProviderTraceStoreError) -> None:
    for other in (pickle.loads(pickle.dumps(error)), copy.deepcopy(error)):  # noqa: S301  (what was just dumped)
        assert type(other) is type(error)
        assert (str(other), vars(other)) == (str(error), vars(error))
