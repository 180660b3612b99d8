"""Days of traffic with and without daily packing: the bytes of the tables after each day.

The last day ends now, as `pack` computes ages from the clock. The same traces are written to two databases, day by day.
After each day, the first database packs its old traces and runs VACUUM. Autovacuum is off in both.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from sqlalchemy.orm import Session

from benchmarks.core import command, machine, server
from benchmarks.core.bench import Bench, Effort
from benchmarks.core.results import BenchmarkError
from benchmarks.data import conversations
from benchmarks.data import rows as layouts
from benchmarks.scale import page
from provider_trace_store import ProviderTrace, ProviderTraceRepository
from provider_trace_store.maintenance import pack

_TABLES: Final = (layouts.FULL.table, layouts.METADATA.table, "provider_trace_packs")
_DAY: Final = timedelta(days=1)
# The full table's size on the last day is divided by its size on this day; the aim, and the most that is accepted.
_FIRST: Final = 3
_GROWTH: Final = (1.2, 1.5)
# 300 calls a day of 42 KB, in runs of ten calls.
_SIZE: Final = 42_000
_RUNS: Final = 30
_AGENTS: Final = 4
_BETWEEN_CALLS: Final = timedelta(minutes=2)
_BATCH: Final = 50


def main(arguments: Sequence[str]) -> int:
    """Run the command; its status is 0, or 2 if something is missing. A `SHORT` verdict is not a failure."""
    parser = command.parser("benchmarks.scale.days", "Days of traffic, packed daily.", chooses=False, repeats=False)
    parser.add_argument("--days", type=int, help=f"number of days, at least {_FIRST}; default 30")
    parser.add_argument("--older-than", type=int, default=3, metavar="DAYS", help="age of packed traces; default 3")
    parser.add_argument("--docs", type=Path, metavar="DIR", help="folder for packs.svg")
    options = parser.parse_args(arguments)
    if options.docs and not find_spec("matplotlib"):
        print("--docs draws with matplotlib: pip install --group bench", file=sys.stderr)
        return 2
    days = max(_FIRST, options.days or (5 if options.quick else 30))
    with command.ending():
        document = _measured(options, days, runs=2 if options.quick else _RUNS)
    print(_text(document))
    command.save(document, options.json)
    if options.docs:
        _draw(document, options.docs / "packs.svg")
    return 0


def _measured(options: argparse.Namespace, days: int, runs: int) -> dict[str, Any]:
    start = datetime.now(UTC) - days * _DAY
    began, sizes, samples = time.monotonic(), [], []
    with _bench(options.url) as (packed, way), _bench(options.url) as (plain, _):
        for day in range(1, days + 1):
            traces, written = _traces(day, start + (day - 1) * _DAY, runs)
            samples.append(traces[0])
            for bench in (packed, plain):
                _write(bench, traces)
            moved = _pack(packed, start + day * _DAY, options.older_than * _DAY)
            figures = {"json": written, "packed": moved, "with": _sizes(packed), "without": _sizes(plain)}
            sizes.append({"day": day, **figures})
            if not options.quick:
                print(f"[{time.monotonic() - began:>6.0f} s] day {day}", file=sys.stderr, flush=True)
        _check(packed, samples, days * runs * conversations.TURNS)
        document = {"environment": machine.describe(packed, way), "older_than": options.older_than, "days": sizes}
    return {**document, "seconds": time.monotonic() - began}


@contextmanager
def _bench(url: str | None) -> Iterator[tuple[Bench, str]]:
    with server.database(url) as (address, way), Bench(address, Effort()) as bench:
        yield bench, way


def _traces(day: int, start: datetime, runs: int) -> tuple[list[ProviderTrace], int]:
    """Return the traces of a day in the order of time, and the bytes of their JSON."""
    calls = conversations.exchanges(_SIZE, runs * conversations.TURNS, seed=day)
    # Each day's conversations are numbered from 0, and their numbers make the ids of runs.
    named = [replace(call, conversation=day * runs + call.conversation) for call in calls]
    found = []
    for call, arguments in zip(calls, conversations.parsed(named), strict=True):
        # No call lies on the border of two days, where the clock's milliseconds would decide.
        created_at = start + call.conversation * (_DAY - (conversations.TURNS + 1) * _BETWEEN_CALLS) / runs
        arguments["agent_id"] = f"agent-{call.conversation % _AGENTS}"
        found.append(ProviderTrace(**arguments, created_at=created_at + (1 + call.turn) * _BETWEEN_CALLS))
    found.sort(key=lambda trace: trace.created_at)
    return found, sum(len(call.request) + len(call.response) for call in calls)


def _write(bench: Bench, traces: list[ProviderTrace]) -> None:
    with Session(bench.postgres.engine) as session:
        repository = ProviderTraceRepository(session, organization_id=layouts.ORGANIZATION)
        for first in range(0, len(traces), _BATCH):
            result = repository.create_many(traces[first : first + _BATCH])
            if result.rejected:
                raise BenchmarkError(f"{len(result.rejected)} traces were rejected")
            session.commit()


def _pack(bench: Bench, evening: datetime, older_than: timedelta) -> int:
    """Pack as an operator does on the evening of a day; return the number of packed traces."""
    behind = datetime.now(UTC) - evening
    report = pack(bench.postgres.engine, older_than=behind + older_than, idle=behind + _DAY, vacuum=True)
    if any(report.skipped.values()):
        raise BenchmarkError(f"traces were not packed: {dict(report.skipped)}")
    return report.traces


def _sizes(bench: Bench) -> dict[str, int]:
    return {name: bench.postgres.execute(f"SELECT pg_total_relation_size('{name}')")[0][0] for name in _TABLES}


def _check(bench: Bench, samples: list[ProviderTrace], written: int) -> None:
    """Raise `BenchmarkError` if a trace is missing, or one of each day is not equal to the trace that was written."""
    counted = "SELECT (SELECT count(*) FROM {}) + (SELECT count(*) FROM {} WHERE pack_id IS NOT NULL)"
    [[found]] = bench.postgres.execute(counted.format(layouts.FULL.table, layouts.METADATA.table))
    if found != written:
        raise BenchmarkError(f"{found} traces, not {written}")
    with Session(bench.postgres.engine) as session:
        repository = ProviderTraceRepository(session, organization_id=layouts.ORGANIZATION)
        for trace in samples:
            read = repository.get(trace.id)
            if read is None or (read.request_json, read.response_json) != (trace.request_json, trace.response_json):
                raise BenchmarkError(f"{trace.id} was not read as it was written")


def _text(document: page.Document) -> str:
    days = document["days"]
    full = layouts.FULL.table

    def row(found: page.Document) -> list[str]:
        sizes = [found["with"][full], _total(found["with"]), found["without"][full], _total(found["without"])]
        return [str(found["day"]), f"{found['packed']:,}", *(f"{size:,}" for size in sizes)]

    head = ["day", "packed traces", "full table", "all tables", "not packed: full table", "all tables"]
    first, last = days[_FIRST - 1], days[-1]
    # The table needs the space of the days before packing, and of the day that is written before the oldest is packed.
    plateau = days[min(document["older_than"], len(days) - 1)]
    written = sum(found["json"] for found in days)
    total, without = _total(last["with"]), _total(last["without"])
    to_first, to_plateau = (last["with"][full] / found["with"][full] for found in (first, plateau))
    all_of = f"{total / 1e6:,.1f} MB, without packing {without / 1e6:,.1f} MB, {without / total:.1f} times as much"
    lines = [
        page.environment_of(document["environment"]),
        page.table_of(head, map(row, days)),
        f"Full table, day {last['day']} of day {first['day']}: {to_first:.2f}, {page.verdict_of(to_first, *_GROWTH)}.",
        f"Full table, day {last['day']} of day {plateau['day']}, the first with packing: {to_plateau:.2f}.",
        f"All tables on day {last['day']}: {all_of}; JSON {written / 1e6:,.1f} MB.",
        f"{document['seconds']:.0f} s.",
    ]
    return "\n\n".join(lines)


def _total(sizes: dict[str, int]) -> int:
    return sum(sizes.values())


def _draw(document: page.Document, path: Path) -> None:
    """Draw the megabytes of the tables over the days."""
    days = document["days"]
    numbers = [found["day"] for found in days]
    series = {
        "without packing: all tables": ("C3", "o-", [_total(found["without"]) for found in days]),
        "packed daily: all tables": ("C0", "s-", [_total(found["with"]) for found in days]),
        f"packed daily: {layouts.FULL.table}": ("C0", "--", [found["with"][layouts.FULL.table] for found in days]),
    }
    with page.drawing(path) as figure:
        axes = figure.subplots()
        for label, (color, style, values) in series.items():
            axes.plot(numbers, [value / 1e6 for value in values], style, label=label, color=color, markersize=4)
        written = sum(found["json"] for found in days) / len(days) / 1e6
        axes.set(xlabel=f"day; each adds {written:.1f} MB of JSON", ylabel="table, indexes and TOAST, MB")
        axes.set(xlim=(1, numbers[-1]), ylim=(0, None))
        axes.grid(visible=True, alpha=0.3)
        axes.legend(loc="upper left", frameon=False)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
