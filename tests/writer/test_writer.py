"""The writer on every database: what becomes of a submitted trace."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import OrderedDict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import pytest
from sqlalchemy import NullPool, create_engine, text
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker

from provider_trace_store import (
    InvalidIdentifierError,
    InvalidLimitError,
    InvalidWriterOptionError,
    ProviderTrace,
    ProviderTraceConflictError,
    ProviderTraceMetadata,
    ProviderTraceRejectedError,
    ProviderTraceStoreError,
    TraceEncodingError,
    TraceTooLargeError,
    TraceWriter,
    WriterClosedError,
    WriterStats,
)
from provider_trace_store.migrations import upgrade
from tests.support.batches import both_modes, refuse_poison
from tests.support.constants import ORG, PATIENCE, SECRET
from tests.support.documents import same
from tests.support.traces import a_batch, a_trace, trace_id
from tests.support.waiting import wait_until
from tests.support.writers import (
    a_writer,
    a_writer_to_nowhere,
    assert_accounted,
    files_in,
    ids_in,
    read,
    read_metadata,
    rejects_in,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.servers import Database

SPOOLS: Final = ("memory", "overflow", "spool")
ways = pytest.mark.parametrize("way", SPOOLS)


def options_of(way: str, tmp_path: Path) -> dict[str, Any]:
    """Return how a writer is made that keeps traces in memory, spools what does not fit, or spools everything."""
    options: dict[str, dict[str, Any]] = {
        "memory": {},
        "overflow": {"spool_dir": tmp_path / "spool", "durability": "memory", "max_queue_traces": 3},
        "spool": {"spool_dir": tmp_path / "spool"},
    }
    return options[way]


def counted(writer: TraceWriter) -> dict[str, int]:
    """Return what became of the traces, what is nothing left out."""
    stats = writer.stats
    assert_accounted(stats)
    names = ("stored", "unchanged", "rejected", "spooled", "queued", "dropped")
    return {name: getattr(stats, name) for name in names if getattr(stats, name)}


@ways
@both_modes
def test_a_submitted_trace_is_stored_as_create_stores_it(
    database: Database, way: str, tmp_path: Path, *, metadata_only: bool
) -> None:
    traces = [
        *a_batch(5),
        a_trace(5, request_json={"odd": ["\0", "\ud800", b"\xff", float("-inf"), (1, 2), 10**700]}, agent_tags=["ä"]),
        a_trace(6, request_json=OrderedDict(a=1), llm_config={"x": None}, compaction_settings={}, user_id="ü"),
        a_trace(7, created_by_id="somebody", updated_at=datetime(2026, 1, 1, tzinfo=UTC)),
    ]
    with a_writer(database, metadata_only=metadata_only, **options_of(way, tmp_path)) as writer:
        for trace in traces:
            writer.submit(trace, organization_id=ORG, actor_id="the-actor")
        assert writer.flush(PATIENCE)
        assert counted(writer) == {"stored": len(traces)}
    assert ids_in(database.url, metadata_only=metadata_only) == [trace.id for trace in traces]
    for trace in traces:
        found: Any = read_metadata(database, trace.id) if metadata_only else read(database, trace.id)
        expected: Any = ProviderTraceMetadata.from_trace(trace) if metadata_only else trace
        actors = {
            "created_by_id": trace.created_by_id or "the-actor",
            "last_updated_by_id": trace.last_updated_by_id or "the-actor",
        }
        assert same(dict(found), {**dict(expected), **actors}), trace.id
    if way != "memory":
        assert files_in(tmp_path / "spool") == []


@pytest.mark.pgbouncer
@ways
def test_each_tenant_gets_its_own(database: Database, way: str, tmp_path: Path) -> None:
    with a_writer(database, **options_of(way, tmp_path)) as writer:
        for number in range(12):
            writer.submit(a_trace(number), organization_id=f"org-{number % 4}")
        assert writer.flush(PATIENCE)
    for number in range(12):
        for tenant in range(4):
            found = read(database, trace_id(number), f"org-{tenant}")
            assert (found is not None) == (tenant == number % 4)


@ways
def test_a_trace_that_is_submitted_again_is_unchanged(database: Database, way: str, tmp_path: Path) -> None:
    with a_writer(database, **options_of(way, tmp_path)) as writer:
        for _ in range(3):
            for trace in a_batch(10):
                writer.submit(trace, organization_id=ORG)
        assert writer.flush(PATIENCE)
        assert counted(writer) == {"stored": 10, "unchanged": 20}
    assert len(ids_in(database.url)) == 10


@ways
def test_bad_traces_cost_none_of_the_others_and_are_told_apart(database: Database, way: str, tmp_path: Path) -> None:
    refuse_poison(database)
    told: list[tuple[str, ProviderTraceStoreError]] = []
    bad: list[tuple[ProviderTrace, type[Exception]]] = [
        (a_trace(3, response_json={"other": SECRET}), ProviderTraceConflictError),
        (a_trace(100, call_type="poison"), ProviderTraceRejectedError),
        (a_trace(101, request_json={SECRET: object()}), TraceEncodingError),
        (a_trace(102, request_json={SECRET: bytearray(b"x")}), TraceEncodingError),
        (a_trace(103, response_json={SECRET: "x" * 200_000}), TraceTooLargeError),
        (a_trace(104, request_json={SECRET: {SECRET}}), TraceEncodingError),
    ]
    options = {"on_rejected": lambda *what: told.append(what), "max_body_bytes": 100_000}
    with a_writer(database, **options, **options_of(way, tmp_path)) as writer:
        good = a_batch(20)
        for number, trace in enumerate(good):
            writer.submit(trace, organization_id=ORG)
            if number % 4 == 3:
                writer.submit(bad[number // 4][0], organization_id=ORG)
        writer.submit(bad[5][0], organization_id=ORG)
        assert writer.flush(PATIENCE)
        assert counted(writer) == {"stored": 20, "rejected": 6}
    assert ids_in(database.url) == [trace.id for trace in good]
    assert sorted((one, type(error).__name__) for one, error in told) == sorted(
        (trace.id, kind.__name__) for trace, kind in bad
    )
    for _, error in told:
        assert error.__cause__ is None
        assert SECRET not in str(error) or not isinstance(error, ProviderTraceRejectedError)
    if way == "memory":
        return
    kept = {row["id"]: row for row in rejects_in(tmp_path / "spool")}
    assert sorted(kept) == sorted(trace.id for trace, _ in bad)
    for trace, kind in bad:
        row = kept[trace.id]
        assert (row["error"], row["rejected_from"]) == (kind.__name__, "provider_traces")
        assert row["organization_id"] == ORG
        assert SECRET in row["response_json"]
    for number, content in ((101, "object"), (102, "bytearray"), (104, '"set",[')):
        assert f'{{"{SECRET}":{{"$pts:kept":[' in kept[trace_id(number)]["request_json"]
        assert content in kept[trace_id(number)]["request_json"]
    assert all(row["request_json"] for row in kept.values())


def test_a_reference_to_the_body_may_be_changed_after_submit(database: Database) -> None:
    messages = [{"role": "user", "content": "before"}]
    request: dict[str, Any] = {"messages": messages, "nested": {"deep": [1]}}
    trace = ProviderTrace(id=trace_id(1), request_json=request, response_json={}, agent_tags=["a"])
    expected = ProviderTrace.model_validate_json(trace.model_dump_json())
    with a_writer(database, batch_age=5) as writer:
        writer.submit(trace, organization_id=ORG)
        messages.append({"role": "user", "content": "after"})
        messages[0]["content"] = "after"
        trace.request_json["nested"]["deep"].clear()
        trace.response_json["text"] = "after"
        assert trace.agent_tags is not None
        trace.agent_tags.append("b")
        trace.step_id = "after"
        assert writer.flush(PATIENCE)
    assert read(database, trace.id) == expected


def test_it_works_with_a_sessionmaker_and_its_schema(database: Database) -> None:
    if database.backend != "postgresql":
        # SQLite has no schemas of its own: a sessionmaker alone is what is tested.
        factory = sessionmaker(database.engine())
    else:
        with database.engine().begin() as connection:
            connection.execute(text("CREATE SCHEMA elsewhere"))
            upgrade(connection, schema="elsewhere")
        factory = sessionmaker(database.engine(execution_options={"schema_translate_map": {None: "elsewhere"}}))
    with TraceWriter(factory, handle_sigterm=False) as writer:
        writer.submit(a_trace(1), organization_id=ORG)
    assert writer.stats.stored == 1
    with factory() as session:
        assert session.scalar(text("SELECT count(*) FROM provider_traces")) == (database.backend == "sqlite")


async def test_the_asynchronous_methods_let_the_loop_go_on(database: Database) -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.001)

    ticking = asyncio.create_task(tick())
    async with TraceWriter(database.engine(), batch_age=3600, handle_sigterm=False) as writer:
        for trace in a_batch(100):
            writer.submit(trace, organization_id=ORG)
        before = ticks
        assert await writer.aflush(PATIENCE)
        assert writer.stats.stored == 100
        assert ticks > before
        writer.submit(a_trace(100), organization_id=ORG)
    assert writer.stats.stored == 101
    assert await writer.aclose()
    ticking.cancel()


def test_many_threads_and_loops_submit_at_once(database: Database, tmp_path: Path) -> None:
    def submit(first: int) -> None:
        for number in range(first, first + 50):
            writer.submit(a_trace(number), organization_id=ORG)

    async def submit_in_a_loop(first: int) -> None:
        for number in range(first, first + 50):
            writer.submit(a_trace(number), organization_id=ORG)
            await asyncio.sleep(0)

    for way in SPOOLS:
        first = 1000 * SPOOLS.index(way)
        with a_writer(database, **options_of(way, tmp_path)) as writer:
            threads = [threading.Thread(target=submit, args=(first + 50 * number,)) for number in range(4)]
            threads += [
                threading.Thread(target=asyncio.run, args=(submit_in_a_loop(first + 50 * number),))
                for number in range(4, 8)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert_accounted(writer.stats)
            assert writer.flush(PATIENCE)
            assert counted(writer) == {"stored": 400}
    assert len(ids_in(database.url)) == 1200


def test_a_batch_goes_when_it_is_old_or_large_or_asked_for(database: Database) -> None:
    with a_writer(database, batch_age=0.05) as writer:
        writer.submit(a_trace(0), organization_id=ORG)
        wait_until(lambda: writer.stats.stored == 1)
    with a_writer(database, batch_age=3600, batch_rows=10) as writer:
        for trace in a_batch(9, first=10):
            writer.submit(trace, organization_id=ORG)
        assert writer.stats.queued == 9
        writer.submit(a_trace(19), organization_id=ORG)
        wait_until(lambda: writer.stats.stored == 10)
    with a_writer(database, batch_age=3600, batch_bytes=100_000) as writer:
        writer.submit(a_trace(20, request_json={"text": "x" * 100_000}), organization_id=ORG)
        wait_until(lambda: writer.stats.stored == 1)
        writer.submit(a_trace(21), organization_id=ORG)
        assert writer.flush(PATIENCE)
        assert writer.stats.stored == 2


def test_it_survives_that_the_tables_are_made_later(empty_database: Database) -> None:
    with a_writer(empty_database) as writer:
        writer.submit(a_trace(1), organization_id=ORG)
        wait_until(lambda: writer.stats.retries > 2)
        assert writer.stats.queued == 1
        with empty_database.engine().connect() as connection:
            upgrade(connection)
        assert writer.flush(PATIENCE)
    assert ids_in(empty_database.url) == [trace_id(1)]


def test_a_flush_tells_when_the_time_was_too_short_and_nothing_is_lost() -> None:
    with a_writer_to_nowhere() as writer:
        assert writer.flush(0)
        writer.submit(a_trace(1), organization_id=ORG)
        assert not writer.flush(0.2)
        assert counted(writer) == {"queued": 1}
        assert not writer.close(0.2)
        assert counted(writer) == {"dropped": 1}


def test_without_room_traces_are_dropped_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    with a_writer_to_nowhere(max_queue_bytes=10_000) as writer:
        for trace in a_batch(100):
            writer.submit(trace, organization_id=ORG)
        stats = writer.stats
        assert_accounted(stats)
        assert stats.dropped > 0
        assert 0 < stats.queued_bytes <= 10_000
    lines = [record.getMessage() for record in caplog.records if "full" in record.getMessage()]
    assert lines == ["the writer is full: 1 traces were dropped since the start"]


def test_one_trace_may_be_larger_than_all_the_room(database: Database) -> None:
    with a_writer(database, max_queue_bytes=1000, on_full="block", block_timeout=PATIENCE) as writer:
        for number in range(3):
            writer.submit(a_trace(number, request_json={"text": "x" * 50_000}), organization_id=ORG)
        assert writer.flush(PATIENCE)
        assert counted(writer) == {"stored": 3}


def test_a_submit_waits_for_room_where_it_is_asked_to(database: Database) -> None:
    with a_writer(database, max_queue_traces=10, on_full="block", block_timeout=PATIENCE) as writer:
        for trace in a_batch(200):
            writer.submit(trace, organization_id=ORG)
        assert writer.flush(PATIENCE)
        assert counted(writer) == {"stored": 200}


def test_a_submit_does_not_wait_longer_than_it_is_asked_to() -> None:
    with a_writer_to_nowhere(max_queue_traces=1, on_full="block", block_timeout=0.1) as writer:
        for trace in a_batch(3):
            writer.submit(trace, organization_id=ORG)
        assert counted(writer) == {"queued": 1, "dropped": 2}


def test_a_closed_writer_takes_nothing(database: Database, tmp_path: Path) -> None:
    for way in SPOOLS:
        with a_writer(database, **options_of(way, tmp_path)) as writer:
            pass
        with pytest.raises(WriterClosedError):
            writer.submit(a_trace(1), organization_id=ORG)
        assert writer.close()
        assert writer.flush(1)
        assert writer.stats == WriterStats()


def test_invalid_arguments_are_refused_at_once(database: Database, tmp_path: Path) -> None:
    with a_writer(database) as writer:
        for organization_id, actor_id in (("", None), ("a\0", None), (ORG, ""), (ORG, "\ud800"), ("x" * 1025, None)):
            with pytest.raises(InvalidIdentifierError):
                writer.submit(a_trace(1), organization_id=organization_id, actor_id=actor_id)
        with pytest.raises(TypeError, match="submit takes ProviderTrace, not dict"):
            writer.submit({}, organization_id=ORG)  # type: ignore[arg-type]  # what is tested
        assert writer.stats == WriterStats()
    file = tmp_path / "file"
    file.touch()
    wrong: list[dict[str, Any]] = [
        {"durability": "spool"},
        {"durability": "disk"},
        {"on_full": "spool"},
        {"on_full": "panic", "spool_dir": tmp_path / "spool"},
        {"fsync": True},
        {"fsync": True, "durability": "memory", "spool_dir": tmp_path / "spool"},
        {"spool_dir": file},
        {"spool_dir": file / "below"},
        {"batch_rows": 0},
        {"batch_rows": 1001},
        {"batch_rows": True},
        {"batch_bytes": 0},
        {"max_queue_bytes": 1.5},
        {"max_queue_traces": 0},
        {"max_spool_bytes": 0},
        {"batch_age": -1},
        {"batch_age": float("nan")},
        {"block_timeout": "1"},
        {"max_retry_delay": 0},
        {"close_timeout": 3601},
    ]
    for options in wrong:
        with pytest.raises(InvalidWriterOptionError) as caught:
            TraceWriter(database.engine(), **options)
        assert caught.value.name in options
    with pytest.raises(InvalidLimitError):
        TraceWriter(database.engine(), max_body_bytes=0)


def test_an_asynchronous_engine_is_refused_with_what_to_do(tmp_path: Path) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'x.db'}")
    for bind in (engine, engine.sync_engine, async_sessionmaker(engine), "sqlite://", None):
        with pytest.raises(InvalidWriterOptionError, match="create_engine"):
            TraceWriter(bind)  # type: ignore[arg-type]  # what is tested


@pytest.mark.parametrize("batches", [0, 1000], ids=["encoded by callers", "encoded by the thread"])
def test_a_deferred_constraint_that_fails_at_the_commit_costs_only_its_row(
    postgres: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batches: int
) -> None:
    monkeypatch.setattr("provider_trace_store.writer.queue._BEHIND", batches)
    with postgres.engine().begin() as connection:
        connection.execute(text("CREATE TABLE organizations (id varchar PRIMARY KEY)"))
        connection.execute(text("INSERT INTO organizations VALUES ('known')"))
        connection.execute(
            text(
                "ALTER TABLE provider_traces ADD CONSTRAINT fk FOREIGN KEY (organization_id)"
                " REFERENCES organizations DEFERRABLE INITIALLY DEFERRED"
            )
        )
    told: list[tuple[str, ProviderTraceStoreError]] = []
    options: dict[str, Any] = {"spool_dir": tmp_path, "durability": "memory", "batch_age": 3600}
    with a_writer(postgres, on_rejected=lambda *what: told.append(what), **options) as writer:
        for number in range(30):
            writer.submit(a_trace(number), organization_id="unknown" if number in {7, 20} else "known")
        assert writer.flush(PATIENCE)
        assert counted(writer) == {"stored": 28, "rejected": 2}
    assert sorted(one for one, _ in told) == [trace_id(7), trace_id(20)]
    assert [row["organization_id"] for row in rejects_in(tmp_path)] == ["unknown", "unknown"]
    assert all(SECRET in row["request_json"] and SECRET in row["response_json"] for row in rejects_in(tmp_path))
    refusal = (
        " was refused by the database (SQLSTATE 23503, constraint fk): correct the trace or the database's rule, "
        "a retry does not help"
    )
    assert {str(error)[len(trace_id(7)) :] for _, error in told} == {refusal}


@ways
def test_a_row_that_always_fails_delays_no_other_and_is_given_up(postgres: Database, way: str, tmp_path: Path) -> None:
    with postgres.engine().begin() as connection:
        connection.execute(
            text(
                "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
                " IF new.call_type = 'slow' THEN RAISE query_canceled; END IF; RETURN new; END $$"
            )
        )
        connection.execute(
            text("CREATE TRIGGER slow BEFORE INSERT ON provider_traces FOR EACH ROW EXECUTE FUNCTION slow()")
        )
    told: list[tuple[str, ProviderTraceStoreError]] = []
    options = options_of(way, tmp_path) | {"on_rejected": lambda *what: told.append(what)}
    with a_writer(postgres, **options) as writer:
        writer.submit(a_trace(0, call_type="slow"), organization_id=ORG)
        for number in range(1, 100):
            writer.submit(a_trace(number), organization_id=ORG)
            wait_until(lambda number=number: writer.stats.stored == number)  # type: ignore[misc]  # the number of now
            assert_accounted(writer.stats)
            if told:
                break
        assert writer.flush(PATIENCE)
        assert writer.stats.rejected == 1
    assert [(one, type(error)) for one, error in told] == [(trace_id(0), ProviderTraceRejectedError)]
    assert ids_in(postgres.url) == [trace_id(number) for number in range(1, writer.stats.stored + 1)]


def test_a_session_factory_that_fails_is_the_databases_trouble(database: Database) -> None:
    failures = 3

    def factory() -> Session:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise KeyError(SECRET)
        return Session(database.engine())

    with TraceWriter(factory, max_retry_delay=0.1, batch_age=0, handle_sigterm=False) as writer:
        writer.submit(a_trace(1), organization_id=ORG)
        assert writer.flush(PATIENCE)
        assert counted(writer) == {"stored": 1}


def test_no_line_of_the_log_holds_content_or_a_password(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def fail(*_: object) -> None:
        raise ValueError(SECRET)

    caplog.set_level(logging.DEBUG, "provider_trace_store")
    with a_writer_to_nowhere(spool_dir=tmp_path, on_rejected=fail) as writer:
        writer.submit(a_trace(1), organization_id=ORG)
        writer.submit(a_trace(2, request_json={SECRET: object()}), organization_id=ORG)
        wait_until(lambda: writer.stats.retries > 0)
        writer.flush(1)
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("provider_trace_store")]
    assert any("the database takes no traces" in line for line in lines)
    assert not [line for line in lines if SECRET in line or "hunter2" in line]
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.pgbouncer
def test_waiting_traces_are_stored_when_the_database_is_back(database: Database, tmp_path: Path) -> None:
    refuse: Callable[[], Session] = sessionmaker(
        create_engine("postgresql+psycopg://127.0.0.1:1/x", poolclass=NullPool)
    )
    there: Callable[[], Session] = sessionmaker(database.engine())
    where = [refuse]

    def factory() -> Session:
        return where[-1]()

    for way in SPOOLS:
        where.append(refuse)
        first = 100 * SPOOLS.index(way)
        options = options_of(way, tmp_path) | {"max_retry_delay": 0.1, "handle_sigterm": False}
        with TraceWriter(factory, **options) as writer:
            for trace in a_batch(50, first):
                writer.submit(trace, organization_id=ORG)
            wait_until(lambda: writer.stats.retries > 1)
            waiting = writer.stats
            assert_accounted(waiting)
            assert (waiting.queued, waiting.spooled) == {"memory": (50, 0), "overflow": (3, 47), "spool": (0, 50)}[way]
            where.append(there)
            for trace in a_batch(50, first + 50):
                writer.submit(trace, organization_id=ORG)
            assert writer.flush(PATIENCE)
            assert counted(writer) == {"stored": 100}
    assert len(ids_in(database.url)) == 300
