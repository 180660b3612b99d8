"""The spool: the content of its files, which process may take them over, and damaged files."""

from __future__ import annotations

import logging
import os
import sqlite3
import stat
import threading
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import NullPool, create_engine, text
from sqlalchemy.orm import Session

from provider_trace_store import ProviderTrace, ProviderTraceRepository, TraceWriter
from provider_trace_store.migrations import upgrade
from provider_trace_store.spool.errors import SegmentDamagedError
from provider_trace_store.spool.files import delete_file
from provider_trace_store.spool.lock import Ownership
from provider_trace_store.spool.segment import Segment
from provider_trace_store.tables.kinds import FULL
from provider_trace_store.tables.rows import RowMaker
from provider_trace_store.writer.signals import Signals
from tests.support.batches import both_modes
from tests.support.constants import ORG, PATIENCE
from tests.support.documents import documents
from tests.support.examples import examples
from tests.support.spools import garble_the_head, garble_the_middle, left_behind, overwritten
from tests.support.traces import a_batch, a_trace, trace_id
from tests.support.waiting import wait_until
from tests.support.writers import (
    NOWHERE,
    a_writer,
    a_writer_to_nowhere,
    assert_accounted,
    files_in,
    ids_in,
    read,
    read_metadata,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.servers import Database

MAKER: Final = RowMaker(FULL.layout, ORG)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Return where the spool is."""
    return tmp_path / "spool"


def test_only_its_owner_may_look_into_it(directory: Path) -> None:
    left_behind(directory, a_batch(1))
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_a_file_of_it_is_a_store_that_a_repository_reads(directory: Path) -> None:
    traces = [
        a_trace(0),
        a_trace(1, step_id="step-1"),
        a_trace(2),
        a_trace(3, request_json={"odd": ["\0", "\ud800", b"x", float("inf")]}),
    ]
    [path] = left_behind(directory, traces)
    engine = create_engine(f"sqlite:///{path}", poolclass=NullPool)
    with Session(engine) as session:
        repository = ProviderTraceRepository(session, organization_id=ORG)
        assert repository.get(trace_id(0)) == traces[0]
    with engine.connect() as connection:
        upgrade(connection)
    with Session(engine) as session:
        repository = ProviderTraceRepository(session, organization_id=ORG)
        assert [trace.id for trace in repository.list_by_step_id("step-1")] == [trace_id(1)]
        listed = repository.list_metadata(order="oldest")
        assert [item.id for item in listed.items] == [trace.id for trace in traces]


@both_modes
def test_the_next_writer_stores_the_backlog(database: Database, directory: Path, *, metadata_only: bool) -> None:
    traces = a_batch(30)
    left_behind(directory, traces, metadata_only=metadata_only)
    # The flag of the next writer decides the table of its own traces, not of these.
    with a_writer(database, spool_dir=directory, metadata_only=not metadata_only) as writer:
        wait_until(lambda: writer.stats.stored == 30)
        stats = writer.stats
    assert (stats.accepted, stats.adopted) == (30, 30)
    assert_accounted(stats)
    assert ids_in(database.url, metadata_only=metadata_only) == [trace.id for trace in traces]
    found = read_metadata(database, trace_id(7)) if metadata_only else read(database, trace_id(7))
    assert found is not None
    assert found.created_at == traces[7].created_at
    assert files_in(directory) == []


def test_a_living_writers_files_are_left_alone(database: Database, directory: Path) -> None:
    with a_writer_to_nowhere(spool_dir=directory) as other:
        for trace in a_batch(10):
            other.submit(trace, organization_id=ORG)
        with a_writer(database, spool_dir=directory) as writer:
            writer.submit(a_trace(10), organization_id=ORG)
            assert writer.flush(PATIENCE)
            assert writer.stats.adopted == 0
        assert other.stats.spooled == 10
    assert ids_in(database.url) == [trace_id(10)]


def test_files_of_writers_that_die_meanwhile_are_taken_over(
    database: Database, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("provider_trace_store.writer.sources.ADOPTION_INTERVAL", 0.1)
    with a_writer(database, spool_dir=directory) as writer:
        writer.submit(a_trace(100), organization_id=ORG)
        assert writer.flush(PATIENCE)
        left_behind(directory, a_batch(5))
        wait_until(lambda: writer.stats.stored == 6)
        assert writer.stats.adopted == 5


@pytest.mark.parametrize("durability", ["memory", "spool"])
def test_new_traces_do_not_wait_for_the_backlog(
    database: Database, directory: Path, durability: Literal["memory", "spool"]
) -> None:
    """A new trace is stored within the next few transactions, although the backlog fills many more."""
    left_behind(directory, a_batch(40))
    transactions = threading.Semaphore(0)
    engine = database.engine()

    def session() -> Session:
        transactions.acquire()
        return Session(engine)

    writer = TraceWriter(
        session, spool_dir=directory, durability=durability, batch_rows=2, batch_age=0, handle_sigterm=False
    )
    try:
        wait_until(lambda: writer.stats.adopted == 40)
        writer.submit(a_trace(9999), organization_id=ORG)
        # The first one may have begun before the trace came.
        transactions.release(4)
        assert writer.flush(PATIENCE)
        assert read(database, trace_id(9999)) is not None
        assert writer.stats.spooled >= 40 - 3 * 2
        transactions.release(1000)
        wait_until(lambda: writer.stats.stored == 41)
    finally:
        transactions.release(1000)
        writer.close(PATIENCE)


def test_a_full_batch_in_the_spool_wakes_the_thread_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the database is away, an append must not wake the thread that pauses between two tries."""
    wake_ups = 0
    notify = Signals.notify_work

    def counting(self: Signals) -> None:
        nonlocal wake_ups
        wake_ups += 1
        notify(self)

    monkeypatch.setattr(Signals, "notify_work", counting)
    with a_writer_to_nowhere(spool_dir=tmp_path, batch_rows=10) as writer:
        for trace in a_batch(500):
            writer.submit(trace, organization_id=ORG)
        files = len(list(tmp_path.glob("*.db")))
    # For each file: its first row, and its first full batch.
    assert wake_ups <= 2 * files


def test_a_lock_is_taken_once_in_a_process_and_again_after_its_release(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    owned = Ownership.take(path)
    assert owned is not None
    assert Ownership.take(path) is None
    owned.release(delete=False)
    again = Ownership.take(path)
    assert again is not None
    again.release(delete=True)
    assert not path.exists()


@settings(max_examples=examples(30))
@given(document=documents(), text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_a_row_comes_out_of_a_file_as_it_went_in(
    tmp_path_factory: pytest.TempPathFactory, document: Any, text: str
) -> None:
    trace = ProviderTrace(
        request_json={"a": document},
        response_json={},
        source=text,
        agent_tags=[text],
        created_at=datetime(2026, 3, 29, 1, 30, 0, 123456, tzinfo=UTC),
    )
    row = MAKER.make(trace)
    segment = Segment.create(tmp_path_factory.mktemp("segment") / "x.db", FULL, fsync=False)
    segment.append([row])
    [waiting] = segment.read(0, 10, 10)
    segment.close()
    assert waiting.row.values == row.values
    assert waiting.place == 1


def test_an_append_that_fails_adds_none_of_its_rows(tmp_path: Path) -> None:
    segment = Segment.create(tmp_path / "x.db", FULL, fsync=True)
    rows = [MAKER.make(trace) for trace in a_batch(3)]
    segment.append(rows[:1])
    with pytest.raises(sqlite3.IntegrityError):
        segment.append([rows[1], rows[0], rows[2]])
    assert [waiting.row.trace_id for waiting in segment.read(0, 10, 10**6)] == [trace_id(0)]
    assert segment.count_after(0) == 1
    segment.close()


def test_reading_goes_on_where_storing_ended(tmp_path: Path) -> None:
    segment = Segment.create(tmp_path / "x.db", FULL, fsync=False)
    segment.append([MAKER.make(trace) for trace in a_batch(10)])
    found = segment.read(0, 4, 10**9)
    segment.mark_stored(found[-1].place)
    segment.close()
    segment = Segment.open(tmp_path / "x.db")
    assert segment.stored_up_to() == 4
    assert [waiting.row.trace_id for waiting in segment.read(4, 100, 1)] == [trace_id(4)]
    assert len(segment.read(4, 100, 10**9)) == 6
    segment.close()


def cut_in_half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def zero_a_page(path: Path) -> None:
    overwritten(path, path.stat().st_size // 2 // 16384 * 16384, bytes(16384))


def garble_a_document(path: Path) -> None:
    data = path.read_bytes()
    overwritten(path, data.rindex(b'"total_tokens"'), b"\0\0\0\0\0\0")


@pytest.mark.parametrize(
    ("damage", "least"),
    [
        (cut_in_half, 1),
        (zero_a_page, 50),
        (garble_the_middle, 50),
        (garble_the_head, 0),
        (garble_a_document, 199),
    ],
)
def test_readable_rows_of_a_damaged_file_are_stored_and_the_file_is_set_aside(
    database: Database,
    directory: Path,
    damage: Callable[[Path], None],
    least: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    traces = [a_trace(number, request_json={"text": f"{number} " * 500}) for number in range(200)]
    [path] = left_behind(directory, traces)
    damage(path)
    with a_writer(database, spool_dir=directory) as writer:
        writer.submit(a_trace(1000), organization_id=ORG)
        assert writer.flush(PATIENCE)
        wait_until(lambda: bool(list(directory.glob("*.damaged"))))
        wait_until(lambda: not writer.stats.spooled)
        stats = writer.stats
        assert_accounted(stats)
    stored = ids_in(database.url)
    assert least <= len(stored) - 1 < 200
    # Rows that turn out unreadable only during the read were counted as adopted before.
    assert stats.adopted - stats.dropped == len(stored) - 1
    for one in traces:
        if one.id in stored:
            assert read(database, one.id) == one
    assert [name for name in files_in(directory) if not name.startswith(f"{path.name}.damaged")] == []
    assert path.with_name(f"{path.name}.damaged").exists()
    messages = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len([message for message in messages if "is damaged" in message]) == 1


def test_a_file_of_its_own_that_is_damaged_is_counted(database: Database, directory: Path) -> None:
    where = [create_engine(NOWHERE, poolclass=NullPool)]
    options: dict[str, Any] = {"max_retry_delay": 0.1, "batch_age": 0.02, "handle_sigterm": False}
    with TraceWriter(lambda: Session(where[-1]), spool_dir=directory, **options) as writer:
        writer.submit(a_trace(0), organization_id=ORG)
        wait_until(lambda: writer.stats.retries > 0)
        for trace in a_batch(20, first=1):
            writer.submit(trace, organization_id=ORG)
        last = max(directory.glob("*-*.db"))
        overwritten(last, 0, b"no database at all" * 10)
        where.append(database.engine())
        assert writer.flush(PATIENCE)
        assert_accounted(writer.stats)
        assert (writer.stats.stored, writer.stats.dropped) == (1, 20)
    assert ids_in(database.url) == [trace_id(0)]


def test_a_foreign_file_is_left_where_it_is(database: Database, directory: Path) -> None:
    directory.mkdir()
    (directory / "notes.db").write_text("mine", encoding="ascii")
    (directory / "notes.lock").touch()
    with a_writer(database, spool_dir=directory) as writer:
        writer.submit(a_trace(0), organization_id=ORG)
        assert writer.flush(PATIENCE)
    assert files_in(directory) == ["notes.db", "notes.lock"]


def test_it_grows_no_larger_than_it_may(directory: Path) -> None:
    with a_writer_to_nowhere(
        spool_dir=directory, max_spool_bytes=50_000, max_queue_bytes=20_000, block_timeout=0
    ) as writer:
        for trace in a_batch(300):
            writer.submit(trace, organization_id=ORG)
        stats = writer.stats
        assert_accounted(stats)
    assert stats.spooled > 0
    assert stats.queued > 0
    assert stats.dropped > 0
    assert stats.spooled_bytes <= 50_000
    assert stats.queued_bytes <= 20_000


def test_full_files_are_followed_by_others_and_all_are_stored_in_order(
    database: Database, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("provider_trace_store.spool.active.SEGMENT_BYTES", 10_000)
    files = left_behind(directory, a_batch(200))
    assert len(files) > 5
    with a_writer(database, spool_dir=directory) as writer:
        wait_until(lambda: writer.stats.stored == 200)
    assert files_in(directory) == []


def test_a_file_says_of_which_kind_it_is(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE provider_traces (id)")
    with pytest.raises(SegmentDamagedError):
        Segment.open(path)
    delete_file(path)
    delete_file(path)
    assert not path.exists()


def test_leaving_memory_for_the_spool_and_coming_back(database: Database, directory: Path) -> None:
    where = [create_engine(NOWHERE, poolclass=NullPool)]
    options: dict[str, Any] = {"max_retry_delay": 0.1, "batch_age": 0.02, "handle_sigterm": False}
    with TraceWriter(
        lambda: Session(where[-1]), spool_dir=directory, durability="memory", max_queue_traces=20, **options
    ) as writer:
        for round_number in range(3):
            where.append(where[0])
            for trace in a_batch(50, first=100 * round_number):
                writer.submit(trace, organization_id=ORG)
            assert writer.stats.spooled >= 30
            where.append(database.engine())
            assert writer.flush(PATIENCE)
            writer.submit(a_trace(100 * round_number + 99), organization_id=ORG)
            assert (writer.stats.queued, writer.stats.spooled) == (1, 0), "it does not use memory again"
            assert writer.flush(PATIENCE)
        assert writer.stats.stored == 153
    if database.backend == "sqlite":
        with database.engine().connect() as connection:
            numbers = [
                int(one[-36:-28], 16)
                for one in connection.scalars(text("SELECT id FROM provider_traces ORDER BY rowid"))
            ]
        assert numbers == sorted(numbers)
