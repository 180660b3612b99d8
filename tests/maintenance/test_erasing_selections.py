"""Erasure of a tenant, a user, an agent or a run: their rows are gone everywhere, all others stay byte for byte."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from datetime import timedelta
from select import select as until_readable
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import select, text, update
from sqlalchemy.orm import Session

from provider_trace_store import ProviderTraceRepository
from provider_trace_store.errors import InvalidArgumentError, MaintenanceError
from provider_trace_store.maintenance import erase_matching, erasing_selections, transactions, verify_packs
from provider_trace_store.tables.kinds import FULL, METADATA
from tests.support.batches import run_script
from tests.support.commands import VARIABLE, run_on
from tests.support.constants import MOMENT, ORG, PATIENCE, SECRET
from tests.support.faults import partition_by_month
from tests.support.packed_tables import flip, row_counts, store, store_packed
from tests.support.paths import ROOT
from tests.support.traces import a_trace, trace_id

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from provider_trace_store import ProviderTrace
    from tests.support.servers import Database

_OTHER = "another"


def _traces(first: int, count: int = 6) -> list[ProviderTrace]:
    """Return traces of two users, agents and runs, two of them at each moment."""
    return [
        a_trace(
            number,
            user_id=f"user-{number % 2}",
            agent_id=f"agent-{number % 2}",
            run_id=f"run-{number % 2}",
            created_at=MOMENT + timedelta(seconds=number // 2),
        )
        for number in range(first, first + count)
    ]


def _fill(engine: Engine) -> None:
    """Store full traces, one of them deleted and one without a date; packed ones; metadata; and another tenant's."""
    store(engine, _traces(0))
    for parity in (0, 1):
        store_packed(engine, _traces(10)[parity::2])
    with Session(engine) as session:
        ProviderTraceRepository(session, organization_id=ORG, metadata_only=True).create_many(_traces(20))
        ProviderTraceRepository(session, organization_id=ORG).delete(trace_id(1))
        session.commit()
    store(engine, _traces(30), _OTHER)
    store_packed(engine, _traces(40)[::2], _OTHER)


def _left(engine: Engine) -> set[tuple[str, str]]:
    with engine.connect() as connection:
        return {
            (row.organization_id, row.id)
            for kind in (FULL, METADATA)
            for row in connection.execute(select(kind.table.c.organization_id, kind.table.c.id))
        }


@pytest.fixture(autouse=True)
def _small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasing_selections, "_PAGE", 4)
    monkeypatch.setattr(erasing_selections, "_BATCH", 2)


@pytest.mark.parametrize(
    "selection", [{}, {"user_id": "user-1"}, {"agent_id": "agent-1"}, {"run_id": "run-1"}, {"trace_id": trace_id(11)}]
)
def test_what_matches_is_gone_and_nothing_else(database: Database, selection: dict[str, Any]) -> None:
    _check_erasure(database.engine(), selection)


@pytest.mark.parametrize("selection", [{}, {"run_id": "run-1"}])
def test_what_matches_is_gone_from_all_partitions(postgres: Database, selection: dict[str, Any]) -> None:
    partition_by_month(postgres, "2026-03-01", "2026-03-29 01:30:11+00")
    run_script(
        postgres,
        "CREATE TABLE the_next_partition PARTITION OF provider_trace_metadata "
        "FOR VALUES FROM ('2026-03-29 01:30:11+00') TO ('2026-04-01')",
    )
    _check_erasure(postgres.engine(), selection)


def _check_erasure(engine: Engine, selection: dict[str, Any]) -> None:
    _fill(engine)
    before = _left(engine)
    numbers = [*range(6), *range(10, 16), *range(20, 26)]
    if "trace_id" in selection:
        numbers = [11]
    elif selection:
        numbers = [number for number in numbers if number % 2]
    dry = erase_matching(engine, organization_id=ORG, **selection, dry_run=True)
    assert _left(engine) == before
    report = erase_matching(engine, organization_id=ORG, **selection)
    assert (report.full_rows, report.metadata_rows) == (dry.full_rows, dry.metadata_rows)
    assert report.full_rows + report.metadata_rows == len(numbers)
    assert _left(engine) == before - {(ORG, trace_id(number)) for number in numbers}
    assert verify_packs(engine).problems == 0
    assert SECRET not in json.dumps(report.as_json())
    again = erase_matching(engine, organization_id=ORG, **selection)
    assert (again.full_rows, again.metadata_rows, again.packs_rewritten, again.packs_dropped) == (0, 0, 0, 0)


def test_many_traces_of_a_pack_are_one_rewrite(database: Database) -> None:
    engine = database.engine()
    store_packed(engine, _traces(0, 40))
    report = erase_matching(engine, organization_id=ORG, user_id="user-1")
    assert (report.metadata_rows, report.packs_rewritten, report.packs_dropped) == (20, 1, 0)
    assert row_counts(engine) == (0, 20, 1)


def test_rows_without_a_readable_date(postgres: Database) -> None:
    engine = postgres.engine()
    store(engine, _traces(0, 9))
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE provider_traces ALTER created_at DROP NOT NULL"))
        connection.execute(text("UPDATE provider_traces SET created_at = NULL WHERE id > :id"), {"id": trace_id(3)})
        connection.execute(
            text("UPDATE provider_traces SET created_at = '-infinity' WHERE id = :id"), {"id": trace_id(0)}
        )
    assert erase_matching(engine, organization_id=ORG).full_rows == 9


