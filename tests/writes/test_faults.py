"""Which fault belongs to one row, to the table or to the session: one refused trace never stops the others."""

from __future__ import annotations

from contextlib import AsyncExitStack, contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import pytest
from sqlalchemy import text

from provider_trace_store import (
    PartitionMissingError,
    PrivilegeMissingError,
    ProviderTraceConflictError,
    ProviderTraceRejectedError,
    ProviderTraceUnavailableError,
)
from provider_trace_store.migrations import upgrade
from tests.support.batches import (
    POISON,
    assert_keeps_the_secret,
    assert_result_keeps_the_secret,
    both_modes,
    count,
    count_statements,
    counts,
    refusals,
    run_script,
    statements_sent,
)
from tests.support.clients import Client
from tests.support.constants import MOMENT, ORG, TABLES
from tests.support.faults import CODES, partition_by_month, trigger
from tests.support.traces import a_batch, a_trace, trace_id

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.support.clients import Form
    from tests.support.servers import Database

# What a trigger does that fails by itself, with the code that the server reports.
FAILURES: Final = {
    "0A000": "EXECUTE 'SELECT 1 FROM provider_traces FOR UPDATE OF nothing.at_all, x INTERSECT SELECT 1'",
    "2F005": "PERFORM without_a_return()",
    "42883": "PERFORM no_such_function(1)",
    "42P01": "INSERT INTO no_such_table VALUES (1)",
    "42703": "PERFORM no_such_column",
    "22012": "PERFORM 1 / 0",
    "23505": "INSERT INTO taken VALUES (1)",
    "21000": "PERFORM (SELECT n FROM generate_series(1, 2) AS n)",
    "42501": "SET LOCAL ROLE powerless; INSERT INTO taken VALUES (2)",
}


