"""The databases, the effort and the traces that all figures use."""

import asyncio
from collections.abc import Coroutine
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import islice
from typing import Any, Final, Literal, Self, TypeVar

import psycopg
from sqlalchemy import URL, create_engine
from sqlalchemy.ext.asyncio import create_async_engine

from benchmarks.core.results import Contenders, Sample, rate
from benchmarks.core.stores import AsyncPostgres, Postgres, Sqlite, Store, Work, done
from benchmarks.data import conversations, rows
from provider_trace_store import ProviderTrace
from provider_trace_store.migrations import upgrade

Kind = Literal["postgres", "async_postgres", "sqlite"]

_Result = TypeVar("_Result")

# Bytes: more than any cache of the processor holds, and little enough to keep several times in memory.
_DOCUMENTS: Final = 20_000_000


@dataclass(frozen=True)
class Effort:
    """How much is measured: the rounds that count, and a factor of the number of batches and calls."""

    rounds: int = 5
    scale: float = 1.0

    def of(self, number: int, at_least: int = 1) -> int:
        """Return the part of a number that is measured."""
        return max(at_least, round(number * self.scale))


@dataclass(frozen=True)
class Load:
    """Batches of traces with so many bytes of bodies on average; of the metadata alone, with `metadata`."""

    size: int
    batch: int
    batches: int
    metadata: bool = False

    @property
    def count(self) -> int:
        """The number of all traces."""
        return self.batch * self.batches

    @property
    def layout(self) -> rows.Layout:
        """The table that is written to."""
        return rows.METADATA if self.metadata else rows.FULL

    def scaled(self, effort: Effort) -> Self:
        """Return the part of the load that is measured."""
        return replace(self, batches=effort.of(self.batches))


class Bench:
    """A PostgreSQL database, empty at first, a SQLite file, and the input of both. A context manager."""

    # Undoes a figure's preparation; a new one for each figure.
    later: ExitStack

    def __init__(self, url: URL, effort: Effort) -> None:
        self.url = url
        self.effort = effort
        self.conninfo = url.set(drivername="postgresql").render_as_string(hide_password=False)
        self._stack = ExitStack()
        self._calls: dict[tuple[int, int], list[dict[str, Any]]] = {}
        self._ready: dict[Load, rows.Ready] = {}

    def __enter__(self) -> Self:
        with self._stack, self.postgres.engine.connect() as connection:
            upgrade(connection)
            for table in (rows.FULL.table, rows.METADATA.table, rows.PACKS):
                # A vacuum could run in one contender's round and not in another's.
                self.postgres.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
            self.postgres.execute(f"ALTER TABLE {rows.FULL.table} SET (toast.autovacuum_enabled = off)")
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    @cached_property
    def postgres(self) -> Postgres:
        """The database, synchronous."""
        engine = create_engine(self.url)
        self._stack.callback(engine.dispose)
        raw, self._admin = (
            self._stack.enter_context(closing(psycopg.connect(self.conninfo, autocommit=autocommit)))
            for autocommit in (False, True)
        )
        return Postgres(engine, raw, self._admin)

    @cached_property
    def async_postgres(self) -> AsyncPostgres:
        """The database, asynchronous."""
        connection = self.run(psycopg.AsyncConnection.connect(self.conninfo))
        engine = create_async_engine(self.url)
        self._stack.callback(lambda: self.run(engine.dispose()))
        self._stack.callback(lambda: self.run(connection.close()))
        return AsyncPostgres(engine, connection, self._admin)

    @cached_property
    def sqlite(self) -> Sqlite:
        """The file."""
        return self._stack.enter_context(Sqlite.in_new_directory())

    def store(self, kind: Kind) -> Store:
        """Return one of the three."""
        store: Store = getattr(self, kind)
        return store

    def run(self, coroutine: Coroutine[Any, Any, _Result]) -> _Result:
        """Run a coroutine in the one event loop of all asynchronous connections."""
        return self._runner.run(coroutine)

    def recover(self) -> None:
        """Roll back the transactions that a failed figure left open."""
        for store in (self.postgres, self.async_postgres):
            self.run(done(store.connection.rollback()))

    def contenders(self, store: Store, load: Load, ways: dict[str, Work], *, reads: bool = False) -> Contenders:
        """Return contenders whose work returns its seconds; it starts with empty tables, unless it only reads."""

        def run(number: int, *, work: Work) -> Sample:
            if not reads:
                store.empty()
            seconds = self.run(work(number))
            if not reads:
                store.expect(load, load.count)
            return rate(seconds, load.count, self.ready(load).size)

        return {name: partial(run, work=work) for name, work in ways.items()}

    def traces(self, load: Load) -> list[list[ProviderTrace]]:
        """Return a load's batches of traces, with new ids."""
        traces = conversations.repeated(self._documents(load), load.count)
        return [list(islice(traces, load.batch)) for _ in range(load.batches)]

    def ready(self, load: Load) -> rows.Ready:
        """Return the raw driver's input for a load; only the last one is kept, as all would take too much memory."""
        if load not in self._ready:
            self._ready.clear()
            traces = conversations.repeated(self._documents(load), load.count)
            self._ready[load] = rows.Ready(load.layout, load.batch, traces)
        return self._ready[load]

    def _documents(self, load: Load) -> list[dict[str, Any]]:
        key = load.size, min(load.count, max(conversations.TURNS, _DOCUMENTS // load.size))
        if key not in self._calls:
            self._calls = {key: conversations.parsed(conversations.exchanges(*key))}
        return self._calls[key]

    @cached_property
    def _runner(self) -> asyncio.Runner:
        return self._stack.enter_context(asyncio.Runner())
