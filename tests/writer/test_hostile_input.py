"""The writer under hostile input: malformed traces, concurrent closes, files changed by others, missing privileges."""

from __future__ import annotations

import asyncio
import gc
import os
import sqlite3
import threading
import weakref
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import NullPool, create_engine, text
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from provider_trace_store import ProviderTrace, TraceWriter
from provider_trace_store.spool import salvage
from provider_trace_store.spool.errors import SegmentDamagedError
from provider_trace_store.spool.lock import Ownership
from provider_trace_store.spool.salvage import readable_rows
from provider_trace_store.spool.segment import Segment
from provider_trace_store.tables.kinds import FULL
from provider_trace_store.tables.rows import RowMaker
from provider_trace_store.writer.submission import Submission
from provider_trace_store.writer.worker import Worker
from tests.support.batches import run_script
from tests.support.constants import ORG, PATIENCE, SECRET
from tests.support.examples import examples
from tests.support.spools import garble_the_head, garble_the_middle, left_behind
from tests.support.traces import a_batch, a_trace, trace_id
from tests.support.waiting import wait_until
from tests.support.writers import NOWHERE, a_writer, a_writer_to_nowhere, assert_accounted, files_in, ids_in, rejects_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from provider_trace_store import ProviderTraceStoreError
    from tests.support.servers import Database

MAKER: Final = RowMaker(FULL.layout, ORG)
WAYS: Final = pytest.mark.parametrize("durability", ["memory", "spool"])


def made_around_the_schema(**fields: Any) -> ProviderTrace:
    return ProviderTrace.model_construct(**({"request_json": {SECRET: 1}, "response_json": {}} | fields))


@WAYS
def test_objects_made_around_the_schema_are_rejected_and_cost_nothing(
    database: Database, tmp_path: Path, durability: str
) -> None:
    far_east = timezone(timedelta(hours=14))
    odd = [
        made_around_the_schema(id=uuid4()),
        made_around_the_schema(id=None),
        made_around_the_schema(id=trace_id(1), step_id=uuid4()),
        made_around_the_schema(id=trace_id(2), created_at=datetime.min.replace(tzinfo=far_east)),
        made_around_the_schema(id=trace_id(3), created_at=object()),
        made_around_the_schema(id=trace_id(5), source="\ud800"),
    ]
    nameless = made_around_the_schema()
    del nameless.__dict__["id"]
    told: list[tuple[str, ProviderTraceStoreError]] = []
    with a_writer(
        database, spool_dir=tmp_path, durability=durability, on_rejected=lambda *what: told.append(what)
    ) as writer:
        for trace in (*odd, nameless, a_trace(100)):
            writer.submit(trace, organization_id=ORG)
        assert writer.flush(PATIENCE)
        assert_accounted(writer.stats)
        assert (writer.stats.stored, writer.stats.rejected) == (1, len(odd) + 1)
    assert all(type(one) is str for one, _ in told)
    assert len(rejects_in(tmp_path)) == len(told) == len(odd) + 1
    assert ids_in(database.url) == [trace_id(100)]


@WAYS
def test_a_close_keeps_the_others_where_one_cannot_be_kept(tmp_path: Path, durability: str) -> None:
    with a_writer_to_nowhere(spool_dir=tmp_path, durability=durability, batch_age=3600) as writer:
        writer.submit(made_around_the_schema(id=uuid4()), organization_id=ORG)
        for trace in a_batch(5):
            writer.submit(trace, organization_id=ORG)
    assert_accounted(writer.stats)
    assert (writer.stats.spooled, writer.stats.rejected, writer.stats.queued) == (5, 1, 0)


