"""`create` with a commit and `get`, one trace a call, beside INSERT with COMMIT and SELECT."""

from __future__ import annotations

import json
from random import Random
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from benchmarks import raw
from benchmarks.bench import Bench, Load
from benchmarks.figures import Figure
from benchmarks.measure import BenchmarkError, Comparison, Contender, Sample, Stopwatch, alternate
from provider_trace_store import AsyncProviderTraceRepository, ProviderTraceRepository

if TYPE_CHECKING:
    from collections.abc import Callable

    import psycopg

    from provider_trace_store import ProviderTrace

_CALLS: Final = 300
_SMALL: Final = 5_000
_MIDDLE: Final = 42_000


def figures() -> list[Figure]:
    """Return the figures of one trace a call."""
    insert = "create + commit, {}, of raw INSERT + COMMIT"
    select = "get, 42 KB{}, of raw SELECT + json.loads"
    return [
        Figure("create-5kb", insert.format("5 KB"), _create(_SMALL), 0.5, 0.8),
        Figure("create-5kb-async", insert.format("5 KB, async"), _create_async(_SMALL), 0.5, 0.8),
        Figure("create-42kb", insert.format("42 KB"), _create(_MIDDLE), 0.5, 0.8),
        Figure("create-42kb-async", insert.format("42 KB, async"), _create_async(_MIDDLE), 0.5, 0.8),
        Figure("get-42kb", select.format(""), _get, 0.5, 0.9),
        Figure("get-42kb-async", select.format(", async"), _get_async, 0.5, 0.9),
    ]


def _load(bench: Bench, size: int) -> Load:
    return Load(size, bench.effort.of(_CALLS, at_least=10), 1)


def _create(size: int) -> Callable[[Bench], Comparison]:
    def measure(bench: Bench) -> Comparison:
        load = _load(bench, size)

        def ours(_: int) -> Sample:
            [traces] = bench.traces(load)
            bench.empty()
            with Session(bench.engine) as session:
                repository = ProviderTraceRepository(session, organization_id=raw.ORGANIZATION)
                with Stopwatch() as watch:
                    for trace in traces:
                        with session.begin():
                            repository.create(trace)
            bench.expect(load, load.count)
            return bench.sample(load, watch.seconds)

        def ready(_: int) -> Sample:
            [rows] = bench.ready(load).rows()
            bench.empty()
            connection = bench.connection
            with Stopwatch() as watch:
                for row in rows:
                    connection.execute(load.layout.insert.encode(), row)
                    connection.commit()
            bench.expect(load, load.count)
            return bench.sample(load, watch.seconds)

        def dumped(_: int) -> Sample:
            [traces] = bench.traces(load)
            rows = [load.layout.documents(trace) for trace in traces]
            bench.empty()
            connection = bench.connection
            with Stopwatch() as watch:
                for row in rows:
                    connection.execute(load.layout.insert.encode(), _dumped(row))
                    connection.commit()
            bench.expect(load, load.count)
            return bench.sample(load, watch.seconds)

        return _created(bench, ours, ready, dumped)

    return measure


def _create_async(size: int) -> Callable[[Bench], Comparison]:
    def measure(bench: Bench) -> Comparison:
        load = _load(bench, size)

        async def create(traces: list[ProviderTrace]) -> float:
            async with AsyncSession(bench.async_engine) as session:
                repository = AsyncProviderTraceRepository(session, organization_id=raw.ORGANIZATION)
                with Stopwatch() as watch:
                    for trace in traces:
                        async with session.begin():
                            await repository.create(trace)
            return watch.seconds

        async def insert(
            connection: psycopg.AsyncConnection, rows: list[raw.Row], made: Callable[[raw.Row], raw.Row]
        ) -> float:
            with Stopwatch() as watch:
                for row in rows:
                    await connection.execute(load.layout.insert.encode(), made(row))
                    await connection.commit()
            return watch.seconds

        def sampled(seconds: float) -> Sample:
            bench.expect(load, load.count)
            return bench.sample(load, seconds)

        def ours(_: int) -> Sample:
            [traces] = bench.traces(load)
            bench.empty()
            return sampled(bench.run(create(traces)))

        def ready(_: int) -> Sample:
            [rows] = bench.ready(load).rows()
            bench.empty()
            return sampled(bench.run(insert(bench.async_connection, rows, lambda row: row)))

        def dumped(_: int) -> Sample:
            [traces] = bench.traces(load)
            bench.empty()
            rows = [load.layout.documents(trace) for trace in traces]
            return sampled(bench.run(insert(bench.async_connection, rows, _dumped)))

        return _created(bench, ours, ready, dumped)

    return measure


