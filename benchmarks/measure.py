"""Takes times: contenders in alternating rounds, and what is told about their samples."""

from __future__ import annotations

import gc
from dataclasses import dataclass, field
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class BenchmarkError(Exception):
    """What was timed did not do the work that it was timed for."""


class Stopwatch:
    """Times a block: garbage is collected before it, and as always during it."""

    seconds: float

    def __enter__(self) -> Self:
        gc.collect()
        self._start = perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = perf_counter() - self._start


@dataclass(frozen=True)
class Sample:
    """What one contender did in one round.

    Args:
        seconds: how long it took.
        traces: how many traces it wrote or read.
        size: their JSON, in bytes.
    """

    seconds: float
    traces: int
    size: int

    @property
    def rate(self) -> float:
        """Traces a second."""
        return self.traces / self.seconds


@dataclass(frozen=True)
class Contender:
    """One way to do the work.

    Args:
        name: what the table calls it.
        run: does the work of a round, given its number, and times nothing but the work.
        is_floor: whether it does less than the work that is compared, to show what the rest costs; it is never
            the limit.
    """

    name: str
    run: Callable[[int], Sample]
    is_floor: bool = False


@dataclass
class Series:
    """A contender's samples, one a round."""

    name: str
    is_floor: bool = False
    samples: list[Sample] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Traces a second, the median of the rounds."""
        return median(sample.rate for sample in self.samples)

    @property
    def megabytes(self) -> float:
        """MB of JSON a second, the median of the rounds."""
        return median(sample.size / sample.seconds / 1e6 for sample in self.samples)


@dataclass(frozen=True)
class Comparison:
    """Ours beside other ways to do the same; the fastest that starts where ours does is the limit."""

    ours: Series
    others: tuple[Series, ...]

    @property
    def limit(self) -> Series:
        """The fastest of the others that are no floor."""
        return max((series for series in self.others if not series.is_floor), key=lambda series: series.rate)

    @property
    def ratio(self) -> float:
        """Our median rate, the limit's being 1."""
        return self.ours.rate / self.limit.rate

    @property
    def spread(self) -> tuple[float, float]:
        """The lowest and the highest ratio of one round."""
        pairs = zip(self.ours.samples, self.limit.samples, strict=True)
        ratios = [ours.rate / limit.rate for ours, limit in pairs]
        return min(ratios), max(ratios)


def alternate(ours: Contender, others: Sequence[Contender], rounds: int) -> Comparison:
    """Let contenders do their work in turn, in the opposite order every other round.

    One more round comes first and does not count: it fills caches, pools and prepared statements.

    Args:
        ours: the package.
        others: what it is compared with.
        rounds: how many count.
    """
    contenders = [ours, *others]
    series = [Series(contender.name, contender.is_floor) for contender in contenders]
    for number in range(rounds + 1):
        turn = list(zip(contenders, series, strict=True))
        for contender, its in turn if number % 2 else reversed(turn):
            sample = contender.run(number)
            if number:
                its.samples.append(sample)
    return Comparison(series[0], tuple(series[1:]))
