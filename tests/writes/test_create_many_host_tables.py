"""`create_many` in the databases, drivers and sessions of hosts: their rules, their settings, their other writers."""

from __future__ import annotations

import asyncio
import logging
import secrets
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Final, cast

import psycopg
import pytest
from psycopg.types.string import StrBinaryDumper
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from provider_trace_store import (
    AsyncProviderTraceRepository,
    ProviderTraceConflictError,
    ProviderTraceRejectedError,
    ProviderTraceRepository,
    ProviderTraceUnavailableError,
    TableMissingError,
)
from provider_trace_store.migrations import upgrade
from provider_trace_store.writes import chunks
from tests.support.batches import (
    POISON,
    assert_keeps_the_secret,
    assert_result_keeps_the_secret,
    assert_stored,
    both_modes,
    count,
    count_statements,
    counts,
    refusals,
    refuse_poison,
    run_script,
    statements_sent,
)
from tests.support.clients import Client
from tests.support.constants import MOMENT, ORG, SECRET, TABLES
from tests.support.documents import same
from tests.support.traces import a_batch, a_trace, odd_traces, trace_id
from tests.support.waiting import until_a_session_waits_for_a_lock

if TYPE_CHECKING:
    from tests.support.clients import Form, RepositoryClient
    from tests.support.servers import Database


# A batch of 1,000 with one bad row is halved ten times: two statements a level, and the first one.
FAR_BELOW_ROW_BY_ROW: Final = 50


# What only the server knows

RULES: Final[dict[str, tuple[tuple[str, ...], dict[str, Any], str, str | None]]] = {
    "check": (
        ("ALTER TABLE {table} ADD CONSTRAINT hosts_rule CHECK (call_type <> 'poison')",),
        POISON,
        "23514",
        "hosts_rule",
    ),
    "foreign key": (
        (
            "CREATE TABLE kinds (name varchar PRIMARY KEY)",
            "INSERT INTO kinds VALUES ('agent_step')",
            "ALTER TABLE {table} ADD CONSTRAINT hosts_key FOREIGN KEY (call_type) REFERENCES kinds",
        ),
        POISON,
        "23503",
        "hosts_key",
    ),
    "not null": (("ALTER TABLE {table} ALTER COLUMN run_id SET NOT NULL",), {"run_id": None}, "23502", None),
    "width": (("ALTER TABLE {table} ALTER COLUMN user_id TYPE varchar(8)",), {"user_id": SECRET}, "22001", None),
    "index": (
        ("CREATE INDEX hosts_index ON {table} (user_id)",),
        {"user_id": secrets.token_hex(10_000)},
        "54000",
        None,
    ),
    "trigger": (
        (
            (
                "CREATE FUNCTION hosts_check() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
                "IF new.call_type = 'poison' THEN RAISE EXCEPTION 'no: %', new; END IF; RETURN new; END $$"
            ),
            "CREATE TRIGGER hosts_trigger BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION hosts_check()",
        ),
        POISON,
        "P0001",
        None,
    ),
    "exclusion": (
        ("ALTER TABLE {table} ADD CONSTRAINT hosts_exclusion EXCLUDE USING btree (user_id WITH =)",),
        {"user_id": "taken"},
        "23P01",
        "hosts_exclusion",
    ),
}


@both_modes
@pytest.mark.parametrize("rule", RULES)
async def test_a_row_that_a_rule_of_the_host_refuses_costs_only_itself(
    postgres_client: Client, metadata_only: bool, rule: str
) -> None:
    script, fields, sqlstate, constraint = RULES[rule]
    run_script(postgres_client.database, *(part.format(table=TABLES[metadata_only]) for part in script))
    repository = postgres_client.repository(organization_id=ORG, metadata_only=metadata_only)
    await repository.create_many([a_trace(1000, user_id="taken")])
    for first, position in enumerate([0, 13, 29]):
        batch = a_batch(30, 100 * first)
        batch[position] = a_trace(100 * first + position, **fields)
        result = await repository.create_many(batch)
        assert counts(result) == (29, 0, 1)
        (rejected,) = result.rejected
        assert rejected.trace_id == batch[position].id
        error = rejected.error
        assert isinstance(error, ProviderTraceRejectedError)
        assert (error.trace_id, error.sqlstate) == (batch[position].id, sqlstate)
        assert error.constraint == constraint or (constraint is None and error.constraint != "")
        assert_result_keeps_the_secret(result)
    await postgres_client.commit()
    assert await count(postgres_client, metadata_only=metadata_only) == 3 * 29 + 1


