"""The schema of the tables: only the one in which CREATE TABLE creates, whatever its name is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest
from sqlalchemy import inspect, text
from sqlalchemy.orm import Session
from sqlalchemy.schema import CreateSchema

from provider_trace_store import AdoptedTableError, MigrationError, ProviderTraceRepository, TableNotEmptyError
from provider_trace_store.database.names import do_block, literal, without_parameters
from provider_trace_store.migrations import VERSION_TABLE, current, downgrade, upgrade
from provider_trace_store.migrations.autogenerate import schema_metadata
from provider_trace_store.migrations.indexes import missing_indexes
from tests.support.batches import run_script
from tests.support.constants import HEAD, ORG, OUR_TABLES
from tests.support.traces import a_trace

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

    from tests.support.servers import Database

# Each would end a name, a literal, a block, a parameter or a line that is not quoted for it.
NAMES: Final = (
    "a$$b",
    "$block$ $block1$",
    "block$",
    "it's",
    'say "so"',
    "100%s %% %(x)s",
    "a:b ::c",
    "back\\slash\\:x",
    "new\nline",
    "tab\there",
    "Upper",
    "select",
    "semi;colon--",
    "a.b",
    "n" * 63,
    "ü" * 31,
)


def tables_in(engine: Engine, schema: str) -> set[str]:
    return set(inspect(engine).get_table_names(schema=schema)) - {VERSION_TABLE}


def in_path(connection: Connection, path: str) -> None:
    connection.execute(text("SELECT set_config('search_path', :path, false)"), {"path": path})
    connection.commit()


@pytest.mark.parametrize("name", NAMES)
def test_a_schema_of_any_name_is_migrated_adopted_and_left(empty_postgres: Database, name: str) -> None:
    engine = empty_postgres.engine()
    with engine.begin() as connection:
        connection.execute(CreateSchema(name))
    with engine.connect() as connection:
        upgrade(connection, schema=name)
        upgrade(connection, schema=name)
        assert current(connection, schema=name) == HEAD
        tables = schema_metadata(name).tables.values()
        assert [index for table in tables for index in missing_indexes(connection, table)] == []
        connection.rollback()
        assert tables_in(engine, name) == OUR_TABLES
        downgrade(connection, "base", schema=name)
        assert tables_in(engine, name) == set()
    with engine.begin() as connection:
        schema_metadata(name).create_all(connection)
    with Session(engine.execution_options(schema_translate_map={None: name})) as session, session.begin():
        ProviderTraceRepository(session, organization_id=ORG).create(a_trace(1))
    with engine.connect() as connection:
        upgrade(connection, schema=name)
        with pytest.raises(AdoptedTableError):
            downgrade(connection, "base", schema=name)
        connection.rollback()
        with pytest.raises(TableNotEmptyError):
            downgrade(connection, "base", schema=name, drop_adopted=OUR_TABLES)
        connection.rollback()
        downgrade(connection, "base", schema=name, drop_adopted=OUR_TABLES, drop_data=True)
    assert tables_in(engine, name) == set()


@pytest.mark.parametrize("setting", ["on", "off"])
@pytest.mark.parametrize("name", NAMES)
def test_a_block_and_a_literal_keep_any_text(postgres: Database, name: str, setting: str) -> None:
    with postgres.engine().connect() as connection:
        connection.execute(text(f"SET standard_conforming_strings = {setting}"))
        assert connection.scalar(without_parameters(f"SELECT {literal(name)}")) == name
        connection.execute(
            without_parameters(
                do_block(f"BEGIN PERFORM set_config('some.name', {literal(name)}, true); /* {name} */ END")
            )
        )
        assert connection.scalar(text("SELECT current_setting('some.name')")) == name


def test_a_schema_that_does_not_exist_is_refused(empty_postgres: Database) -> None:
    with empty_postgres.engine().connect() as connection:
        # PostgreSQL would cut the longer name, and create in a schema that no later look would find.
        connection.execute(CreateSchema("n" * 63))
        connection.commit()
        for name in ("nowhere", "n" * 64):
            with pytest.raises(MigrationError, match=f"schema {name} does not exist"):
                upgrade(connection, schema=name)
            connection.rollback()


def test_tables_of_a_later_schema_of_the_path_are_not_taken(empty_postgres: Database) -> None:
    engine = empty_postgres.engine()
    run_script(empty_postgres, "CREATE SCHEMA app1", "CREATE SCHEMA app2")
    refused = r"search_path \(app2,app1\) leads to .* in the schema app1, but .* creates tables in the schema app2"
    with engine.connect() as connection:
        in_path(connection, "app1")
        upgrade(connection)
        in_path(connection, "app2,app1")
        for action in (upgrade, current, lambda connection: downgrade(connection, "base")):
            with pytest.raises(MigrationError, match=refused):
                action(connection)
            connection.rollback()
        assert tables_in(engine, "app1") == OUR_TABLES
        assert tables_in(engine, "app2") == set()
        upgrade(connection, schema="app2")
        upgrade(connection)
        assert current(connection) == HEAD
        connection.rollback()
        downgrade(connection, "base", schema="app2")
    assert tables_in(engine, "app1") == OUR_TABLES
    assert tables_in(engine, "app2") == set()


def test_half_of_the_tables_in_another_schema_are_not_completed(empty_postgres: Database) -> None:
    run_script(empty_postgres, "CREATE SCHEMA app1", "CREATE SCHEMA app2")
    with empty_postgres.engine().connect() as connection:
        in_path(connection, "app1")
        upgrade(connection, "0001")
        connection.execute(text(f"DROP TABLE {VERSION_TABLE}"))
        in_path(connection, "app2, app1")
        with pytest.raises(MigrationError, match="provider_traces in the schema app1"):
            upgrade(connection)


def test_a_temporary_table_of_the_session_is_not_taken(empty_postgres: Database) -> None:
    with empty_postgres.engine().connect() as connection:
        connection.execute(text("CREATE TEMPORARY TABLE provider_traces (id varchar)"))
        connection.commit()
        with pytest.raises(MigrationError, match="provider_traces in the schema pg_temp"):
            upgrade(connection)


def test_a_search_path_without_a_schema_is_refused(empty_postgres: Database) -> None:
    with empty_postgres.engine().connect() as connection:
        in_path(connection, "nowhere")
        with pytest.raises(MigrationError, match=r"no schema of the search_path \(nowhere\) exists"):
            upgrade(connection)
