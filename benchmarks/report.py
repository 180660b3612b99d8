"""What a run says: a table for people, a document for programs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.figures import Peak
from benchmarks.latency import Latencies, Percentiles

if TYPE_CHECKING:
    from collections.abc import Iterable

    from benchmarks.figures import Figure
    from benchmarks.latency import Latency
    from benchmarks.measure import Comparison, Series


@dataclass(frozen=True)
class Result:
    """What came of a figure.

    Args:
        figure: what was measured.
        outcome: what was found; None where it failed.
        error: why it failed, by the error's class.
    """

    figure: Figure
    outcome: Comparison | Peak | Latencies | None
    error: str | None = None

    @property
    def verdict(self) -> str:
        """`aim`, `ok`, `SHORT`, or nothing where nothing is asked for."""
        figure = self.figure
        if self.outcome is None:
            return "FAILED"
        if figure.at_least is None or figure.aim is None:
            return ""
        if _keeps(self.outcome, figure.aim):
            return "aim"
        return "ok" if _keeps(self.outcome, figure.at_least) else "SHORT"


HEADER = f"{'':<60}{'traces/s':>10}{'MB/s':>8}{'ratio':>8}{'min..max':>13}{'least':>10}{'aim':>10}"


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
    """Return the lines of a figure: what was compared or timed, then each contender, or each kind of call."""
    figure, outcome = result.figure, result.outcome
    title = f"{figure.name}: {figure.title}"
    limits = f"{_limit(figure.at_least):>10}{_limit(figure.aim):>10}  {result.verdict}"
    if outcome is None:
        return f"{title:<99}{limits} {result.error}"
    if isinstance(outcome, Peak):
        rate = f"{outcome.traces / outcome.seconds:>10,.0f}"
        used = f"{outcome.megabytes:,.0f} MB, from {outcome.before:,.0f}"
        return f"{title:<60}{rate}{used:>29}{limits}"
    if isinstance(outcome, Latencies):
        return "\n".join(
            [_latency(title, outcome.ours) + limits, *(_latency(f"    {o.name}", o) for o in outcome.others)]
        )
    low, high = outcome.spread
    spread = f"{low:.2f}..{high:.2f}"
    lines = [f"{title:<78}{outcome.ratio:>8.2f}{spread:>13}{limits}"]
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


def _keeps(outcome: Comparison | Peak | Latencies, limit: float | Percentiles) -> bool:
    if isinstance(outcome, Latencies):
        return outcome.is_within(limit)
    if isinstance(limit, Percentiles):
        raise TypeError("only latencies have percentiles")
    return outcome.megabytes <= limit if isinstance(outcome, Peak) else outcome.ratio >= limit


def _entry(result: Result) -> dict[str, Any]:
    figure, outcome = result.figure, result.outcome
    entry: dict[str, Any] = {
        "name": figure.name,
        "title": figure.title,
        "at_least": _plain(figure.at_least),
        "aim": _plain(figure.aim),
        "verdict": result.verdict,
    }
    if outcome is None:
        return entry | {"error": result.error}
    if isinstance(outcome, Peak):
        return entry | {
            "peak_megabytes": outcome.megabytes,
            "megabytes_before": outcome.before,
            "traces": outcome.traces,
            "seconds": outcome.seconds,
        }
    if isinstance(outcome, Latencies):
        return entry | {
            "microseconds": asdict(outcome.ours.value),
            "p99_spread": list(outcome.ours.spread),
            "calls": [_calls(latency) for latency in (outcome.ours, *outcome.others)],
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


def _calls(latency: Latency) -> dict[str, Any]:
    return {"name": latency.name, **asdict(latency.value), "rounds": [asdict(each) for each in latency.rounds]}


def _latency(name: str, latency: Latency) -> str:
    value, spread = latency.value, "..".join(map(_micros, latency.spread))
    return f"{name:<60}{_micros(value.p50) + ' / ' + _micros(value.p99) + ' µs':>25}{spread:>14}"


def _micros(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 10 else f"{value:.1f}"  # noqa: PLR2004  (two digits either way)


def _plain(limit: float | Percentiles | None) -> float | dict[str, float] | None:
    return asdict(limit) if isinstance(limit, Percentiles) else limit


def _limit(value: float | Percentiles | None) -> str:
    if isinstance(value, Percentiles):
        return f"{value.p50:g}/{value.p99:g}"
    return "" if value is None else f"{value:.4g}" if value > 1 else f"{value:.2f}"
