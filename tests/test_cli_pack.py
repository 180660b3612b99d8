"""The command `provider-trace-store pack`, as an operator runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from provider_trace_store import ProviderTraceRecord, ProviderTraceRepository
from tests.support.commands import failure_of, run_on
from tests.support.constants import ORG
from tests.support.paths import ROOT
from tests.support.traces import every_field
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from tests.support.servers import Database


def run(database: Database, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_on(database, "pack", *arguments)


def store(database: Database, calls: int = 4) -> None:
    start = datetime.now(UTC) - timedelta(days=10)
    traces = [every_field(number, created_at=start + timedelta(seconds=number)) for number in range(calls)]
    with Session(database.engine()) as session:
        ProviderTraceRepository(session, organization_id=ORG).create_many(traces)
        session.commit()


def rows_in(database: Database) -> int:
    with Session(database.engine()) as session:
        return session.scalar(select(func.count()).select_from(ProviderTraceRecord)) or 0


@pytest.mark.pgbouncer
def test_pack_says_what_it_did_and_what_gives_the_space_back(database: Database) -> None:
    store(database)
    done = run(database)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("packed 4 traces into 1 packs: ")
    assert "VACUUM" in lines[-1]
    assert "--vacuum" in lines[-1]
    assert rows_in(database) == 0
    assert run(database).stdout.startswith("packed 0 traces")


def test_json_is_one_object(database: Database) -> None:
    store(database)
    done = run(database, "--json", "--vacuum", "--rate", "100", "--pause", "0.001")
    report = json.loads(done.stdout)
    assert (report["traces"], report["packs"], report["space"]) == (4, 1, None)
    assert set(report["skipped"]) == {"changed", "locked", "undated", "unreadable", "refused"}


def test_options_decide_which_traces_are_packed(database: Database) -> None:
    store(database)
    assert json.loads(run(database, "--json", "--older-than", "30d").stdout)["traces"] == 0
    assert json.loads(run(database, "--json", "--idle", "11d").stdout)["traces"] == 0
    assert json.loads(run(database, "--json", "--organization", "org-2").stdout)["traces"] == 0
    assert json.loads(run(database, "--json", "--dry-run").stdout)["traces"] == 4
    assert run(database, "--dry-run").stdout.startswith("would pack about 4 traces")
    assert rows_in(database) == 4
    assert json.loads(run(database, "--json", "--older-than", "0d", "--idle", "12h").stdout)["traces"] == 4


@pytest.mark.parametrize(
    "arguments", [("--older-than", "7"), ("--idle", "-1d"), ("--rate", "0"), ("--pause", "-1"), ("--what",), ("more",)]
)
def test_wrong_usage_is_an_error_of_its_own(database: Database, arguments: tuple[str, ...]) -> None:
    store(database)
    assert run(database, *arguments).returncode == 2
    assert rows_in(database) == 4


def test_refusal_is_one_line(database: Database, empty_database: Database) -> None:
    with database.engine().begin() as connection:
        connection.execute(text("CREATE TABLE ratings (trace VARCHAR REFERENCES provider_traces (id))"))
    assert "foreign keys of ratings" in failure_of(run(database))
    assert "provider_traces" in failure_of(run(empty_database))


def test_schema_is_that_of_the_option(postgres: Database) -> None:
    store(postgres)
    assert failure_of(run(postgres, "--schema", "nowhere"))
    assert json.loads(run(postgres, "--schema", "public", "--json").stdout)["traces"] == 4


def test_ctrl_c_ends_after_a_transaction_and_says_how_to_go_on(database: Database) -> None:
    start = datetime.now(UTC) - timedelta(days=10)
    traces = [every_field(n, run_id=None, agent_id=f"agent-{n}", created_at=start) for n in range(40)]
    with Session(database.engine()) as session:
        ProviderTraceRepository(session, organization_id=ORG).create_many(traces)
        session.commit()
    url = database.url.render_as_string(hide_password=False)
    command = (sys.executable, "-m", "provider_trace_store", "pack", "--pause", "0.5", "--url", url)
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    ) as process:
        assert process.stderr is not None
        wait_until(lambda: rows_in(database) < 40)
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
    assert process.returncode == 130
    assert "provider-trace-store pack --pause 0.5 --url URL" in said
    left = rows_in(database)
    assert 0 < left < 40
    assert json.loads(run(database, "--json").stdout)["traces"] == left


def test_help_has_an_example(database: Database) -> None:
    shown = " ".join(run(database, "--help").stdout.split())
    assert "provider-trace-store pack --older-than 7d --rate 20 --vacuum" in shown
    for option in ("--older-than", "--idle", "--organization", "--rate", "--pause", "--vacuum", "--dry-run", "--json"):
        assert option in shown
