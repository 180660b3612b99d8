"""The scripts of `--sql`: in a schema of any name, and with the checks that the database makes when they run."""

from __future__ import annotations

import io
from argparse import Namespace
from typing import TYPE_CHECKING, Final

import psycopg
import pytest
from alembic import command
from sqlalchemy import inspect, text
from sqlalchemy.orm import Session
from sqlalchemy.schema import CreateSchema

from provider_trace_store import ProviderTraceRepository
from provider_trace_store.migrations import VERSION_TABLE, current, downgrade, schema_metadata, scripts_config, upgrade
from tests.support.constants import HEAD, ORG, OUR_TABLES
from tests.support.traces import a_trace

if TYPE_CHECKING:
    from tests.support.servers import Database

pytestmark = pytest.mark.every_server

# Alembic itself replaces a tab in a script by spaces.
NAMES: Final = (
    "a$$b",
    "$block$ $block1$",
    "it's",
    'say "so"',
    "100%s %(x)s",
    "a:b ::c",
    "back\\slash",
    "Upper",
    "ü" * 31,
)


def script(database: Database, direction: str, schema: str, *options: str) -> str:
    config = scripts_config()
    config.output_buffer = io.StringIO()
    url = database.url.render_as_string(hide_password=False)
    config.cmd_opts = Namespace(x=[f"url={url}", f"schema={schema}", *options])
    if direction == "up":
        command.upgrade(config, "head", sql=True)
    else:
        command.downgrade(config, f"{HEAD}:base", sql=True)
    return str(config.output_buffer.getvalue())


def run(database: Database, sql: str) -> None:
    url = database.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql.encode())


def tables_of(database: Database, schema: str) -> set[str]:
    return set(inspect(database.engine()).get_table_names(schema=schema)) - {VERSION_TABLE}


@pytest.mark.parametrize("name", NAMES)
def test_a_script_for_a_schema_of_any_name_runs(empty_postgres: Database, name: str) -> None:
    with empty_postgres.engine().begin() as connection:
        connection.execute(CreateSchema(name))
    run(empty_postgres, script(empty_postgres, "up", name))
    assert tables_of(empty_postgres, name) == OUR_TABLES
    # What a script created is known as created.
    with empty_postgres.engine().connect() as connection:
        assert current(connection, schema=name) == HEAD
        connection.rollback()
        downgrade(connection, "base", schema=name)
        upgrade(connection, schema=name)
    run(empty_postgres, script(empty_postgres, "down", name))
    assert tables_of(empty_postgres, name) == set()


@pytest.mark.parametrize("name", ["traces", "a$$b"])
def test_a_script_drops_an_adopted_table_only_if_it_is_named(empty_postgres: Database, name: str) -> None:
    engine = empty_postgres.engine()
    with engine.begin() as connection:
        connection.execute(CreateSchema(name))
        schema_metadata(name).create_all(connection)
    with engine.connect() as connection:
        upgrade(connection, schema=name)
    named = f"drop-adopted={','.join(sorted(OUR_TABLES))}"
    with pytest.raises(psycopg.errors.RaiseException, match="was adopted"):
        run(empty_postgres, script(empty_postgres, "down", name, "drop-data=yes"))
    with Session(engine.execution_options(schema_translate_map={None: name})) as session, session.begin():
        ProviderTraceRepository(session, organization_id=ORG).create(a_trace(1))
    with pytest.raises(psycopg.errors.RaiseException, match="has rows"):
        run(empty_postgres, script(empty_postgres, "down", name, named))
    assert tables_of(empty_postgres, name) == OUR_TABLES
    with engine.connect() as connection:
        indexes = {index["name"] for index in inspect(connection).get_indexes("provider_traces", schema=name)}
    assert "ix_provider_traces_run_id" in indexes
    run(empty_postgres, script(empty_postgres, "down", name, named, "drop-data=yes"))
    assert tables_of(empty_postgres, name) == set()


def test_a_script_keeps_an_index_that_no_migration_created(empty_postgres: Database) -> None:
    with empty_postgres.engine().connect() as connection:
        upgrade(connection, "0002")
        connection.execute(text("CREATE INDEX ix_provider_traces_run_id ON provider_traces (run_id)"))
        connection.commit()
        upgrade(connection)
    config = scripts_config()
    config.output_buffer = io.StringIO()
    url = empty_postgres.url.render_as_string(hide_password=False)
    config.cmd_opts = Namespace(x=[f"url={url}"])
    command.downgrade(config, "0003:0002", sql=True)
    run(empty_postgres, str(config.output_buffer.getvalue()))
    with empty_postgres.engine().connect() as connection:
        names = {index["name"] for table in OUR_TABLES for index in inspect(connection).get_indexes(table)}
    assert "ix_provider_traces_run_id" in names
    assert "ix_provider_trace_metadata_run_id" not in names
