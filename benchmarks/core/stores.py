"""The databases of the figures, each reached by the package and by its raw driver.

Synchronous and asynchronous drivers run the same coroutines: `done` awaits a result only if it is a coroutine.
Each coroutine that reads or writes returns the seconds that it took.
"""

from __future__ import annotations

import json
import sqlite3
import tempfile
from asyncio import iscoroutine
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

from sqlalchemy import create_engine, event
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from benchmarks.core.results import BenchmarkError, Stopwatch
from benchmarks.data import rows
from benchmarks.data.rows import Ready, Row
from provider_trace_store import AsyncProviderTraceRepository, BulkResult, ProviderTrace, ProviderTraceRepository
from provider_trace_store.migrations import upgrade

if TYPE_CHECKING:
    from benchmarks.core.bench import Load

# The work of a round, given the round's number; it returns its seconds.
Work = Callable[[int], Coroutine[Any, Any, float]]
# Makes the argument of `create_many` of a batch.
Given = Callable[[list[ProviderTrace]], Iterable[ProviderTrace]]

_TABLES: Final = (rows.FULL.table, rows.METADATA.table, rows.PACKS)
_BODIES: Final = [rows.FULL.place(name) for name in rows.BODIES]
# As on the server: neither side waits for the disk.
_PRAGMAS: Final = ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = OFF")


async def done(value: Any) -> Any:
    """Return a result, awaited if it is a coroutine."""
    return await value if iscoroutine(value) else value


class Store:
    """A migrated database: the package uses the engine, the raw driver the connection; `admin` is in autocommit."""

    placeholder: ClassVar = "%s"
    empty_by: ClassVar[tuple[str, ...]] = (f"TRUNCATE {', '.join(_TABLES)}",)
    session_class: ClassVar[type[Any]] = Session
    repository_class: ClassVar[type[Any]] = ProviderTraceRepository

    def __init__(self, engine: Any, connection: Any, admin: Any) -> None:
        self.engine = engine
        self.connection = connection
        self._admin = admin

    def execute(self, statement: str) -> list[Any]:
        """Execute a statement outside of what is measured, and commit it."""
        cursor = self._admin.execute(statement)
        return cursor.fetchall() if cursor.description else []

    def empty(self) -> None:
        """Delete all traces."""
        for statement in self.empty_by:
            self.execute(statement)

    def expect(self, load: Load, count: int) -> None:
        """Raise `BenchmarkError` if a load's table has another number of rows."""
        [[found]] = self.execute(f"SELECT count(*) FROM {load.layout.table}")
        if found != count:
            raise BenchmarkError(f"{load.layout.table} has {found} rows, not {count}")

    def bulk(self, load: Load, ready: Ready) -> dict[str, Work]:
        """Return the raw driver's ways to write a load's rows, each batch in a transaction of its own."""
        raise NotImplementedError

    async def create_many(
        self, load: Load, batches: list[list[ProviderTrace]], given: Given = list
    ) -> tuple[float, list[BulkResult]]:
        """Write each batch by `create_many` in a transaction of its own; also return the results."""
        results = []
        async with self._opened(load) as (session, repository):
            with Stopwatch() as watch:
                for batch in batches:
                    results.append(await done(repository.create_many(given(batch))))
                    await done(session.commit())
        return watch.seconds, results

    async def create(self, load: Load, traces: list[ProviderTrace]) -> float:
        """Write each trace by `create` in a transaction of its own."""
        async with self._opened(load) as (session, repository):
            with Stopwatch() as watch:
                for trace in traces:
                    await done(repository.create(trace))
                    await done(session.commit())
        return watch.seconds

    async def insert(self, load: Load, batch: list[Row]) -> float:
        """Write each row by INSERT in a transaction of its own."""
        statement = load.layout.insert.replace("%s", self.placeholder)
        execute, commit = self.connection.execute, self.connection.commit
        with Stopwatch() as watch:
            for row in batch:
                await done(execute(statement, row))
                await done(commit())
        return watch.seconds

    async def get(self, load: Load, ids: list[str]) -> float:
        """Read traces by `get`."""
        async with self._opened(load) as (_, repository):
            with Stopwatch() as watch:
                found = [await done(repository.get(trace_id)) is not None for trace_id in ids]
        return _checked(watch, found)

    async def select(self, load: Load, ids: list[str], *, loads: bool) -> float:
        """Read rows by SELECT; with `loads`, `json.loads` parses the bodies, else the driver does."""
        statement = load.layout.select(as_text=loads and self.placeholder == "%s").replace("%s", self.placeholder)
        found = []
        with Stopwatch() as watch:
            for trace_id in ids:
                cursor = await done(self.connection.execute(statement, (trace_id, rows.ORGANIZATION)))
                row = await done(cursor.fetchone())
                found.append(all(json.loads(row[place]) for place in _BODIES) if loads else row is not None)
        await done(self.connection.rollback())
        return _checked(watch, found)

    @asynccontextmanager
    async def _opened(self, load: Load) -> AsyncIterator[tuple[Any, Any]]:
        session = self.session_class(self.engine)
        try:
            how = {"organization_id": rows.ORGANIZATION, "metadata_only": load.metadata}
            yield session, self.repository_class(session, **how)
        finally:
            await done(session.close())


