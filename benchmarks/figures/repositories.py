"""`create_many`, `create` with a commit, and `get`, beside the raw driver; retries and refused traces."""

from collections.abc import Callable, Iterable
from functools import partial
from random import Random
from typing import Final

from benchmarks.core.bench import Bench, Kind, Load
from benchmarks.core.results import BenchmarkError, Contenders, Figure, Sample, rate
from benchmarks.core.stores import Given, Work
from provider_trace_store import BulkResult, ProviderTrace

Prepare = Callable[[Bench], Contenders]
Batches = list[list[ProviderTrace]]
# Changes or stores traces of batches, outside of the time.
Spoil = Callable[[Bench, Load, Batches, Random], None]

_METADATA: Final = Load(5_000, 1_000, 10, metadata=True)
_SMALL: Final = Load(5_000, 1_000, 3)
_MIDDLE: Final = Load(42_000, 100, 6)
_LARGE: Final = Load(400_000, 10, 5)
_CALLS: Final = 300
_POISONED: Final = Load(5_000, 1_000, 6, metadata=True)
_USERS: Final = "benchmark_users"
_CONSTRAINT: Final = "benchmark_constraint"
_CHECK: Final = "CHECK (call_type <> 'poison')"
_FOREIGN_KEY: Final = f"FOREIGN KEY (user_id) REFERENCES {_USERS} (id)"


def figures() -> list[Figure]:
    """Return the figures of the repositories."""

    def bulk(name: str, what: str, contenders: Prepare, at_least: float, aim: float) -> Figure:
        return Figure(f"bulk-{name}", f"create_many, {what}, of raw COPY", contenders, at_least, aim)

    insert, select = "create + commit, {}, of raw INSERT + COMMIT", "get, {}, of raw SELECT + json.loads"
    executemany = "SQLite create_many, {}, of raw executemany"
    return [
        bulk("metadata", "metadata", _bulk(_METADATA), 0.70, 0.90),
        bulk("metadata-generator", "metadata, generator", _bulk(_METADATA, given=_generator), 0.70, 0.90),
        bulk("metadata-async", "metadata, async", _bulk(_METADATA, "async_postgres"), 0.65, 0.90),
        bulk("5kb", "5 KB", _bulk(_SMALL), 0.75, 0.95),
        bulk("42kb", "42 KB", _bulk(_MIDDLE), 0.75, 0.95),
        bulk("42kb-generator", "42 KB, generator", _bulk(_MIDDLE, given=_generator), 0.75, 0.95),
        bulk("42kb-async", "42 KB, async", _bulk(_MIDDLE, "async_postgres"), 0.65, 0.90),
        bulk("400kb", "400 KB", _bulk(_LARGE), 0.75, 0.95),
        Figure("create-5kb", insert.format("5 KB"), _create("postgres", 5_000), 0.5, 0.8),
        Figure("create-5kb-async", insert.format("5 KB, async"), _create("async_postgres", 5_000), 0.5, 0.8),
        Figure("create-42kb", insert.format("42 KB"), _create("postgres", 42_000), 0.5, 0.8),
        Figure("create-42kb-async", insert.format("42 KB, async"), _create("async_postgres", 42_000), 0.5, 0.8),
        Figure("get-42kb", select.format("42 KB"), _get("postgres"), 0.5, 0.9),
        Figure("get-42kb-async", select.format("42 KB, async"), _get("async_postgres"), 0.5, 0.9),
        Figure("sqlite-bulk-metadata", executemany.format("metadata"), _bulk(_METADATA, "sqlite")),
        Figure("sqlite-bulk-42kb", executemany.format("42 KB"), _bulk(_MIDDLE, "sqlite")),
        Figure("sqlite-create-42kb", f"SQLite {insert.format('42 KB')}", _create("sqlite", 42_000)),
        Figure("sqlite-get-42kb", f"SQLite {select.format('42 KB')}", _get("sqlite")),
        *_refused(),
    ]


def expect(results: list[BulkResult], *, created: int = 0, unchanged: int = 0, rejected: int = 0) -> None:
    """Raise `BenchmarkError` if the sums of results are others."""
    numbers = [(each.created, each.unchanged, len(each.rejected)) for each in results]
    found = [sum(column) for column in zip(*numbers, strict=True)]
    if found != [created, unchanged, rejected]:
        raise BenchmarkError(f"{found} created, unchanged and rejected, not {[created, unchanged, rejected]}")


def _generator(batch: list[ProviderTrace]) -> Iterable[ProviderTrace]:
    return (trace for trace in batch)


def _bulk(load: Load, kind: Kind = "postgres", given: Given = list) -> Prepare:
    """Compare with COPY in both formats, or on SQLite with `executemany`."""

    def contenders(bench: Bench) -> Contenders:
        part, store = load.scaled(bench.effort), bench.store(kind)

        async def ours(_: int) -> float:
            seconds, results = await store.create_many(part, bench.traces(part), given)
            expect(results, created=part.count)
            return seconds

        return bench.contenders(store, part, {"create_many": ours, **store.bulk(part, bench.ready(part))})

    return contenders


