"""How long a caller waits: percentiles of many calls, in rounds."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Percentiles:
    """What calls took, or may take, in microseconds.

    Args:
        p50: what half of them stay below.
        p99: what 99 of 100 stay below.
    """

    p50: float
    p99: float


@dataclass
class Latency:
    """The calls of one kind, by round.

    Args:
        name: what the table calls them.
        rounds: their percentiles in each round that counts.
    """

    name: str
    rounds: list[Percentiles] = field(default_factory=list)

    @property
    def value(self) -> Percentiles:
        """Their percentiles, each the median of the rounds: one in which the machine was busy does not decide."""
        return Percentiles(median(each.p50 for each in self.rounds), median(each.p99 for each in self.rounds))

    @property
    def spread(self) -> tuple[float, float]:
        """The lowest and the highest p99 of one round."""
        return min(each.p99 for each in self.rounds), max(each.p99 for each in self.rounds)


@dataclass(frozen=True)
class Latencies:
    """The calls that the limits are for, beside others that explain them."""

    ours: Latency
    others: tuple[Latency, ...]

    def is_within(self, limit: Percentiles | float) -> bool:
        """Say whether our calls keep to a limit: of both percentiles, or of p99 alone."""
        value = self.ours.value
        if isinstance(limit, Percentiles):
            return value.p50 <= limit.p50 and value.p99 <= limit.p99
        return value.p99 <= limit


def percentiles(seconds: Sequence[float]) -> Percentiles:
    """Return the percentiles of calls, given how long each took in seconds; there are at least two."""
    cuts = quantiles(seconds, n=100, method="inclusive")
    return Percentiles(cuts[49] * 1e6, cuts[98] * 1e6)