class Postgres(Store):
    """A database of PostgreSQL, synchronous."""

    def bulk(self, load: Load, ready: Ready) -> dict[str, Work]:
        """Return COPY in its text and in its binary format."""

        async def copy(batches: list[list[Row]], statement: str, types: list[str] | None) -> float:
            with Stopwatch() as watch:
                cursor = self.connection.cursor()
                for batch in batches:
                    await self._copy(cursor.copy(statement), batch, types)
                    await done(self.connection.commit())
                await done(cursor.close())
            return watch.seconds

        layout = load.layout
        return {
            "raw COPY, rows": lambda _: copy(ready.rows(), layout.copy_text, None),
            "raw binary COPY, rows": lambda _: copy(ready.rows_of_bytes(), layout.copy_binary, layout.binary_types),
        }

    async def _copy(self, begun: Any, batch: list[Row], types: list[str] | None) -> None:
        with begun as copy:
            if types:
                copy.set_types(types)
            for row in batch:
                copy.write_row(row)


class AsyncPostgres(Postgres):
    """A database of PostgreSQL, asynchronous."""

    session_class = AsyncSession
    repository_class = AsyncProviderTraceRepository

    async def _copy(self, begun: Any, batch: list[Row], types: list[str] | None) -> None:
        # A twin of the synchronous one: `done` for each row would take a visible part of the row's time.
        async with begun as copy:
            if types:
                copy.set_types(types)
            for row in batch:
                await copy.write_row(row)


class Sqlite(Store):
    """A file of SQLite."""

    placeholder = "?"
    empty_by = (*(f"DELETE FROM {table}" for table in _TABLES), "PRAGMA wal_checkpoint(TRUNCATE)")

    @classmethod
    @contextmanager
    def in_new_directory(cls) -> Iterator[Self]:
        """Make a file, and delete it in the end."""
        with tempfile.TemporaryDirectory(prefix="bench-") as directory:
            path = Path(directory) / "bench.db"
            engine = create_engine(f"sqlite:///{path}")
            event.listen(engine, "connect", lambda connection, _: _set_up(connection))
            with engine.connect() as connection:
                upgrade(connection)
            with closing(sqlite3.connect(path)) as raw, closing(sqlite3.connect(path, isolation_level=None)) as admin:
                _set_up(raw)
                yield cls(engine, raw, admin)
            engine.dispose()

    def bulk(self, load: Load, ready: Ready) -> dict[str, Work]:
        """Return `executemany`."""

        async def insert(_: int) -> float:
            batches, statement = ready.rows(for_sqlite=True), load.layout.insert.replace("%s", self.placeholder)
            with Stopwatch() as watch:
                for batch in batches:
                    self.connection.executemany(statement, batch)
                    self.connection.commit()
            return watch.seconds

        return {"raw executemany": insert}


def _set_up(connection: Any) -> None:
    for pragma in _PRAGMAS:
        connection.execute(pragma)


def _checked(watch: Stopwatch, found: list[bool]) -> float:
    if not all(found):
        raise BenchmarkError("a stored trace was not found")
    return watch.seconds
