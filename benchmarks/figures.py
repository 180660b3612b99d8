"""What a figure is: its name, its limits, and what measures it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.bench import Bench
    from benchmarks.latency import Latencies, Percentiles
    from benchmarks.measure import Comparison


@dataclass(frozen=True)
class Peak:
    """What memory a process took at most.

    Args:
        megabytes: above what it had taken before, in MB.
        before: what it had taken before, in MB.
        traces: how many it wrote.
        seconds: how long that took.
    """

    megabytes: float
    before: float
    traces: int
    seconds: float


@dataclass(frozen=True)
class Figure:
    """One row of the table.

    Args:
        name: what `--only` calls it.
        title: what is compared.
        measure: measures it, on a database whose tables may hold anything.
        at_least: what it must come to: a ratio; or at most, of memory MB, of latencies both percentiles or p99 alone,
            in microseconds. None where nothing is asked for.
        aim: what it should come to, likewise.
    """

    name: str
    title: str
    measure: Callable[[Bench], Comparison | Peak | Latencies]
    at_least: float | Percentiles | None = None
    aim: float | Percentiles | None = None
