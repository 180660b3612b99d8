"""Measures all questions on the tables at one size."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict
from statistics import median
from typing import TYPE_CHECKING, Any, Final

import psycopg

from benchmarks.scale import bodies, load, plans, space, timing
from benchmarks.scale.questions import Drawer, questions

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.bench import Bench
    from benchmarks.scale.questions import Question

_CALLS: Final = 200
_EXPLAINED: Final = 5


def measure(bench: Bench, rows: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """Fill the tables, ask all questions, and return what was found, as JSON.

    Args:
        bench: where.
        rows: of metadata.
        tell: is told what has been done.
    """
    seconds = load.fill(bench, rows, tell)
    found = []
    with closing(psycopg.connect(bench.conninfo)) as aside, timing.Sides(bench.engine, bench.connection) as sides:
        for question in questions():
            found.append(_answered(bench, question, sides, aside, rows))
            tell(f"{rows:,} rows, {question.title}: {found[-1]['ours']['p50']:.2f} ms")
    taken = space.measure(bench, rows)
    return {
        "rows": rows,
        "seconds_to_fill": seconds,
        "questions": found,
        "bodies": asdict(bodies.measure(bench)),
        "bytes_a_row": asdict(taken) | {"total": taken.total},
    }


def _answered(
    bench: Bench, question: Question, sides: timing.Sides, aside: psycopg.Connection, rows: int
) -> dict[str, Any]:
    draw = Drawer(aside, rows, question.name)
    calls = [question.draw(draw) for _ in range(bench.effort.of(_CALLS, at_least=5))]
    times = sides.compare(calls)
    statements = [statement for sent in times.statements[:_EXPLAINED] for statement in sent]
    explained = {mode: asdict(plans.explain(aside, statements, mode)) for mode in plans.MODES}
    aside.rollback()
    return {
        "name": question.name,
        "title": question.title,
        "kind": question.kind,
        "grows": question.grows,
        "calls": len(times.ours),
        "statements_a_call": max(map(len, times.statements)),
        "results": median(times.results),
        "ratio": times.ratio,
        "ours": _described(times.ours),
        "raw": _described(times.raw),
        "first": _described(times.first),
        "plans": explained,
    }


def _described(samples: list[float]) -> dict[str, Any]:
    """Return the samples of one side, in milliseconds."""
    return {
        "p50": median(samples),
        "p95": timing.p95(samples),
        "samples": [round(sample, 4) for sample in samples],
    }
