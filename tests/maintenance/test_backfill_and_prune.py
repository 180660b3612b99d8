"""Backfill copies the metadata of full traces; prune deletes what is too old, and no trace is half deleted."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from provider_trace_store import MaintenanceError, ProviderTraceRepository
from provider_trace_store.maintenance import backfill, backfilling, prune, pruning, verify_packs, walk
from provider_trace_store.tables.kinds import FULL
from tests.support.commands import failure_of, run_on
from tests.support.constants import ORG, PATIENCE
from tests.support.packed_tables import row_counts, store, store_packed
from tests.support.paths import ROOT
from tests.support.traces import a_trace, every_field
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from provider_trace_store import ProviderTrace
    from provider_trace_store.maintenance.progress import Progress
    from tests.support.servers import Database

AGE = timedelta(days=30)
SHARED = (
    "id, step_id, agent_id, CAST(agent_tags AS TEXT), call_type, run_id, source, org_id, user_id, created_at, "
    "updated_at, is_deleted, _created_by_id, _last_updated_by_id, organization_id"
)


def aged(first: int, *days: int) -> list[ProviderTrace]:
    """Return traces of these ages, in days."""
    now = datetime.now(UTC)
    return [every_field(first + number, created_at=now - timedelta(days=day)) for number, day in enumerate(days)]


def stored(database: Database, table: str) -> list[Any]:
    with database.engine().connect() as connection:
        return list(connection.execute(text(f"SELECT {SHARED} FROM {table} ORDER BY id")))


def run_sql(database: Database, *statements: str) -> None:
    with database.engine().begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


def test_backfill_copies_each_field_once_and_keeps_the_mark_of_a_deletion(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backfilling, "_BATCH", 2)
    engine, traces = database.engine(), aged(0, 1, 2, 3, 40, 41)
    store(engine, traces)
    store(engine, aged(10, 5), "another")
    with Session(engine) as session:
        ProviderTraceRepository(session, organization_id=ORG).delete(traces[1].id)
        session.commit()
    assert backfill(engine, dry_run=True).traces == 6
    recent = backfill(engine, since=datetime.now(UTC) - AGE, organization_id=ORG)
    assert (recent.traces, recent.copied, recent.already) == (3, 3, 0)
    seen: list[Progress] = []
    report = backfill(engine, on_progress=seen.append)
    assert (report.traces, report.copied, report.already, report.undated) == (6, 3, 3, 0)
    assert stored(database, "provider_trace_metadata") == stored(database, "provider_traces")
    assert backfill(engine).copied == 0
    positions = [each.resume_at for each in seen if each.resume_at]
    assert backfill(engine, resume_at=positions[-1]).traces < 3
    with Session(engine) as session:
        assert ProviderTraceRepository(session, organization_id=ORG).get_metadata(traces[1].id) is None


def test_rows_of_one_moment_and_rows_far_apart_are_in_batches(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (backfilling, pruning):
        monkeypatch.setattr(module, "_BATCH", 2)
    monkeypatch.setattr(walk, "_LARGEST", 1)
    monkeypatch.setattr(walk, "_GROUP", 2)
    engine, old = database.engine(), datetime(1990, 1, 1, 1, 2, 3, 4, tzinfo=UTC)
    traces = [a_trace(number, created_at=old) for number in range(5)]
    traces += [a_trace(year, created_at=datetime(year, 1, 2, tzinfo=UTC)) for year in (1970, 2400)]
    store(engine, traces)
    for number in range(1, 6):
        store(engine, [a_trace(10 * number, created_at=old)], f"org-0{number}")
    seen: list[Progress] = []
    assert backfill(engine, on_progress=seen.append).copied == 12
    assert stored(database, "provider_trace_metadata") == stored(database, "provider_traces")
    assert max(after - before for before, after in pairwise([0, *(each.done for each in seen)])) <= 2
    for each in seen:
        if each.resume_at:
            assert backfill(engine, resume_at=each.resume_at).traces == 12 - each.done
    full = prune(engine, older_than=AGE).full
    assert full is not None
    assert (full.rows, row_counts(engine)) == (11, (1, 12, 0))


def test_a_trace_whose_metadata_has_another_date_is_not_copied(database: Database) -> None:
    engine = database.engine()
    store(engine, [a_trace(1)])
    run_sql(
        database,
        "INSERT INTO provider_trace_metadata (id, created_at, organization_id, is_deleted) "
        "SELECT id, '2020-01-01 00:00:00.000000+00', organization_id, is_deleted FROM provider_traces",
    )
    assert (backfill(engine).already, row_counts(engine)) == (1, (1, 1, 0))


def test_traces_without_a_date_stay_and_are_counted(postgres: Database) -> None:
    engine = postgres.engine()
    store(engine, aged(0, 40, 41))
    run_sql(
        postgres,
        "ALTER TABLE provider_traces ALTER COLUMN created_at DROP NOT NULL",
        "UPDATE provider_traces SET created_at = NULL WHERE id = (SELECT min(id) FROM provider_traces)",
    )
    report = backfill(engine)
    assert (report.copied, report.undated) == (1, 1)
    pruned = prune(engine, older_than=AGE).full
    assert pruned is not None
    assert (pruned.rows, pruned.undated, row_counts(engine)) == (1, 1, (1, 1, 0))


def test_prune_has_an_age_for_bodies_and_one_for_metadata(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "_BATCH", 2)
    engine = database.engine()
    store(engine, aged(0, 1, 40, 41, 42, 43, 44))
    store(engine, aged(10, 40), "another")
    backfill(engine)
    dry = prune(engine, older_than=AGE, organization_id=ORG, dry_run=True).full
    assert dry is not None
    assert (dry.rows, len(dry.days), row_counts(engine)) == (5, 5, (7, 7, 0))
    full = prune(engine, older_than=AGE, organization_id=ORG).full
    assert full is not None
    assert (full.rows, row_counts(engine)) == (5, (2, 7, 0))
    metadata = prune(engine, older_than=timedelta(days=42, hours=12), table="metadata", vacuum=True).metadata
    assert metadata is not None
    assert (metadata.rows, row_counts(engine)) == (2, (2, 5, 0))


def test_the_metadata_of_a_packed_trace_stays_as_long_as_its_body(database: Database) -> None:
    engine = database.engine()
    store_packed(engine, aged(0, 40, 41))
    store_packed(engine, aged(10, 40, 1, 2, 3))
    metadata = prune(engine, older_than=AGE, table="metadata").metadata
    assert metadata is not None
    assert (metadata.rows, metadata.packed, row_counts(engine)) == (0, 3, (0, 6, 2))
    report = prune(engine, older_than=AGE, table="all")
    assert report.packs is not None
    assert report.metadata is not None
    assert (report.packs.traces, report.metadata.rows, report.metadata.packed) == (2, 2, 1)
    assert row_counts(engine) == (0, 4, 1)
    assert verify_packs(engine).problems == 0


def test_a_table_without_the_index_is_refused(postgres: Database) -> None:
    run_sql(postgres, "DROP INDEX ix_provider_traces_organization_id_created_at_id")
    with pytest.raises(MaintenanceError, match="provider-trace-store index"):
        backfill(postgres.engine())


@pytest.mark.pgbouncer
def test_the_commands_say_what_they_did(database: Database) -> None:
    store(database.engine(), aged(0, 1, 40))
    assert run_on(database, "backfill").stdout.startswith("copied the metadata of 2 of 2 traces")
    done = run_on(database, "prune", "--older-than", "30d", "--dry-run")
    assert done.stdout.startswith("would delete 1 full traces\n  2"), done.stderr
    report = json.loads(run_on(database, "prune", "--older-than", "30d", "--table", "all", "--json").stdout)
    assert (report["full"]["rows"], report["metadata"]["rows"], report["packs"]["traces"]) == (1, 1, 0)
    assert "must be a position" in failure_of(run_on(database, "backfill", "--resume-at", "[]"))
    assert run_on(database, "prune").returncode == 2
    assert run_on(database, "prune", "--older-than", "30d", "--table", "what").returncode == 2


def test_the_commands_of_the_page_run(database: Database) -> None:
    page = (ROOT / "docs" / "retention.md").read_text("utf-8")
    lines = [line for block in page.split("```sh\n")[1:] for line in block.split("```")[0].splitlines()]
    assert len(lines) >= 5
    for line in lines:
        done = run_on(database, *shlex.split(line)[1:])
        assert done.returncode == 0, done.stderr


def test_ctrl_c_names_the_command_that_goes_on_behind_the_last_batch(database: Database) -> None:
    engine = database.engine()
    store(engine, aged(0, *range(1, 8)))
    url = database.url.render_as_string(hide_password=False)
    code = "from provider_trace_store.__main__ import main; from provider_trace_store.maintenance import backfilling; "
    code += "backfilling._BATCH = 2; main()"
    arguments = ["backfill", "--resume-at=" + json.dumps([ORG, "2001-01-01 00:00:00+00:00"]), "--pause", "60"]
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments, "--url", url], cwd=ROOT, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_until(lambda: row_counts(engine)[1] > 0)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 130
    *again, option, position = shlex.split(said.rpartition("Go on with: provider-trace-store ")[2])
    assert again == ["backfill", "--pause", "60", "--url", "URL"]
    assert option == "--resume-at"
    done = run_on(database, "backfill", option, position)
    assert done.stdout.startswith("copied the metadata of 5 of 5 traces; 0 had"), done.stderr
    assert row_counts(engine) == (7, 7, 0)


@pytest.mark.parametrize("command", ["backfill", "prune"])
def test_a_killed_command_goes_on(database: Database, command: str) -> None:
    engine, rows = database.engine(), 5_500
    store(engine, aged(0, 40))
    names = [column.name for column in FULL.table.columns]
    values = ["id || '-' || n" if name == "id" else name for name in names]
    run_sql(
        database,
        f"WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {rows}) "
        f"INSERT INTO provider_traces ({', '.join(names)}) SELECT {', '.join(values)} FROM provider_traces, numbers",
    )
    url = database.url.render_as_string(hide_password=False)
    arguments = [command, *(("--older-than", "30d") if command == "prune" else ()), "--pause", "60", "--url", url]
    with subprocess.Popen([sys.executable, "-m", "provider_trace_store", *arguments], cwd=ROOT) as process:
        before = row_counts(engine)
        wait_until(lambda: row_counts(engine) != before)
        assert process.poll() is None
        process.kill()
    full, metadata, _ = row_counts(engine)
    assert 0 < (metadata if command == "backfill" else full) < rows

    def went_on() -> bool:
        try:
            _ = backfill(engine) if command == "backfill" else prune(engine, older_than=AGE, table="full")
        except MaintenanceError:  # the server has not noticed yet that the client is gone
            return False
        return True

    wait_until(went_on)
    assert row_counts(engine) == ((rows + 1, rows + 1, 0) if command == "backfill" else (0, 0, 0))
    if command == "backfill":
        assert stored(database, "provider_trace_metadata") == stored(database, "provider_traces")
