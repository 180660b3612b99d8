"""Packing: every byte stays, no change by others is lost, and what cannot be packed stays in the table."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest
from sqlalchemy import event, text
from sqlalchemy.orm import Session

from provider_trace_store import MaintenanceError, ProviderTrace, ProviderTraceRepository, TableMissingError
from provider_trace_store.errors import InvalidArgumentError
from provider_trace_store.maintenance import PackReport, pack, packing
from provider_trace_store.maintenance.durations import parse_duration
from provider_trace_store.packs.format import PACKED_DOCUMENTS, PackBuilder
from provider_trace_store.packs.store import PACKS, documents_of
from provider_trace_store.tables.kinds import METADATA
from tests.support.constants import ORG, PATIENCE
from tests.support.paths import ROOT
from tests.support.traces import every_field, odd_traces
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import Connection, Engine

    from tests.support.servers import Database

OLD: Final = datetime.now(UTC).replace(microsecond=123456) - timedelta(days=30)
METADATA_COLUMNS: Final = [column.name for column in METADATA.table.columns if column.name != "pack_id"]


def a_run(run: str, calls: int, first: int, *, start: datetime = OLD, **fields: Any) -> list[ProviderTrace]:
    """Return the calls of a run; each repeats the conversation so far."""
    return [
        every_field(
            first + number,
            run_id=run,
            created_at=start + timedelta(seconds=number),
            request_json={"messages": [{"content": f"message {each} of {run}"} for each in range(number + 1)]},
            **fields,
        )
        for number in range(calls)
    ]


def store(
    engine: Engine, traces: Sequence[ProviderTrace], organization_id: str = ORG, *, metadata: bool = False
) -> None:
    with Session(engine) as session:
        ProviderTraceRepository(session, organization_id=organization_id, metadata_only=metadata).create_many(traces)
        session.commit()


def as_text(name: str) -> str:
    return f"CAST({name} AS TEXT)"


def snapshot(engine: Engine) -> dict[str, tuple[Any, ...]]:
    """Return each trace as it is stored, all columns, whether it is packed or not."""
    columns = ", ".join(as_text(name) for name in METADATA_COLUMNS)
    documents = ", ".join(as_text(name) for name in PACKED_DOCUMENTS)
    stored: dict[str, tuple[Any, ...]] = {}
    with engine.connect() as connection:
        for row in connection.execute(text(f"SELECT id, {columns}, {documents} FROM provider_traces")):
            stored[row[0]] = tuple(row[1:])
        packed = text(f"SELECT id, {columns} FROM provider_trace_metadata WHERE pack_id IS NOT NULL")
        found = documents_in(connection)
        for row in connection.execute(packed):
            assert row[0] not in stored, "a trace is in the table and in a pack"
            stored[row[0]] = (*row[1:], *(each if each is None else each.decode() for each in found.pop(row[0])))
    assert not found, "a pack has a trace without a row of metadata"
    return stored


def documents_in(connection: Connection) -> dict[str, Any]:
    rows = connection.execute(METADATA.table.select().where(METADATA.table.c.pack_id.is_not(None))).all()
    wanted: dict[Any, list[str]] = {}
    for row in rows:
        wanted.setdefault(row.pack_id, []).append(row.id)
    assert set(connection.scalars(PACKS.select().with_only_columns(PACKS.c.id))) == set(wanted)
    return dict(documents_of(connection, wanted))


def ids_in(engine: Engine, table: str = "provider_traces") -> set[str]:
    with engine.connect() as connection:
        return set(connection.scalars(text(f"SELECT id FROM {table}")))


def run_sql(engine: Engine, *statements: str) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


def between_read_and_transaction(monkeypatch: pytest.MonkeyPatch, action: Callable[[], object]) -> None:
    """Run an action once, after the bodies of the first pack were read and before its transaction."""
    finish = PackBuilder.finish
    done: list[int] = []

    def finish_after_action(builder: PackBuilder) -> Any:
        if not done:
            done.append(1)
            action()
        return finish(builder)

    monkeypatch.setattr(PackBuilder, "finish", finish_after_action)


@pytest.mark.every_server
def test_traces_are_packed_byte_for_byte(database: Database) -> None:
    engine = database.engine()
    traces = [*a_run("run-1", 5, 0), *a_run("run-2", 3, 100), *odd_traces()[:20]]
    store(engine, [trace for number, trace in enumerate(traces) if trace.id not in {t.id for t in traces[:number]}])
    before = snapshot(engine)
    report = pack(engine, older_than=timedelta(0), idle=timedelta(0))
    assert report.traces == len(before)
    assert not any(report.skipped.values())
    assert ids_in(engine) == set()
    assert snapshot(engine) == before
    assert pack(engine, older_than=timedelta(0), idle=timedelta(0)).traces == 0


def test_text_of_other_programs_is_packed_as_it_is(database: Database) -> None:
    engine = database.engine()
    store(engine, a_run("run-1", 3, 0))
    odd = """{ "b" : 1.0,  "a": "\\u0041\\/", "a": 1e400, "a": [ ] }"""
    with engine.begin() as connection:
        cast = "CAST(CAST(:odd AS TEXT) AS JSON)" if engine.dialect.name == "postgresql" else ":odd"
        connection.execute(text(f"UPDATE provider_traces SET request_json = {cast}, agent_tags = {cast}"), {"odd": odd})
    before = snapshot(engine)
    assert pack(engine).traces == 3
    assert snapshot(engine) == before
    assert all(odd in row for row in before.values())


def test_deleted_traces_are_packed_with_their_mark(database: Database) -> None:
    engine = database.engine()
    traces = a_run("run-1", 3, 0)
    store(engine, traces)
    with Session(engine) as session:
        assert ProviderTraceRepository(session, organization_id=ORG).delete(traces[1].id)
        session.commit()
    before = snapshot(engine)
    assert pack(engine).traces == 3
    assert snapshot(engine) == before


def test_only_old_calls_of_idle_runs_are_packed(database: Database) -> None:
    engine = database.engine()
    now = datetime.now(UTC)
    going_on = [*a_run("on", 3, 0), *a_run("on", 1, 10, start=now - timedelta(hours=2))]
    partly = [*a_run("partly", 3, 20), *a_run("partly", 1, 30, start=now - timedelta(days=3))]
    young = a_run("young", 2, 40, start=now - timedelta(days=3))
    store(engine, [*going_on, *partly, *young])
    assert pack(engine).traces == 3
    assert ids_in(engine) == {trace.id for trace in [*going_on, partly[3], *young]}
    assert pack(engine, older_than=timedelta(days=1)).traces == 3
    assert ids_in(engine) == {trace.id for trace in going_on}


def test_late_call_of_a_packed_run_goes_into_a_later_pack(database: Database) -> None:
    engine = database.engine()
    store(engine, a_run("run-1", 3, 0))
    assert pack(engine).packs == 1
    store(engine, a_run("run-1", 1, 10, start=OLD + timedelta(hours=1)))
    before = snapshot(engine)
    assert (pack(engine).packs, ids_in(engine)) == (1, set())
    assert snapshot(engine) == before
    assert len(ids_in(engine, "provider_trace_packs")) == 2


def test_runs_of_an_agent_share_a_pack_and_organizations_do_not(database: Database) -> None:
    engine = database.engine()
    store(engine, [*a_run("run-1", 3, 0), *a_run("run-2", 3, 10), *a_run("run-3", 3, 20, agent_id="agent-2")])
    store(engine, a_run("run-1", 3, 30), "org-2")
    singles = [every_field(40 + n, run_id=None, agent_id=None, created_at=OLD - timedelta(days=n)) for n in range(2)]
    store(engine, singles, "org-3")
    assert pack(engine, organization_id="org-2").traces == 3
    report = pack(engine)
    assert (report.traces, report.packs) == (11, 4)
    with engine.connect() as connection:
        packs = connection.execute(PACKS.select()).all()
    found = sorted((each.organization_id, each.agent_id or "", each.traces) for each in packs)
    assert found == [("org-1", "agent-1", 6), ("org-1", "agent-2", 3), ("org-2", "agent-1", 3), *[("org-3", "", 1)] * 2]
    assert {each.first_created_at for each in packs} >= {OLD, OLD - timedelta(days=1)}


def test_full_pack_is_followed_by_another_one(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = database.engine()
    store(engine, a_run("run-1", 10, 0))
    before = snapshot(engine)
    monkeypatch.setattr(PackBuilder, "is_full", property(lambda builder: builder.traces == 4))
    report = pack(engine)
    assert (report.traces, report.packs) == (10, 3)
    assert snapshot(engine) == before


def test_windows_and_batches_end_anywhere(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = database.engine()
    runs = [a_run(f"run-{number}", 4, 10 * number, start=OLD + timedelta(seconds=2 * number)) for number in range(6)]
    store(engine, [trace for run in runs for trace in run])
    store(engine, [every_field(100 + n, run_id=None, created_at=OLD) for n in range(7)])
    before = snapshot(engine)
    monkeypatch.setattr("provider_trace_store.maintenance.candidates._WINDOW", 3)
    monkeypatch.setattr("provider_trace_store.maintenance.candidates._RUNS", 1)
    monkeypatch.setattr("provider_trace_store.maintenance.candidates._PENDING", 5)
    monkeypatch.setattr("provider_trace_store.maintenance.bodies._BATCH_TRACES", 2)
    report = pack(engine)
    assert (report.traces, ids_in(engine)) == (31, set())
    assert snapshot(engine) == before


@pytest.mark.parametrize("change", ["changed", "deleted"])
def test_row_that_changes_after_it_was_read_stays(
    database: Database, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    engine = database.engine()
    traces = a_run("run-1", 3, 0)
    store(engine, traces)
    other = "DELETE FROM provider_traces" if change == "deleted" else "UPDATE provider_traces SET response_json = '[1]'"
    between_read_and_transaction(monkeypatch, lambda: run_sql(engine, f"{other} WHERE id = '{traces[1].id}'"))
    report = pack(engine)
    assert (report.traces, report.packs, report.skipped["changed"]) == (2, 1, 1)
    assert ids_in(engine) == ({traces[1].id} if change == "changed" else set())
    assert len(snapshot(engine)) == len(ids_in(engine)) + 2


def test_mark_of_a_deletion_between_read_and_transaction_is_not_lost(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = database.engine()
    traces = a_run("run-1", 3, 0)
    store(engine, traces)

    def delete() -> None:
        with Session(engine) as session:
            assert ProviderTraceRepository(session, organization_id=ORG).delete(traces[1].id)
            session.commit()

    between_read_and_transaction(monkeypatch, delete)
    pack(engine)
    rows = snapshot(engine)
    at = METADATA_COLUMNS.index("is_deleted")
    assert [rows[trace.id][at] in {"true", "1"} for trace in traces] == [False, True, False]


def test_locked_row_stays_and_nothing_waits(postgres: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = postgres.engine()
    traces = a_run("run-1", 3, 0)
    store(engine, traces)
    with engine.connect() as other:

        def lock() -> None:
            other.execute(text(f"SELECT id FROM provider_traces WHERE id = '{traces[1].id}' FOR UPDATE"))

        between_read_and_transaction(monkeypatch, lock)
        report = pack(engine)
    assert (report.traces, report.skipped["locked"], ids_in(engine)) == (2, 1, {traces[1].id})
    assert pack(engine).traces == 1


def test_locked_sqlite_file_leaves_the_traces(databases: Any, database: Database) -> None:  # noqa: ARG001  (made by it)
    engine = database.engine()
    if engine.dialect.name != "sqlite":
        pytest.skip("a lock of the whole file")
    store(engine, a_run("run-1", 3, 0))
    with engine.connect() as other:
        other.exec_driver_sql("BEGIN IMMEDIATE")
        event.listen(engine, "connect", lambda connection, _record: connection.execute("PRAGMA busy_timeout = 10"))
        engine.dispose()
        report = pack(engine)
    assert (report.traces, report.skipped["locked"]) == (0, 3)
    assert pack(engine).traces == 3


def test_backfilled_row_of_metadata_is_replaced(database: Database) -> None:
    engine = database.engine()
    traces = a_run("run-1", 3, 0)
    store(engine, traces)
    store(engine, traces, metadata=True)
    before = snapshot(engine)
    assert pack(engine).traces == 3
    assert snapshot(engine) == before
    assert len(ids_in(engine, "provider_trace_metadata")) == 3


@pytest.mark.parametrize("change", ["organization_id = 'org-2'", "created_at = '2020-01-01 00:00:00.000000+00:00'"])
def test_twin_that_is_not_the_traces_own_leaves_the_trace(database: Database, change: str) -> None:
    engine = database.engine()
    traces = a_run("run-1", 3, 0)
    store(engine, traces)
    store(engine, traces[:1], metadata=True)
    run_sql(engine, f"UPDATE provider_trace_metadata SET {change}")
    report = pack(engine)
    assert (report.traces, report.skipped["refused"], ids_in(engine)) == (2, 1, {traces[0].id})
    assert report.refusals[0].traces == 1


@pytest.mark.parametrize("statement", ["INSERT ON provider_trace_packs", "DELETE ON provider_traces"])
def test_refused_pack_is_reported_and_the_others_are_packed(database: Database, statement: str) -> None:
    engine = database.engine()
    store(engine, [*a_run("run-1", 3, 0), *a_run("run-2", 3, 10, agent_id="agent-2")])
    before = snapshot(engine)
    row = "NEW" if statement.startswith("INSERT") else "OLD"
    if engine.dialect.name == "sqlite":
        run_sql(
            engine,
            f"CREATE TRIGGER refuse BEFORE {statement} WHEN {row}.agent_id = 'agent-1' "
            "BEGIN SELECT RAISE(ABORT, 'the-secret'); END",
        )
    else:
        run_sql(
            engine,
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN IF {row}.agent_id = 'agent-1' THEN RAISE 'the-secret'; END IF; RETURN {row}; END $$",
            f"CREATE TRIGGER refuse BEFORE {statement} FOR EACH ROW EXECUTE FUNCTION refuse()",
        )
    report = pack(engine)
    assert (report.traces, report.skipped["refused"]) == (3, 3)
    assert [refusal.traces for refusal in report.refusals] == [3]
    assert "the-secret" not in json.dumps(report.as_json())
    assert snapshot(engine) == before


def test_trigger_that_skips_a_row_leaves_the_pack(postgres: Database) -> None:
    engine = postgres.engine()
    store(engine, a_run("run-1", 3, 0))
    run_sql(
        engine,
        "CREATE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$",
        "CREATE TRIGGER skip BEFORE DELETE ON provider_traces FOR EACH ROW EXECUTE FUNCTION skip()",
    )
    report = pack(engine)
    assert (report.traces, report.skipped["refused"]) == (0, 3)
    assert ids_in(engine, "provider_trace_metadata") == ids_in(engine, "provider_trace_packs") == set()


def test_foreign_keys_to_the_traces_are_refused(database: Database) -> None:
    engine = database.engine()
    store(engine, a_run("run-1", 3, 0))
    run_sql(engine, "CREATE TABLE ratings (trace VARCHAR REFERENCES provider_traces (id) ON DELETE CASCADE)")
    with pytest.raises(MaintenanceError, match=r"foreign keys of ratings reference provider_traces"):
        pack(engine)
    assert len(ids_in(engine)) == 3


def test_tables_of_an_older_version_are_refused(database: Database, empty_database: Database) -> None:
    run_sql(database.engine(), "ALTER TABLE provider_trace_metadata DROP COLUMN pack_id")
    with pytest.raises(MaintenanceError, match="migrate upgrade"):
        pack(database.engine())
    with pytest.raises(TableMissingError):
        pack(empty_database.engine())


def test_read_only_session_is_refused(postgres: Database) -> None:
    engine = postgres.engine()

    def make_read_only(connection: Any, _record: object) -> None:
        connection.execute("SET default_transaction_read_only = on")
        connection.commit()

    event.listen(engine, "connect", make_read_only)
    with pytest.raises(MaintenanceError, match="read-only"):
        pack(engine)


def test_unreadable_and_undated_traces_stay(database: Database) -> None:
    engine = database.engine()
    if engine.dialect.name != "sqlite":
        pytest.skip("PostgreSQL stores neither")
    traces = a_run("run-1", 5, 0)
    store(engine, traces)
    ids = [trace.id for trace in traces]
    run_sql(
        engine,
        f"UPDATE provider_traces SET request_json = x'ff00' WHERE id = '{ids[0]}'",
        f"UPDATE provider_traces SET request_json = CAST(x'ff' AS TEXT) WHERE id = '{ids[1]}'",
        f"UPDATE provider_traces SET created_at = '2020 was a year' WHERE id = '{ids[2]}'",
    )
    report = pack(engine)
    assert (report.traces, report.skipped["unreadable"], report.skipped["undated"]) == (2, 2, 1)
    assert ids_in(engine) == set(ids[:3])


def test_dry_run_changes_nothing_and_says_what_would_be_saved(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = database.engine()
    store(engine, [trace for number in range(6) for trace in a_run(f"run-{number}", 5, 10 * number)])
    before = snapshot(engine)
    monkeypatch.setattr(packing, "_SAMPLE_BYTES", 1)
    monkeypatch.setattr("provider_trace_store.maintenance.candidates._PENDING", 5)
    monkeypatch.setattr("provider_trace_store.maintenance.candidates._RUNS", 1)
    estimate = pack(engine, dry_run=True)
    assert estimate.is_dry_run
    assert (ids_in(engine), ids_in(engine, "provider_trace_packs")) == (set(before), set())
    real = pack(engine)
    assert estimate.traces == real.traces == 30
    assert estimate.raw_bytes == pytest.approx(real.raw_bytes, rel=0.2)


def test_second_command_is_refused_and_told_who_runs(postgres: Database) -> None:
    engine = postgres.engine()
    store(engine, a_run("run-1", 3, 0))
    refused: list[MaintenanceError] = []

    def again(_progress: object) -> None:
        with pytest.raises(MaintenanceError) as caught:
            pack(engine)
        refused.append(caught.value)

    assert pack(engine, on_progress=again).traces == 3
    assert "pid " in str(refused[0])
    assert "role " in str(refused[0])


def test_other_schema_can_be_packed_at_the_same_time(postgres: Database) -> None:
    engine = postgres.engine()
    store(engine, a_run("run-1", 3, 0))
    run_sql(engine, "CREATE SCHEMA other")
    for table in ("provider_traces", "provider_trace_metadata", "provider_trace_packs"):
        run_sql(engine, f"CREATE TABLE other.{table} (LIKE {table} INCLUDING ALL)")
    other = engine.execution_options(schema_translate_map={None: "other"})
    store(other, a_run("run-1", 2, 0))
    counts = []
    assert pack(engine, on_progress=lambda _: counts.append(pack(other).traces)).traces == 3
    assert counts == [2]
    assert ids_in(engine, "other.provider_traces") == set()


def test_vacuum_runs_or_is_told(database: Database, statements: list[str]) -> None:
    engine = database.engine()
    store(engine, a_run("run-1", 3, 0))
    statement = "VACUUM" if engine.dialect.name == "sqlite" else "VACUUM provider_traces"
    assert pack(engine).space == statement
    assert statement not in statements
    assert pack(engine, vacuum=True).space is None
    assert statement in statements


def test_ctrl_c_ends_after_the_transaction(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = database.engine()
    store(engine, [*a_run("run-1", 3, 0), *a_run("run-2", 3, 10, agent_id="agent-2")])
    before = snapshot(engine)
    between_read_and_transaction(monkeypatch, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        pack(engine)
    assert len(ids_in(engine)) == 3
    assert snapshot(engine) == before
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert pack(engine).traces == 3


def test_progress_is_told_after_each_pack(database: Database) -> None:
    engine = database.engine()
    store(engine, [*a_run("run-1", 3, 0), *a_run("run-2", 3, 10, agent_id="agent-2")])
    told: list[Any] = []
    report = pack(engine, on_progress=told.append, rate=1_000, pause=0.01)
    assert [(each.done, each.total, each.command) for each in told] == [(3, 6, "pack"), (6, 6, "pack")]
    assert told[-1].raw_bytes == report.raw_bytes
    assert told[-1].saved_bytes == report.stored_bytes_before - report.stored_bytes_after
    assert told[-1].seconds_left == 0


_PACK: Final = """
import sys
from datetime import timedelta
from sqlalchemy import create_engine
from provider_trace_store.maintenance import pack
pack(create_engine(sys.argv[1]), on_progress=lambda progress: print(progress.done, flush=True), pause=0.02)
"""


def test_killed_command_is_resumed(database: Database) -> None:
    engine = database.engine()
    store(
        engine,
        [trace for n in range(40) for trace in a_run(f"run-{n}", 5, 10 * n, agent_id=f"agent-{n}")],
    )
    before = snapshot(engine)
    url = database.url.render_as_string(hide_password=False)
    command = (sys.executable, "-c", _PACK, url)
    for packs in (1, 3, 2):
        with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}) as process:
            assert process.stdout is not None
            for _ in range(packs):
                assert process.stdout.readline()
            process.kill()
        assert snapshot(engine) == before
        assert 0 < len(ids_in(engine)) < 200
    if engine.dialect.name == "postgresql":
        locks = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            wait_until(lambda: not connection.scalar(locks))
    assert 0 < pack(engine).traces < 200
    assert ids_in(engine) == set()
    assert snapshot(engine) == before


_MEMORY: Final = """
import resource, sys
from sqlalchemy import create_engine
from provider_trace_store.maintenance import pack
engine = create_engine(sys.argv[1])
pack(engine, organization_id="nobody")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(pack(engine).raw_bytes, before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_is_bounded_for_a_run_of_200_mb(postgres: Database) -> None:
    engine = postgres.engine()
    store(engine, a_run("run-1", 1, 0))
    run_sql(
        engine,
        "CREATE TEMP TABLE words AS SELECT n, md5(CAST(n AS text)) AS word FROM generate_series(1, 12500) AS n",
        "INSERT INTO provider_traces (id, request_json, response_json, run_id, agent_id, created_at, organization_id) "
        "SELECT 'big-' || n, json_build_object('text', (SELECT string_agg(word, '' ORDER BY words.n) FROM words)), "
        f"'{{}}', 'big', 'agent-1', now() - interval '20 days' + n * interval '1 second', '{ORG}' "
        "FROM generate_series(1, 500) AS n",
    )
    url = postgres.url.render_as_string(hide_password=False)
    done = subprocess.run(
        (sys.executable, "-c", _MEMORY, url),
        check=True,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    raw_bytes, before, after = map(int, done.stdout.split())
    assert raw_bytes > 200_000_000
    assert (after - before) * 1024 < 100_000_000


def test_works_in_a_thread(database: Database) -> None:
    engine = database.engine()
    store(engine, a_run("run-1", 3, 0))
    reports: list[PackReport] = []
    thread = threading.Thread(target=lambda: reports.append(pack(engine)))
    thread.start()
    thread.join(PATIENCE)
    assert reports[0].traces == 3


@pytest.mark.parametrize(
    "arguments", [{"older_than": timedelta(-1)}, {"idle": timedelta(days=99_999)}, {"rate": 0.0}, {"pause": -1.0}]
)
def test_arguments_are_checked(database: Database, arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError):
        pack(database.engine(), **arguments)


def test_durations_are_read() -> None:
    days, seconds = timedelta(days=30), timedelta(seconds=45)
    assert [parse_duration(each) for each in ("30d", "0d", "45s")] == [days, timedelta(0), seconds]
    assert parse_duration("12h") == parse_duration("720m") == timedelta(hours=12)
    for wrong in ("", "7", "d", "-1d", "1.5h", "7 days", "1w", "999999999d", "١d"):  # noqa: RUF001  (a digit that is not ASCII)
        with pytest.raises(InvalidArgumentError):
            parse_duration(wrong)
