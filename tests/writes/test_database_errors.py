"""Errors of the database become errors of the package, without a payload, and the transaction stays usable."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

import provider_trace_store
from provider_trace_store import (
    AsyncProviderTraceRepository,
    ProviderTrace,
    ProviderTraceRejectedError,
    ProviderTraceRepository,
    ProviderTraceStoreError,
    ProviderTraceUnavailableError,
    TableMissingError,
    TraceEncodingError,
)
from provider_trace_store.migrations import upgrade
from tests.support.batches import assert_keeps_the_secret, both_modes
from tests.support.constants import SECRET

if TYPE_CHECKING:
    from tests.support.clients import Client
    from tests.support.servers import Database


def secret_trace(**fields: object) -> ProviderTrace:
    return ProviderTrace.model_validate(
        {"request_json": {"prompt": SECRET}, "response_json": {"text": SECRET}, "source": SECRET} | fields
    )


def prepare(database: Database, *statements: str) -> None:
    with database.engine().begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


@pytest.mark.every_server
@both_modes
async def test_foreign_key_of_the_host(postgres_client: Client, metadata_only: bool) -> None:
    prepare(
        postgres_client.database,
        "CREATE TABLE organizations (id varchar PRIMARY KEY); INSERT INTO organizations VALUES ('org-1');"
        "ALTER TABLE provider_traces ADD CONSTRAINT hosts_key FOREIGN KEY (organization_id) "
        "REFERENCES organizations; ALTER TABLE provider_trace_metadata ADD CONSTRAINT hosts_key "
        "FOREIGN KEY (organization_id) REFERENCES organizations",
    )
    known = postgres_client.repository(organization_id="org-1", metadata_only=metadata_only)
    unknown = postgres_client.repository(organization_id="org-2", metadata_only=metadata_only)
    before, refused, after = secret_trace(), secret_trace(), secret_trace()
    await known.create(before)
    with pytest.raises(ProviderTraceRejectedError, match="hosts_key") as caught:
        await unknown.create(refused)
    await known.create(after)
    await postgres_client.commit()
    assert (caught.value.trace_id, caught.value.sqlstate, caught.value.constraint) == (
        refused.id,
        "23503",
        "hosts_key",
    )
    assert_keeps_the_secret(caught.value)
    assert await known.get_metadata(before.id)
    assert await known.get_metadata(after.id)


@pytest.mark.every_server
async def test_check_constraint_of_the_host(postgres_client: Client) -> None:
    """PostgreSQL's own message would repeat the failing row."""
    prepare(postgres_client.database, "ALTER TABLE provider_traces ADD CONSTRAINT hosts_rule CHECK (call_type <> 'x')")
    repository = postgres_client.repository(organization_id="org-1")
    with pytest.raises(ProviderTraceRejectedError, match="hosts_rule") as caught:
        await repository.create(secret_trace(call_type="x"))
    assert_keeps_the_secret(caught.value)
    await repository.create(secret_trace(call_type="y"))


@pytest.mark.every_server
@pytest.mark.parametrize("state", ["23514", "23503", "P0001"])
async def test_text_that_a_trigger_gives_as_a_constraint_is_not_shown(postgres_client: Client, state: str) -> None:
    prepare(
        postgres_client.database,
        "CREATE FUNCTION hosts_trigger() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        f" RAISE EXCEPTION 'no' USING ERRCODE = '{state}', CONSTRAINT = NEW.source, TABLE = TG_TABLE_NAME; END $$",
        "CREATE TRIGGER hosts_trigger BEFORE INSERT ON provider_traces FOR EACH ROW EXECUTE FUNCTION hosts_trigger()",
    )
    repository = postgres_client.repository(organization_id="org-1")
    for source in (SECRET, "alice", "x\nERROR"):
        with pytest.raises(ProviderTraceRejectedError, match=state) as caught:
            await repository.create(secret_trace(source=source))
        assert caught.value.constraint is None
        assert source not in str(caught.value)


@pytest.mark.every_server
async def test_unique_constraint_of_the_host_is_no_conflict_of_ids(postgres_client: Client) -> None:
    prepare(postgres_client.database, "CREATE UNIQUE INDEX hosts_index ON provider_traces (run_id)")
    repository = postgres_client.repository(organization_id="org-1")
    await repository.create(secret_trace(run_id="run-1"))
    with pytest.raises(ProviderTraceRejectedError, match="hosts_index") as caught:
        await repository.create(secret_trace(run_id="run-1"))
    assert_keeps_the_secret(caught.value)


