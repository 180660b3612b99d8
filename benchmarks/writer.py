"""`TraceWriter`: what it costs its caller, what it stores beside `create_many`, what memory it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from benchmarks import process, raw, writer_loop, writer_submit
from benchmarks.bench import Bench, Load
from benchmarks.bulk import expect, scaled, write
from benchmarks.figures import Figure, Peak
from benchmarks.latency import Percentiles
from benchmarks.measure import Comparison, Contender, Sample, Stopwatch, alternate
from benchmarks.writer_setup import begun, finish, submit

if TYPE_CHECKING:
    from collections.abc import Callable

# More than fit into a writer's memory, so that the rate is that of its thread, and not of filling a queue.
_WHOLE: Final = Load(42_000, 100, 40)
_METADATA: Final = Load(5_000, 1_000, 40, metadata=True)
# The default bound of a writer's memory, in MB.
_BOUND: Final = 64 * 2**20 / 1e6
_AWAY: Final = 60
_PACE: Final = 500


def figures() -> list[Figure]:
    """Return the figures of the writer."""
    submits, rate = "submit, 42 KB, {}: p50 / p99", "writer, {}, of create_many"
    memory, spool = writer_submit.latencies(durable=False), writer_submit.latencies(durable=True)
    return [
        Figure("writer-submit-memory", submits.format("memory"), memory, Percentiles(20, 200), Percentiles(5, 50)),
        Figure("writer-submit-spool", submits.format("spool"), spool, Percentiles(300, 3_000), Percentiles(100, 1_000)),
        Figure("writer-rate", rate.format("42 KB, memory"), _rate(_WHOLE), 0.7, 0.95),
        Figure("writer-rate-spool", rate.format("42 KB, spool"), _rate(_WHOLE, durable=True), 0.7, 0.95),
        Figure("writer-rate-metadata", rate.format("metadata"), _rate(_METADATA), 0.7, 0.95),
        Figure("writer-loop", "a tick's delay, 1,000 submits/s: p99 added", writer_loop.added, 5_000, 1_000),
        Figure("writer-memory", f"database away for {_AWAY} s, memory", _memory, 2 * _BOUND, 1.2 * _BOUND),
    ]


def _rate(load: Load, *, durable: bool = False) -> Callable[[Bench], Comparison]:
    """Return what measures how fast a writer stores: from the first submit until all is in the database."""

    def measure(bench: Bench) -> Comparison:
        part = scaled(bench, load)
        traces = [trace for batch in bench.traces(part) for trace in batch]
        size = sum(raw.size(part.layout.row(trace)) for trace in traces)

        def ours(_: int) -> Sample:
            with begun(bench, part, durable=durable) as writer, Stopwatch() as watch:
                for trace in traces:
                    submit(writer, trace)
                finish(writer)
            return Sample(watch.seconds, part.count, size)

        def directly(_: int) -> Sample:
            bench.empty()
            seconds, results = write(bench, part, [traces])
            expect(results, created=part.count)
            bench.expect(part, part.count)
            return Sample(seconds, part.count, size)

        return alternate(Contender("submit + flush", ours), [Contender("create_many", directly)], bench.effort.rounds)

    return measure


def _memory(bench: Bench) -> Peak:
    count = bench.effort.of(_AWAY * _PACE)
    return Peak(**process.run("benchmarks.writer_process", {"size": _WHOLE.size, "count": count, "pace": _PACE}))
