"""What an index costs those who write: with it and without it, in turn, on a table that has grown.

The index is dropped in a transaction that is rolled back, so that it stays the one that grew with the table.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from random import Random
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from sqlalchemy import text
from sqlalchemy.orm import Session

from benchmarks import raw
from benchmarks.scale import population
from provider_trace_store import ProviderTrace, ProviderTraceRepository

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.bench import Bench

# Writes themselves look ids up by it.
_NEEDED: Final = f"ix_{raw.METADATA.table}_id"
_BATCH: Final = 1_000
_SINGLE: Final = 20
_ROUNDS: Final = 40


@dataclass(frozen=True)
class Cost:
    """Times of a trace with and without an index, in microseconds, medians of the rounds.

    Args:
        index: its name.
        batch_with: of `create_many`, with the index.
        batch_without: without it.
        single_with: of `create`, with it.
        single_without: without it.
        batch_cost: the median of each round's ratio, with the index to without, which a noisy machine changes less.
        single_cost: likewise.
    """

    index: str
    batch_with: float
    batch_without: float
    single_with: float
    single_without: float
    batch_cost: float
    single_cost: float


def measure(bench: Bench, rows: int) -> list[Cost]:
    """Return what each index costs that only reads need.

    Args:
        bench: where.
        rows: of metadata that the table has.
    """
    indexes = bench.execute(
        "SELECT indexrelid::regclass::text FROM pg_index"  # noqa: S608  (names of our own)
        f" WHERE indrelid = '{raw.METADATA.table}'::regclass AND NOT indisprimary ORDER BY 1"
    )
    return [_cost(bench, rows, index) for (index,) in indexes if index != _NEEDED]


def _cost(bench: Bench, rows: int, index: str) -> Cost:
    traces = _traces(rows)
    batches: dict[bool, list[float]] = {True: [], False: []}
    singles: dict[bool, list[float]] = {True: [], False: []}
    for number in range(bench.effort.of(_ROUNDS, at_least=2)):
        for has_index in (True, False) if number % 2 else (False, True):
            with _repository(bench, None if has_index else index) as repository:
                # What was prepared for the table with the index has to be prepared again.
                repository.create_many([next(traces) for _ in range(10)])
                repository.create(next(traces))
                batch = [next(traces) for _ in range(_BATCH)]
                single = [next(traces) for _ in range(_SINGLE)]
                began = perf_counter()
                repository.create_many(batch)
                between = perf_counter()
                for trace in single:
                    repository.create(trace)
                singles[has_index].append((perf_counter() - between) / _SINGLE * 1e6)
                batches[has_index].append((between - began) / _BATCH * 1e6)
    medians = (median(times[has_index]) for times in (batches, singles) for has_index in (True, False))
    costs = (
        median(having / without for having, without in zip(times[True], times[False], strict=True))
        for times in (batches, singles)
    )
    return Cost(index, *medians, *costs)


@contextmanager
def _repository(bench: Bench, without: str | None) -> Iterator[ProviderTraceRepository]:
    """Yield a repository in a transaction, with an index gone, and undo all of it."""
    with Session(bench.engine) as session:
        if without:
            session.execute(text(f"DROP INDEX {without}"))
        organization = population.organization(population.LARGEST)
        yield ProviderTraceRepository(session, organization_id=organization, metadata_only=True)
        session.rollback()


def _traces(rows: int) -> Iterator[ProviderTrace]:
    """Yield new traces of the largest tenant's agents, as many in a run and a step as the table has."""
    random = Random(rows)
    agents = max(1, round(population.traces_of(population.LARGEST, rows) / population.TRACES_OF_AN_AGENT))
    run = step = agent = ""
    for number in count():
        if number % population.TRACES_OF_A_SLOT == 0:
            run = f"run-{uuid4()}"
            agent = population.identifier("agent", f"{population.LARGEST}-{random.randrange(agents)}")
        if number % 2 == 0:
            step = f"step-{uuid4()}"
        yield ProviderTrace(
            request_json={},
            response_json={},
            step_id=step,
            agent_id=agent,
            agent_tags=population.tags(0) if number % 3 == 0 else None,
            call_type="agent_step",
            run_id=run,
            source="agent-server",
            org_id=population.organization(population.LARGEST),
            user_id=population.identifier("user", f"{population.LARGEST}-{number % 50}"),
            created_at=population.END + timedelta(milliseconds=number),
        )
