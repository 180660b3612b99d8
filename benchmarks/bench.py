"""What all figures use: the database, connections to it by the package's side and the raw one, and traces."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

import psycopg
from sqlalchemy import URL, create_engine
from sqlalchemy.ext.asyncio import create_async_engine

from benchmarks import conversations, raw
from benchmarks.measure import BenchmarkError, Sample
from benchmarks.ready import Ready
from provider_trace_store.migrations import upgrade

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from sqlalchemy import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

    from provider_trace_store import ProviderTrace

_Result = TypeVar("_Result")

# As many different documents as fit into memory several times, and into no cache of the processor's.
_DOCUMENTS_BYTES: Final = 20_000_000
_TABLES: Final = (raw.FULL.table, raw.METADATA.table)


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Args:
        rounds: how many count, of each figure.
        scale: of the number of batches and calls, 1 being what a whole run takes.
    """

    rounds: int = 5
    scale: float = 1.0

    def of(self, number: int, at_least: int = 1) -> int:
        """Return the part of a number that is measured."""
        return max(at_least, round(number * self.scale))


@dataclass(frozen=True)
class Load:
    """Batches of traces.

    Args:
        size: of a trace's bodies on average, in bytes.
        batch: traces in one.
        batches: how many.
        metadata: whether only the metadata is written.
    """

    size: int
    batch: int
    batches: int
    metadata: bool = False

    @property
    def count(self) -> int:
        """All traces."""
        return self.batch * self.batches

    @property
    def layout(self) -> raw.Layout:
        """The table that is written to."""
        return raw.METADATA if self.metadata else raw.FULL


class Bench:
    """A migrated database and what works on it. To be used as a context manager.

    Args:
        url: of an empty PostgreSQL database.
        effort: how much is measured.
    """

    def __init__(self, url: URL, effort: Effort) -> None:
        self.url = url
        self.effort = effort
        self._stack = ExitStack()
        self._calls: dict[tuple[int, int], list[dict[str, Any]]] = {}
        self._ready: tuple[Load, Ready] | None = None

    def __enter__(self) -> Self:
        try:
            self._migrate()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    @property
    def conninfo(self) -> str:
        """For psycopg itself."""
        return self.url.set(drivername="postgresql").render_as_string(hide_password=False)

    @cached_property
    def engine(self) -> Engine:
        """The package's side."""
        engine = create_engine(self.url)
        self._stack.callback(engine.dispose)
        return engine

    @cached_property
    def async_engine(self) -> AsyncEngine:
        """The package's side, asynchronous."""
        engine = create_async_engine(self.url)
        self._stack.callback(lambda: self.run(engine.dispose()))
        return engine

    @cached_property
    def connection(self) -> psycopg.Connection:
        """The raw side."""
        return self._stack.enter_context(closing(psycopg.connect(self.conninfo)))

    @cached_property
    def async_connection(self) -> psycopg.AsyncConnection:
        """The raw side, asynchronous."""
        connection = self.run(psycopg.AsyncConnection.connect(self.conninfo))
        self._stack.callback(lambda: self.run(connection.close()))
        return connection

    def run(self, coroutine: Coroutine[Any, Any, _Result]) -> _Result:
        """Run a coroutine in the one loop of all that is asynchronous."""
        return self._runner.run(coroutine)

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        """Execute a statement aside from what is measured, and commit it."""
        cursor = self._admin.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []

    def recover(self) -> None:
        """Leave no transaction open that a failed figure began."""
        self.connection.rollback()
        self.run(self.async_connection.rollback())

    def empty(self) -> None:
        """Take all traces away."""
        self.execute(f"TRUNCATE {', '.join(_TABLES)}")

    def expect(self, load: Load, count: int) -> None:
        """Make sure that what was timed wrote its rows.

        Raises:
            BenchmarkError: the table has another number of rows.
        """
        [[found]] = self.execute(f"SELECT count(*) FROM {load.layout.table}")  # noqa: S608  (a name of our own)
        if found != count:
            raise BenchmarkError(f"{load.layout.table} has {found} rows, not {count}")

    def traces(self, load: Load) -> list[list[ProviderTrace]]:
        """Return a load's batches of traces, with new ids."""
        traces = conversations.repeated(self._documents(load), load.count)
        return [list(islice(traces, load.batch)) for _ in range(load.batches)]

    def ready(self, load: Load) -> Ready:
        """Return the ready-made input of the raw side for a load."""
        if self._ready is None or self._ready[0] != load:
            # One load at a time: those of all figures would take more memory than they are worth.
            self._ready = None
            traces = conversations.repeated(self._documents(load), load.count)
            self._ready = load, Ready(load.layout, load.batch, traces)
        return self._ready[1]

    def sample(self, load: Load, seconds: float) -> Sample:
        """Return the sample of a load that was written or read as a whole."""
        return Sample(seconds, load.count, self.ready(load).size)

    def _documents(self, load: Load) -> list[dict[str, Any]]:
        turns = conversations.TURNS
        wanted = min(load.count, max(turns, _DOCUMENTS_BYTES // load.size))
        count = -(-wanted // turns) * turns
        if (load.size, count) not in self._calls:
            self._calls = {(load.size, count): conversations.parsed(conversations.exchanges(load.size, count))}
        return self._calls[load.size, count]

    def _migrate(self) -> None:
        with self.engine.connect() as connection:
            upgrade(connection)
        for table in _TABLES:
            # A vacuum would come in one contender's round and not in the other's.
            self.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
        self.execute(f"ALTER TABLE {raw.FULL.table} SET (toast.autovacuum_enabled = off)")

    @cached_property
    def _runner(self) -> asyncio.Runner:
        return self._stack.enter_context(asyncio.Runner())

    @cached_property
    def _admin(self) -> psycopg.Connection:
        return self._stack.enter_context(closing(psycopg.connect(self.conninfo, autocommit=True)))
