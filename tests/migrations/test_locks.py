"""Migrations that meet a lock: a short stall for writers, several tries, and errors that name the session."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from typing import TYPE_CHECKING, Final

import pytest
from sqlalchemy import NullPool, text
from sqlalchemy.ext.asyncio import create_async_engine

from provider_trace_store import InvalidArgumentError, MigrationLockError
from provider_trace_store.migrations import current, downgrade, upgrade
from tests.support.batches import run_script
from tests.support.constants import HEAD, PATIENCE, SECRET
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

    from tests.support.servers import Database

LOGGER: Final = "provider_trace_store.migrations"
INSERT: Final = "INSERT INTO provider_trace_metadata (id, organization_id) VALUES ('{}', 'org-1')"


def blocker_of(database: Database) -> Connection:
    """Return a connection whose open transaction has read the metadata table."""
    busy = database.engine(connect_args={"application_name": "hosts report"}).connect()
    busy.execute(text(f"SELECT count(*) FROM provider_trace_metadata WHERE id <> '{SECRET}'"))  # noqa: S608  (a constant)
    return busy


def pid_of(connection: Connection) -> int:
    return int(connection.scalar(text("SELECT pg_backend_pid()")) or 0)


@pytest.mark.every_server
def test_the_error_names_the_session_that_holds_the_lock_but_not_its_query(postgres: Database) -> None:
    with blocker_of(postgres) as busy, postgres.engine().connect() as connection:
        pid = pid_of(busy)
        with pytest.raises(MigrationLockError) as caught:
            downgrade(connection, "0001", lock_timeout=0.05, tries=1)
    message = str(caught.value)
    assert f"pid {pid} (application 'hosts report', idle in transaction, its transaction is 0 s old)" in message
    assert f"pg_terminate_backend({pid})" in message
    assert "longer" not in message
    assert SECRET not in message
    assert caught.value.__context__ is None


def test_a_later_try_succeeds_when_the_lock_is_free(postgres: Database, caplog: pytest.LogCaptureFixture) -> None:
    busy = blocker_of(postgres)

    def end() -> None:
        wait_until(lambda: bool(caplog.records))
        busy.close()

    ended = threading.Thread(target=end)
    with caplog.at_level(logging.WARNING, LOGGER), postgres.engine().connect() as connection:
        ended.start()
        downgrade(connection, "0001", lock_timeout=0.05)
        ended.join(PATIENCE)
        assert current(connection) == "0001"
    assert "the next try begins in 0.5 s" in caplog.records[0].getMessage()


def test_a_writer_waits_no_longer_than_one_lock_timeout(postgres: Database) -> None:
    delays: list[float] = []
    stop = threading.Event()

    def write() -> None:
        with postgres.engine(isolation_level="AUTOCOMMIT").connect() as connection:
            number = 0
            while not stop.is_set():
                start = time.monotonic()
                connection.execute(text(INSERT.format(number)))
                delays.append(time.monotonic() - start)
                number += 1

    writer = threading.Thread(target=write)
    with blocker_of(postgres), postgres.engine().connect() as connection:
        writer.start()
        wait_until(lambda: len(delays) > 1)
        with pytest.raises(MigrationLockError):
            downgrade(connection, "0001", lock_timeout=0.5, tries=2)
        stop.set()
        writer.join(PATIENCE)
    # At least one INSERT met the migration, and none waited for the pauses between the tries.
    assert 0.1 < max(delays) < 0.5 + 2.0
    assert sum(delay > 0.3 for delay in delays) <= 2


def test_a_caller_that_blocks_writers_gets_one_try(postgres: Database, caplog: pytest.LogCaptureFixture) -> None:
    run_script(postgres, "CREATE TABLE host_one (id integer PRIMARY KEY)")
    with blocker_of(postgres), postgres.engine().connect() as connection:
        connection.execute(text("ALTER TABLE host_one ADD COLUMN more text"))
        with caplog.at_level(logging.WARNING, LOGGER), pytest.raises(MigrationLockError):
            downgrade(connection, "0001", lock_timeout=0.05)
        assert caplog.records == []
        connection.execute(text("INSERT INTO host_one (id, more) VALUES (1, 'usable')"))
        connection.commit()


def test_a_caller_that_blocks_no_writer_gets_them_all(postgres: Database, caplog: pytest.LogCaptureFixture) -> None:
    with blocker_of(postgres), postgres.engine().begin() as connection:
        with caplog.at_level(logging.WARNING, LOGGER), pytest.raises(MigrationLockError):
            downgrade(connection, "0001", lock_timeout=0.05, tries=2)
        assert len(caplog.records) == 1
        assert connection.scalar(text("SHOW lock_timeout")) == "0"


def test_at_the_newest_revision_no_open_migration_is_waited_for(
    postgres: Database, caplog: pytest.LogCaptureFixture
) -> None:
    with postgres.engine().connect() as other, postgres.engine().connect() as connection:
        other.begin()
        downgrade(other, "0002")
        with caplog.at_level(logging.WARNING, LOGGER):
            upgrade(connection, lock_timeout=0)
        assert current(connection) == HEAD
    assert caplog.records == []


def test_another_open_migration_is_named_and_waited_for_within_the_limits(
    empty_postgres: Database, caplog: pytest.LogCaptureFixture
) -> None:
    with empty_postgres.engine().connect() as other, empty_postgres.engine().connect() as connection:
        other.begin()
        upgrade(other)
        pid = pid_of(other)
        start = time.monotonic()
        with caplog.at_level(logging.WARNING, LOGGER), pytest.raises(MigrationLockError, match=rf"pid {pid} \("):
            upgrade(connection, lock_timeout=0.1, tries=1)
        assert time.monotonic() - start < 0.1 + 2.0
        assert [f"pid {pid} (" in record.getMessage() for record in caplog.records] == [True]
        other.commit()
        upgrade(connection, lock_timeout=0.1, tries=1)
        assert current(connection) == HEAD


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_locked_sqlite_file_says_so(database: Database) -> None:
    holder = sqlite3.connect(str(database.url.database), isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with database.engine(connect_args={"timeout": 0}).connect() as connection:
        upgrade(connection)  # at the newest revision: nothing to wait for
        with pytest.raises(MigrationLockError, match="was locked by another connection"):
            downgrade(connection, "0001", lock_timeout=0.1, tries=1)
        holder.execute("COMMIT")
        holder.close()
        downgrade(connection, "0001", lock_timeout=0.1, tries=1)
        assert current(connection) == "0001"


@pytest.mark.parametrize("wrong", [{"lock_timeout": -1}, {"lock_timeout": float("nan")}, {"tries": 0}])
def test_limits_are_checked(empty_database: Database, wrong: dict[str, float]) -> None:
    act: Callable[..., None] = upgrade
    with empty_database.engine().connect() as connection, pytest.raises(InvalidArgumentError):
        act(connection, **wrong)


async def test_asyncpg_reports_the_same(postgres: Database, caplog: pytest.LogCaptureFixture) -> None:
    engine = create_async_engine(postgres.url.set(drivername="postgresql+asyncpg"), poolclass=NullPool)
    with blocker_of(postgres) as busy, caplog.at_level(logging.WARNING, LOGGER):
        pid = pid_of(busy)
        async with engine.connect() as connection:
            with pytest.raises(MigrationLockError, match=rf"pid {pid} \("):
                await connection.run_sync(downgrade, "0001", lock_timeout=0.05, tries=2)
    run_script(
        postgres,
        "ALTER TABLE provider_trace_metadata RENAME TO old",
        "CREATE TABLE provider_trace_metadata (LIKE old, PRIMARY KEY (created_at, id)) PARTITION BY RANGE (created_at)",
        "CREATE TABLE january PARTITION OF provider_trace_metadata FOR VALUES FROM ('2026-01-01') TO ('2026-02-01')",
    )
    async with engine.connect() as connection:
        await connection.run_sync(upgrade)
    assert "ON public.january (run_id);" in caplog.text
    await engine.dispose()
