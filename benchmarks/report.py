"""What a run says: a table for people, a document for programs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.measure import Comparison

if TYPE_CHECKING:
    from collections.abc import Iterable

    from benchmarks.figures import Figure, Peak
    from benchmarks.measure import Series


@dataclass(frozen=True)
class Result:
    """What came of a figure.

    Args:
        figure: what was measured.
        outcome: what was found; None where it failed.
        error: why it failed, by the error's class.
    """

    figure: Figure
    outcome: Comparison | Peak | None
    error: str | None = None

    @property
    def verdict(self) -> str:
        """`aim`, `ok`, `SHORT`, or nothing where nothing is asked for."""
        figure = self.figure
        if self.outcome is None:
            return "FAILED"
        if figure.at_least is None or figure.aim is None:
            return ""
        if isinstance(self.outcome, Comparison):
            value, least, aim = self.outcome.ratio, figure.at_least, figure.aim
        else:
            value, least, aim = -self.outcome.megabytes, -figure.at_least, -figure.aim
        if value >= aim:
            return "aim"
        return "ok" if value >= least else "SHORT"


HEADER = f"{'':<60}{'traces/s':>10}{'MB/s':>8}{'ratio':>8}{'min..max':>13}{'least':>8}{'aim':>7}"


def environment(values: dict[str, Any]) -> str:
    """Return what figures depend on, a line each, and a warning where the server does without lz4."""
    lines = [f"{name}: {value}" for name, value in values.items()]
    if values["compression"] != "lz4":
        lines.append(
            f"\n*** WITHOUT lz4: bodies are compressed by {values['compression']}, a fraction of the rate. Neither the"
            "\n*** rates nor the ratios of whole traces are those of a server with lz4. ***"
        )
    return "\n".join(lines) + "\n"


def table(result: Result) -> str:
    """Return the lines of a figure: what was compared, then each contender."""
    figure, outcome = result.figure, result.outcome
    limits = f"{_number(figure.at_least):>8}{_number(figure.aim):>7}  {result.verdict}"
    if outcome is None:
        return f"{figure.name + ': ' + figure.title:<99}{limits} {result.error}"
    if not isinstance(outcome, Comparison):
        rate = f"{outcome.traces / outcome.seconds:>10,.0f}"
        used = f"{outcome.megabytes:,.0f} MB, from {outcome.before:,.0f}"
        return f"{figure.name + ': ' + figure.title:<60}{rate}{used:>29}{limits}"
    low, high = outcome.spread
    spread = f"{low:.2f}..{high:.2f}"
    lines = [f"{figure.name + ': ' + figure.title:<78}{outcome.ratio:>8.2f}{spread:>13}{limits}"]
    for series in (outcome.ours, *outcome.others):
        mark = "  <- the limit" if series is outcome.limit and len(outcome.others) > 1 else ""
        mark = "  (no rows to make: the server's part)" if series.is_floor else mark
        of_it = outcome.ours.rate / series.rate
        ratio = f"{of_it:>8.2f}" if series is not outcome.ours else f"{'':>8}"
        lines.append(f"    {series.name:<56}{series.rate:>10,.0f}{series.megabytes:>8,.1f}{ratio}{mark}")
    return "\n".join(lines)


def document(environment: dict[str, Any], effort: dict[str, Any], results: Iterable[Result]) -> dict[str, Any]:
    """Return a run as JSON: its environment, and of each figure all samples.

    Args:
        environment: what figures depend on.
        effort: how much was measured.
        results: of all figures.
    """
    return {"environment": environment, "effort": effort, "figures": [_entry(result) for result in results]}


def _entry(result: Result) -> dict[str, Any]:
    figure, outcome = result.figure, result.outcome
    entry: dict[str, Any] = {
        "name": figure.name,
        "title": figure.title,
        "at_least": figure.at_least,
        "aim": figure.aim,
        "verdict": result.verdict,
    }
    if outcome is None:
        return entry | {"error": result.error}
    if not isinstance(outcome, Comparison):
        return entry | {
            "peak_megabytes": outcome.megabytes,
            "megabytes_before": outcome.before,
            "traces": outcome.traces,
            "seconds": outcome.seconds,
        }
    return entry | {
        "ratio": outcome.ratio,
        "spread": list(outcome.spread),
        "limit": outcome.limit.name,
        "ours": _series(outcome.ours),
        "others": [_series(series) for series in outcome.others],
    }


def _series(series: Series) -> dict[str, Any]:
    samples = [{"seconds": sample.seconds, "traces": sample.traces, "bytes": sample.size} for sample in series.samples]
    rates = {"traces_per_second": series.rate, "mb_per_second": series.megabytes}
    return {"name": series.name, **rates, "samples": samples}


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:g}" if value > 1 else f"{value:.2f}"
