"""`TraceWriter`: its rate, its cost to the caller, and its memory; and the memory of `create_many`."""

import asyncio
import gc
import socket
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext
from pathlib import Path
from random import Random
from selectors import SelectSelector
from time import perf_counter, sleep
from typing import Any, Final

from sqlalchemy import URL, create_engine
from sqlalchemy.orm import Session

from benchmarks.core.bench import Bench, Load
from benchmarks.core.machine import Memory, peak_of
from benchmarks.core.results import BenchmarkError, Contenders, Figure, Sample, Stopwatch, percentiles, rate
from benchmarks.data import conversations, rows
from benchmarks.figures.repositories import expect
from provider_trace_store import ProviderTrace, ProviderTraceRepository, TraceWriter

Prepare = Callable[[Bench], Contenders]

# More traces than a writer's memory holds, so that the rate is that of its thread, not of filling a queue.
_WHOLE: Final = Load(42_000, 100, 40)
_METADATA: Final = Load(5_000, 1_000, 40, metadata=True)
# On many systems /tmp is memory, faster than the disk that a spool is made for.
_DISK: Final = Path("/var/tmp")  # noqa: S108  # a directory of its own is made there
_PATIENCE: Final = 120.0
_CALLS: Final = 2_000
# Calls a second: a fraction of what the writer's thread can store, so the queue always has room.
_PACE: Final = 1_000
_TICK: Final = 0.001
# The default limit of a writer's memory, in MB.
_LIMIT: Final = 64 * 2**20 / 1e6
# Seconds without a database, and submits a second meanwhile.
_AWAY: Final = 60
_PACE_AWAY: Final = 500
_PEAK: Final = ("MB",)
_BOTH: Final = ("p50 µs", "p99 µs")


def figures() -> list[Figure]:
    """Return the figures of memory and of the writer."""
    ours = "writer, {}, of create_many"
    submit, added = "submit, 42 KB, {}: p50 / p99", f"a tick's delay, {_PACE:,} submits/s: p50 / p99 added / p99"
    written, away = "memory of 1,000,000 metadata rows: added / before", f"database away for {_AWAY} s: added / before"
    return [
        Figure("memory-metadata", written, _memory_of_create_many, 100, 40, _PEAK, once=True),
        Figure("writer-submit-memory", submit.format("memory"), _submit(), (20, 200), (5, 50), _BOTH),
        Figure("writer-submit-spool", submit.format("spool"), _submit(durable=True), (300, 3_000), (100, 1_000), _BOTH),
        Figure("writer-rate", ours.format("42 KB, memory"), _rate(_WHOLE), 0.7, 0.95),
        Figure("writer-rate-spool", ours.format("42 KB, spool"), _rate(_WHOLE, durable=True), 0.7, 0.95),
        Figure("writer-rate-metadata", ours.format("metadata"), _rate(_METADATA), 0.7, 0.95),
        Figure("writer-loop", added, _delay, 5_000, 1_000, ("p99 added µs",), ("p99 µs",)),
        Figure("writer-memory", away, _memory_of_writer, 2 * _LIMIT, 1.2 * _LIMIT, _PEAK, once=True),
    ]


@contextmanager
def _begun(bench: Bench, load: Load, *, durable: bool = False) -> Iterator[TraceWriter]:
    """Yield a writer that has stored traces, so its thread, connection and file exist; the tables are empty.

    A load is submitted to it, which must be in the database in the end. A `durable` writer uses a spool.
    """
    with ExitStack() as stack:
        how: dict[str, Any] = {"durability": "memory", "on_full": "block", "block_timeout": _PATIENCE}
        if durable:
            how = {"durability": "spool", "spool_dir": stack.enter_context(_spool_directory())}
        writer = stack.enter_context(TraceWriter(bench.postgres.engine, metadata_only=load.metadata, **how))
        [first] = bench.traces(Load(load.size, 20, 1, load.metadata))
        for trace in first:
            _submit_one(writer, trace)
        _finish(writer)
        bench.postgres.empty()
        yield writer
        _finish(writer)
        bench.postgres.expect(load, load.count)


def _spool_directory() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="bench-spool-", dir=_DISK if _DISK.is_dir() else None)


def _submit_one(writer: TraceWriter, trace: ProviderTrace) -> None:
    writer.submit(trace, organization_id=rows.ORGANIZATION)


def _finish(writer: TraceWriter) -> None:
    if not writer.flush(_PATIENCE):
        raise BenchmarkError(f"not all traces were stored in {_PATIENCE:.0f} s: {writer.stats}")


def _rate(load: Load, *, durable: bool = False) -> Prepare:
    """Measure from the first submit until all traces are in the database."""

    def contenders(bench: Bench) -> Contenders:
        part = load.scaled(bench.effort)
        traces = [trace for batch in bench.traces(part) for trace in batch]
        size = sum(rows.size(part.layout.row(trace)) for trace in traces)

        def ours(_: int) -> Sample:
            with _begun(bench, part, durable=durable) as writer, Stopwatch() as watch:
                for trace in traces:
                    _submit_one(writer, trace)
                _finish(writer)
            return rate(watch.seconds, part.count, size)

        def directly(_: int) -> Sample:
            bench.postgres.empty()
            seconds, results = bench.run(bench.postgres.create_many(part, [traces]))
            expect(results, created=part.count)
            bench.postgres.expect(part, part.count)
            return rate(seconds, part.count, size)

        return {"submit + flush": ours, "create_many": directly}

    return contenders


