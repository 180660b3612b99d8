"""The spool's directory: how large it grows, who may use it, and what others do to it while writers run."""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import pytest
from sqlalchemy import NullPool, create_engine
from sqlalchemy.orm import Session

from provider_trace_store import InvalidWriterOptionError, TraceWriter
from provider_trace_store.spool.lock import Ownership
from tests.support.constants import ORG, PATIENCE
from tests.support.spools import left_behind
from tests.support.traces import a_batch, a_trace, trace_id
from tests.support.waiting import wait_until
from tests.support.writers import (
    NOWHERE,
    a_writer,
    a_writer_to_nowhere,
    assert_accounted,
    ids_in,
    rejects_in,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.servers import Database

HAS_MODES: Final = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="the system has no modes of files")
# Locks of SQLite, as the first versions of the package had them.
LOCK_WITH_SQLITE: Final = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=0)
try:
    connection.execute("PRAGMA journal_mode = OFF")
    connection.execute("BEGIN EXCLUSIVE")
except sqlite3.OperationalError:
    print("locked by another")
else:
    print("taken", flush=True)
    sys.stdin.read()
"""


def size_of(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.iterdir())


def copied(path: Path, owner: str | None = None) -> Path:
    """Copy a file, as that of another dead process."""
    copy = path.with_name(f"{owner or uuid4().hex}-00000001.db")
    shutil.copy(path, copy)
    return copy


def test_repeats_of_a_trace_stay_in_one_file_and_every_byte_is_counted(database: Database, tmp_path: Path) -> None:
    where = [create_engine(NOWHERE, poolclass=NullPool)]
    with TraceWriter(
        lambda: Session(where[-1]), spool_dir=tmp_path, max_retry_delay=0.1, batch_age=0.02, handle_sigterm=False
    ) as writer:
        for _ in range(200):
            writer.submit(a_trace(1), organization_id=ORG)
        writer.submit(a_trace(1, source="another"), organization_id=ORG)
        # The batch that is in flight is in another file.
        assert len(list(tmp_path.glob("*.db"))) <= 3
        # The writer's thread moves rows between files meanwhile, and counts their bytes after each step.
        wait_until(lambda: writer.stats.spooled_bytes == size_of(tmp_path))
        where.append(database.engine())
        assert writer.flush(PATIENCE)
        assert (writer.stats.stored, writer.stats.unchanged, writer.stats.rejected) == (1, 199, 1)
        assert_accounted(writer.stats)
    assert ids_in(database.url) == [trace_id(1)]


def test_many_files_of_dead_processes_cost_one_listing_few_descriptors_and_few_log_lines(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    count = 100
    [path] = left_behind(tmp_path, a_batch(1))
    for _ in range(count - 1):
        copied(path)
    caplog.clear()
    listings = 0
    most = 0
    scandir = os.scandir
    take = Ownership.take

    def listing(where: Any) -> Any:
        nonlocal listings
        listings += 1
        return scandir(where)

    def taking(*arguments: Any, **options: Any) -> Any:
        nonlocal most
        most = max(most, len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0)  # noqa: PTH112, PTH208  (as it is counted)
        return take(*arguments, **options)

    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0  # noqa: PTH112, PTH208  (as above)
    monkeypatch.setattr(os, "scandir", listing)
    monkeypatch.setattr(Ownership, "take", taking)
    with a_writer(database, spool_dir=tmp_path) as writer:
        writer.submit(a_trace(9999), organization_id=ORG)
        wait_until(lambda: trace_id(9999) in ids_in(database.url))
        assert writer.stats.adopted < count
        wait_until(lambda: writer.stats.adopted == count and not writer.stats.spooled)
        assert (writer.stats.stored, writer.stats.unchanged) == (2, count - 1)
    # Two when the options are checked.
    assert listings <= 4
    assert most - before <= 60
    assert len(caplog.records) <= 2


def test_a_close_does_not_wait_for_a_file_whose_reading_never_ends(
    database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    [path] = left_behind(tmp_path, a_batch(1))
    planted = copied(path)
    with closing(sqlite3.connect(planted)) as connection:
        connection.executescript(
            "ALTER TABLE provider_traces RENAME TO others;"
            "CREATE VIEW provider_traces AS WITH RECURSIVE endless AS"
            " (SELECT 1 AS rowid UNION ALL SELECT rowid FROM endless)"
            " SELECT others.*, endless.rowid FROM endless, others"
        )
    with a_writer(database, spool_dir=tmp_path) as writer:
        wait_until(lambda: planted.with_name(f"{planted.name}.damaged").exists() and writer.stats.stored == 1)
    assert any("is damaged" in record.getMessage() for record in caplog.records)


def test_a_copy_of_the_directory_in_the_same_process_releases_no_lock(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    with a_writer_to_nowhere(spool_dir=spool) as writer:
        writer.submit(a_trace(1), organization_id=ORG)
        [lock] = spool.glob("*.lock")
        shutil.copytree(spool, tmp_path / "copy")
        script = "import sys; from pathlib import Path; from provider_trace_store.spool.lock import Ownership\n"
        script += "print(Ownership.take(Path(sys.argv[1])))"
        for command in (script, LOCK_WITH_SQLITE):
            result = subprocess.run(
                [sys.executable, "-c", command, lock],
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
                check=True,
            )
            assert result.stdout.strip() in {"None", "locked by another"}


def test_a_lock_of_an_older_version_keeps_this_one_out(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    path.touch()
    with subprocess.Popen(
        [sys.executable, "-c", LOCK_WITH_SQLITE, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline().strip() == "taken"
        assert Ownership.take(path) is None
        other.communicate()
    owned = Ownership.take(path)
    assert owned is not None
    owned.release(delete=True)


def test_rejected_traces_have_a_bound(database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    told: list[str] = []
    with a_writer(
        database, spool_dir=tmp_path, max_spool_bytes=400_000, on_rejected=lambda name, _: told.append(name)
    ) as writer:
        for number in range(100):
            writer.submit(a_trace(number, request_json={"x": object()}, source="x" * 10_000), organization_id=ORG)
        writer.submit(a_trace(1000), organization_id=ORG)
        assert writer.flush(PATIENCE)
        assert (writer.stats.stored, writer.stats.rejected) == (1, 100)
        assert (tmp_path / "rejected.db").stat().st_size <= 200_000
        assert writer.stats.spooled_bytes >= (tmp_path / "rejected.db").stat().st_size
    assert len(told) == 100
    assert 0 < len(rejects_in(tmp_path)) < 100
    assert len([record for record in caplog.records if "has no room" in record.getMessage()]) == 1


@HAS_MODES
def test_files_are_for_their_owner_only_whatever_the_umask(database: Database, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with a_writer_to_nowhere(spool_dir=tmp_path / "new") as writer:
            writer.submit(a_trace(1), organization_id=ORG)
            writer.submit(a_trace(2, request_json={"x": object()}), organization_id=ORG)
            wait_until(lambda: writer.stats.rejected == 1 or writer.stats.queued == 1)
            modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "new").iterdir()}
        assert modes == {0o600}
        assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
        with a_writer(database, spool_dir=tmp_path / "new") as writer:
            writer.submit(a_trace(3, request_json={"x": object()}), organization_id=ORG)
            assert writer.flush(PATIENCE)
        assert stat.S_IMODE((tmp_path / "new" / "rejected.db").stat().st_mode) == 0o600
    finally:
        os.umask(before)


@HAS_MODES
@pytest.mark.parametrize("mode", [0o755, 0o770, 0o777, 0o1777])
def test_loose_permissions_are_repaired_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int) -> None:
    directory = tmp_path / "spool"
    directory.mkdir()
    directory.chmod(mode)
    with a_writer_to_nowhere(spool_dir=directory):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


@HAS_MODES
@pytest.mark.parametrize(("mode", "has_others"), [(0o777, True), (0o1777, True)])
def test_a_directory_that_others_write_to_is_refused(tmp_path: Path, mode: int, *, has_others: bool) -> None:
    directory = tmp_path / "shared"
    directory.mkdir()
    if has_others:
        (directory / "notes").touch()
    directory.chmod(mode)
    with (
        pytest.raises(InvalidWriterOptionError, match="chmod 700"),
        a_writer_to_nowhere(spool_dir=directory),
    ):
        pass
    assert stat.S_IMODE(directory.stat().st_mode) == mode


def linked(path: Path, elsewhere: Path) -> None:
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def with_two_names(path: Path, elsewhere: Path) -> None:
    elsewhere.hardlink_to(path)


def beside_a_super_journal(path: Path, elsewhere: Path) -> None:
    elsewhere.write_bytes(b"precious")
    name = os.fsencode(elsewhere)
    checksum = sum(name) & 0xFFFFFFFF
    journal = bytes.fromhex("d9d505f920a163d7") + bytes(504) + bytes(4) + name
    journal += len(name).to_bytes(4, "big") + checksum.to_bytes(4, "big") + bytes.fromhex("d9d505f920a163d7")
    path.with_name(f"{path.name}-journal").write_bytes(journal)


def beside_a_linked_wal(path: Path, elsewhere: Path) -> None:
    elsewhere.write_bytes(b"precious")
    path.with_name(f"{path.name}-wal").symlink_to(elsewhere)


@HAS_MODES
@pytest.mark.parametrize("plant", [linked, with_two_names, beside_a_super_journal, beside_a_linked_wal])
def test_a_planted_file_is_left_alone_and_the_others_are_stored(
    database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture, plant: Any
) -> None:
    spool, elsewhere = tmp_path / "spool", tmp_path / "elsewhere"
    [path] = left_behind(spool, a_batch(1))
    left_behind(spool, a_batch(3, first=10))
    plant(path, elsewhere)
    content = elsewhere.read_bytes()
    caplog.clear()
    with a_writer(database, spool_dir=spool) as writer:
        wait_until(lambda: writer.stats.stored == 3)
        wait_until(lambda: any("are left alone" in record.getMessage() for record in caplog.records))
    assert elsewhere.read_bytes() == content
    assert path.exists()
    assert ids_in(database.url) == [trace_id(number) for number in (10, 11, 12)]


def test_a_fifo_and_a_directory_with_a_files_name_are_left_alone(database: Database, tmp_path: Path) -> None:
    (tmp_path / f"{uuid4().hex}-00000001.db").mkdir()
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / f"{uuid4().hex}-00000001.db")
        os.mkfifo(tmp_path / f"{uuid4().hex}.lock")
    with a_writer(database, spool_dir=tmp_path) as writer:
        writer.submit(a_trace(1), organization_id=ORG)
        assert writer.flush(PATIENCE)


def test_rows_of_a_removed_directory_are_written_again_or_counted_as_dropped(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = tmp_path / "spool"
    where = [create_engine(NOWHERE, poolclass=NullPool)]
    monkeypatch.setattr("provider_trace_store.spool.active.SEGMENT_BYTES", 20_000)
    options: dict[str, Any] = {"max_retry_delay": 0.1, "batch_age": 0.02, "handle_sigterm": False}
    with TraceWriter(lambda: Session(where[-1]), spool_dir=spool, **options) as writer:
        for trace in a_batch(200):
            writer.submit(trace, organization_id=ORG)
        shutil.rmtree(spool)
        for trace in a_batch(20, first=1000):
            writer.submit(trace, organization_id=ORG)
        assert_accounted(writer.stats)
        assert writer.stats.dropped > 0
        where.append(database.engine())
        assert writer.flush(PATIENCE)
        stats = writer.stats
        assert_accounted(stats)
    stored = ids_in(database.url)
    assert len(stored) == stats.stored
    assert stats.stored + stats.dropped == 220
    assert {trace_id(1000 + number) for number in range(20)} <= set(stored)
