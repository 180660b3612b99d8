"""Export and import: every row and byte arrives, ended exports go on, and damaged files are refused."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import create_engine, event, insert, text, update

from provider_trace_store.codec import Encoded
from provider_trace_store.errors import InvalidArgumentError, MaintenanceError, TableMissingError
from provider_trace_store.maintenance import export_traces, import_traces, unpack
from provider_trace_store.maintenance.transfer import reading, sinks
from provider_trace_store.migrations import upgrade
from provider_trace_store.packs.zstd import open_stream
from provider_trace_store.tables.kinds import FULL, METADATA
from tests.support.batches import run_script
from tests.support.commands import run_on
from tests.support.constants import MOMENT, ORG, SECRET
from tests.support.databases import SQLITE
from tests.support.packed_tables import flip, raw_rows, row_counts, store, store_packed
from tests.support.paths import ROOT
from tests.support.traces import a_batch, a_trace, every_field, odd_traces, trace_id

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from sqlalchemy import Engine

    from provider_trace_store.maintenance.progress import Progress
    from tests.support.databases import Databases
    from tests.support.servers import Database

NAMES = ["export.jsonl.zst", "export.jsonl", "export.parquet"]


@pytest.fixture
async def targets(databases: Databases) -> AsyncIterator[tuple[Engine, Engine]]:
    """Return two other databases, on SQLite."""
    async with databases.make(SQLITE, migrated=True) as one, databases.make(SQLITE, migrated=True) as other:
        yield one.engine(), other.engine()


@pytest.fixture
def target(targets: tuple[Engine, Engine]) -> Engine:
    """Return another database, on SQLite."""
    return targets[0]


def metadata_rows(engine: Engine) -> Sequence[Any]:
    names = ", ".join(f"CAST({column.name} AS TEXT)" for column in METADATA.table.columns if column.name != "pack_id")
    with engine.connect() as connection:
        return connection.execute(text(f"SELECT {names} FROM provider_trace_metadata ORDER BY id")).all()


def fill(engine: Engine) -> None:
    """Store traces of all kinds: full, packed, metadata, deleted, of two organizations, and texts of other programs."""
    store(engine, [*odd_traces(), *(every_field(number) for number in range(1000, 1030))])
    store_packed(engine, [every_field(number) for number in range(2000, 2010)], "org-x")
    with engine.begin() as connection:
        connection.execute(update(FULL.table).where(FULL.table.c.id == every_field(1000).id).values(is_deleted=True))
        marked = METADATA.table.c.id == every_field(2001).id
        connection.execute(update(METADATA.table).where(marked).values(is_deleted=True))
        foreign = dict.fromkeys(FULL.row_columns) | {
            "id": trace_id(9003),
            "request_json": Encoded('{\r\n "a" : 1e2,\n "a": "\\ud83d\\u0041" }'),
            "response_json": Encoded(' { "b":"\\u00e9é\\/" } '),
            "created_at": MOMENT,
            "organization_id": "org-y",
            "is_deleted": False,
        }
        connection.execute(insert(FULL.table).values(foreign))
        only = foreign | {"id": trace_id(9004), "agent_tags": Encoded('["a"\n]'), "is_deleted": True}
        of_metadata = {name: only[name] for name in METADATA.row_columns}
        connection.execute(insert(METADATA.table).values(of_metadata))


@pytest.mark.parametrize("name", NAMES)
def test_every_row_and_byte_arrives_also_in_another_database(
    database: Database, targets: tuple[Engine, Engine], tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_PAGE", 7)  # many snapshots
    target, third = targets
    engine = database.engine()
    fill(engine)
    exported = export_traces(engine, tmp_path / name)
    full, metadata, _ = row_counts(engine)
    assert (exported.rows, exported.unreadable) == (full + metadata, 0)
    imported = import_traces(target, tmp_path / name)
    assert (imported.created, imported.unchanged, imported.rejected) == (exported.rows, 0, 0)
    assert import_traces(target, tmp_path / name).unchanged == exported.rows
    # The same into the database itself: packed traces are there already.
    again = import_traces(engine, tmp_path / name)
    assert (again.created, again.unchanged, again.rejected) == (0, exported.rows, 0)
    # And back: what the second file has is what the first one has.
    export_traces(target, tmp_path / f"second-{name}")
    unpack(engine)
    with engine.begin() as connection:
        for kind in (FULL, METADATA):
            connection.execute(kind.table.delete())
    assert import_traces(engine, tmp_path / f"second-{name}").created == exported.rows
    export_traces(engine, tmp_path / f"third-{name}")
    import_traces(third, tmp_path / f"third-{name}")
    assert raw_rows(third) == raw_rows(target)
    assert metadata_rows(third) == metadata_rows(target)


def test_ranges_and_organizations(database: Database, tmp_path: Path) -> None:
    engine = database.engine()
    traces = [a_trace(number, created_at=MOMENT + timedelta(hours=number)) for number in range(6)]
    store(engine, traces)
    store(engine, a_batch(2, first=10), "org-x")
    options: dict[str, Any] = {"since": MOMENT + timedelta(hours=1), "until": MOMENT + timedelta(hours=4)}
    report = export_traces(engine, tmp_path / "a.jsonl", organization_id=ORG, **options)
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["id"] for line in lines[:-1]] == [trace.id for trace in traces[1:4]]
    assert [line["request_json"] for line in lines[:-1]] == [trace.request_json for trace in traces[1:4]]
    assert (report.rows, lines[-1]["rows"]) == (3, 3)
    assert export_traces(engine, tmp_path / "b.jsonl", organization_id="org-x").rows == 2
    with pytest.raises(InvalidArgumentError, match="exists already"):
        export_traces(engine, tmp_path / "b.jsonl")
    with pytest.raises(InvalidArgumentError, match="time zone"):
        export_traces(engine, tmp_path / "c.jsonl", since=datetime(2026, 1, 1))  # noqa: DTZ001  (it is refused)


@pytest.mark.parametrize("name", NAMES)
def test_an_ended_export_goes_on(
    database: Database, target: Engine, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_BATCH_ROWS", 10)
    monkeypatch.setattr(reading, "_PAGE", 25)
    monkeypatch.setattr(sinks, "_DURABLE_AFTER", 1)
    engine = database.engine()
    store(engine, a_batch(60))
    path = tmp_path / name

    def end(progress: Progress) -> None:
        # An error, as by a lost connection; a batch of it may be written without being durable.
        if progress.done >= 30:
            raise ConnectionError

    for _ in range(2):
        with pytest.raises(ConnectionError):
            export_traces(engine, path, on_progress=end)
    assert not path.exists()
    if name != "export.parquet":
        with pytest.raises(InvalidArgumentError, match="other options"):
            export_traces(engine, path, since=MOMENT)
        with (tmp_path / f"{name}.part").open("ab") as part:
            part.write(b"what a killed process wrote last")
    report = export_traces(engine, path)
    assert report.rows == 60
    assert (report.resumed_rows > 0) == (name != "export.parquet")
    assert import_traces(target, path).created == 60
    assert [each.name for each in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_file_imports_nothing(database: Database, target: Engine, tmp_path: Path, name: str) -> None:
    engine = database.engine()
    store(engine, a_batch(50))
    export_traces(engine, tmp_path / name)
    content = (tmp_path / name).read_bytes()
    middle = len(content) // 3
    flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    for damaged in (flipped, content[: len(content) // 2], content[:-1], content + content[-20:], b"", b"PAR1", b"{}"):
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(MaintenanceError, match="damaged"):
            import_traces(target, tmp_path / name)
    assert row_counts(target) == (0, 0, 0)


def test_rows_that_cannot_be_exported_or_imported_are_reported(database: Database, tmp_path: Path) -> None:
    engine = database.engine()
    store(engine, a_batch(3))
    flip(engine, store_packed(engine, a_batch(1, first=20)))
    file = str(tmp_path / "all.jsonl.zst")
    result = run_on(database, "export", file, "--json")
    report = json.loads(result.stdout)
    assert (result.returncode, report["rows"], report["unreadable_ids"]) == (1, 3, [trace_id(20)])
    with engine.begin() as connection:
        connection.execute(update(FULL.table).where(FULL.table.c.id == trace_id(1)).values(step_id="another"))
        connection.execute(FULL.table.delete().where(FULL.table.c.id == trace_id(2)))
    result = run_on(database, "import", file, "--json")
    report = json.loads(result.stdout)
    assert result.returncode == 1
    assert (report["created"], report["unchanged"], report["rejected"]) == (1, 1, 1)
    assert report["rejections"][0]["trace_id"] == trace_id(1)
    result = run_on(database, "import", file)
    assert trace_id(1) in result.stdout
    assert SECRET not in result.stdout + result.stderr
    assert run_on(database, "export", file, "--since", "yesterday").returncode == 2
    assert "exists already" in run_on(database, "export", file).stderr


def test_the_lines_of_an_export_are_json_for_every_reader(database: Database, tmp_path: Path) -> None:
    engine = database.engine()
    fill(engine)
    export_traces(engine, tmp_path / "a.jsonl.zst")
    with open_stream(tmp_path / "a.jsonl.zst") as lines:
        found = [json.loads(line) for line in lines]
    assert found[-1]["rows"] == len(found) - 1
    assert all(datetime.fromisoformat(line["created_at"]).tzinfo == UTC for line in found[:-1])
    assert {line["stored_as"] for line in found[:-1]} == {"full", "packed", "metadata"}
    assert json.loads(next(line for line in found if line.get("id") == trace_id(9003))["request_json_text"])


def test_the_page_on_exports_does_what_it_says(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    march = datetime(2026, 3, 15, tzinfo=UTC)
    answer = {"usage": {"total_tokens": 7}}
    traces = [a_trace(number, created_at=march, response_json=answer) for number in range(3)]
    store(database.engine(), [*traces, a_trace(9, created_at=datetime(2026, 4, 1, tzinfo=UTC))])
    monkeypatch.chdir(tmp_path)
    with create_engine("sqlite:///copy.db").begin() as connection:
        upgrade(connection)
    blocks = re.findall(r"^```(sh|python)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    for language, block in blocks:
        if language == "python":
            exec(compile(block, "docs/export.md", "exec"), {})  # noqa: S102  (our own page)
            continue
        for line in block.splitlines():
            if line.startswith("provider-trace-store "):
                result = run_on(database, *line.split()[1:])
                assert result.returncode == 0, result.stderr
    assert capsys.readouterr().out == f"[('{ORG}', 3, 21)]\n3\n"
    with create_engine("sqlite:///copy.db").connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM provider_traces")) == 3


def test_an_export_of_a_database_that_was_not_migrated_is_an_error(empty_database: Database, tmp_path: Path) -> None:
    with pytest.raises(TableMissingError):
        export_traces(empty_database.engine(), tmp_path / "a.jsonl")
    assert not list(tmp_path.glob("a.jsonl*"))


def test_an_export_reads_each_row_by_an_index_that_has_its_order(postgres: Database) -> None:
    shared = "organization_id, created_at, agent_tags"
    row = f"CASE WHEN n % 1000 = 0 THEN '{ORG}' ELSE 'org-large' END, timestamptz '{MOMENT}' + n * interval '1 s', '[]'"
    run_script(
        postgres,
        f"INSERT INTO provider_traces (id, {shared}, request_json, response_json) "
        f"SELECT 'trace-' || n, {row}, '{{}}', '{{}}' FROM generate_series(1, 6000) n",
        f"INSERT INTO provider_trace_metadata (id, {shared}) "
        f"SELECT 'metadata-' || n, {row} FROM generate_series(1, 6000) n",
        "ANALYZE",
    )
    engine = postgres.engine()
    sent: list[tuple[str, Any]] = []
    event.listen(
        engine, "before_cursor_execute", lambda _c, _u, statement, values, *_: sent.append((statement, values))
    )
    with engine.connect() as connection:
        traces = reading.StoredTraces(connection, ORG, None, None)
        assert sum(lines.rows for lines in traces.batches(None)) == 12
        assert list(reading.StoredTraces(connection, None, None, None).out_of_range()) == []
        plans = []
        # Those of the package's tables; a page has many columns.
        for statement, values in [each for each in sent if "provider_trace" in each[0]]:
            plan = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) {statement}", values)
            plans.append("\n".join(plan.scalars()))
    assert len(plans) == 7  # undated, dated; the first organization, the second, no third; two of odd dates
    assert not any("Seq Scan" in plan or "Rows Removed" in plan for plan in plans), plans
