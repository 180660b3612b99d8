"""Concurrent migrations: of one database only one runs at a time, and migrations of two do not disturb each other."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import pytest
from sqlalchemy import NullPool, column, inspect, select, table

from provider_trace_store.migrations import VERSION_TABLE, downgrade, upgrade
from tests.support.constants import HEAD, OUR_TABLES, PATIENCE

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from tests.support.databases import Databases
    from tests.support.servers import Database

TOGETHER: Final = 8


def test_eight_processes_upgrade_at_once(empty_database: Database) -> None:
    # One interpreter imports, and its children upgrade: they begin at the same moment.
    script = (
        "import os, sys; from sqlalchemy import create_engine; from provider_trace_store.migrations import upgrade\n"
        "url, together = sys.stdin.read(), int(sys.argv[1])\n"
        "for _ in range(together):\n"
        "    if not os.fork():\n"
        "        with create_engine(url).connect() as connection: upgrade(connection)\n"
        "        os._exit(0)\n"
        "print(*(os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(together)))"
    )
    url = empty_database.url.render_as_string(hide_password=False)
    command = [sys.executable, "-c", script, str(TOGETHER)]
    ended = subprocess.run(command, input=url, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert ended.stdout.split() == ["0"] * TOGETHER, ended.stderr
    assert_one_history(empty_database)


def test_eight_threads_upgrade_at_once(empty_database: Database) -> None:
    engine = empty_database.engine(poolclass=NullPool)

    def run(_: int) -> None:
        with engine.connect() as connection:
            upgrade(connection)

    with ThreadPoolExecutor(TOGETHER) as pool:
        list(pool.map(run, range(TOGETHER)))
    assert_one_history(empty_database)


@pytest.mark.every_server
@pytest.mark.pgbouncer
async def test_eight_tasks_upgrade_at_once(empty_database: Database) -> None:
    engine = empty_database.async_engine(poolclass=NullPool)

    async def run() -> None:
        async with engine.connect() as connection:
            await connection.run_sync(upgrade)

    await asyncio.gather(*(run() for _ in range(TOGETHER)))
    assert_one_history(empty_database)


async def test_two_databases_are_migrated_at_once(database: Database, databases: Databases) -> None:
    """Alembic's context is global to the process: neither may run in the other's."""

    async def run(of: Database) -> None:
        async with of.async_engine().connect() as connection:
            await connection.run_sync(downgrade_and_upgrade)

    async with databases.make(database.name, migrated=True) as other:
        await asyncio.gather(run(other), run(database))
        assert_one_history(other)
        assert_one_history(database)


def downgrade_and_upgrade(connection: Connection) -> None:
    for _ in range(3):
        downgrade(connection, "base")
        upgrade(connection)


def assert_one_history(database: Database) -> None:
    with database.engine().connect() as connection:
        assert connection.scalars(select(column("version_num")).select_from(table(VERSION_TABLE))).all() == [HEAD]
        assert set(inspect(connection).get_table_names()) == {*OUR_TABLES, VERSION_TABLE}
