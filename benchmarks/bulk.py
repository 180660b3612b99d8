"""`create_many` beside COPY of ready-made rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from benchmarks import raw
from benchmarks.bench import Bench, Load
from benchmarks.figures import Figure
from benchmarks.measure import BenchmarkError, Comparison, Contender, Sample, Stopwatch, alternate
from provider_trace_store import AsyncProviderTraceRepository, ProviderTraceRepository

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import psycopg

    from provider_trace_store import BulkResult, ProviderTrace

    Given = Callable[[list[ProviderTrace]], Iterable[ProviderTrace]]
    Batches = list[list[ProviderTrace]]

METADATA: Final = Load(5_000, 1_000, 10, metadata=True)
SMALL: Final = Load(5_000, 1_000, 3)
MIDDLE: Final = Load(42_000, 100, 6)
LARGE: Final = Load(400_000, 10, 5)


def scaled(bench: Bench, load: Load) -> Load:
    """Return the part of a load that is measured."""
    return Load(load.size, load.batch, bench.effort.of(load.batches), load.metadata)


def write(bench: Bench, load: Load, batches: Batches, given: Given = list) -> tuple[float, list[BulkResult]]:
    """Write batches by `create_many`, each in a transaction of its own.

    Returns:
        How long it took in seconds, and the results.
    """
    with Session(bench.engine) as session:
        repository = ProviderTraceRepository(session, organization_id=raw.ORGANIZATION, metadata_only=load.metadata)
        results = []
        with Stopwatch() as watch:
            for batch in batches:
                with session.begin():
                    results.append(repository.create_many(given(batch)))
    return watch.seconds, results


async def write_async(
    bench: Bench, load: Load, batches: Batches, given: Given = list
) -> tuple[float, list[BulkResult]]:
    """Write batches by the asynchronous `create_many`; see `write`."""
    async with AsyncSession(bench.async_engine) as session:
        repository = AsyncProviderTraceRepository(
            session, organization_id=raw.ORGANIZATION, metadata_only=load.metadata
        )
        results = []
        with Stopwatch() as watch:
            for batch in batches:
                async with session.begin():
                    results.append(await repository.create_many(given(batch)))
    return watch.seconds, results


def expect(results: list[BulkResult], *, created: int = 0, unchanged: int = 0, rejected: int = 0) -> None:
    """Make sure that results say what they must.

    Raises:
        BenchmarkError: they say something else.
    """
    found = [sum(numbers) for numbers in zip(*map(_numbers, results), strict=True)]
    if found != [created, unchanged, rejected]:
        raise BenchmarkError(f"{found} created, unchanged and rejected, not {[created, unchanged, rejected]}")


def figures() -> list[Figure]:
    """Return the figures of writing in bulk."""
    copy = "create_many, {}, of raw COPY"
    return [
        Figure("bulk-metadata", copy.format("metadata"), _sync(METADATA), 0.70, 0.90),
        Figure("bulk-metadata-generator", copy.format("metadata, generator"), _sync(METADATA, _generator), 0.70, 0.90),
        Figure("bulk-metadata-async", copy.format("metadata, async"), _async(METADATA), 0.65, 0.90),
        Figure("bulk-5kb", copy.format("5 KB"), _sync(SMALL), 0.75, 0.95),
        Figure("bulk-42kb", copy.format("42 KB"), _sync(MIDDLE), 0.75, 0.95),
        Figure("bulk-42kb-generator", copy.format("42 KB, generator"), _sync(MIDDLE, _generator), 0.75, 0.95),
        Figure("bulk-42kb-async", copy.format("42 KB, async"), _async(MIDDLE), 0.65, 0.90),
        Figure("bulk-400kb", copy.format("400 KB"), _sync(LARGE), 0.75, 0.95),
    ]


def _numbers(result: BulkResult) -> tuple[int, int, int]:
    return result.created, result.unchanged, len(result.rejected)


def _generator(batch: list[ProviderTrace]) -> Iterable[ProviderTrace]:
    return (trace for trace in batch)


def _sync(load: Load, given: Given = list) -> Callable[[Bench], Comparison]:
    def measure(bench: Bench) -> Comparison:
        part = scaled(bench, load)

        def ours() -> float:
            seconds, results = write(bench, part, bench.traces(part), given)
            expect(results, created=part.count)
            return seconds

        return _compared(
            bench,
            part,
            ours,
            lambda batches, statement, types: _copy_rows(bench.connection, batches, statement, types),
            lambda batches, statement: _copy_data(bench.connection, batches, statement),
        )

    return measure


def _async(load: Load, given: Given = list) -> Callable[[Bench], Comparison]:
    def measure(bench: Bench) -> Comparison:
        part = scaled(bench, load)

        def ours() -> float:
            seconds, results = bench.run(write_async(bench, part, bench.traces(part), given))
            expect(results, created=part.count)
            return seconds

        return _compared(
            bench,
            part,
            ours,
            lambda batches, statement, types: bench.run(
                _copy_rows_async(bench.async_connection, batches, statement, types)
            ),
            lambda batches, statement: bench.run(_copy_data_async(bench.async_connection, batches, statement)),
        )

    return measure


def _compared(
    bench: Bench,
    load: Load,
    ours: Callable[[], float],
    copy_rows: Callable[[list[list[raw.Row]], str, list[str] | None], float],
    copy_data: Callable[[list[bytes], str], float],
) -> Comparison:
    """Compare with COPY in both formats, of rows that are ready, and show what the server needs for itself.

    Args:
        bench: where.
        load: what is written.
        ours: writes it by the package, and returns how long that took.
        copy_rows: writes batches of rows, given COPY's statement and the types of a binary one, likewise.
        copy_data: writes batches of data, likewise.
    """
    layout, ready = load.layout, bench.ready(load)

    def contender(name: str, write: Callable[[], float], *, is_floor: bool = False) -> Contender:
        def run(_: int) -> Sample:
            bench.empty()
            seconds = write()
            bench.expect(load, load.count)
            return bench.sample(load, seconds)

        return Contender(name, run, is_floor)

    return alternate(
        contender("create_many", ours),
        [
            contender("raw COPY, rows", lambda: copy_rows(ready.rows(), layout.copy_text, None)),
            contender(
                "raw COPY, bytes of the protocol", lambda: copy_data(ready.text(), layout.copy_text), is_floor=True
            ),
            contender(
                "raw binary COPY, rows",
                lambda: copy_rows(ready.rows_for_binary(), layout.copy_binary, layout.binary_types),
            ),
            contender(
                "raw binary COPY, bytes of the protocol",
                lambda: copy_data(ready.binary(), layout.copy_binary),
                is_floor=True,
            ),
        ],
        bench.effort.rounds,
    )


def _copy_rows(
    connection: psycopg.Connection, batches: list[list[raw.Row]], statement: str, types: list[str] | None
) -> float:
    with Stopwatch() as watch, connection.cursor() as cursor:
        for batch in batches:
            with cursor.copy(statement.encode()) as copy:
                if types:
                    copy.set_types(types)
                for row in batch:
                    copy.write_row(row)
            connection.commit()
    return watch.seconds


def _copy_data(connection: psycopg.Connection, batches: list[bytes], statement: str) -> float:
    with Stopwatch() as watch, connection.cursor() as cursor:
        for batch in batches:
            with cursor.copy(statement.encode()) as copy:
                copy.write(batch)
            connection.commit()
    return watch.seconds


async def _copy_rows_async(
    connection: psycopg.AsyncConnection, batches: list[list[raw.Row]], statement: str, types: list[str] | None
) -> float:
    with Stopwatch() as watch:
        async with connection.cursor() as cursor:
            for batch in batches:
                async with cursor.copy(statement.encode()) as copy:
                    if types:
                        copy.set_types(types)
                    for row in batch:
                        await copy.write_row(row)
                await connection.commit()
    return watch.seconds


async def _copy_data_async(connection: psycopg.AsyncConnection, batches: list[bytes], statement: str) -> float:
    with Stopwatch() as watch:
        async with connection.cursor() as cursor:
            for batch in batches:
                async with cursor.copy(statement.encode()) as copy:
                    await copy.write(batch)
                await connection.commit()
    return watch.seconds
