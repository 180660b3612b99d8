"""Figures: contenders that work in alternating rounds, their samples, limits, and how a run shows them."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from statistics import median, quantiles
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from benchmarks.core.bench import Bench

# The numbers of one round by name; the last word of a name is the unit.
Sample = dict[str, float]
# The samples of each contender, one a round; the package's come first.
Series = dict[str, list[Sample]]
Limit = float | tuple[float, ...]
# The ways to do the work, the package's first. Each gets the round's number, does the work, and measures only that.
Contenders = dict[str, Callable[[int], Sample]]

RATE: Final = "traces/s"
HEADER: Final = f"{'':<60}{RATE:>10}{'MB/s':>8}{'ratio':>8}{'min..max':>13}{'least':>10}{'aim':>10}"


class BenchmarkError(Exception):
    """The measured code did not do the work that it was measured for."""


class Stopwatch:
    """Measures the seconds of a block; garbage is collected before it starts."""

    seconds: float

    def __enter__(self) -> Self:
        gc.collect()
        self._start = perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = perf_counter() - self._start


@dataclass(frozen=True)
class Figure:
    """One figure of the table."""

    name: str  # for `--only`
    title: str
    contenders: Callable[[Bench], Contenders]  # prepares the work in a database whose tables may hold anything
    at_least: Limit | None = None  # a ratio at least, or each of `keys` at most
    aim: Limit | None = None  # the better limit that we want to reach
    keys: tuple[str, ...] = (RATE,)  # numbers with limits; `RATE` has one by the fastest of the other contenders
    compared: tuple[str, ...] = ()  # numbers that two commits are compared by, if not `keys`
    more: bool = False  # whether the limits of `keys` are the least, not the most
    once: bool = False  # whether there is a single round, without another one before it

    @contextmanager
    def prepared(self, bench: Bench) -> Iterator[Contenders]:
        """Prepare the work, and undo at the end what the preparation changed in the database."""
        with ExitStack() as bench.later:
            yield self.contenders(bench)

    def measure(self, bench: Bench) -> Series:
        """Measure the figure."""
        with self.prepared(bench) as contenders:
            return alternate(contenders, 1 if self.once else bench.effort.rounds, skip=not self.once)


def alternate(contenders: Contenders, rounds: int, *, skip: bool = True) -> Series:
    """Let contenders work in turn, in the opposite order every other round, and return their samples.

    With `skip`, an extra first round does not count: it fills caches, pools and prepared statements.
    """
    series: Series = {name: [] for name in contenders}
    for number in range(0 if skip else 1, rounds + 1):
        for name in contenders if number % 2 else reversed(contenders):
            sample = contenders[name](number)
            if number:
                series[name].append(sample)
    return series


def rate(seconds: float, traces: int, size: int = 0) -> Sample:
    """Return the sample of traces with so many bytes of JSON."""
    return {RATE: traces / seconds, "MB/s": size / seconds / 1e6, "seconds": seconds}


def percentiles(seconds: Sequence[float]) -> Sample:
    """Return the sample of calls, given the seconds of each."""
    cuts = quantiles(seconds, n=100, method="inclusive")
    return {"p50 µs": cuts[49] * 1e6, "p99 µs": cuts[98] * 1e6}


def medians(samples: list[Sample]) -> Sample:
    """Return the median of each number: a round on a busy machine does not decide."""
    return {key: median(sample[key] for sample in samples) for key in samples[0]}


class Comparison:
    """The package's rates beside those of the other contenders; the fastest of them is the limit."""

    def __init__(self, series: Series) -> None:
        self.ours, *others = self.rates = {name: medians(samples)[RATE] for name, samples in series.items()}
        self.limit = max(others, key=self.rates.__getitem__)
        self.ratio = self.rates[self.ours] / self.rates[self.limit]
        pairs = zip(series[self.ours], series[self.limit], strict=True)
        self.ratios = [ours[RATE] / limit[RATE] for ours, limit in pairs]


@dataclass(frozen=True)
class Result:
    """The samples of a figure, or the error that prevented them."""

    figure: Figure
    series: Series
    error: str | None = None

    @property
    def verdict(self) -> str:
        """`aim`, `ok`, `SHORT`, `FAILED`; empty for a figure without limits."""
        if self.error:
            return "FAILED"
        if self.figure.at_least is None or self.figure.aim is None:
            return ""
        return "aim" if self._keeps(self.figure.aim) else "ok" if self._keeps(self.figure.at_least) else "SHORT"

    def table(self) -> str:
        """Return the lines of the table: the figure and its limits, then each contender."""
        title = f"{self.figure.name}: {self.figure.title}"
        limits = f"{_text(self.figure.at_least):>10}{_text(self.figure.aim):>10}  {self.verdict}"
        if self.error:
            return f"{title:<99}{limits} {self.error}"
        if self.figure.keys == (RATE,):
            return "\n".join(self._rates(title, limits))
        [samples] = self.series.values()
        numbers = medians(samples)
        shown = " / ".join(map(_number, numbers.values())) + " " + next(reversed(numbers)).split()[-1]
        last = [sample[self.figure.keys[-1]] for sample in samples]
        spread = f"{_number(min(last))}..{_number(max(last))}"
        return f"{title:<60}{shown:>25}{spread:>14}{limits}"

    def entry(self) -> dict[str, Any]:
        """Return the result for JSON, with all samples."""
        figure = self.figure
        head = {"name": figure.name, "title": figure.title, "at_least": figure.at_least, "aim": figure.aim}
        if self.error:
            return head | {"verdict": self.verdict, "error": self.error}
        found: dict[str, Any] = {"verdict": self.verdict, "series": self.series}
        if figure.keys == (RATE,):
            comparison = Comparison(self.series)
            found |= {"ratio": comparison.ratio, "ratios": comparison.ratios, "limit": comparison.limit}
        return head | found

    def _keeps(self, limit: Limit) -> bool:
        if not isinstance(limit, tuple):
            limit = (limit,)
        if self.figure.keys == (RATE,):
            return Comparison(self.series).ratio >= limit[0]
        [samples] = self.series.values()
        numbers = medians(samples)
        pairs = zip((numbers[key] for key in self.figure.keys), limit, strict=True)
        return all(number >= each if self.figure.more else number <= each for number, each in pairs)

    def _rates(self, title: str, limits: str) -> Iterator[str]:
        found = Comparison(self.series)
        spread = f"{min(found.ratios):.2f}..{max(found.ratios):.2f}"
        yield f"{title:<78}{found.ratio:>8.2f}{spread:>13}{limits}"
        for name, rate in found.rates.items():
            ratio = "" if name == found.ours else f"{found.rates[found.ours] / rate:.2f}"
            mark = "  <- the limit" if name == found.limit else ""
            yield f"    {name:<56}{rate:>10,.0f}{medians(self.series[name])['MB/s']:>8,.1f}{ratio:>8}{mark}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 10 else f"{value:.1f}"  # noqa: PLR2004  # two digits either way


def _text(value: Limit | None) -> str:
    if isinstance(value, tuple):
        return "/".join(f"{each:g}" for each in value)
    return "" if value is None else f"{value:.4g}" if value > 1 else f"{value:.2f}"
