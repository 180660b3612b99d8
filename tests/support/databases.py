"""Makes a database for a test, by the name of its server, and removes it."""

from __future__ import annotations

import shutil
from contextlib import ExitStack, asynccontextmanager
from itertools import count
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from sqlalchemy import URL, NullPool, create_engine

from tests.support import pgbouncer
from tests.support.servers import Database, Server, Servers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

SQLITE: Final = "sqlite"


class Databases:
    """Makes databases, each for one test: clones of one migrated template per server.

    Args:
        servers: where those of PostgreSQL are created.
        bouncer: PgBouncer in front of one of the servers.
        directory: for the files of SQLite.
    """

    def __init__(self, servers: Servers, bouncer: pgbouncer.PgBouncer | None, directory: Path) -> None:
        self._servers = {server.name: server for server in servers}
        self._bouncer = bouncer
        self._directory = directory
        # A server that a URL names may serve several sessions of tests at the same time.
        self._prefix = f"provider_trace_store_{uuid4().hex[:8]}"
        self._numbers = count(1)
        self._templates: dict[str, str] = {}
        self._stack = ExitStack()

    @asynccontextmanager
    async def make(self, name: str, *, migrated: bool) -> AsyncIterator[Database]:
        """Make a database for a test's parameter, and remove it afterwards.

        Args:
            name: `sqlite`, a server's name or `pgbouncer`.
            migrated: whether the tables are there.
        """
        new = f"{self._prefix}_{next(self._numbers)}"
        if name == SQLITE:
            path = self._directory / f"{new}.db"
            if migrated:
                shutil.copyfile(self._sqlite_template(), path)
            database = Database(name, _sqlite(path))
            try:
                yield database
            finally:
                await database.dispose()
                for file in self._directory.glob(f"{new}.db*"):
                    file.unlink()
            return
        bouncer = self._bouncer if name == pgbouncer.NAME else None
        server = bouncer.server if bouncer else self._servers[name]
        url = server.create_database(new, self._template(server) if migrated else None)
        try:
            database = bouncer.database(url, self._stack) if bouncer else Database(name, url)
            try:
                yield database
            finally:
                await database.dispose()
        finally:
            server.drop_database(new)

    def close(self) -> None:
        """Drop the templates."""
        self._stack.close()

    def _template(self, server: Server) -> str:
        if server.name not in self._templates:
            name = f"{self._prefix}_template_{server.name}"
            self._stack.callback(server.drop_database, name)
            _migrate(server.create_database(name))
            self._templates[server.name] = name
        return self._templates[server.name]

    def _sqlite_template(self) -> Path:
        path = self._directory / "template.db"
        if not path.exists():
            _migrate(_sqlite(path))
        return path


def _sqlite(path: Path) -> URL:
    return URL.create("sqlite", database=str(path))


def _migrate(url: URL) -> None:
    # Imported here, so that a test without a database runs while a migration is broken.
    from provider_trace_store.migrations import upgrade  # noqa: PLC0415  # see above

    with create_engine(url, poolclass=NullPool).connect() as connection:
        upgrade(connection)
