"""Backfill waits for a real standby."""

from __future__ import annotations

import shutil
import tempfile
import threading
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import NullPool, create_engine, event, text

from provider_trace_store.maintenance import backfill, backfilling
from tests.support.constants import PATIENCE
from tests.support.packed_tables import row_counts, store
from tests.support.servers import memory
from tests.support.throwaway import Throwaway, throwaway
from tests.support.traces import a_trace
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest
    from sqlalchemy import URL


@contextmanager
def standby_of(primary: Throwaway) -> Iterator[Throwaway]:
    """Run a standby that is made of the files of a server."""
    directory = Path(tempfile.mkdtemp(prefix="standby-", dir=memory()))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        server, data = Throwaway(directory, fsync=False), directory / "data"
        shutil.rmtree(data)
        primary.kill()
        shutil.copytree(primary.directory / "data", data)
        primary.start()
        (data / "postmaster.pid").unlink()
        (data / "standby.signal").touch()
        with (data / "postgresql.auto.conf").open("a", encoding="utf-8") as settings:
            settings.write(f"primary_conninfo = 'host={primary.directory} user=postgres'\n")
        for path in (directory, data, *data.rglob("*")):
            primary.own(path)
        stack.callback(server.stop)
        server.start()
        yield server


def scalar(url: URL, query: str) -> Any:
    engine = create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        return connection.scalar(text(query))


def test_backfill_waits_for_a_standby_that_replays_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backfilling, "_BATCH", 1)
    with throwaway() as primary:
        url = primary.create_database("traces")
        engine = create_engine(url)
        store(engine, [a_trace(number) for number in range(3)])
        engine.dispose()
        with standby_of(primary) as standby:
            replaying = "SELECT count(*) FROM pg_stat_replication WHERE replay_lsn = pg_current_wal_lsn()"
            wait_until(lambda: scalar(url, replaying) == 1)
            scalar(standby.url, "SELECT pg_wal_replay_pause()")
            wait_until(lambda: scalar(standby.url, "SELECT pg_get_wal_replay_pause_state()") == "paused")
            copied: list[int] = []
            looks: list[str] = []

            @event.listens_for(engine, "before_cursor_execute")
            def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
                if "pg_stat_replication" in statement:
                    looks.append(statement)

            thread = threading.Thread(target=lambda: copied.append(backfill(engine, max_lag=0.0).copied), daemon=True)
            thread.start()
            wait_until(lambda: len(looks) > 2)
            assert row_counts(engine)[1] < 3
            scalar(standby.url, "SELECT pg_wal_replay_resume()")
            thread.join(PATIENCE)
            assert copied == [3]
        engine.dispose()