def test_two_closes_at_once_lose_nothing(tmp_path: Path) -> None:
    with a_writer_to_nowhere(spool_dir=tmp_path, durability="memory", batch_age=3600) as writer:
        for trace in a_batch(500):
            writer.submit(trace, organization_id=ORG)
        results: list[bool] = []
        threads = [threading.Thread(target=lambda: results.append(writer.close(1))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert results == [False] * 4
    assert_accounted(writer.stats)
    assert (writer.stats.spooled, writer.stats.dropped) == (500, 0)


def test_a_close_from_the_callback_does_not_wait_for_itself(database: Database) -> None:
    writers: list[TraceWriter] = []
    with a_writer(database, on_rejected=lambda *_: writers[0].close(1) and None) as writer:
        writers.append(writer)
        writer.submit(a_trace(1, request_json={"x": object()}), organization_id=ORG)
        wait_until(lambda: not writer.stats.queued)
        # The trace that `on_rejected` was called for is counted by the close.
        assert writer.stats.dropped == 1
        assert_accounted(writer.stats)


def test_readable_rows_of_a_damaged_file_are_stored_by_a_writer_that_keeps_traces_in_memory(
    database: Database, tmp_path: Path
) -> None:
    [path] = left_behind(tmp_path, [a_trace(n, request_json={"text": f"{n} " * 500}) for n in range(100)])
    garble_the_middle(path)
    with a_writer(database, spool_dir=tmp_path, durability="memory") as writer:
        wait_until(lambda: writer.stats.adopted > 50 and not writer.stats.spooled)
        assert_accounted(writer.stats)
        assert writer.stats.stored == writer.stats.adopted
        writer.submit(a_trace(1000), organization_id=ORG)
        assert writer.flush(PATIENCE)
    assert len(ids_in(database.url)) == writer.stats.stored


def test_a_damaged_file_of_the_other_table_is_taken_over_too(database: Database, tmp_path: Path) -> None:
    [path] = left_behind(tmp_path, a_batch(500), metadata_only=True)
    garble_the_middle(path)
    with a_writer(database, spool_dir=tmp_path) as writer:
        writer.submit(a_trace(1000), organization_id=ORG)
        wait_until(lambda: writer.stats.adopted > 0 and not writer.stats.spooled)
        assert writer.flush(PATIENCE)
        assert_accounted(writer.stats)
    assert len(ids_in(database.url, metadata_only=True)) == writer.stats.adopted
    assert ids_in(database.url) == [trace_id(1000)]


def test_one_dead_writers_broken_lock_does_not_cost_the_others(database: Database, tmp_path: Path) -> None:
    left_behind(tmp_path, a_batch(3))
    [lock] = tmp_path.glob("*.lock")
    lock.write_bytes(b"no database at all" * 100)
    left_behind(tmp_path, a_batch(3, first=10))
    with a_writer(database, spool_dir=tmp_path) as writer:
        wait_until(lambda: writer.stats.stored == 3)
    assert lock.exists()
    lock.unlink()
    with a_writer(database, spool_dir=tmp_path) as writer:
        wait_until(lambda: writer.stats.stored == 3)
    assert files_in(tmp_path) == []


@settings(max_examples=examples(40))
@given(data=st.data())
def test_reading_a_damaged_file_ends_whatever_is_in_it(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "x.db"
    segment = Segment.create(path, FULL, fsync=False)
    rows = [MAKER.make(a_trace(number, request_json={"text": "x" * 3000})) for number in range(40)]
    segment.append(rows)
    segment.close()
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 20))):
        # Damage to interior pages and to the heads of leaves leads the search in the B-tree to wrong pages.
        place = data.draw(st.one_of(st.integers(0, 2 * 16384), st.integers(0, len(content) - 1)))
        content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content[: data.draw(st.sampled_from([len(content), len(content) // 2]))]))
    try:
        segment = Segment.open(path, is_damaged=True)
    except (SegmentDamagedError, sqlite3.Error):
        return
    assert len(list(readable_rows(segment, 0))) <= 2 * len(rows)
    segment.close()


@pytest.mark.parametrize("interrupted", [0, 5])
@pytest.mark.parametrize("count", [1, 20])
def test_an_interrupt_between_append_and_count_loses_nothing(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interrupted: int, count: int
) -> None:
    append = Segment.append

    def interrupting(self: Segment, rows: Any) -> None:
        append(self, rows)
        if rows[0].trace_id == trace_id(interrupted):
            raise KeyboardInterrupt

    monkeypatch.setattr(Segment, "append", interrupting)
    with a_writer_to_nowhere(spool_dir=tmp_path, batch_age=3600) as writer:
        for trace in a_batch(count):
            try:
                writer.submit(trace, organization_id=ORG)
            except KeyboardInterrupt:
                assert trace.id == trace_id(interrupted)
        writer.flush(0.2)
        assert_accounted(writer.stats)
    with a_writer(database, spool_dir=tmp_path) as writer:
        wait_until(lambda: writer.stats.stored == count)
        assert_accounted(writer.stats)
    assert ids_in(database.url) == [trace_id(number) for number in range(count)]
    assert files_in(tmp_path) == []


def test_a_process_that_ends_while_it_reads_a_damaged_file_leaves_it_to_the_next(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [path] = left_behind(tmp_path, [a_trace(n, request_json={"text": f"{n} " * 500}) for n in range(100)])
    garble_the_middle(path)
    read = salvage.readable_rows

    def ending(*_: object) -> Any:
        monkeypatch.setattr(salvage, "readable_rows", read)
        raise SystemExit

    monkeypatch.setattr(salvage, "readable_rows", ending)
    monkeypatch.setattr("provider_trace_store.writer.worker._PAUSE", 0.05)
    with a_writer(database, spool_dir=tmp_path) as writer:
        wait_until(lambda: salvage.readable_rows is read)
        assert path.exists()
        writer.close()
    with a_writer(database, spool_dir=tmp_path) as writer:
        wait_until(lambda: writer.stats.adopted > 50 and not writer.stats.spooled)
    assert len(ids_in(database.url)) == writer.stats.stored


def test_memory_does_not_wait_for_a_spool_that_cannot_be_read(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left_behind(tmp_path, a_batch(3))

    def failing(*_: object) -> None:
        raise sqlite3.OperationalError

    monkeypatch.setattr("provider_trace_store.spool.spool.Spool.take", failing)
    with a_writer(database, spool_dir=tmp_path, durability="memory") as writer:
        wait_until(lambda: writer.stats.adopted == 3)
        for trace in a_batch(50, first=10):
            writer.submit(trace, organization_id=ORG)
        assert writer.flush(PATIENCE)
        assert (writer.stats.stored, writer.stats.spooled) == (50, 3)


def test_an_interrupted_close_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Worker._kept
    calls = 0

    def interrupted(self: Worker, submission: Any) -> str:
        nonlocal calls
        calls += 1
        if calls == 10:
            raise KeyboardInterrupt
        return kept(self, submission)

    monkeypatch.setattr(Worker, "_kept", interrupted)
    with a_writer_to_nowhere(spool_dir=tmp_path, durability="memory", batch_age=3600) as writer:
        for trace in a_batch(50):
            writer.submit(trace, organization_id=ORG)
        with pytest.raises(KeyboardInterrupt):
            writer.close(0)
        assert_accounted(writer.stats)
    assert_accounted(writer.stats)
    assert writer.stats.spooled == 50


def test_a_close_releases_each_trace_that_the_spool_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Worker._kept
    alive: list[int] = []

    def counting(self: Worker, submission: Submission) -> Any:
        alive.append(sum(type(each) is Submission for each in gc.get_objects()))
        return kept(self, submission)

    monkeypatch.setattr(Worker, "_kept", counting)
    with a_writer_to_nowhere(spool_dir=tmp_path, durability="memory", batch_age=3600) as writer:
        for trace in a_batch(50):
            writer.submit(trace, organization_id=ORG)
    assert alive == list(range(alive[0], alive[0] - 50, -1))


def test_a_close_goes_on_trying_where_the_spool_cannot_take_the_rest(database: Database, tmp_path: Path) -> None:
    failures = 2

    def factory() -> Session:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise ConnectionError
        return Session(database.engine())

    options: dict[str, Any] = {"max_retry_delay": 0.1, "batch_age": 3600, "handle_sigterm": False}
    writer = TraceWriter(factory, spool_dir=tmp_path, durability="memory", max_spool_bytes=1, **options)
    for trace in a_batch(50):
        writer.submit(trace, organization_id=ORG)
    assert writer.close(PATIENCE)
    assert writer.stats.stored == 50


def test_a_scoped_session_of_the_hosts_is_left_alone(database: Database) -> None:
    registry = scoped_session(sessionmaker(database.engine()))
    registry.execute(text("SELECT 1"))
    mine = registry()
    with TraceWriter(registry, batch_age=0, handle_sigterm=False) as writer:
        writer.submit(a_trace(1), organization_id=ORG)
        assert writer.flush(PATIENCE)
    assert mine.in_transaction()
    registry.remove()


def test_a_lock_whose_file_another_deletes_meanwhile_is_taken_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.lock"
    opened = os.open
    calls = 0

    def meddling(*arguments: Any) -> int:
        nonlocal calls
        descriptor = opened(*arguments)
        calls += 1
        if calls < 3:
            path.unlink()
        return descriptor

    monkeypatch.setattr("provider_trace_store.spool.lock.os.open", meddling)
    owned = Ownership.take(path)
    monkeypatch.undo()
    assert owned is not None
    assert calls > 2
    assert Ownership.take(path) is None
    owned.release(delete=True)


def test_a_submit_keeps_no_object_of_the_callers() -> None:
    class Thing(Decimal):
        pass

    for kept in (Thing("1.5"), {1, 2}, object()):
        with a_writer_to_nowhere(batch_age=3600) as writer:
            body = _Tracked(price=kept)
            alive = weakref.ref(body)
            writer.submit(a_trace(1, request_json={"body": body}), organization_id=ORG)
            del body
            gc.collect()
            assert alive() is None, kept


class _Tracked(dict[str, Any]):
    __slots__ = ("__weakref__",)


@WAYS
def test_a_body_that_another_thread_is_changing_raises_nothing(
    database: Database, tmp_path: Path, durability: str
) -> None:
    body: dict[str, Any] = {f"key-{number}": number for number in range(50)}
    ends = threading.Event()

    def change() -> None:
        number = 0
        while not ends.is_set():
            body[f"new-{number}"] = number
            body.pop(f"new-{number - 10}", None)
            number += 1

    changing = threading.Thread(target=change)
    changing.start()
    try:
        with a_writer(database, spool_dir=tmp_path, durability=durability) as writer:
            for number in range(500):
                trace = a_trace(number)
                trace.__dict__["request_json"] = body
                writer.submit(trace, organization_id=ORG)
            ends.set()
            assert writer.flush(PATIENCE)
            assert_accounted(writer.stats)
            assert writer.stats.stored + writer.stats.rejected == 500
    finally:
        ends.set()
        changing.join()


def test_a_hook_that_raises_something_of_its_own_does_not_end_the_thread(database: Database) -> None:
    errors: list[BaseException] = [asyncio.CancelledError(), SystemExit(), KeyboardInterrupt(), RuntimeError(SECRET)]

    def factory() -> Session:
        if errors:
            raise errors.pop()
        return Session(database.engine())

    with TraceWriter(factory, max_retry_delay=0.1, batch_age=0, handle_sigterm=False) as writer:
        writer.submit(a_trace(1), organization_id=ORG)
        assert writer.flush(PATIENCE)
        assert writer.stats.stored == 1


def test_garbage_in_the_reject_table_is_set_aside(database: Database, tmp_path: Path) -> None:
    (tmp_path / "rejected.db").write_bytes(b"no database at all" * 100)
    with a_writer(database, spool_dir=tmp_path) as writer:
        writer.submit(a_trace(1, request_json={"x": object()}), organization_id=ORG)
        assert writer.flush(PATIENCE)
    assert [row["id"] for row in rejects_in(tmp_path)] == [trace_id(1)]
    assert (tmp_path / "rejected.db.damaged").exists()


def test_memory_is_used_again_although_the_spool_never_took_anything(database: Database, tmp_path: Path) -> None:
    where = [create_engine(NOWHERE, poolclass=NullPool)]
    options: dict[str, Any] = {"max_retry_delay": 0.1, "batch_age": 0.02, "handle_sigterm": False}
    with TraceWriter(
        lambda: Session(where[-1]),
        spool_dir=tmp_path,
        durability="memory",
        max_queue_traces=5,
        max_spool_bytes=1,
        block_timeout=0,
        **options,
    ) as writer:
        for trace in a_batch(20):
            writer.submit(trace, organization_id=ORG)
        assert writer.stats.dropped == 15
        where.append(database.engine())
        assert writer.flush(PATIENCE)
        writer.submit(a_trace(50), organization_id=ORG)
        assert writer.stats.queued == 1
        assert writer.flush(PATIENCE)
    assert writer.stats.stored == 6
    assert files_in(tmp_path) == []


def test_a_head_that_is_garbage_costs_no_other_file(database: Database, tmp_path: Path) -> None:
    [first] = left_behind(tmp_path, a_batch(5))
    left_behind(tmp_path, a_batch(5, first=10))
    garble_the_head(first)
    with a_writer(database, spool_dir=tmp_path) as writer:
        wait_until(lambda: writer.stats.stored == 5)


def test_an_internal_error_at_the_commit_is_waited_out(postgres: Database) -> None:
    run_script(
        postgres,
        "CREATE TABLE broken (since int)",
        """CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF EXISTS (SELECT FROM broken) THEN RAISE SQLSTATE 'XX000'; END IF; RETURN NULL; END $$""",
        """CREATE CONSTRAINT TRIGGER fail AFTER INSERT ON provider_traces DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION fail()""",
        "INSERT INTO broken VALUES (1)",
    )
    with a_writer(postgres) as writer:
        for trace in a_batch(10):
            writer.submit(trace, organization_id=ORG)
        wait_until(lambda: writer.stats.retries > 2)
        run_script(postgres, "DELETE FROM broken")
        assert writer.flush(PATIENCE)
        assert (writer.stats.stored, writer.stats.rejected) == (10, 0)


# What a writer of full traces reads: its own table, and which ids are packed.
READ: Final = "provider_traces, provider_trace_metadata"


@contextmanager
def a_role(database: Database, *statements: str) -> Iterator[tuple[str, Callable[[], Session]]]:
    """Create a role that may read, run an administrator's statements, and return the role and its session factory."""
    role = f"writer_{uuid4().hex[:8]}"
    run_script(database, f"CREATE ROLE {role}", f"GRANT SELECT ON {READ} TO {role}", *statements)

    def factory() -> Session:
        session = Session(database.engine())
        session.execute(text(f"SET LOCAL ROLE {role}"))
        return session

    try:
        yield role, factory
    finally:
        run_script(database, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def test_a_missing_grant_is_waited_for(postgres: Database) -> None:
    options: dict[str, Any] = {"max_retry_delay": 0.1, "batch_age": 0.02, "handle_sigterm": False}
    with a_role(postgres) as (role, factory), TraceWriter(factory, **options) as writer:
        for trace in a_batch(10):
            writer.submit(trace, organization_id=ORG)
        wait_until(lambda: writer.stats.retries > 2)
        run_script(postgres, f"GRANT INSERT ON provider_traces TO {role}")
        assert writer.flush(PATIENCE)
        assert (writer.stats.stored, writer.stats.rejected) == (10, 0)


def test_a_row_that_a_policy_refuses_is_rejected(postgres: Database) -> None:
    options: dict[str, Any] = {"max_retry_delay": 0.1, "batch_age": 0.02, "handle_sigterm": False}
    policy = (
        "ALTER TABLE provider_traces ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY mine ON provider_traces USING (true) WITH CHECK (organization_id = 'org-1')",
    )
    with a_role(postgres, *policy) as (role, factory), TraceWriter(factory, **options) as writer:
        run_script(postgres, f"GRANT INSERT ON provider_traces TO {role}")
        for trace in a_batch(10):
            writer.submit(trace, organization_id="org-1" if trace.id != trace_id(4) else "org-2")
        assert writer.flush(PATIENCE)
        assert (writer.stats.stored, writer.stats.rejected) == (9, 1)


def test_times_that_no_clock_can_take_are_cut() -> None:
    with a_writer_to_nowhere() as writer:
        assert writer.flush(float("inf"))
        assert writer.flush(-1)
        assert writer.close(float("inf"))


def test_a_date_at_the_end_of_time_is_stored_or_refused_and_never_raises(database: Database) -> None:
    with a_writer(database) as writer:
        for number, moment in enumerate((datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC))):
            writer.submit(a_trace(number, created_at=moment), organization_id=ORG)
        assert writer.flush(PATIENCE)
        assert writer.stats.stored == 2