@pytest.mark.parametrize("column", ["data", "directory"])
def test_a_damaged_pack_goes_with_its_tenant_and_stays_for_a_user(database: Database, column: str) -> None:
    engine = database.engine()
    flip(engine, store_packed(engine, _traces(0)), column)
    report = erase_matching(engine, organization_id=ORG, user_id="user-1")
    assert set(report.damaged) == {trace_id(number) for number in (1, 3, 5)}
    assert row_counts(engine) == (0, 6, 1)
    report = erase_matching(engine, organization_id=ORG)
    assert (report.metadata_rows, report.damaged) == (6, ())
    assert row_counts(engine) == (0, 0, 0)


def test_a_pack_without_rows_of_metadata_goes_with_its_tenant(database: Database) -> None:
    engine = database.engine()
    store_packed(engine, _traces(0))
    with engine.begin() as connection:
        connection.execute(METADATA.table.delete())
    assert erase_matching(engine, organization_id=ORG).packs_dropped == 1
    assert row_counts(engine) == (0, 0, 0)


def test_a_locked_row_is_waited_for(postgres: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transactions, "_TRIES", 2)
    monkeypatch.setattr(transactions, "_BETWEEN_TRIES", 0.01)
    engine = postgres.engine()
    store(engine, _traces(0))
    with engine.begin() as client:
        client.execute(update(FULL.table).where(FULL.table.c.id == trace_id(2)).values(source=SECRET))
        with pytest.raises(MaintenanceError, match="55P03") as raised:
            erase_matching(postgres.engine(), organization_id=ORG)
        assert SECRET not in str(raised.value)
    erase_matching(engine, organization_id=ORG)
    assert row_counts(engine) == (0, 0, 0)


@pytest.mark.parametrize(
    "wrong", [{"organization_id": ""}, {"organization_id": "\0"}, {"user_id": "u", "run_id": "r"}, {"run_id": ""}]
)
def test_an_invalid_selection_is_refused(database: Database, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError):
        erase_matching(database.engine(), **{"organization_id": ORG, **wrong})


def test_the_command(database: Database) -> None:
    engine = database.engine()
    _fill(engine)
    before = _left(engine)
    options = ("erase", "--organization", ORG, "--run", "run-1")
    assert run_on(database, *options).returncode == 2
    assert run_on(database, *options, "--yes", "--user", "user-1").returncode == 2
    assert "would erase 3 full and 6 metadata rows" in run_on(database, *options, "--dry-run").stdout
    assert _left(engine) == before
    result = run_on(database, *options, "--yes", "--json")
    assert result.returncode == 0
    assert json.loads(result.stdout)["metadata_rows"] == 6
    assert SECRET not in result.stdout + result.stderr
    assert len(_left(engine)) == len(before) - 9


def test_a_killed_command_goes_on(database: Database) -> None:
    engine = database.engine()
    store(engine, _traces(0, 450))
    url = database.url.render_as_string(hide_password=False)
    command = [sys.executable, "-m", "provider_trace_store", "erase", "--organization", ORG, "--yes"]
    with subprocess.Popen([*command, "--pause", "60"], env={**os.environ, VARIABLE: url}) as process:
        end = time.monotonic() + PATIENCE
        while row_counts(engine)[0] == 450:
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.02)
        process.kill()
    assert 0 < row_counts(engine)[0] < 450
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            erase_matching(engine, organization_id=ORG)
            break
        except MaintenanceError:  # The server has not noticed yet that the client is gone.
            assert time.monotonic() < deadline
    assert row_counts(engine) == (0, 0, 0)


def _read(terminal: int, until: bytes | None = None) -> bytes:
    """Return what a process shows, up to a text or to its end."""
    shown = b""
    with suppress(OSError):  # Linux reports the end of the process in this way
        while until is None or until not in shown:
            assert until_readable([terminal], [], [], PATIENCE)[0], shown
            if not (more := os.read(terminal, 4096)):
                break
            shown += more
    return shown


@pytest.mark.parametrize(("answer", "status", "left"), [(b"n\n", 1, 6), (None, 130, 6), (b"y\n", 0, 0)])
def test_a_terminal_is_asked_before_anything_is_erased(
    database: Database, answer: bytes | None, status: int, left: int
) -> None:
    engine = database.engine()
    store(engine, _traces(0))
    command = [sys.executable, "-m", "provider_trace_store", "erase", "--organization", ORG]
    environment = {**os.environ, VARIABLE: database.url.render_as_string(hide_password=False)}
    ours, terminal = pty.openpty()
    with subprocess.Popen(
        command, stdin=terminal, stdout=terminal, stderr=terminal, env=environment, cwd=ROOT
    ) as process:
        try:
            os.close(terminal)
            shown = _read(ours, until=b"for good?")
            if answer is None:
                process.send_signal(signal.SIGINT)
                # Python does not notice a signal that comes just before it begins to wait for a line.
                while not until_readable([ours], [], [], 5)[0]:
                    process.send_signal(signal.SIGINT)
            else:
                os.write(ours, answer)
            shown += _read(ours)
        except BaseException:
            process.kill()  # otherwise it would wait for an answer, and the test for it
            raise
    os.close(ours)
    assert process.returncode == status, shown
    assert b"would erase 6 full" in shown
    assert row_counts(engine)[0] == left


def test_the_commands_of_the_page_run(postgres: Database) -> None:
    page = (ROOT / "docs" / "erasure.md").read_text("utf-8")
    (block,) = re.findall(r"^```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    for line in block.splitlines():
        name, *arguments = shlex.split(line)
        assert name == "provider-trace-store"
        assert run_on(postgres, *arguments).returncode == 0, line
