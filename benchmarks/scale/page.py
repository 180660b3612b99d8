"""What a run says: tables for people, in Markdown, on the screen and in `docs/scale.md`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from benchmarks.scale import picture
from benchmarks.scale.questions import PAGE
from benchmarks.scale.space import FULL_TRACE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from benchmarks.measure import Comparison

Document = dict[str, Any]

_MODES: Final = {"custom": "for its parameters", "generic": "for any"}
_HEAD: Final = """# Reads at scale

Made whole by `make bench-scale`; no number here is typed by hand. What is read, and why a larger table is a busier
one and not an older one, says `benchmarks/scale/population.py`.
"""
_HOW: Final = """Times are milliseconds of one call inside an open transaction, medians over different pages, runs,
agents, tenants and moments, which were all read once before. *Raw* is psycopg with the same statements and parameters
on a connection of its own, in turn with ours. *Growth* is the largest table's median, the smallest table's being 1.
Where a title says "a month", the rows that are counted grow with the table, and the time with them. A verdict is
`aim`, `ok` or `SHORT`, of the limits in brackets: what it should be, and what it must be."""
# A page of each table, with the row that says whether there are more.
_SORTED: Final = 2 * (PAGE + 1)
_LIMITS: Final = {"growth": (1.1, 1.5), "ratio": (1.2, 2.0)}


def text(document: Document) -> str:
    """Return all tables of a run.

    Args:
        document: what the command measured.
    """
    return "\n\n".join(
        [_environment(document["environment"]), *(f"## {title}\n\n{body}" for title, body in _parts(document))]
    )


def write(document: Document, directory: Path) -> None:
    """Write `scale.md` and `scale.svg`.

    Args:
        document: what the command measured.
        directory: where to.
    """
    picture.draw(document, directory / "scale.svg")
    parts = [f"{_HEAD}\n{_environment(document['environment'])}\n\n![Growth of each read](scale.svg)\n\n{_HOW}"]
    parts += [f"## {title}\n\n{body}" for title, body in _parts(document)]
    (directory / "scale.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def comparison(found: Comparison) -> Document:
    """Return a comparison of rates as JSON."""
    rates = {series.name: [sample.rate for sample in series.samples] for series in (found.ours, *found.others)}
    return {
        "ratio": found.ratio,
        "ours": found.ours.rate,
        "limit": found.limit.rate,
        "name": found.limit.name,
        "rates": rates,
    }


def _parts(document: Document) -> list[tuple[str, str]]:
    last = document["sizes"][-1]
    return [
        ("Median of a call, by rows", _growth(document)),
        (f"Beside psycopg, at {last['rows']:,} rows", _beside(last)),
        ("Plans", _plans(document)),
        ("Going through many", _iteration(document)),
        ("Bytes a row", _space(document)),
        (f"What an index costs a write, at {last['rows']:,} rows", _writes(document["writes"])),
    ]


def _environment(values: Document) -> str:
    server = " ".join(values["server"].split()[:2])
    settings = ", ".join(
        f"{name} {values[name]}" for name in ("fsync", "synchronous_commit", "shared_buffers", "effective_cache_size")
    )
    versions = ", ".join(f"{name} {values[name]}" for name in ("psycopg", "sqlalchemy", "pydantic"))
    return f"{server} ({settings}), {values['connection']}; {values['python']}, {versions}; {values['cpus']} CPUs."


def _growth(document: Document) -> str:
    sizes = document["sizes"]
    head = ["call", *(f"{size['rows']:,}" for size in sizes), "growth", "verdict"]

    def row(at_sizes: tuple[Document, ...]) -> list[str]:
        growth = at_sizes[-1]["ours"]["p50"] / at_sizes[0]["ours"]["p50"]
        verdict = _verdict(growth, *_LIMITS["growth"]) if at_sizes[0]["kind"] == "page" else ""
        return [at_sizes[0]["title"], *(f"{at['ours']['p50']:.2f}" for at in at_sizes), f"{growth:.2f}", verdict]

    return _table(head, map(row, zip(*(size["questions"] for size in sizes), strict=True)))


def _beside(size: Document) -> str:
    head = ["call", "results", "calls", "p50", "p95", "raw p50", "raw p95", "of raw", "verdict", "first time p50"]

    def row(question: Document) -> list[str]:
        times = [f"{question[side][name]:.2f}" for side in ("ours", "raw") for name in ("p50", "p95")]
        verdict = _verdict(question["ratio"], *_LIMITS["ratio"]) if question["kind"] == "page" else ""
        counts = [f"{question['results']:,.0f}", str(question["calls"])]
        return [
            question["title"],
            *counts,
            *times,
            f"{question['ratio']:.2f}",
            verdict,
            f"{question['first']['p50']:.2f}",
        ]

    return _table(head, map(row, size["questions"]))


def _plans(document: Document) -> str:
    sizes = document["sizes"]
    head = [
        "call",
        "plan",
        *(f"pages, {size['rows']:,}" for size in sizes),
        "sorted, in",
        "out",
        "whole table",
        "verdict",
        "nodes",
    ]
    rows = []
    for at_sizes in zip(*(size["questions"] for size in sizes), strict=True):
        for mode, meaning in _MODES.items():
            plans = [at["plans"][mode] for at in at_sizes]
            rows.append(
                [
                    at_sizes[0]["title"] if mode == "custom" else "",
                    meaning,
                    *(f"{plan['buffers']:,}" for plan in plans),
                    f"{max(plan['sorted_in'] for plan in plans):,}",
                    f"{max(plan['sorted_out'] for plan in plans):,}",
                    "yes" if any(plan["sequential"] for plan in plans) else "no",
                    "SHORT" if any(plan["sequential"] or plan["sorted_in"] > _SORTED for plan in plans) else "aim",
                    ", ".join(plans[-1]["nodes"]),
                ]
            )
    found = document["sizes"][-1]["bodies"]
    return (
        "A plan is made for the parameters, or, of a statement that the driver has prepared, for any: the server"
        " chooses. Pages are those of 8 KB that the call read, cached or not, nodes those at the largest size; numbers"
        f" are the largest of a few calls, and of all sizes. A plan falls `SHORT` that reads a whole table at any"
        f" size, or sorts more than {_SORTED} rows: a page of each table.\n\n{_table(head, rows)}\n\n"
        f"Of the bodies of {found['traces']:,} whole traces, listing their metadata read {found['by_metadata']:,}"
        f" pages, and `list_by_run_id` {found['by_whole']:,}, by the server's own count (`pg_statio_user_tables`)."
    )


def _iteration(document: Document) -> str:
    found, memory = document["iteration"], document["memory"]
    head = ["figure", "value", "verdict"]
    ratio = f"{found['ours']:,.0f}/s, {found['ratio']:.2f} of {found['limit']:,.0f}/s ({found['name']})"
    used = f"{memory['megabytes']:.1f} MB, from {memory['before']:.0f}"
    return _table(
        head,
        [
            [f"`iter_metadata` over {found['traces']:,}", ratio, _verdict(-found["ratio"], -0.7, -0.4, _positive)],
            ["memory while iterating, above the start", used, _verdict(memory["megabytes"], 20, 50)],
        ],
    )


def _space(document: Document) -> str:
    sizes = document["sizes"]
    at = [size["bytes_a_row"] for size in sizes]
    head = ["", *(f"{size['rows']:,}" for size in sizes)]

    def row(title: str, value: Callable[[Document], float]) -> list[str]:
        return [title, *(f"{value(space):,.1f}" for space in at)]

    rows = [row(f"column `{name}`", lambda space, name=name: space["columns"][name]) for name in at[0]["columns"]]  # type: ignore[misc]  # mypy infers no type of a default
    rows.append(row("head of the row, alignment", lambda space: space["heap"] - sum(space["columns"].values())))
    rows.append(row("**table**", lambda space: space["heap"]))
    rows += [row(f"index `{name}`", lambda space, name=name: space["indexes"][name]) for name in at[0]["indexes"]]  # type: ignore[misc]  # likewise
    rows.append(row("**all**", lambda space: space["total"]))
    part = FULL_TRACE_BYTES / at[-1]["total"]
    verdict = _verdict(-part, -250, -150, lambda limit: f"1/{-limit:g}")
    return (
        f"{_table(head, rows)}\n\nAt {sizes[-1]['rows']:,} rows a row takes 1/{part:.0f} of a full trace of"
        f" {FULL_TRACE_BYTES:,} bytes: {verdict}."
    )


def _writes(costs: list[Document]) -> str:
    head = ["index", "`create_many`, µs a trace", "without it", "cost", "`create`, µs", "without it", "cost"]

    def row(cost: Document) -> list[str]:
        cells = [f"`{cost['index']}`"]
        for kind in ("batch", "single"):
            having, without = cost[f"{kind}_with"], cost[f"{kind}_without"]
            cells += [f"{having:.1f}", f"{without:.1f}", f"{cost[f'{kind}_cost'] - 1:+.1%}"]
        return cells

    return (
        "Metadata, 1,000 traces a batch; medians of rounds in turn, and of each round's cost. A transaction drops the"
        " index, writes, and is rolled back, so a `create` is without the commit, which is the same for both.\n\n"
        + _table(head, map(row, costs))
    )


def _positive(limit: float) -> str:
    return f"{-limit:g}"


def _verdict(value: float, aim: float, least: float, shown: Callable[[float], str] = "{:g}".format) -> str:
    """Return what a value comes to, of which less is better."""
    word = "aim" if value <= aim else "ok" if value <= least else "SHORT"
    return f"{word} ({shown(aim)}, {shown(least)})"


def _table(head: list[str], rows: Iterable[list[str]]) -> str:
    lines = [head, ["---"] + ["---:" if _is_number(name) else "---" for name in head[1:]], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _is_number(name: str) -> bool:
    return name not in {"verdict", "nodes", "plan", "value", "whole table"}