def _get(bench: Bench) -> Comparison:
    load = _load(bench, _MIDDLE)
    ids = _stored(bench, load)

    def ours(number: int) -> Sample:
        wanted = Random(number).sample(ids, len(ids))
        with Session(bench.engine) as session:
            repository = ProviderTraceRepository(session, organization_id=raw.ORGANIZATION)
            with Stopwatch() as watch:
                found = [repository.get(trace_id) is not None for trace_id in wanted]
        return _read(bench, load, watch.seconds, found)

    def text(number: int) -> Sample:
        wanted, statement = Random(number).sample(ids, len(ids)), load.layout.select(as_text=True).encode()
        connection = bench.connection
        with Stopwatch() as watch:
            found = [
                _loaded(connection.execute(statement, (trace_id, raw.ORGANIZATION)).fetchone()) for trace_id in wanted
            ]
        connection.rollback()
        return _read(bench, load, watch.seconds, found)

    def loader(number: int) -> Sample:
        wanted, statement = Random(number).sample(ids, len(ids)), load.layout.select(as_text=False).encode()
        connection = bench.connection
        with Stopwatch() as watch:
            found = [
                connection.execute(statement, (trace_id, raw.ORGANIZATION)).fetchone() is not None
                for trace_id in wanted
            ]
        connection.rollback()
        return _read(bench, load, watch.seconds, found)

    return _got(bench, ours, text, loader)


def _get_async(bench: Bench) -> Comparison:
    load = _load(bench, _MIDDLE)
    ids = _stored(bench, load)

    async def get(wanted: list[str]) -> tuple[float, list[bool]]:
        async with AsyncSession(bench.async_engine) as session:
            repository = AsyncProviderTraceRepository(session, organization_id=raw.ORGANIZATION)
            with Stopwatch() as watch:
                found = [await repository.get(trace_id) is not None for trace_id in wanted]
        return watch.seconds, found

    connection = bench.async_connection

    async def select(wanted: list[str], *, as_text: bool) -> tuple[float, list[bool]]:
        statement = load.layout.select(as_text=as_text).encode()
        found = []
        with Stopwatch() as watch:
            for trace_id in wanted:
                cursor = await connection.execute(statement, (trace_id, raw.ORGANIZATION))
                row = await cursor.fetchone()
                found.append(_loaded(row) if as_text else row is not None)
        await connection.rollback()
        return watch.seconds, found

    def ours(number: int) -> Sample:
        return _read(bench, load, *bench.run(get(Random(number).sample(ids, len(ids)))))

    def text(number: int) -> Sample:
        return _read(bench, load, *bench.run(select(Random(number).sample(ids, len(ids)), as_text=True)))

    def loader(number: int) -> Sample:
        return _read(bench, load, *bench.run(select(Random(number).sample(ids, len(ids)), as_text=False)))

    return _got(bench, ours, text, loader)


def _stored(bench: Bench, load: Load) -> list[str]:
    """Store a load, and return its ids."""
    [rows] = bench.ready(load).rows()
    bench.empty()
    with bench.connection.cursor() as cursor, cursor.copy(load.layout.copy_text.encode()) as copy:
        for row in rows:
            copy.write_row(row)
    bench.connection.commit()
    bench.execute(f"ANALYZE {load.layout.table}")
    place = load.layout.names.index("id")
    return [row[place] for row in rows]


def _dumped(row: raw.Row) -> raw.Row:
    return tuple(json.dumps(value) if type(value) is dict else value for value in row)


_REQUEST, _RESPONSE = map(raw.FULL.place, raw.BODIES)


def _loaded(row: tuple[Any, ...] | None) -> bool:
    return row is not None and bool(json.loads(row[_REQUEST])) and bool(json.loads(row[_RESPONSE]))


def _read(bench: Bench, load: Load, seconds: float, found: list[bool]) -> Sample:
    if not all(found) or len(found) != load.count:
        raise BenchmarkError("a stored trace was not found")
    return bench.sample(load, seconds)


def _created(
    bench: Bench, ours: Callable[[int], Sample], ready: Callable[[int], Sample], dumped: Callable[[int], Sample]
) -> Comparison:
    others = [Contender("raw INSERT, ready-made JSON", ready), Contender("raw INSERT + json.dumps", dumped)]
    return alternate(Contender("create", ours), others, bench.effort.rounds)


def _got(
    bench: Bench, ours: Callable[[int], Sample], text: Callable[[int], Sample], loader: Callable[[int], Sample]
) -> Comparison:
    others = [Contender("raw SELECT, text + json.loads", text), Contender("raw SELECT, psycopg's loader", loader)]
    return alternate(Contender("get", ours), others, bench.effort.rounds)
