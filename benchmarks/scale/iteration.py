"""`iter_metadata` beside a cursor of the server's, and the memory that it takes."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

from sqlalchemy.orm import Session

from benchmarks import process, raw
from benchmarks.figures import Peak
from benchmarks.measure import BenchmarkError, Comparison, Contender, Sample, Stopwatch, alternate
from benchmarks.scale import population
from provider_trace_store import ProviderTraceRepository

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from benchmarks.bench import Bench

_WANTED: Final = 1_000_000
_ITERSIZES: Final = (1_000, 10_000)


def wanted(rows: int) -> int:
    """Return how many traces are read of a table of so many rows."""
    return min(_WANTED, int(population.traces_of(population.SECOND, rows)))


def compare(bench: Bench, count: int) -> Comparison:
    """Read traces of a tenant that has metadata only, newest first, by the package and by the driver.

    Args:
        bench: where.
        count: how many.
    """
    organization = population.organization(population.SECOND)

    def ours() -> float:
        with Session(bench.engine) as session:
            repository = ProviderTraceRepository(session, organization_id=organization)
            session.connection()
            return _consumed(repository.iter_metadata(), count)

    def theirs(itersize: int) -> Callable[[], float]:
        def read() -> float:
            with bench.connection.transaction(), bench.connection.cursor("benchmark") as cursor:
                cursor.itersize = itersize
                with Stopwatch() as watch:
                    cursor.execute(
                        f"SELECT {raw.METADATA.selected(as_text=True)} FROM {raw.METADATA.table}"  # noqa: S608  (names of our own)
                        " WHERE organization_id = %s AND NOT is_deleted ORDER BY created_at DESC, id DESC".encode(),
                        (organization,),
                    )
                    _expect(sum(1 for _ in islice(cursor, count)), count)
                return watch.seconds

        return read

    def contender(name: str, read: Callable[[], float]) -> Contender:
        return Contender(name, lambda _: Sample(read(), count, 0))

    others = [contender(f"server-side cursor, {size:,} rows at a time", theirs(size)) for size in _ITERSIZES]
    return alternate(contender("iter_metadata", ours), others, bench.effort.rounds)


def memory(bench: Bench, count: int) -> Peak:
    """Return what memory `iter_metadata` takes in a process that does nothing else."""
    task = {
        "url": bench.url.render_as_string(hide_password=False),
        "organization": population.organization(population.SECOND),
        "count": count,
    }
    return Peak(**process.run("benchmarks.scale.iteration_process", task))


def _consumed(items: Iterable[object], count: int) -> float:
    with Stopwatch() as watch:
        found = sum(1 for _ in islice(items, count))
    _expect(found, count)
    return watch.seconds


def _expect(found: int, count: int) -> None:
    if found != count:
        raise BenchmarkError(f"{found} rows, not {count}")
