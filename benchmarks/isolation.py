"""`create_many` where not all is new and good: a batch sent again, and a batch with one trace that is refused."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Final

from benchmarks.bench import Bench, Load
from benchmarks.bulk import METADATA, MIDDLE, expect, scaled, write
from benchmarks.figures import Figure
from benchmarks.measure import Comparison, Contender, Sample, alternate

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_POISONED_METADATA: Final = Load(5_000, 1_000, 6, metadata=True)
_POISONED_SMALL: Final = Load(5_000, 1_000, 3)
_USERS: Final = "benchmark_users"
_CONSTRAINT: Final = "benchmark_constraint"
_CHECK: Final = "CHECK (call_type <> 'poison')"
_FOREIGN_KEY: Final = f"FOREIGN KEY (user_id) REFERENCES {_USERS} (id)"


def figures() -> list[Figure]:
    """Return the figures of what is sent again and of what is refused."""
    retry, one = "retry of a stored batch, {}, of its first write", "one {} in 1,000, {}, of clean"
    kinds = (("metadata", "metadata", _POISONED_METADATA), ("5kb", "5 KB", _POISONED_SMALL))
    return [
        Figure("retry-metadata", retry.format("metadata"), _retry(METADATA), 0.25, 0.5),
        Figure("retry-42kb", retry.format("42 KB"), _retry(MIDDLE), 0.25, 0.5),
        *(
            Figure(f"poison-{key}-{name}", one.format(what, title), measure(load), 0.3, 0.6)
            for key, what, measure in (
                ("check", "CHECK violation", _check),
                ("fk", "FOREIGN KEY violation", _foreign_key),
                ("conflict", "conflict", _conflict),
            )
            for name, title, load in kinds
        ),
    ]


def _retry(load: Load) -> Callable[[Bench], Comparison]:
    def measure(bench: Bench) -> Comparison:
        part = scaled(bench, load)

        def again(_: int) -> Sample:
            bench.empty()
            batches = bench.traces(part)
            write(bench, part, batches)
            seconds, results = write(bench, part, batches)
            expect(results, unchanged=part.count)
            bench.expect(part, part.count)
            return bench.sample(part, seconds)

        others = [Contender("first write", _clean(bench, part))]
        return alternate(Contender("the same again", again), others, bench.effort.rounds)

    return measure


def _check(load: Load) -> Callable[[Bench], Comparison]:
    return _constrained(load, _CHECK, {"call_type": "poison"})


def _foreign_key(load: Load) -> Callable[[Bench], Comparison]:
    return _constrained(load, _FOREIGN_KEY, {"user_id": "user-unknown"})


def _constrained(load: Load, constraint: str, poison: dict[str, Any]) -> Callable[[Bench], Comparison]:
    """Measure a poison row that only the server knows for one, beside batches without it under the same constraint."""

    def measure(bench: Bench) -> Comparison:
        part = scaled(bench, load)

        def poisoned(number: int) -> Sample:
            bench.empty()
            batches = bench.traces(part)
            random = Random(number)
            for batch in batches:
                place = random.randrange(len(batch))
                batch[place] = batch[place].model_copy(update=poison)
            seconds, results = write(bench, part, batches)
            expect(results, created=part.count - part.batches, rejected=part.batches)
            bench.expect(part, part.count - part.batches)
            return bench.sample(part, seconds)

        others = [Contender("clean batches", _clean(bench, part))]
        bench.empty()
        try:
            bench.execute(f"CREATE TABLE {_USERS} (id varchar PRIMARY KEY)")
            bench.execute(f"INSERT INTO {_USERS} SELECT 'user-' || n FROM generate_series(0, 99) AS n")  # noqa: S608  (a name of our own)
            bench.execute(f"ALTER TABLE {part.layout.table} ADD CONSTRAINT {_CONSTRAINT} {constraint}")
            return alternate(Contender("one poison row a batch", poisoned), others, bench.effort.rounds)
        finally:
            bench.recover()
            bench.execute(f"ALTER TABLE {part.layout.table} DROP CONSTRAINT IF EXISTS {_CONSTRAINT}")
            bench.execute(f"DROP TABLE IF EXISTS {_USERS}")

    return measure


def _conflict(load: Load) -> Callable[[Bench], Comparison]:
    def measure(bench: Bench) -> Comparison:
        part = scaled(bench, load)

        def conflicting(number: int) -> Sample:
            bench.empty()
            batches = bench.traces(part)
            random = Random(number)
            stored = [[random.choice(batch).model_copy(update={"source": "another"})] for batch in batches]
            write(bench, part, stored)
            seconds, results = write(bench, part, batches)
            expect(results, created=part.count - part.batches, rejected=part.batches)
            bench.expect(part, part.count)
            return bench.sample(part, seconds)

        others = [Contender("clean batches", _clean(bench, part))]
        return alternate(Contender("one id taken a batch", conflicting), others, bench.effort.rounds)

    return measure


def _clean(bench: Bench, load: Load) -> Callable[[int], Sample]:
    def run(_: int) -> Sample:
        bench.empty()
        seconds, results = write(bench, load, bench.traces(load))
        expect(results, created=load.count)
        bench.expect(load, load.count)
        return bench.sample(load, seconds)

    return run