def _calls(bench: Bench) -> tuple[Load, list[ProviderTrace]]:
    load = Load(_WHOLE.size, bench.effort.of(_CALLS, at_least=100), 1)
    [traces] = bench.traces(load)
    return load, traces


def _submit(*, durable: bool = False) -> Prepare:
    """Measure each `submit` at an even pace, while the writer's thread stores."""

    def contenders(bench: Bench) -> Contenders:
        load, traces = _calls(bench)

        def run(_: int) -> Sample:
            seconds = []
            with _begun(bench, load, durable=durable) as writer:
                gc.collect()
                for trace in _paced(traces, _PACE):
                    began = perf_counter()
                    _submit_one(writer, trace)
                    seconds.append(perf_counter() - began)
            return percentiles(seconds)

        return {"submit": run}

    return contenders


def _paced(traces: Iterable[ProviderTrace], pace: int) -> Iterator[ProviderTrace]:
    start = perf_counter()
    for number, trace in enumerate(traces):
        if (early := start + number / pace - perf_counter()) > 0:
            sleep(early)
        yield trace


def _delay(bench: Bench) -> Contenders:
    """Measure how much later ticks of an event loop are with submits in the same loop than without."""
    load, traces = _calls(bench)

    def added(number: int) -> Sample:
        late: dict[bool, Sample] = {}
        for busy in (True, False) if number % 2 else (False, True):
            with _begun(bench, load) if busy else nullcontext() as writer:
                late[busy] = _lateness(writer, traces, number)
        found = {f"{each} added µs": late[True][f"{each} µs"] - late[False][f"{each} µs"] for each in ("p50", "p99")}
        return {**found, "p99 µs": late[True]["p99 µs"]}

    return {"added": added}


def _lateness(writer: TraceWriter | None, traces: list[ProviderTrace], number: int) -> Sample:
    gc.collect()
    # The usual selector, epoll, waits for whole milliseconds: each tick would be up to one late, whatever else the
    # loop does.
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(SelectSelector())) as runner:
        return percentiles(runner.run(_ticks(writer, traces, Random(number))))


async def _ticks(writer: TraceWriter | None, traces: list[ProviderTrace], random: Random) -> list[float]:
    """Return the seconds that each tick was late, in a loop in which traces are submitted."""
    loop = asyncio.get_running_loop()
    begin = loop.time()
    taking = asyncio.create_task(_submit_all(writer, traces, random))
    late = []
    # Ticks are due at fixed times: after a late tick, the next ones are late, too.
    for number in range(1, round(len(traces) / _PACE / _TICK) + 1):
        due = begin + number * _TICK
        await asyncio.sleep(due - loop.time())
        late.append(loop.time() - due)
    await taking
    return late


async def _submit_all(writer: TraceWriter | None, traces: list[ProviderTrace], random: Random) -> None:
    """Submit each trace at a random time, as requests come; in step with the ticks, all or none would be delayed."""
    loop = asyncio.get_running_loop()
    due = loop.time()
    for trace in traces:
        due += random.expovariate(_PACE)
        await asyncio.sleep(due - loop.time())
        if writer:
            _submit_one(writer, trace)


def _memory_of_create_many(bench: Bench) -> Contenders:
    bench.postgres.empty()
    bench.later.callback(bench.postgres.empty)
    task = {"url": bench.url.render_as_string(hide_password=False), "count": bench.effort.of(1_000_000)}
    return {"create_many": lambda _: peak_of(write, **task)}


def write(url: str, count: int) -> Sample:
    """Write metadata by one `create_many` of a generator, and return the memory of that."""
    traces = _traces(5_000, count)
    engine = create_engine(url)
    with Session(engine) as session:
        repository = ProviderTraceRepository(session, organization_id=rows.ORGANIZATION, metadata_only=True)
        session.connection()
        memory = Memory()
        expect([repository.create_many(traces)], created=count)
        session.commit()
        peak = memory.peak()
    engine.dispose()
    return peak


def _memory_of_writer(bench: Bench) -> Contenders:
    return {"submit": lambda _: peak_of(submit_without_database, count=bench.effort.of(_AWAY * _PACE_AWAY))}


def submit_without_database(count: int) -> Sample:
    """Submit whole traces while no connection can be made, and return the memory of that."""
    traces = _traces(_WHOLE.size, count)
    with _spool_directory() as directory, closing(socket.socket()) as unused:
        # The port is bound and nothing listens there: each attempt to connect is refused at once.
        unused.bind(("127.0.0.1", 0))
        url = URL.create("postgresql+psycopg", "nobody", host="127.0.0.1", port=unused.getsockname()[1])
        engine = create_engine(url)
        memory = Memory()
        with TraceWriter(engine, spool_dir=directory, durability="memory") as writer:
            for trace in _paced(traces, _PACE_AWAY):
                _submit_one(writer, trace)
            peak, stats = memory.peak(), writer.stats
        engine.dispose()
    if not stats.accepted == stats.queued + stats.spooled == count:
        raise BenchmarkError(f"not all of {count} traces are kept: {stats}")
    return peak


def _traces(size: int, count: int) -> Iterator[ProviderTrace]:
    return conversations.repeated(conversations.parsed(conversations.exchanges(size, 100)), count)
