"""The migrations: up, down and up again, equal to the models, and all or nothing."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import MetaData, NullPool, create_engine, inspect, text
from sqlalchemy.orm import Session

from provider_trace_store import (
    MigrationError,
    MigrationLockError,
    ProviderTrace,
    ProviderTraceRepository,
    TableNotEmptyError,
)
from provider_trace_store.migrations import VERSION_TABLE, current, downgrade, scripts_config, upgrade
from provider_trace_store.tables.models import metadata
from tests.support.constants import HEAD, OUR_TABLES, PATIENCE

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

    from tests.support.servers import Database

pytestmark = pytest.mark.every_server

REVISIONS = ["0001", "0002", "0003", "0004"]
BOTH_TABLES = OUR_TABLES - {"provider_trace_packs"}
TABLES_AT = [{"provider_traces"}, BOTH_TABLES, BOTH_TABLES, OUR_TABLES]


def indexes_of(connection: Connection) -> set[str | None]:
    inspector = inspect(connection)
    return {index["name"] for table in tables_of(connection) for index in inspector.get_indexes(table)}


def tables_of(connection: Connection) -> set[str]:
    return set(inspect(connection).get_table_names()) - {VERSION_TABLE}


def schema_of(engine: Engine) -> dict[str, object]:
    """Return columns, keys and indexes as the database describes them."""
    with engine.connect() as connection:
        inspector = inspect(connection)
        return {
            name: {
                "columns": {
                    found["name"]: (str(found["type"]), found["nullable"], found["default"])
                    for found in inspector.get_columns(name)
                },
                "key": inspector.get_pk_constraint(name)["constrained_columns"],
                "indexes": sorted(
                    (str(index["name"]), tuple(index["column_names"]), bool(index["unique"]))
                    for index in inspector.get_indexes(name)
                ),
                "foreign keys": inspector.get_foreign_keys(name),
                "unique": inspector.get_unique_constraints(name),
            }
            for name in sorted(OUR_TABLES)
        }


def store_one(engine: Engine) -> ProviderTrace:
    trace = ProviderTrace(request_json={"model": "m"}, response_json={})
    with Session(engine) as session:
        ProviderTraceRepository(session, organization_id="org-1").create(trace)
        ProviderTraceRepository(session, organization_id="org-1", metadata_only=True).create(trace)
        session.commit()
    return trace


def test_history_is_one_line() -> None:
    revisions = list(ScriptDirectory.from_config(scripts_config()).walk_revisions())
    assert [revision.revision for revision in reversed(revisions)] == REVISIONS
    assert not any(revision.is_branch_point or revision.is_merge_point for revision in revisions)


def test_every_migration_tells_the_operator_what_it_locks() -> None:
    for revision in ScriptDirectory.from_config(scripts_config()).walk_revisions():
        assert "What it locks, and for how long:" in revision.longdoc


@pytest.mark.pgbouncer
def test_every_step_goes_up_down_and_up_again(empty_database: Database) -> None:
    with empty_database.engine().connect() as connection:
        for revision, tables in zip(REVISIONS, TABLES_AT, strict=True):
            before = tables_of(connection), indexes_of(connection)
            connection.commit()
            upgrade(connection, revision)
            after = tables_of(connection), indexes_of(connection)
            assert (current(connection), after[0]) == (revision, tables)
            assert after != before
            connection.commit()
            downgrade(connection, "-1")
            assert (tables_of(connection), indexes_of(connection)) == before
            connection.commit()
            upgrade(connection, revision)
            assert (tables_of(connection), indexes_of(connection)) == after
            connection.commit()


def test_migrated_schema_equals_the_models(database: Database) -> None:
    engine = database.engine()
    migrated = schema_of(engine)
    with engine.begin() as connection:
        metadata.drop_all(connection)
        metadata.create_all(connection)
    assert migrated == schema_of(engine)


def test_autogenerate_finds_nothing_to_do(database: Database) -> None:
    engine = database.engine()
    check(engine)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE hosts_own (id integer PRIMARY KEY)"))
        connection.execute(text("CREATE INDEX hosts_own_index ON hosts_own (id)"))
        connection.execute(text("ALTER TABLE provider_traces ADD COLUMN hosts_column varchar"))
        connection.execute(text("CREATE INDEX hosts_other_index ON provider_traces (hosts_column)"))
    check(engine)


def test_autogenerate_sees_what_is_missing_of_ours(database: Database) -> None:
    with database.engine().begin() as connection:
        connection.execute(text("ALTER TABLE provider_traces DROP COLUMN call_type"))
    with pytest.raises(CommandError, match="call_type"):
        check(database.engine())


def check(engine: Engine) -> None:
    """Do what `alembic check` does."""
    with engine.begin() as connection:
        config = scripts_config()
        config.attributes.update(connection=connection, schema=None, drop_data=False)
        command.check(config)


@pytest.mark.pgbouncer
def test_upgrade_without_a_transaction_commits_its_own(empty_database: Database) -> None:
    with empty_database.engine().connect() as connection:
        upgrade(connection)
        connection.rollback()
        assert tables_of(connection) == OUR_TABLES


@pytest.mark.pgbouncer
def test_upgrade_joins_the_transaction_of_its_caller(empty_database: Database) -> None:
    with empty_database.engine().connect() as connection:
        connection.execute(text("SELECT 1"))
        upgrade(connection)
        assert tables_of(connection) == OUR_TABLES
        connection.rollback()
        assert tables_of(connection) == set()
        assert current(connection) is None


@pytest.mark.pgbouncer
async def test_upgrade_runs_on_an_asynchronous_connection(empty_database: Database) -> None:
    async with empty_database.async_engine().connect() as connection:
        await connection.run_sync(upgrade)
        assert await connection.run_sync(tables_of) == OUR_TABLES


@pytest.mark.pgbouncer
def test_failed_upgrade_changes_nothing_and_leaves_the_transaction_usable(empty_database: Database) -> None:
    with empty_database.engine().connect() as connection:
        connection.execute(text("CREATE TABLE provider_trace_metadata (id integer PRIMARY KEY)"))
        with pytest.raises(MigrationError):
            upgrade(connection)
        assert tables_of(connection) == {"provider_trace_metadata"}
        connection.execute(text("INSERT INTO provider_trace_metadata (id) VALUES (1)"))
        connection.commit()


@pytest.mark.pgbouncer
def test_downgrade_never_drops_rows_unless_it_is_told_to(database: Database) -> None:
    engine = database.engine()
    store_one(engine)
    with engine.connect() as connection:
        with pytest.raises(TableNotEmptyError):
            downgrade(connection, "base")
        connection.rollback()
        assert tables_of(connection) == OUR_TABLES
        connection.rollback()
        downgrade(connection, "base", drop_data=True)
        assert tables_of(connection) == set()


def test_upgrade_in_a_schema_of_its_own(empty_postgres: Database) -> None:
    engine = empty_postgres.engine()
    translated = engine.execution_options(schema_translate_map={None: 'with "quote'})
    with engine.begin() as connection:
        connection.execute(text('CREATE SCHEMA named; CREATE SCHEMA "with ""quote"'))
    with engine.connect() as connection:
        upgrade(connection, schema="named")
        upgrade(connection, schema="named")
        assert current(connection, schema="named") == HEAD
        connection.commit()
    with translated.connect() as connection:
        upgrade(connection)
        upgrade(connection)
        assert current(connection) == HEAD
    store_one(translated)
    with engine.connect() as connection:
        inspector = inspect(connection)
        assert inspector.get_table_names() == []
        assert set(inspector.get_table_names(schema="named")) == {*OUR_TABLES, VERSION_TABLE}
        config = scripts_config()
        config.attributes.update(connection=connection, schema="named", drop_data=False)
        command.check(config)
    with translated.connect() as connection:
        with pytest.raises(TableNotEmptyError):
            downgrade(connection, "base")
        downgrade(connection, "base", drop_data=True)
        assert inspect(connection).get_table_names(schema='with "quote') == [VERSION_TABLE]


def test_autocommit_connection_is_refused(empty_postgres: Database) -> None:
    with (
        empty_postgres.engine(isolation_level="AUTOCOMMIT").connect() as connection,
        pytest.raises(MigrationError, match="autocommit"),
    ):
        upgrade(connection)


def test_lock_timeout_ends_the_wait_for_a_busy_table(postgres: Database) -> None:
    engine = postgres.engine()
    with engine.connect() as busy, engine.connect() as connection:
        busy.execute(text("LOCK TABLE provider_trace_metadata IN ACCESS SHARE MODE"))
        with pytest.raises(
            MigrationLockError, match=r"0\.1 s, for ALTER TABLE IF EXISTS provider_trace_metadata DROP "
        ):
            downgrade(connection, "0001", lock_timeout=0.1, tries=1)


def test_lock_timeout_of_the_caller_is_given_back(empty_postgres: Database) -> None:
    with empty_postgres.engine().connect() as connection:
        connection.execute(text("SET lock_timeout = '17s'"))
        upgrade(connection, lock_timeout=0.5)
        assert connection.scalar(text("SHOW lock_timeout")) == "17s"


def test_json_columns_use_lz4_where_the_server_has_it(postgres: Database) -> None:
    with postgres.engine().connect() as connection:
        has_lz4 = connection.scalar(
            text("SELECT 'lz4' = ANY (enumvals) FROM pg_settings WHERE name = 'default_toast_compression'")
        )
        rows = connection.execute(
            text(
                "SELECT attname, attcompression FROM pg_attribute JOIN pg_type ON pg_type.oid = atttypid "
                "WHERE attrelid IN ('provider_traces'::regclass, 'provider_trace_metadata'::regclass) "
                "AND typname = 'json'"
            )
        ).all()
    assert {row.attcompression for row in rows} == {"l" if has_lz4 else ""}
    assert sorted(row.attname for row in rows) == [
        "agent_tags",
        "agent_tags",
        "compaction_settings",
        "llm_config",
        "request_json",
        "response_json",
    ]


def test_logging_of_an_embedding_host_stays_as_it_is(empty_database: Database) -> None:
    script = (
        "import logging, sys; from sqlalchemy import create_engine\n"
        "host = logging.getLogger('host'); logging.basicConfig(level=logging.ERROR)\n"
        "before = (logging.root.handlers[:], logging.root.level)\n"
        "from provider_trace_store.migrations import upgrade\n"
        "with create_engine(sys.argv[1]).connect() as connection: upgrade(connection)\n"
        "assert (logging.root.handlers, logging.root.level) == before and not host.disabled\n"
    )
    url = empty_database.url.render_as_string(hide_password=False)
    subprocess.run([sys.executable, "-c", script, url], check=True, timeout=PATIENCE)


def test_host_autogenerate_with_our_filter_is_empty(database: Database) -> None:
    """Alembic's own comparison, as a host's env.py configures it; without the filter it would drop our tables."""
    from alembic.migration import MigrationContext  # noqa: PLC0415  (beside what it shows)

    from provider_trace_store.migrations import include_name  # noqa: PLC0415  (as in a host's env.py)

    with create_engine(database.url, poolclass=NullPool).connect() as connection:
        unfiltered = compare_metadata(MigrationContext.configure(connection), MetaData())
        filtered = compare_metadata(
            MigrationContext.configure(connection, opts={"include_name": include_name}), MetaData()
        )
    assert {change[1].name for change in unfiltered if change[0] == "remove_table"} == {*OUR_TABLES, VERSION_TABLE}
    assert filtered == []