def _create(kind: Kind, size: int) -> Prepare:
    def contenders(bench: Bench) -> Contenders:
        load, store = Load(size, bench.effort.of(_CALLS, at_least=10), 1), bench.store(kind)

        async def ours(_: int) -> float:
            [traces] = bench.traces(load)
            return await store.create(load, traces)

        async def ready(_: int) -> float:
            [batch] = bench.ready(load).rows(for_sqlite=kind == "sqlite")
            return await store.insert(load, batch)

        return bench.contenders(store, load, {"create": ours, "raw INSERT, ready-made JSON": ready})

    return contenders


def _get(kind: Kind) -> Prepare:
    def contenders(bench: Bench) -> Contenders:
        load, store = Load(42_000, bench.effort.of(_CALLS, at_least=10), 1), bench.store(kind)
        [batch] = bench.ready(load).rows(for_sqlite=kind == "sqlite")
        ids = [row[load.layout.names.index("id")] for row in batch]
        store.empty()
        bench.run(store.insert(load, batch))
        store.execute(f"ANALYZE {load.layout.table}")

        async def ours(number: int) -> float:
            return await store.get(load, Random(number).sample(ids, len(ids)))

        async def raw(number: int, *, loads: bool) -> float:
            return await store.select(load, Random(number).sample(ids, len(ids)), loads=loads)

        ways: dict[str, Work] = {"get": ours, "raw SELECT, text + json.loads": partial(raw, loads=True)}
        if kind != "sqlite":
            ways["raw SELECT, psycopg's loader"] = partial(raw, loads=False)
        return bench.contenders(store, load, ways, reads=True)

    return contenders


def _refused() -> list[Figure]:
    """Return the figures of batches that are stored already, or have one trace that is refused."""
    retry, one = "retry of a stored batch, {}, of its first write", "one {} in 1,000, {}, of clean"
    loads = (("metadata", "metadata", _POISONED), ("5kb", "5 KB", _SMALL))

    def poison(key: str, what: str, ours: str, spoil: Spoil, constraint: str = "") -> list[Figure]:
        return [
            Figure(f"poison-{key}-{name}", one.format(what, size), _figure(load, ours, spoil, constraint), 0.3, 0.6)
            for name, size, load in loads
        ]

    return [
        Figure("retry-metadata", retry.format("metadata"), _figure(_METADATA, "the same again", _stored), 0.25, 0.5),
        Figure("retry-42kb", retry.format("42 KB"), _figure(_MIDDLE, "the same again", _stored), 0.25, 0.5),
        *poison("check", "CHECK violation", "one poison row a batch", _with(call_type="poison"), _CHECK),
        *poison("fk", "FOREIGN KEY violation", "one poison row a batch", _with(user_id="user-unknown"), _FOREIGN_KEY),
        *poison("conflict", "conflict", "one id taken a batch", _taken),
    ]


def _stored(bench: Bench, load: Load, batches: Batches, _: Random) -> None:
    bench.run(bench.postgres.create_many(load, batches))


def _taken(bench: Bench, load: Load, batches: Batches, random: Random) -> None:
    """Store one trace of each batch with another content."""
    others = [[random.choice(batch).model_copy(update={"source": "another"})] for batch in batches]
    bench.run(bench.postgres.create_many(load, others))


def _with(**poison: str) -> Spoil:
    """Poison one trace of each batch, which only the server can refuse."""

    def spoil(_bench: Bench, _load: Load, batches: Batches, random: Random) -> None:
        for batch in batches:
            place = random.randrange(len(batch))
            batch[place] = batch[place].model_copy(update=poison)

    return spoil


def _figure(load: Load, ours: str, spoil: Spoil, constraint: str = "") -> Prepare:
    """Compare spoilt batches with batches that are new and good, in a table with the same constraint."""

    def contenders(bench: Bench) -> Contenders:
        part = load.scaled(bench.effort)
        bad = 0 if spoil is _stored else part.batches
        sums = {"unchanged": part.count} if spoil is _stored else {"created": part.count - bad, "rejected": bad}
        if constraint:
            _constrain(bench, part.layout.table, constraint)

        def run(number: int, *, clean: bool) -> Sample:
            batches = bench.traces(part)
            bench.postgres.empty()
            if not clean:
                spoil(bench, part, batches, Random(number))
            seconds, results = bench.run(bench.postgres.create_many(part, batches))
            expect(results, **({"created": part.count} if clean else sums))
            bench.postgres.expect(part, part.count - (bad if constraint and not clean else 0))
            return rate(seconds, part.count, bench.ready(part).size)

        others = "first write" if spoil is _stored else "clean batches"
        return {ours: partial(run, clean=False), others: partial(run, clean=True)}

    return contenders


def _constrain(bench: Bench, table: str, constraint: str) -> None:
    def clean_up() -> None:
        bench.recover()
        bench.postgres.execute(f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {_CONSTRAINT}")
        bench.postgres.execute(f"DROP TABLE IF EXISTS {_USERS}")

    bench.later.callback(clean_up)
    bench.postgres.empty()
    bench.postgres.execute(f"CREATE TABLE {_USERS} (id varchar PRIMARY KEY)")
    bench.postgres.execute(f"INSERT INTO {_USERS} SELECT 'user-' || n FROM generate_series(0, 99) AS n")
    bench.postgres.execute(f"ALTER TABLE {table} ADD CONSTRAINT {_CONSTRAINT} {constraint}")
