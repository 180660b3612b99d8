"""Migration 0003 on existing tables: what it builds, what it only reports, and what it refuses."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import pytest
from sqlalchemy import MetaData, Table, inspect, text
from sqlalchemy.orm import Session

from provider_trace_store import ProviderTraceRepository, TableMismatchError
from provider_trace_store.migrations import downgrade, schema_metadata, upgrade
from provider_trace_store.migrations.indexes import missing_indexes
from tests.support.batches import run_script
from tests.support.constants import ORG, TABLES
from tests.support.traces import a_batch, a_trace

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from tests.support.servers import Database

pytestmark = pytest.mark.every_server


# What only a server with ICU can really make; the catalogue says the same.
VAGUE: Final = (
    'CREATE COLLATION vague FROM "C"',
    "UPDATE pg_collation SET collisdeterministic = false WHERE collname = 'vague'",
)


def names_of(connection: Connection) -> set[str | None]:
    return {index["name"] for table in TABLES.values() for index in inspect(connection).get_indexes(table)}


def fill_and_go_back(database: Database) -> None:
    """Write a trace into each table, and take the migration back."""
    with Session(database.engine()) as session, session.begin():
        ProviderTraceRepository(session, organization_id=ORG).create(a_trace(1))
        ProviderTraceRepository(session, organization_id=ORG, metadata_only=True).create(a_trace(2))
    with database.engine().connect() as connection:
        downgrade(connection, "0002")


def statements_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    return [statement for line in lines for statement in line.splitlines()[1:]]


def test_what_the_log_says_to_run_on_a_table_with_rows_is_all_that_is_missing(
    postgres: Database, caplog: pytest.LogCaptureFixture
) -> None:
    fill_and_go_back(postgres)
    with caplog.at_level(logging.INFO, "provider_trace_store"), postgres.engine().connect() as connection:
        before = names_of(connection)
        connection.rollback()
        upgrade(connection)
        assert names_of(connection) == before
    statements = statements_in(caplog)
    assert len(statements) == 5
    with postgres.engine(isolation_level="AUTOCOMMIT").connect() as connection:
        for statement in statements:
            assert statement.startswith("CREATE INDEX CONCURRENTLY ")
            connection.execute(text(statement))
        for table in schema_metadata(None).tables.values():
            assert missing_indexes(connection, table) == []


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_sqlite_gets_its_indexes_at_once(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    fill_and_go_back(database)
    with caplog.at_level(logging.INFO, "provider_trace_store"), database.engine().connect() as connection:
        upgrade(connection)
        assert {"ix_provider_traces_run_id", "ix_provider_trace_metadata_agent_id_created_at"} <= names_of(connection)
    assert statements_in(caplog) == []


@pytest.mark.parametrize("made", ["(organization_id, created_at DESC, id)", "(organization_id, created_at, id)"])
def test_an_index_that_serves_no_page_does_not_count(
    postgres: Database, caplog: pytest.LogCaptureFixture, made: str
) -> None:
    fill_and_go_back(postgres)
    run_script(postgres, f"CREATE INDEX hosts_own ON provider_traces {made}")
    if "DESC" not in made:
        # As a CREATE INDEX CONCURRENTLY that was cancelled leaves it.
        run_script(postgres, "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'hosts_own'::regclass")
    with caplog.at_level(logging.INFO, "provider_trace_store"), postgres.engine().connect() as connection:
        upgrade(connection)
    assert any("ON provider_traces (organization_id, created_at, id)" in line for line in statements_in(caplog))


def test_a_schema_with_odd_characters_has_its_rows_found(postgres: Database, caplog: pytest.LogCaptureFixture) -> None:
    schema = 'od"d %s sch:ema'
    quoted = '"od""d %s sch:ema"'
    with postgres.engine().connect() as connection:
        connection.exec_driver_sql(f"CREATE SCHEMA {quoted}".replace("%", "%%"))
        connection.commit()
        upgrade(connection, "0002", schema=schema)
        insert = f"INSERT INTO {quoted}.provider_trace_metadata (id, organization_id) VALUES ('a', 'b')"  # noqa: S608  (constants)
        connection.exec_driver_sql(insert.replace("%", "%%"))
        connection.commit()
        with caplog.at_level(logging.INFO, "provider_trace_store"):
            upgrade(connection, schema=schema)
        statements = statements_in(caplog)
    assert len(statements) == 2
    assert all(f"ON {quoted}.provider_trace_metadata " in statement for statement in statements)


def test_ids_of_an_empty_table_get_the_order_of_those_that_are_there(empty_postgres: Database) -> None:
    with empty_postgres.engine().connect() as connection:
        upgrade(connection, "0001")
        connection.exec_driver_sql('ALTER TABLE provider_traces ALTER COLUMN id TYPE varchar COLLATE "C"')
        connection.commit()
        upgrade(connection)
        columns = Table("provider_trace_metadata", MetaData(), autoload_with=connection).columns
        assert getattr(columns["id"].type, "collation", None) == "C"
    for metadata_only in (False, True):
        with Session(empty_postgres.engine()) as session, session.begin():
            repository = ProviderTraceRepository(session, organization_id=ORG, metadata_only=metadata_only)
            repository.create_many(a_batch(5, 10 * metadata_only))
    with Session(empty_postgres.engine()) as session:
        assert len(list(ProviderTraceRepository(session, organization_id=ORG).iter_metadata())) == 10


def test_tables_with_rows_in_different_orders_are_refused(postgres: Database) -> None:
    fill_and_go_back(postgres)
    run_script(postgres, 'ALTER TABLE provider_traces ALTER COLUMN id TYPE varchar COLLATE "C"')
    with (
        postgres.engine().connect() as connection,
        pytest.raises(TableMismatchError, match=r'run ALTER TABLE .* COLLATE pg_catalog\."C"'),
    ):
        upgrade(connection)


def test_an_organization_that_equals_another_is_refused(postgres: Database) -> None:
    fill_and_go_back(postgres)
    change = "ALTER TABLE provider_trace_metadata ALTER COLUMN organization_id TYPE varchar COLLATE vague"
    run_script(postgres, *VAGUE, change)
    with (
        postgres.engine().connect() as connection,
        pytest.raises(TableMismatchError, match="organization_id has a collation that takes different texts for equal"),
    ):
        upgrade(connection)