@pytest.mark.every_server
@both_modes
async def test_statement_timeout(postgres_client: Client, metadata_only: bool) -> None:
    repository = postgres_client.repository(organization_id="org-1", metadata_only=metadata_only)
    with postgres_client.database.engine().connect() as busy:
        busy.execute(text("LOCK TABLE provider_traces, provider_trace_metadata IN ACCESS EXCLUSIVE MODE"))
        await postgres_client.execute(text("SET LOCAL statement_timeout = '500ms'"))
        with pytest.raises(ProviderTraceUnavailableError, match="57014") as caught:
            await repository.create(secret_trace())
    assert_keeps_the_secret(caught.value)
    again = secret_trace()
    await repository.create(again)
    assert await repository.get_metadata(again.id)


@pytest.mark.every_server
@both_modes
async def test_connection_that_the_server_ended(postgres_client: Client, metadata_only: bool) -> None:
    repository = postgres_client.repository(organization_id="org-1", metadata_only=metadata_only)
    pid = await postgres_client.scalar(text("SELECT pg_backend_pid()"))
    with postgres_client.database.engine().begin() as other:
        other.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
    trace = secret_trace()
    with pytest.raises(ProviderTraceUnavailableError) as caught:
        await repository.create(trace)
    assert_keeps_the_secret(caught.value)
    await postgres_client.rollback()
    await repository.create(trace)
    assert await repository.get_metadata(trace.id)


@both_modes
async def test_server_that_is_not_there(postgres_client: Client, metadata_only: bool) -> None:
    url = postgres_client.database.url.set(host="127.0.0.1", port=1, query={})
    engine = create_engine(url)
    with Session(engine) as session, pytest.raises(ProviderTraceUnavailableError) as caught:
        ProviderTraceRepository(session, organization_id="org-1", metadata_only=metadata_only).create(secret_trace())
    engine.dispose()
    assert_keeps_the_secret(caught.value)


@pytest.mark.every_server
@both_modes
def test_database_that_was_never_migrated(empty_database: Database, metadata_only: bool) -> None:
    with Session(empty_database.engine()) as session:
        repository = ProviderTraceRepository(session, organization_id="org-1", metadata_only=metadata_only)
        with pytest.raises(TableMissingError, match="provider-trace-store migrate upgrade") as caught:
            repository.create(secret_trace())
        assert_keeps_the_secret(caught.value)
        assert session.scalar(text("SELECT 1")) == 1


@pytest.mark.pgbouncer
@both_modes
def test_autocommit_engine_keeps_each_trace_at_once(database: Database, metadata_only: bool) -> None:
    trace = secret_trace()
    with Session(database.engine(isolation_level="AUTOCOMMIT")) as session:
        repository = ProviderTraceRepository(session, organization_id="org-1", metadata_only=metadata_only)
        repository.create(trace)
        repository.create(trace)
        session.rollback()
    with Session(database.engine()) as session:
        assert ProviderTraceRepository(session, organization_id="org-1").get_metadata(trace.id)


@pytest.mark.every_server
async def test_tables_in_a_schema_of_the_hosts(empty_postgres: Database) -> None:
    prepare(empty_postgres, "CREATE SCHEMA traces")
    options = {"schema_translate_map": {None: "traces"}}
    with empty_postgres.engine().connect() as connection:
        upgrade(connection, schema="traces")
    trace = secret_trace()
    async with AsyncSession(empty_postgres.async_engine(execution_options=options)) as session:
        repository = AsyncProviderTraceRepository(session, organization_id="org-1")
        assert await repository.create(trace) == await repository.create(trace) == await repository.get(trace.id)
        await session.commit()
    with empty_postgres.engine().connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM traces.provider_traces")) == 1


@pytest.mark.every_server
@pytest.mark.pgbouncer
def test_read_errors_are_the_drivers_own(empty_database: Database) -> None:
    """A read has no payload to hide: a host's handlers see what they know."""
    with Session(empty_database.engine()) as session, pytest.raises(DBAPIError):
        ProviderTraceRepository(session, organization_id="org-1").get("provider_trace-00000000")


def test_every_error_has_one_root() -> None:
    errors = [
        value
        for value in vars(provider_trace_store).values()
        if isinstance(value, type) and issubclass(value, BaseException)
    ]
    assert len(errors) > 10
    assert all(issubclass(error, ProviderTraceStoreError) for error in errors)


@pytest.mark.parametrize(
    ("field", "value"),
    [("step_id", "\0"), ("source", 5), ("created_at", None), ("created_at", "today"), ("run_id", "\ud800")],
)
def test_trace_made_around_the_schema_is_refused_without_its_payload(
    database: Database, field: str, value: object
) -> None:
    trace = ProviderTrace.model_construct(**(dict(secret_trace()) | {field: value}))
    with Session(database.engine()) as session:
        repository = ProviderTraceRepository(session, organization_id="org-1")
        with pytest.raises(TraceEncodingError, match=field) as caught:
            repository.create(trace)
        assert_keeps_the_secret(caught.value)
        repository.create(secret_trace())