@pytest.mark.every_server
async def test_a_date_without_a_partition_costs_only_its_own_row(postgres_client: Client) -> None:
    run_script(
        postgres_client.database,
        "ALTER TABLE provider_trace_metadata RENAME TO old",
        "CREATE TABLE provider_trace_metadata (LIKE old INCLUDING DEFAULTS, PRIMARY KEY (created_at, id)) "
        "PARTITION BY RANGE (created_at)",
        "CREATE TABLE of_march PARTITION OF provider_trace_metadata FOR VALUES FROM ('2026-03-01') TO ('2026-04-01')",
    )
    repository = postgres_client.repository(organization_id=ORG, metadata_only=True)
    batch = a_batch(20)
    batch[7] = a_trace(7, created_at=MOMENT.replace(year=2027))
    result = await repository.create_many(batch)
    assert counts(result) == (19, 0, 1)
    assert refusals(result) == [(trace_id(7), ProviderTraceRejectedError)]
    assert counts(await repository.create_many(batch)) == (0, 19, 1)


@both_modes
async def test_a_role_under_row_level_security_stores_what_it_may(
    postgres: Database, form: Form, metadata_only: bool
) -> None:
    """PostgreSQL refuses COPY there, whatever the rows are (its page on COPY, "Notes")."""
    table = TABLES[metadata_only]
    role = f"{postgres.url.database}_role"
    run_script(
        postgres,
        f"CREATE ROLE {role}",
        f"GRANT SELECT, INSERT ON {table} TO {role}",
        f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY",
        f"CREATE POLICY reading ON {table} FOR SELECT USING (true)",
        f"CREATE POLICY writing ON {table} FOR INSERT WITH CHECK (call_type IS NULL)",
    )
    try:
        async with AsyncExitStack() as stack:
            client = Client(postgres, form, stack)
            await client.execute(text(f"SET ROLE {role}"))
            repository = client.repository(organization_id=ORG, metadata_only=metadata_only)
            batch = a_batch(20)
            batch[7] = a_trace(7, **POISON)
            result = await repository.create_many(batch)
            assert counts(result) == (19, 0, 1)
            assert refusals(result) == [(trace_id(7), ProviderTraceRejectedError)]
            assert_result_keeps_the_secret(result)
            assert counts(await repository.create_many(batch)) == (0, 19, 1)
            await client.commit()
    finally:
        run_script(postgres, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


# How many statements, and how large


@pytest.mark.every_server
@both_modes
async def test_a_clean_batch_is_one_copy_and_a_bad_row_costs_few_more(
    postgres_client: Client, metadata_only: bool
) -> None:
    database = postgres_client.database
    refuse_poison(database)
    count_statements(database)
    repository = postgres_client.repository(organization_id=ORG, metadata_only=metadata_only)
    assert counts(await repository.create_many(a_batch(1000))) == (1000, 0, 0)
    assert statements_sent(database) == (1, 0)
    before = 1
    for first, position in enumerate([0, 500, 999], 1):
        batch = a_batch(1000, first * 1000)
        batch[position] = a_trace(first * 1000 + position, **POISON)
        assert counts(await repository.create_many(batch)) == (999, 0, 1)
        sent = sum(statements_sent(database))
        assert sent - before < FAR_BELOW_ROW_BY_ROW
        before = sent
    conflicts = [*a_batch(999, 5000), a_trace(1, user_id="other")]
    assert counts(await repository.create_many(conflicts)) == (999, 0, 1)
    assert sum(statements_sent(database)) - before < FAR_BELOW_ROW_BY_ROW


@both_modes
async def test_on_sqlite_a_bad_row_costs_few_statements(databases: Any, form: Form, metadata_only: bool) -> None:
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(databases.make("sqlite", migrated=True))
        refuse_poison(database)
        client = Client(database, form, stack)
        sent: list[str] = []
        engine: Any = client.sync_session.get_bind()
        event.listen(engine, "before_cursor_execute", lambda *arguments: sent.append(arguments[2]))
        repository = client.repository(organization_id=ORG, metadata_only=metadata_only)
        assert counts(await repository.create_many(a_batch(1000))) == (1000, 0, 0)
        assert len([statement for statement in sent if statement.startswith("INSERT")]) == 1
        sent.clear()
        batch = a_batch(1000, 1000)
        batch[700] = a_trace(1700, **POISON)
        assert counts(await repository.create_many(batch)) == (999, 0, 1)
        assert len([statement for statement in sent if statement.startswith("INSERT")]) < FAR_BELOW_ROW_BY_ROW


@both_modes
async def test_a_retry_of_a_stored_batch_inserts_no_row_by_row(postgres_client: Client, metadata_only: bool) -> None:
    repository = postgres_client.repository(organization_id=ORG, metadata_only=metadata_only)
    await repository.create_many(a_batch(1000))
    await postgres_client.commit()
    count_statements(postgres_client.database)
    assert counts(await repository.create_many(a_batch(1000))) == (0, 1000, 0)
    assert sum(statements_sent(postgres_client.database)) < FAR_BELOW_ROW_BY_ROW


async def test_statements_are_cut_by_rows_and_by_bytes_and_a_large_trace_goes_alone(postgres_client: Client) -> None:
    run_script(
        postgres_client.database,
        "CREATE TABLE cuts (number serial, of_rows bigint, bytes bigint)",
        "CREATE FUNCTION log_statement() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "INSERT INTO cuts (of_rows, bytes) SELECT count(*), sum(octet_length(request_json::text) + "
        "octet_length(response_json::text)) FROM new_rows; RETURN NULL; END $$",
        "CREATE TRIGGER logged AFTER INSERT ON provider_traces REFERENCING NEW TABLE AS new_rows "
        "FOR EACH STATEMENT EXECUTE FUNCTION log_statement()",
    )
    cuts = text("WITH gone AS (DELETE FROM cuts RETURNING *) SELECT of_rows, bytes FROM gone ORDER BY number")
    repository = postgres_client.repository(organization_id=ORG)
    kinds: tuple[Any, ...] = (list, iter)
    for first, kind in enumerate(kinds):
        await repository.create_many(kind(a_batch(2500, 10_000 * first)))
        rows = [row.of_rows for row in await postgres_client.execute(cuts)]
        assert sum(rows) == 2500
        assert max(rows) <= 1000
        assert len(rows) <= 4
        large = [a_trace(10_000 * first + 3000 + n, response_json={"text": "x" * 400_000}) for n in range(30)]
        await repository.create_many(kind(large))
        found = (await postgres_client.execute(cuts)).all()
        assert sum(row.of_rows for row in found) == 30
        assert all(row.bytes <= 4 * 2**20 for row in found)
        assert len(found) <= 5
        alone = a_trace(10_000 * first + 4000, response_json={"text": "x" * (5 * 2**20)})
        batch = [*a_batch(5, 10_000 * first + 5000), alone, *a_batch(5, 10_000 * first + 6000)]
        await repository.create_many(kind(batch))
        found = (await postgres_client.execute(cuts)).all()
        assert sum(row.of_rows for row in found) == 11
        assert [row.of_rows for row in found if row.bytes > 4 * 2**20] == [1]


# Engines, drivers, sessions


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


SETTINGS: Final = {
    "time zone": "SET timezone TO 'Asia/Tokyo'",
    "date style": "SET datestyle TO 'German, DMY'",
    "SQL_ASCII": "SET client_encoding TO 'SQL_ASCII'",
    "LATIN1": "SET client_encoding TO 'LATIN1'",
    "UTF8 by another name": "SET client_encoding TO 'unicode'",
    "backslashes": "SET standard_conforming_strings TO off",
    "role of replication": "SET session_replication_role TO replica",
}


@both_modes
@pytest.mark.parametrize("setting", SETTINGS)
async def test_whatever_the_session_is_set_to_what_is_stored_is_exact(
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


@both_modes
async def test_tables_in_a_schema_of_the_hosts(empty_postgres: Database, metadata_only: bool) -> None:
    # A quoted name, as COPY must quote it too.
    run_script(empty_postgres, 'CREATE SCHEMA "the traces"')
    with empty_postgres.engine().connect() as connection:
        upgrade(connection, schema="the traces")
    options = {"schema_translate_map": {None: "the traces"}}
    batch = [*a_batch(20), a_trace(3), a_trace(4, user_id="other")]
    with Session(empty_postgres.engine(execution_options=options)) as session:
        repository = ProviderTraceRepository(session, organization_id=ORG, metadata_only=metadata_only)
        assert counts(repository.create_many(batch)) == (20, 1, 1)
        session.commit()
    async with AsyncSession(empty_postgres.async_engine(execution_options=options)) as session:
        async_repository = AsyncProviderTraceRepository(session, organization_id=ORG, metadata_only=metadata_only)
        assert counts(await async_repository.create_many(batch)) == (0, 21, 1)
        assert counts(await async_repository.create_many(a_batch(5, 100))) == (5, 0, 0)
        await session.commit()
    with empty_postgres.engine().connect() as connection:
        table = f'"the traces".{TABLES[metadata_only]}'
        assert connection.scalar(text(f"SELECT count(*) FROM {table}")) == 25  # noqa: S608  (our own names)


@both_modes
def test_a_schema_that_the_connection_maps(empty_postgres: Database, metadata_only: bool) -> None:
    run_script(empty_postgres, "CREATE SCHEMA one", "CREATE SCHEMA two")
    for schema in ("one", "two"):
        with empty_postgres.engine().connect() as connection:
            upgrade(connection, schema=schema)
    with empty_postgres.engine().connect() as plain:
        for size, schema in enumerate(("one", "two"), 3):
            connection = plain.execution_options(schema_translate_map={None: schema})
            with Session(connection) as session:
                repository = ProviderTraceRepository(session, organization_id=ORG, metadata_only=metadata_only)
                assert counts(repository.create_many(a_batch(size))) == (size, 0, 0)
                session.commit()
        for size, schema in enumerate(("one", "two"), 3):
            table = f"{schema}.{TABLES[metadata_only]}"
            assert plain.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar_one() == size  # noqa: S608  (our own names)


ADOPTED: Final = """
CREATE TABLE provider_trace{full} (
    hosts_first integer NOT NULL DEFAULT 7, organization_id varchar NOT NULL, _last_updated_by_id varchar,
    user_id varchar, source varchar, updated_at timestamptz DEFAULT now(), {bodies}
    created_at timestamptz {created} DEFAULT now(), run_id varchar, call_type varchar,
    "hosts Second" varchar DEFAULT 'of the host', agent_tags json, agent_id varchar, org_id varchar,
    is_deleted boolean NOT NULL DEFAULT false, _created_by_id varchar, step_id varchar, id varchar NOT NULL,
    PRIMARY KEY ({key})
)
"""


@both_modes
async def test_adopted_tables_of_another_order_with_columns_of_the_hosts(
    empty_postgres: Database, form: Form, metadata_only: bool
) -> None:
    bodies = "llm_config json, response_json json NOT NULL, request_json json NOT NULL, compaction_settings json,"
    run_script(
        empty_postgres,
        ADOPTED.format(full="s", bodies=bodies, created="", key="id"),
        ADOPTED.format(full="_metadata", bodies="", created="NOT NULL", key="created_at, id"),
        "CREATE INDEX ix_step_id ON provider_traces (step_id)",
        "CREATE UNIQUE INDEX ix_provider_trace_metadata_id ON provider_trace_metadata (id)",
        "ALTER TABLE provider_traces DROP COLUMN org_id, ADD COLUMN org_id varchar",
    )
    with empty_postgres.engine().connect() as connection:
        upgrade(connection)
    refuse_poison(empty_postgres)
    traces = odd_traces()
    async with AsyncExitStack() as stack:
        client = Client(empty_postgres, form, stack)
        repository = client.repository(organization_id=ORG, metadata_only=metadata_only)
        assert counts(await repository.create_many(traces)) == (len(traces), 0, 0)
        more = [
            a_trace(1000),
            a_trace(1001, **POISON),
            a_trace(1, request_json=ODD_REQUEST, created_at=MOMENT.replace(year=2020)),
            *traces,
        ]
        result = await repository.create_many(more)
        assert counts(result) == (1, len(traces), 2)
        assert refusals(result) == [
            (trace_id(1), ProviderTraceConflictError),
            (trace_id(1001), ProviderTraceRejectedError),
        ]
        await client.commit()
        await assert_stored(repository, traces, metadata_only=metadata_only)
        hosts = await client.execute(
            text(f'SELECT DISTINCT hosts_first, "hosts Second" FROM {TABLES[metadata_only]}')  # noqa: S608  (our own names)
        )
        assert [tuple(row) for row in hosts] == [(7, "of the host")]


ODD_REQUEST: Final[dict[str, Any]] = {"model": "m-9"}


@both_modes
async def test_a_database_that_was_never_migrated(empty_database: Database, form: Form, metadata_only: bool) -> None:
    async with AsyncExitStack() as stack:
        client = Client(empty_database, form, stack)
        await client.execute(text("CREATE TABLE hosts_own (id integer)"))
        repository = client.repository(organization_id=ORG, metadata_only=metadata_only)
        with pytest.raises(TableMissingError, match="provider-trace-store migrate upgrade") as caught:
            await repository.create_many(a_batch(5))
        assert caught.value.table == TABLES[metadata_only]
        assert_keeps_the_secret(caught.value)
        assert await client.scalar(text("SELECT count(*) FROM hosts_own")) == 0


@both_modes
def test_what_the_engine_logs_shows_no_body(
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


# Other writers at the same time


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