@contextmanager
def a_role(database: Database, *privileges: str) -> Iterator[str]:
    """Create a role with privileges on both tables; drop it afterwards."""
    role = f"role_{uuid4().hex[:8]}"
    run_script(database, f"CREATE ROLE {role}")
    for table in TABLES.values():
        run_script(database, *(f"GRANT {privilege} ON {table} TO {role}" for privilege in privileges))
    try:
        yield role
    finally:
        run_script(database, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


@pytest.fixture
async def client_as(postgres: Database, form: Form) -> AsyncIterator[Any]:
    """Return a function that makes a client of a role."""
    async with AsyncExitStack() as stack:

        async def make(role: str) -> Client:
            client = Client(postgres, form, stack)
            await client.execute(text(f"SET ROLE {role}"))
            return client

        yield make


# A trigger's code


async def assert_costs_only_itself(client: Client, code: str, *, metadata_only: bool) -> None:
    repository = client.repository(organization_id=ORG, metadata_only=metadata_only)
    batch = a_batch(30)
    batch[13] = a_trace(13, **POISON)
    result = await repository.create_many(batch)
    assert counts(result) == (29, 0, 1)
    [rejected] = result.rejected
    assert isinstance(rejected.error, ProviderTraceRejectedError)
    assert (rejected.trace_id, rejected.error.sqlstate) == (trace_id(13), code)
    assert_result_keeps_the_secret(result)
    assert counts(await repository.create_many(batch)) == (0, 29, 1)
    # Alone, an error that may pass is not yet a rejection; the transaction stays usable.
    with pytest.raises((ProviderTraceRejectedError, ProviderTraceUnavailableError)) as caught:
        await repository.create(a_trace(13, **POISON))
    assert_keeps_the_secret(caught.value)
    assert getattr(caught.value, "may_be_the_trace", True)
    await repository.create(a_trace(100))
    await client.commit()
    assert await count(client, metadata_only=metadata_only) == 30


@pytest.mark.parametrize("code", CODES)
async def test_a_code_that_a_trigger_raises_for_one_row_costs_only_that_row(postgres_client: Client, code: str) -> None:
    run_script(postgres_client.database, *trigger(f"RAISE SQLSTATE '{code}'", TABLES[False]))
    await assert_costs_only_itself(postgres_client, code, metadata_only=False)


@both_modes
@pytest.mark.parametrize("code", FAILURES)
async def test_a_trigger_that_fails_for_one_row_costs_only_that_row(
    postgres_client: Client, metadata_only: bool, code: str
) -> None:
    run_script(
        postgres_client.database,
        "CREATE TABLE taken (id int PRIMARY KEY)",
        "INSERT INTO taken VALUES (1)",
        "DO $$ BEGIN CREATE ROLE powerless; EXCEPTION WHEN duplicate_object THEN NULL; END $$",
        "CREATE FUNCTION without_a_return() RETURNS int LANGUAGE plpgsql AS $$ BEGIN END $$",
        *trigger(FAILURES[code], TABLES[metadata_only]),
    )
    if code == "0A000":
        # A statement of its own that this code refuses.
        run_script(
            postgres_client.database,
            "CREATE VIEW unchangeable AS SELECT 1 AS one",
            *trigger("PERFORM 1 FROM (SELECT count(*) FROM taken) AS one FOR UPDATE OF one", TABLES[metadata_only]),
        )
    await assert_costs_only_itself(postgres_client, code, metadata_only=metadata_only)


@both_modes
async def test_a_table_that_a_trigger_misses_is_not_taken_for_ours(
    postgres_client: Client, metadata_only: bool
) -> None:
    table = TABLES[metadata_only]
    run_script(postgres_client.database, *trigger("INSERT INTO audit VALUES (1)", table, condition="true"))
    repository = postgres_client.repository(organization_id=ORG, metadata_only=metadata_only)
    reason = f"another table is missing, which a trigger or a default of {table} may use"
    for call in (repository.create(a_trace(1)), repository.create_many(a_batch(300))):
        with pytest.raises(ProviderTraceUnavailableError, match=reason) as caught:
            await call
        assert caught.value.sqlstate == "42P01"
        assert caught.value.may_be_the_trace
    run_script(postgres_client.database, "CREATE TABLE audit (id int)")
    assert counts(await repository.create_many(a_batch(300))) == (300, 0, 0)


async def test_what_is_refused_for_every_row_is_found_with_few_statements(postgres_client: Client) -> None:
    table = TABLES[False]
    run_script(postgres_client.database, *trigger("RAISE SQLSTATE '55000'", table, condition="true", when="AFTER"))
    count_statements(postgres_client.database)
    repository = postgres_client.repository(organization_id=ORG)
    with pytest.raises(ProviderTraceUnavailableError, match="55000"):
        await repository.create_many(a_batch(1500))
    assert sum(statements_sent(postgres_client.database)) <= 34


async def test_many_rows_that_are_refused_take_statements_in_proportion(postgres_client: Client) -> None:
    condition = "new.call_type = 'poison'"
    run_script(postgres_client.database, *trigger("RAISE SQLSTATE '55000'", TABLES[False], condition, when="AFTER"))
    count_statements(postgres_client.database)
    repository = postgres_client.repository(organization_id=ORG)
    batch = [a_trace(n, **(POISON if n % 3 else {})) for n in range(900)]
    assert counts(await repository.create_many(batch)) == (300, 0, 600)
    assert sum(statements_sent(postgres_client.database)) < 4 * len(batch)


# Hidden duplicates


def hide_other_tenants(database: Database, table: str) -> None:
    run_script(
        database,
        f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY",
        f"CREATE POLICY mine ON {table} USING (organization_id = '{ORG}') WITH CHECK (true)",
    )


@both_modes
@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
async def test_an_id_of_a_row_that_a_policy_hides_is_a_conflict(
    postgres: Database, client_as: Any, metadata_only: bool, level: str
) -> None:
    with a_role(postgres, "INSERT", "SELECT") as role:
        hide_other_tenants(postgres, TABLES[metadata_only])
        async with AsyncExitStack() as stack:
            other = Client(postgres, "sync", stack)
            await other.repository(organization_id="another", metadata_only=metadata_only).create(a_trace(7))
            await other.commit()
        client = await client_as(role)
        await client.rollback()
        await client.execute(text(f"SET TRANSACTION ISOLATION LEVEL {level}"))
        await client.execute(text(f"SET LOCAL ROLE {role}"))
        repository = client.repository(organization_id=ORG, metadata_only=metadata_only)
        with pytest.raises(ProviderTraceConflictError) as caught:
            await repository.create(a_trace(7))
        assert str(caught.value) == str(ProviderTraceConflictError(trace_id(7)))
        result = await repository.create_many(a_batch(20))
        assert counts(result) == (19, 0, 1)
        assert refusals(result) == [(trace_id(7), ProviderTraceConflictError)]
        await client.rollback()


async def test_an_id_that_is_committed_after_the_snapshot_is_sent_again(postgres_client: Client) -> None:
    await postgres_client.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
    repository = postgres_client.repository(organization_id=ORG)
    await repository.get(trace_id(1))
    other = await postgres_client.another()
    await other.repository(organization_id=ORG).create(a_trace(7))
    await other.commit()
    for call in (repository.create(a_trace(7)), repository.create_many(a_batch(20))):
        with pytest.raises(ProviderTraceUnavailableError, match="40001") as caught:
            await call
        assert not caught.value.may_be_the_trace
    await postgres_client.rollback()
    assert counts(await repository.create_many(a_batch(20))) == (19, 1, 0)


async def test_a_unique_index_of_the_hosts_on_other_columns_is_no_conflict(postgres: Database, client_as: Any) -> None:
    with a_role(postgres, "INSERT", "SELECT") as role:
        hide_other_tenants(postgres, TABLES[False])
        run_script(postgres, "CREATE UNIQUE INDEX hosts_index ON provider_traces (id, run_id)")
        client = await client_as(role)
        run_script(postgres, "CREATE UNIQUE INDEX hosts_other ON provider_traces (run_id)")
        async with AsyncExitStack() as stack:
            other = Client(postgres, "sync", stack)
            await other.repository(organization_id="another").create(a_trace(100, run_id="run-7"))
            await other.commit()
        result = await client.repository(organization_id=ORG).create_many(a_batch(20))
        assert counts(result) == (19, 0, 1)
        assert refusals(result) == [(trace_id(7), ProviderTraceRejectedError)]
        await client.rollback()


# Missing partitions


async def test_a_missing_partition_is_the_tables_state(postgres_client: Client) -> None:
    partition_by_month(postgres_client.database, "2026-03-01", "2026-04-01")
    repository = postgres_client.repository(organization_id=ORG, metadata_only=True)
    later = [a_trace(n, created_at=MOMENT.replace(month=12)) for n in range(500)]
    for call in (repository.create(later[0]), repository.create_many(later)):
        with pytest.raises(PartitionMissingError) as caught:
            await call
        error = caught.value
        assert (error.table, error.key) == ("provider_trace_metadata", "RANGE (created_at)")
        assert error.created_at == later[0].created_at
        assert "CREATE TABLE provider_trace_metadata_2026_12 PARTITION OF provider_trace_metadata" in str(error)
        assert "('2026-12-01 00:00+00') TO ('2027-01-01 00:00+00')" in str(error)
    mixed = [*a_batch(20, 1000), *later[:5]]
    result = await repository.create_many(mixed)
    assert counts(result) == (20, 0, 5)
    assert {(type(each.error), each.error.sqlstate) for each in result.rejected} == {  # type: ignore[attr-defined]
        (ProviderTraceRejectedError, "23514")
    }
    assert "has no partition" in str(result.rejected[0].error)
    await postgres_client.commit()
    statement = str(error).split("for the month: ")[1].split("), and")[0]
    run_script(postgres_client.database, statement)
    assert counts(await repository.create_many([*mixed, *later])) == (500, 25, 0)


def test_the_month_of_a_partition_is_that_in_utc() -> None:
    error = PartitionMissingError("t", "RANGE (created_at)", datetime(2026, 12, 31, 23, 59, tzinfo=UTC))
    assert "t_2026_12 PARTITION OF t FOR VALUES FROM ('2026-12-01 00:00+00') TO ('2027-01-01 00:00+00')" in str(error)


# Missing privileges


@both_modes
@pytest.mark.parametrize(
    ("granted", "missing"),
    [
        (("SELECT",), "INSERT ON {table}"),
        (("INSERT (id, created_at)", "SELECT"), "INSERT ("),
        ((), "INSERT ON {table}"),
    ],
)
async def test_a_role_without_a_privilege_gets_one_error_that_names_it(
    postgres: Database, client_as: Any, metadata_only: bool, granted: tuple[str, ...], missing: str
) -> None:
    table = TABLES[metadata_only]
    with a_role(postgres, *granted) as role:
        if not metadata_only:
            # Where the packed ids are looked for; one error names what one table lacks.
            run_script(postgres, f"GRANT SELECT ON provider_trace_metadata TO {role}")
        client = await client_as(role)
        repository = client.repository(organization_id=ORG, metadata_only=metadata_only)
        for call in (repository.create(a_trace(1)), repository.create_many(a_batch(1500))):
            with pytest.raises(PrivilegeMissingError) as caught:
                await call
            error = caught.value
            assert (error.table, error.role) == (table, role)
            assert error.privileges[0].startswith(missing.format(table=table))
            assert f"GRANT {error.privileges[0]} TO {role}" in str(error)
            assert_keeps_the_secret(error)
        run_script(postgres, *(f"GRANT {privilege} TO {role}" for privilege in error.privileges))
        assert counts(await repository.create_many(a_batch(1500))) == (1500, 0, 0)
        await client.rollback()


async def test_a_role_that_may_not_use_the_schema_or_a_sequence_gets_its_name(
    empty_postgres: Database, form: Form
) -> None:
    run_script(empty_postgres, "CREATE SCHEMA app")
    role = f"role_{uuid4().hex[:8]}"
    run_script(empty_postgres, f"CREATE ROLE {role}")
    with empty_postgres.engine().connect() as connection:
        upgrade(connection, schema="app")
    run_script(
        empty_postgres,
        "ALTER TABLE app.provider_traces ADD COLUMN hosts_number serial",
        f"GRANT INSERT, SELECT ON app.provider_traces TO {role}",
        f"GRANT SELECT ON app.provider_trace_metadata TO {role}",
    )
    try:
        async with AsyncExitStack() as stack:
            client = Client(empty_postgres, form, stack)
            await client.execute(text("SET search_path = app, public"))
            await client.execute(text(f"SET ROLE {role}"))
            repository = client.repository(organization_id=ORG)
            with pytest.raises(PrivilegeMissingError, match="GRANT USAGE ON SCHEMA app TO") as caught:
                await repository.create(a_trace(1))
            assert "USAGE ON SEQUENCE app.provider_traces_hosts_number_seq" in caught.value.privileges
            run_script(empty_postgres, f"GRANT USAGE ON SCHEMA app TO {role}")
            with pytest.raises(PrivilegeMissingError) as caught:
                await repository.create_many(a_batch(100))
            assert caught.value.privileges == ["USAGE ON SEQUENCE app.provider_traces_hosts_number_seq"]
            run_script(empty_postgres, *(f"GRANT {privilege} TO {role}" for privilege in caught.value.privileges))
            assert counts(await repository.create_many(a_batch(100))) == (100, 0, 0)
            await client.commit()
    finally:
        run_script(empty_postgres, f"DROP OWNED BY {role}", f"DROP ROLE {role}")
