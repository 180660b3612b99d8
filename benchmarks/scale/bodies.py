"""Whether a read touches bodies: by the server's count of pages read from where it keeps long values."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sqlalchemy import NullPool, create_engine
from sqlalchemy.orm import Session

from benchmarks import raw
from benchmarks.measure import BenchmarkError
from benchmarks.scale import population
from provider_trace_store import ProviderTraceRepository

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.bench import Bench

_RUNS: Final = range(10)
_PATIENCE: Final = 10.0


@dataclass(frozen=True)
class Bodies:
    """Pages of long values that were read for the same runs of whole traces.

    Args:
        traces: in these runs.
        by_metadata: pages for their metadata.
        by_whole: pages for the whole traces.
    """

    traces: int
    by_metadata: int
    by_whole: int


def measure(bench: Bench) -> Bodies:
    """Read the metadata of runs, then the whole traces, and return what was read of bodies."""
    runs = [population.identifier("run", f"full-{number}") for number in _RUNS]
    metadata, by_metadata = _read(bench, lambda repository: sum(_listed(repository, run) for run in runs))
    whole, by_whole = _read(
        bench, lambda repository: sum(len(repository.list_by_run_id(run, limit=100).items) for run in runs)
    )
    if not metadata == whole > 0 or not by_whole:
        raise BenchmarkError(f"{metadata} and {whole} traces, {by_whole} pages of bodies")
    return Bodies(whole, by_metadata, by_whole)


def _listed(repository: ProviderTraceRepository, run: str) -> int:
    items = repository.list_metadata(run_id=run).items
    return sum(item.stored_as == "full" for item in items)


def _read(bench: Bench, work: Callable[[ProviderTraceRepository], int]) -> tuple[int, int]:
    """Do work on a connection of its own, whose end makes the server count what it did."""
    heap, long_values = _pages(bench)
    engine = create_engine(bench.url, poolclass=NullPool)
    with Session(engine) as session:
        repository = ProviderTraceRepository(session, organization_id=population.organization(population.LARGEST))
        found = work(repository)
    deadline = time.monotonic() + _PATIENCE
    while _pages(bench)[0] == heap:
        if time.monotonic() > deadline:
            raise BenchmarkError("the server counts no reads")
        time.sleep(0.05)
    return found, _pages(bench)[1] - long_values


def _pages(bench: Bench) -> tuple[int, int]:
    [counts] = bench.execute(
        "SELECT (heap_blks_read + heap_blks_hit)::int, (toast_blks_read + toast_blks_hit)::int"  # noqa: S608  (a name of our own)
        f" FROM pg_statio_user_tables WHERE relname = '{raw.FULL.table}'"
    )
    return counts[0], counts[1]
