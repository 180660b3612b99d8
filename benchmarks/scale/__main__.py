"""The command: fills the tables at each size, measures reads, and writes tables, JSON and the page for `docs`."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from random import Random
from statistics import median, quantiles
from typing import Any, Final

from sqlalchemy.orm import Session

from benchmarks.core import command, machine, server
from benchmarks.core.bench import Bench, Effort
from benchmarks.scale import page, tables, timing
from benchmarks.scale.questions import Drawer, Question, questions

_SIZES: Final = "100_000,1_000_000,10_000_000"
# Settings of a small server for a database of this size: the table and its indexes are several times as large.
_SETTINGS: Final = {"shared_buffers": "2GB", "effective_cache_size": "8GB", "maintenance_work_mem": "1GB"}
_CALLS: Final = 200
_ITERATED: Final = 1_000_000
_EXPLAINED: Final = 5


def main(arguments: Sequence[str]) -> int:
    """Run the command; its status is 0, or 2 if something is missing. A `SHORT` verdict is not a failure."""
    parser = command.parser("benchmarks.scale", "Reads of tables that grow.", chooses=False)
    parser.add_argument("--sizes", metavar="ROWS,…", help="metadata rows; default 100,000 to 10,000,000")
    parser.add_argument("--docs", type=Path, metavar="DIR", help="folder for scale.md and scale.svg")
    parser.add_argument("--read", type=Path, metavar="FILE", help="measure nothing: read a file of --json")
    options = parser.parse_args(arguments)
    if options.docs and not find_spec("matplotlib"):
        print("--docs draws with matplotlib: pip install --group bench", file=sys.stderr)
        return 2
    document = json.loads(options.read.read_text(encoding="utf-8")) if options.read else _measured(options)
    print(page.text(document))
    command.save(document, options.json)
    if options.docs:
        page.write(document, options.docs)
    return 0


def _measured(options: argparse.Namespace) -> dict[str, Any]:
    default = Effort(rounds=1, scale=0.025) if options.quick else Effort(rounds=3)
    effort = Effort(options.rounds or default.rounds, default.scale)
    wanted = sorted(map(int, (options.sizes or ("1_000,5_000" if options.quick else _SIZES)).split(",")))
    began = time.monotonic()

    def tell(what: str) -> None:
        if not options.quick:
            print(f"[{time.monotonic() - began:>6.0f} s] {what}", file=sys.stderr, flush=True)

    with command.ending(), server.database(options.url, _SETTINGS) as (address, way), Bench(address, effort) as bench:
        sizes = [_at_size(bench, rows, tell) for rows in wanted]
        count = min(_ITERATED, int(tables.traces_of(tables.SECOND, wanted[-1])))
        task = {"url": address.render_as_string(hide_password=False), "wanted": count}
        return {
            "environment": machine.describe(bench, way),
            "effort": asdict(effort),
            "sizes": sizes,
            "iteration": timing.compare_iteration(bench, count),
            "memory": machine.peak_of(timing.iterate, **task),
            "writes": timing.costs_of_indexes(bench, wanted[-1]),
            "seconds": time.monotonic() - began,
        }


def _at_size(bench: Bench, rows: int, tell: Callable[[str], None]) -> dict[str, Any]:
    seconds = tables.fill(bench, rows, tell)
    found = []
    for question in questions():
        found.append(_answered(bench, question, rows))
        tell(f"{rows:,} rows, {question.title}: {found[-1]['ours']['p50']:.2f} ms")
    return {"rows": rows, "seconds_to_fill": seconds, "questions": found, "bytes_a_row": tables.space(bench, rows)}


def _answered(bench: Bench, question: Question, rows: int) -> dict[str, Any]:
    with Session(bench.postgres.engine) as session:
        draw = Drawer(session, rows, Random(question.name))
        calls = [question.draw(draw) for _ in range(bench.effort.of(_CALLS, at_least=5))]
    times, statements = timing.compare_calls(bench, calls)
    explained = [statement for sent in statements[:_EXPLAINED] for statement in sent]
    plans = {mode: timing.explain(bench.postgres.connection, explained, mode) for mode in timing.MODES}
    bench.postgres.connection.rollback()
    return {
        "name": question.name,
        "title": question.title,
        "kind": question.kind,
        "grows": question.grows,
        "calls": len(times["ours"]),
        "statements_a_call": max(map(len, statements)),
        "results": median(times["results"]),
        "ratio": median(times["ours"]) / median(times["raw"]),
        **{side: _described(times[side]) for side in ("ours", "raw", "first")},
        "plans": plans,
    }


def _described(samples: list[float]) -> dict[str, Any]:
    """Return the samples of one side, in milliseconds."""
    p95 = quantiles(samples, n=20, method="inclusive")[-1]
    return {"p50": median(samples), "p95": p95, "samples": [round(sample, 4) for sample in samples]}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
