"""`create_many` into tables that a host changed: its rules, triggers, partitions, views, schemas and privileges."""

from __future__ import annotations

import secrets
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Final

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from provider_trace_store import (
    AsyncProviderTraceRepository,
    ProviderTraceConflictError,
    ProviderTraceRejectedError,
    ProviderTraceRepository,
    TableMissingError,
)
from provider_trace_store.migrations import upgrade
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
from tests.support.constants import MOMENT, ORG, SECRET, TABLES
from tests.support.traces import a_batch, a_trace, odd_traces, trace_id

if TYPE_CHECKING:
    from tests.support.clients import Form
    from tests.support.servers import Database

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
        f"GRANT SELECT ON provider_trace_metadata TO {role}",
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


ODD_REQUEST: Final[dict[str, Any]] = {"model": "m-9"}
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
