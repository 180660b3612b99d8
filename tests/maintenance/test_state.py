"""The state of the tables, and the indexes that are built while the tables are in use."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from threading import Lock
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from provider_trace_store import ProviderTraceRepository, ProviderTraceStoreError, __version__
from provider_trace_store.cli import app
from provider_trace_store.maintenance import build_indexes, status
from provider_trace_store.spool.rejects import Reject, Rejects
from tests.support.batches import run_script
from tests.support.commands import failure_of, run_on
from tests.support.constants import MOMENT, ORG, PATIENCE
from tests.support.faults import partition_by_month
from tests.support.paths import ROOT
from tests.support.traces import every_field
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.servers import Database

INDEX = "ix_provider_traces_run_id"


def scalar(database: Database, query: str) -> Any:
    with database.engine().connect() as connection:
        return connection.scalar(text(query))


def run_on_its_own(database: Database, *statements: str) -> None:
    """Run statements that no transaction can have, such as DROP INDEX CONCURRENTLY."""
    with database.engine(isolation_level="AUTOCOMMIT").connect() as connection:
        for statement in statements:
            connection.execute(text(statement))


def test_status_has_rows_and_dates_and_needs_nothing(database: Database) -> None:
    for organization in (ORG, "org-2"):
        with Session(database.engine()) as session:
            traces = [every_field(n) for n in range(3)] if organization == ORG else [every_field(9)]
            ProviderTraceRepository(session, organization_id=organization).create_many(traces)
            session.commit()
    report = status(database.engine())
    full, metadata, packs = report.tables
    assert (full.name, full.rows, full.dates.source) == ("provider_traces", 4, "index")
    assert full.dates.oldest is not None
    assert (metadata.rows, packs.rows, metadata.dates.oldest) == (0, 0, None)
    assert report.needs == ()
    assert json.loads(json.dumps(report.as_json()))["revision"] == report.head
    done = run_on(database, "status")
    assert done.returncode == 0, done.stderr
    assert "nothing needs the operator" in done.stdout


def test_tables_that_were_never_migrated_need_the_operator(empty_database: Database) -> None:
    done = run_on(empty_database, "status")
    assert done.returncode == 3
    assert "run `provider-trace-store migrate upgrade`" in done.stdout
    assert "migrate upgrade" in failure_of(run_on(empty_database, "index"))


def test_a_missing_index_is_built(database: Database) -> None:
    run_script(database, f"DROP INDEX {INDEX}")
    assert run_on(database, "status").returncode == 3
    assert re.search(rf"^CREATE INDEX .*{INDEX}.*;$", run_on(database, "index", "--dry-run").stdout, re.MULTILINE)
    assert run_on(database, "index").stdout.startswith(f"built {INDEX}, ")
    assert run_on(database, "index").stdout == "no index is missing\n"
    assert run_on(database, "status").returncode == 0
    assert run_on(database, "migrate", "downgrade", "0002").returncode == 0
    kept = "pg_class WHERE relname" if database.backend == "postgresql" else "sqlite_master WHERE name"
    assert scalar(database, f"SELECT count(*) FROM {kept} = '{INDEX}'") == 0


def test_invalid_and_duplicate_indexes_have_statements_that_mend_them(postgres: Database) -> None:
    run_script(
        postgres,
        "CREATE INDEX twin ON provider_traces (run_id)",
        "CREATE INDEX hosts_own ON provider_traces (user_id)",
        f"UPDATE pg_index SET indisvalid = false WHERE indexrelid IN ('hosts_own'::regclass, '{INDEX}'::regclass)",
        "DROP INDEX ix_provider_trace_metadata_step_id",
    )
    report = status(postgres.engine())
    found = {(index.name, index.problem) for index in report.indexes}
    # `twin` serves in place of the invalid one.
    missing = ("ix_provider_trace_metadata_step_id", "missing")
    assert found == {missing, (INDEX, "invalid"), ("hosts_own", "invalid")}
    for index in report.indexes:
        run_on_its_own(postgres, *index.statements)
    assert status(postgres.engine()).needs == ()
    run_script(postgres, f"CREATE INDEX {INDEX} ON provider_traces (run_id)")
    (duplicate,) = status(postgres.engine()).indexes
    assert (duplicate.name, duplicate.problem) == ("twin", "duplicate")


def test_indexes_of_a_host_count_under_their_own_names(empty_postgres: Database) -> None:
    run_script(
        empty_postgres,
        "CREATE TABLE provider_traces (id varchar PRIMARY KEY, request_json json NOT NULL, "
        "response_json json NOT NULL, step_id varchar, run_id varchar, agent_id varchar, "
        "created_at timestamptz DEFAULT now(), is_deleted boolean NOT NULL DEFAULT false, "
        "organization_id varchar NOT NULL)",
        # An empty table would get all indexes at once.
        "INSERT INTO provider_traces (id, request_json, response_json, organization_id) VALUES ('a', '{}', '{}', 'o')",
        "CREATE INDEX hosts_page ON provider_traces (organization_id, created_at, id)",
        "CREATE INDEX hosts_step ON provider_traces (step_id)",
        "CREATE INDEX hosts_step_again ON provider_traces (step_id)",
        "CREATE INDEX hosts_broken ON provider_traces (run_id)",
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'hosts_broken'::regclass",
    )
    assert run_on(empty_postgres, "migrate", "upgrade").returncode == 0
    engine = empty_postgres.engine()
    found = {index.name: index.problem for index in status(engine).indexes if index.table == "provider_traces"}
    duplicate = next(name for name, problem in found.items() if problem == "duplicate")
    assert duplicate.startswith("hosts_step")
    missing = {INDEX, "ix_provider_traces_agent_id_created_at"}
    assert found == {**dict.fromkeys(missing, "missing"), "hosts_broken": "invalid", duplicate: "duplicate"}
    assert run_on(empty_postgres, "index").stdout.startswith(f"built {', '.join(sorted(missing))}, time: ")
    # The host's own ones are left to the operator. The broken one serves again, and the one built in its place, too.
    assert run_on(empty_postgres, "status").returncode == 3
    for left in ({"hosts_broken": "invalid", duplicate: "duplicate"}, {"hosts_broken": "duplicate"}):
        indexes = status(engine).indexes
        assert {index.name: index.problem for index in indexes} == left
        for index in indexes:
            run_on_its_own(empty_postgres, *index.statements)
    assert status(engine).needs == ()


@pytest.mark.every_server
def test_a_partitioned_table_gets_its_indexes_partition_by_partition(postgres: Database) -> None:
    partition_by_month(postgres, "2026-03-01", "2026-04-01")
    run_script(
        postgres,
        "DROP TABLE old",
        f"INSERT INTO provider_trace_metadata (id, organization_id, created_at) VALUES ('a', 'b', '{MOMENT}')",
    )
    assert len(build_indexes(postgres.engine()).built) == 5
    report = status(postgres.engine())
    assert report.needs == ()
    metadata = report.tables[1]
    assert (metadata.partitions, metadata.rows, metadata.dates.oldest) == (1, 1, MOMENT)
    assert scalar(postgres, "SELECT count(*) FROM pg_index WHERE NOT indisvalid") == 0


def test_a_killed_build_is_waited_for_and_a_second_command_names_the_first(postgres: Database) -> None:
    run_script(postgres, f"DROP INDEX {INDEX}")
    command = (sys.executable, "-m", "provider_trace_store", "index")
    url = postgres.url.render_as_string(hide_password=False)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PROVIDER_TRACE_STORE_DATABASE_URL": url}
    building = "SELECT count(*) FROM pg_stat_progress_create_index"

    def begun() -> subprocess.Popen[str]:
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    # A build waits for transactions that have written to the table.
    with postgres.engine().connect() as busy:
        busy.execute(text("LOCK TABLE provider_traces IN ROW EXCLUSIVE MODE"))
        with begun() as first:
            wait_until(lambda: scalar(postgres, building) == 1)
            assert "another command of maintenance runs on these tables: pid " in failure_of(run_on(postgres, "index"))
            first.send_signal(signal.SIGINT)
            said = first.communicate(timeout=PATIENCE)[1]
        assert first.returncode == 130
        assert "provider-trace-store index" in said
        # A valid name in the catalog, and no valid index: the cancelled statement left it.
        assert scalar(postgres, f"SELECT indisvalid FROM pg_index WHERE indexrelid = '{INDEX}'::regclass") is False
        # The invalid one is dropped first, which waits, too.
        with begun() as second:
            wait_until(
                lambda: scalar(postgres, "SELECT count(*) FROM pg_locks WHERE NOT granted AND pid <> pg_backend_pid()")
            )
            second.kill()
            second.communicate(timeout=PATIENCE)
    wait_until(
        lambda: scalar(postgres, "SELECT count(*) FROM pg_stat_activity WHERE query ILIKE '%concurrently%'") <= 1
    )
    done = run_on(postgres, "index")
    assert done.returncode == 0, done.stderr
    assert status(postgres.engine()).needs == ()


def test_rejected_traces_of_a_spool_need_the_operator(database: Database, tmp_path: Path) -> None:
    assert run_on(database, "status", "--spool", str(tmp_path)).returncode == 0
    error = ProviderTraceStoreError("refused")
    Rejects(tmp_path, Lock(), 1 << 20).add([Reject("provider_traces", {"id": "x"}, error)])
    done = run_on(database, "status", "--spool", str(tmp_path))
    assert done.returncode == 3
    assert "1 rejected traces" in done.stdout
    assert "spool must be a directory" in failure_of(run_on(database, "status", "--spool", str(tmp_path / "nothing")))


def test_each_command_has_help_with_an_example(postgres: Database) -> None:
    commands = [command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands]
    assert "prune" in commands
    for command in ("migrate upgrade", "migrate downgrade", "migrate current", "migrate history", *commands):
        shown = " ".join(run_on(postgres, *command.split(), "--help").stdout.split())
        assert re.search(rf"Example[^:]*: provider-trace-store {command}", shown), command
    assert run_on(postgres, "--version").stdout == f"provider-trace-store {__version__}\n"


def test_a_narrow_terminal_gets_one_table_below_the_other_in_any_locale(postgres: Database) -> None:
    url = postgres.url.render_as_string(hide_password=False)
    environment = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], "COLUMNS": "40", "PYTHONIOENCODING": "ascii"}
    for arguments in (("status", "--url", url), ("status", "--help")):
        done = subprocess.run(
            (sys.executable, "-m", "provider_trace_store", *arguments),
            env={**environment, "LC_ALL": "C", "NO_COLOR": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.isascii()
        assert max(map(len, done.stdout.splitlines())) <= 50


def test_the_commands_of_the_page_run(postgres: Database) -> None:
    page = (ROOT / "docs" / "commands.md").read_text("utf-8")
    lines = [
        line
        for block in re.findall(r"^```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
        for line in block.splitlines()
    ]
    assert len(lines) == 6
    for line in lines:
        name, *arguments = shlex.split(line)
        assert name == "provider-trace-store"
        assert run_on(postgres, *arguments).returncode == 0, line
