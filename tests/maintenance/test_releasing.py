"""Release undoes an adoption: the host's tables are as they were, with all rows, and can be adopted again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final

import pytest
from sqlalchemy import inspect, text

from provider_trace_store import InvalidArgumentError, MaintenanceError, MigrationLockError
from provider_trace_store.maintenance import build_indexes, release, unpack
from provider_trace_store.migrations import VERSION_TABLE, current, upgrade
from tests.support.batches import run_script
from tests.support.commands import VARIABLE, failure_of, run_on
from tests.support.constants import HEAD, OUR_TABLES
from tests.support.packed_tables import row_counts, store, store_packed
from tests.support.traces import a_trace
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from tests.support.servers import Database

# The table of a host, before it had the columns for telemetry, with an index and a migration history of its own.
COLUMNS: Final = """
    id varchar NOT NULL PRIMARY KEY, request_json json NOT NULL, response_json json NOT NULL, step_id varchar,
    agent_id varchar, created_at timestamp with time zone DEFAULT CURRENT_TIMESTAMP, is_deleted boolean NOT NULL
    DEFAULT false, organization_id varchar NOT NULL
"""
HOST: Final = (
    f"CREATE TABLE provider_traces ({COLUMNS})",
    "CREATE INDEX hosts_agent ON provider_traces (agent_id)",
    "CREATE TABLE alembic_version (version_num varchar PRIMARY KEY)",
    "INSERT INTO alembic_version VALUES ('hosts')",
)
ROW: Final = (
    "INSERT INTO provider_traces (id, request_json, response_json, organization_id) VALUES ('a', '{}', '{}', 'o')"
)
NAMED: Final = ("provider_trace_metadata", "provider_trace_packs")


def shape_of(database: Database, schema: str | None = None) -> dict[str, Any]:
    """Return the columns and indexes of each table, and its rows."""
    with database.engine().connect() as connection:
        inspector = inspect(connection)
        return {
            name: (
                [(column["name"], str(column["type"])) for column in inspector.get_columns(name, schema)],
                sorted(str(index["name"]) for index in inspector.get_indexes(name, schema)),
                sorted(map(str, connection.execute(text(f"SELECT * FROM {f'{schema}.' if schema else ''}{name}")))),
            )
            for name in inspector.get_table_names(schema)
        }


def adopt(database: Database, *statements: str, schema: str | None = None) -> dict[str, Any]:
    """Adopt the tables of a host, build their indexes, and return what they were before."""
    is_sqlite = database.url.get_backend_name() == "sqlite"
    run_script(
        database, *(each.replace(" with time zone", "" if is_sqlite else " with time zone") for each in statements)
    )
    before = shape_of(database, schema)
    with database.engine().connect() as connection:
        upgrade(connection, schema=schema)
    build_indexes(database.engine().execution_options(schema_translate_map={None: schema}))
    return before


def test_the_host_gets_its_tables_back_and_they_can_be_adopted_again(empty_database: Database) -> None:
    before = adopt(empty_database, *HOST, ROW)
    adopted = shape_of(empty_database)
    dry = json.loads(run_on(empty_database, "release", "--dry-run", "--json").stdout)
    assert shape_of(empty_database) == adopted
    assert dry["revision"] == HEAD
    [traces] = [each for each in dry["tables"] if each["name"] == "provider_traces"]
    assert (traces["is_adopted"], traces["is_dropped"], traces["stays"]) == (True, False, [])
    assert {"run_id", "updated_at"} <= set(traces["columns"])
    assert len(traces["indexes"]) == 4
    refused = run_on(empty_database, "release")
    assert (refused.returncode, "--yes" in refused.stderr) == (2, True)
    done = run_on(empty_database, "release", "--yes")
    assert done.stdout.startswith(f"released, statements: {len(dry['statements'])},"), done.stderr
    after = shape_of(empty_database)
    assert {name: after[name] for name in before} == before
    assert after.keys() - before.keys() == set(NAMED)
    assert run_on(empty_database, "release", "--yes").stdout.startswith("nothing to release\n")
    with empty_database.engine().connect() as connection:
        assert current(connection) is None
        upgrade(connection)
    build_indexes(empty_database.engine())
    assert shape_of(empty_database) == adopted
    release(empty_database.engine(), drop_tables=NAMED)
    assert shape_of(empty_database) == before


def test_a_table_that_a_migration_created_goes_only_if_it_is_named(database: Database) -> None:
    store(database.engine(), [a_trace(1)])
    report = release(database.engine())
    assert {table.name for table in report.tables if not table.is_dropped} == OUR_TABLES
    assert row_counts(database.engine()) == (1, 0, 0)
    assert VERSION_TABLE not in shape_of(database)
    with pytest.raises(InvalidArgumentError, match="drop_tables"):
        release(database.engine(), drop_tables=["alembic_version"])
    done = run_on(
        database, "release", "--yes", *(part for name in sorted(OUR_TABLES) for part in ("--drop-table", name))
    )
    assert "provider_traces: went with its rows" in done.stdout
    assert shape_of(database) == {}


def test_an_adopted_table_is_never_dropped(empty_database: Database) -> None:
    adopt(empty_database, *HOST, ROW)
    adopted = shape_of(empty_database)
    refused = run_on(empty_database, "release", "--yes", "--drop-table", "provider_traces")
    assert "leave its name out of --drop-table" in failure_of(refused)
    assert shape_of(empty_database) == adopted


def test_packed_traces_are_returned_first(database: Database) -> None:
    engine = database.engine()
    store_packed(engine, [a_trace(1), a_trace(2)])
    for names in ((), NAMED):
        with pytest.raises(MaintenanceError, match="provider-trace-store unpack"):
            release(engine, drop_tables=names, dry_run=not names)
    assert VERSION_TABLE in shape_of(database)
    unpack(engine)
    release(engine, drop_tables=NAMED)
    assert set(shape_of(database)) == {"provider_traces"}


def test_a_column_stays_that_an_index_of_the_host_uses_and_all_stay_on_request(empty_database: Database) -> None:
    adopt(empty_database, *HOST, ROW)
    run_script(
        empty_database, "CREATE INDEX hosts_run ON provider_traces (run_id)", "UPDATE provider_traces SET source = 's'"
    )
    kept = release(empty_database.engine(), keep_columns=True, dry_run=True)
    assert not any("COLUMN" in statement for statement in kept.statements)
    release(empty_database.engine())
    columns, indexes, _ = shape_of(empty_database)["provider_traces"]
    assert ("run_id" in dict(columns), "source" in dict(columns)) == (True, False)
    assert indexes == ["hosts_agent", "hosts_run"]


@pytest.mark.every_server
def test_partitioned_tables_of_another_schema(empty_postgres: Database) -> None:
    before = adopt(
        empty_postgres,
        "CREATE SCHEMA traces",
        f"CREATE TABLE traces.provider_traces ({COLUMNS}) PARTITION BY HASH (id)",
        "CREATE TABLE traces.one PARTITION OF traces.provider_traces FOR VALUES WITH (MODULUS 2, REMAINDER 0)",
        "CREATE TABLE traces.two PARTITION OF traces.provider_traces FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
        ROW.replace("provider_traces", "traces.provider_traces"),
        schema="traces",
    )
    named = [f"--drop-table={name}" for name in NAMED]
    done = run_on(empty_postgres, "release", "--yes", "--schema", "traces", *named)
    assert done.returncode == 0, done.stderr
    assert shape_of(empty_postgres, "traces") == before


def test_a_lock_is_waited_for_in_short_tries_and_a_killed_command_goes_on(empty_postgres: Database) -> None:
    before = adopt(empty_postgres, *HOST, ROW)
    environment = os.environ | {VARIABLE: empty_postgres.url.render_as_string(hide_password=False)}
    arguments = [sys.executable, "-m", "provider_trace_store", "release", "--yes", "--lock-timeout", "0"]
    locks = "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE datname = current_database() AND "

    def has_locks(condition: str) -> bool:
        with empty_postgres.engine().connect() as looker:
            return bool(looker.scalar(text(locks + condition)))

    with empty_postgres.engine().connect() as reader:
        reader.execute(text("SELECT count(*) FROM provider_traces"))
        # The index of the first statement is dropped when the reader has ended.
        with subprocess.Popen(arguments, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as command:
            wait_until(lambda: has_locks("NOT granted") or command.poll() is not None)
            command.send_signal(signal.SIGKILL)
            command.communicate()
    wait_until(lambda: not has_locks("(locktype = 'advisory' OR NOT granted)"))
    with empty_postgres.engine().connect() as writer:
        writer.execute(text(f"SELECT * FROM {VERSION_TABLE}"))
        with pytest.raises(MigrationLockError, match="could not acquire a table lock"):
            release(empty_postgres.engine(), lock_timeout=0.05, tries=2)
    with empty_postgres.engine().connect() as connection:
        assert current(connection) == HEAD
    release(empty_postgres.engine(), drop_tables=NAMED)
    assert shape_of(empty_postgres) == before
