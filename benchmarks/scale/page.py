"""The tables of a run in Markdown, for the screen and for `docs/scale.md`, and the picture beside them."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from benchmarks.scale.questions import PAGE

Document = dict[str, Any]

_PLANS: Final = {"custom": "for its parameters", "generic": "for all"}
_HEAD: Final = """# Reads at scale

`make bench-scale` writes this page; no number here is typed by hand. `benchmarks/scale/tables.py` describes the data,
and why a larger table is a busier one and not an older one.
"""
_HOW: Final = """Times are milliseconds of one call inside an open transaction: medians over different pages, runs,
agents, tenants and times, each of which was read once before. *Raw* is psycopg with the same statements and parameters
on a connection of its own, in turn with the package. *Growth* is the median at the largest table divided by the median
at the smallest. Where a title says "a month", the number of counted rows grows with the table, and the time with it.
A verdict is `aim`, `ok` or `SHORT`; its two limits are in brackets: the aim, and the worst that is accepted."""
# The bytes of a full trace, an average of a table in production.
_FULL_TRACE: Final = 145_000
# A page of each table, with the row that shows whether there is a next page.
_SORTED: Final = 2 * (PAGE + 1)
_GROWTH: Final = (1.1, 1.5)
_RATIO: Final = (1.2, 2.0)
_WORDS: Final = {"verdict", "nodes", "plan", "value", "whole table"}
_MARKS: Final = "osD^v<>pP*Xh"
_STYLES: Final = {"page": "-", "count": "--"}


def text(document: Document) -> str:
    """Return all tables of a run."""
    return "\n\n".join([environment_of(document["environment"]), *_parts(document)])


def write(document: Document, directory: Path) -> None:
    """Write `scale.md` and `scale.svg` into a directory."""
    _draw(document, directory / "scale.svg")
    head = f"{_HEAD}\n{environment_of(document['environment'])}\n\n![Growth of each read](scale.svg)\n\n{_HOW}"
    (directory / "scale.md").write_text("\n\n".join([head, *_parts(document)]) + "\n", encoding="utf-8")


def _parts(document: Document) -> list[str]:
    last = document["sizes"][-1]
    return [
        f"## Median of a call, by rows\n\n{_growth(document['sizes'])}",
        f"## Beside psycopg, at {last['rows']:,} rows\n\n{_beside(last['questions'])}",
        f"## Plans\n\n{_plans(document['sizes'])}",
        f"## Iterating over many\n\n{_iteration(document['iteration'], document['memory'])}",
        f"## Bytes a row\n\n{_space(document['sizes'])}",
        f"## What an index costs a write, at {last['rows']:,} rows\n\n{_writes(document['writes'])}",
    ]


def environment_of(values: Document) -> str:
    """Return the line about the server, the versions and the machine, from what `machine.describe` found."""
    server = " ".join(values["server"].split()[:2])
    names = ("fsync", "synchronous_commit", "shared_buffers", "effective_cache_size")
    settings = ", ".join(f"{name} {values[name]}" for name in names)
    versions = ", ".join(f"{name} {values[name]}" for name in ("psycopg", "sqlalchemy", "pydantic"))
    return f"{server} ({settings}), {values['connection']}; {values['python']}, {versions}; {values['cpus']} CPUs."


def _growth(sizes: list[Document]) -> str:
    def row(at_sizes: tuple[Document, ...]) -> list[str]:
        growth = _growth_of(at_sizes)
        verdict = verdict_of(growth, *_GROWTH) if at_sizes[0]["kind"] == "page" else ""
        return [at_sizes[0]["title"], *(f"{at['ours']['p50']:.2f}" for at in at_sizes), f"{growth:.2f}", verdict]

    return table_of(["call", *_rows(sizes), "growth", "verdict"], map(row, _by_question(sizes)))


def _beside(questions: list[Document]) -> str:
    def row(found: Document) -> list[str]:
        times = [f"{found[side][name]:.2f}" for side in ("ours", "raw") for name in ("p50", "p95")]
        verdict = verdict_of(found["ratio"], *_RATIO) if found["kind"] == "page" else ""
        counts = [f"{found['results']:,.0f}", str(found["calls"])]
        return [found["title"], *counts, *times, f"{found['ratio']:.2f}", verdict, f"{found['first']['p50']:.2f}"]

    head = ["call", "results", "calls", "p50", "p95", "raw p50", "raw p95", "of raw", "verdict", "first time p50"]
    return table_of(head, map(row, questions))


def _plans(sizes: list[Document]) -> str:
    def row(at_sizes: tuple[Document, ...], mode: str) -> list[str]:
        plans = [at["plans"][mode] for at in at_sizes]
        sorted_in, sorted_out = (max(plan[key] for plan in plans) for key in ("sorted_in", "sorted_out"))
        sequential = any(plan["sequential"] for plan in plans)
        return [
            at_sizes[0]["title"] if mode == "custom" else "",
            _PLANS[mode],
            *(f"{plan['buffers']:,}" for plan in plans),
            *(f"{sorted_in:,}", f"{sorted_out:,}", "yes" if sequential else "no"),
            "SHORT" if sequential or sorted_in > _SORTED else "aim",
            ", ".join(plans[-1]["nodes"]),
        ]

    pages = [f"pages, {rows}" for rows in _rows(sizes)]
    head = ["call", "plan", *pages, "sorted, in", "out", "whole table", "verdict", "nodes"]
    return (
        "PostgreSQL makes a plan for the parameters or, for a statement that the driver has prepared, one plan for all"
        " parameters. Pages are the 8 KB pages that a call read, cached or not; nodes are those at the largest size;"
        " numbers are the largest of a few calls, of all sizes. A plan is `SHORT` if it reads a whole table at any size"
        f" or sorts more than {_SORTED} rows: a page of each table.\n\n"
        f"{table_of(head, (row(at_sizes, mode) for at_sizes in _by_question(sizes) for mode in _PLANS))}"
    )


def _iteration(found: Document, memory: Document) -> str:
    ratio = f"{found['ours']:,.0f}/s, {found['ratio']:.2f} of {found['limit']:,.0f}/s ({found['name']})"
    used = f"{memory['MB']:.1f} MB, from {memory['before MB']:.0f}"
    rows = [
        [f"`iter_metadata` over {found['traces']:,}", ratio, verdict_of(-found["ratio"], -0.7, -0.4, "{:g}")],
        ["memory while iterating, above the start", used, verdict_of(memory["MB"], 20, 50)],
    ]
    return table_of(["figure", "value", "verdict"], rows)


def _space(sizes: list[Document]) -> str:
    spaces = [size["bytes_a_row"] for size in sizes]
    heads = [space["heap"] - sum(space["columns"].values()) for space in spaces]
    values = [
        *((f"column `{name}`", [space["columns"][name] for space in spaces]) for name in spaces[0]["columns"]),
        ("header of the row, alignment", heads),
        ("**table**", [space["heap"] for space in spaces]),
        *((f"index `{name}`", [space["indexes"][name] for space in spaces]) for name in spaces[0]["indexes"]),
        ("**all**", [space["total"] for space in spaces]),
    ]
    rows = [[title, *(f"{value:,.1f}" for value in numbers)] for title, numbers in values]
    part = _FULL_TRACE / spaces[-1]["total"]
    return (
        f"{table_of(['', *_rows(sizes)], rows)}\n\nAt {_rows(sizes)[-1]} rows a row takes 1/{part:.0f} of a full trace"
        f" of {_FULL_TRACE:,} bytes: {verdict_of(-part, -250, -150, '1/{:g}')}."
    )


def _writes(costs: list[Document]) -> str:
    def row(cost: Document) -> list[str]:
        cells = [f"`{cost['index']}`"]
        for kind in ("batch", "single"):
            cells += [f"{cost[f'{kind}_{side}']:.1f}" for side in ("with", "without")]
            cells.append(f"{cost[f'{kind}_cost'] - 1:+.1%}")
        return cells

    head = ["index", "`create_many`, µs a trace", "without it", "cost", "`create`, µs", "without it", "cost"]
    return (
        "Metadata, 1,000 traces a batch; medians of alternating rounds, and of each round's cost. A transaction drops"
        " the index, writes, and is rolled back, so a `create` does not include the commit, which both would pay.\n\n"
        + table_of(head, map(row, costs))
    )


def _rows(sizes: list[Document]) -> list[str]:
    return [f"{size['rows']:,}" for size in sizes]


def _by_question(sizes: list[Document]) -> Iterable[tuple[Document, ...]]:
    return zip(*(size["questions"] for size in sizes), strict=True)


def _growth_of(at_sizes: tuple[Document, ...]) -> float:
    growth: float = at_sizes[-1]["ours"]["p50"] / at_sizes[0]["ours"]["p50"]
    return growth


def verdict_of(value: float, aim: float, least: float, shown: str = "{:g}") -> str:
    """Return the verdict of a value that should be small; values that should be large are given as negative ones."""
    word = "aim" if value <= aim else "ok" if value <= least else "SHORT"
    return f"{word} ({shown.format(abs(aim))}, {shown.format(abs(least))})"


def table_of(head: list[str], rows: Iterable[list[str]]) -> str:
    """Return a table in Markdown."""
    ruler = ["---", *("---" if name in _WORDS else "---:" for name in head[1:])]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ruler, *rows))


def _draw(document: Document, path: Path) -> None:
    """Draw how the time of each read grows with the table; both axes are logarithmic."""
    import matplotlib as mpl  # noqa: PLC0415  # nothing else needs it

    rows = [size["rows"] for size in document["sizes"]]
    with drawing(path) as figure:
        axes = figure.subplots()
        colors = mpl.colormaps["tab20"]
        for number, at_sizes in enumerate(_by_question(document["sizes"])):
            label = f"{at_sizes[0]['title'].replace('`', '')} (×{_growth_of(at_sizes):.2f})"
            style = ":" if at_sizes[0]["grows"] else _STYLES[at_sizes[0]["kind"]]
            color, mark = colors(number % colors.N), _MARKS[number % len(_MARKS)]
            medians = [at["ours"]["p50"] for at in at_sizes]
            axes.plot(rows, medians, style, label=label, marker=mark, markersize=5, color=color)
        axes.set(xscale="log", yscale="log", ylabel="median of a call, ms")
        axes.set_xlabel("rows of metadata; dotted: the number of counted traces grows with them")
        axes.set_xticks(rows, _rows(document["sizes"]))
        axes.minorticks_off()
        axes.yaxis.set_major_formatter("{x:g}")
        axes.grid(visible=True, alpha=0.3)
        figure.legend(loc="outside right upper", frameon=False, title="× growth, smallest to largest table")


@contextmanager
def drawing(path: Path) -> Iterator[Any]:
    """Yield a figure of Matplotlib, and write it to an SVG file in the end."""
    import matplotlib as mpl  # noqa: PLC0415  # nothing else needs it
    from matplotlib.figure import Figure  # noqa: PLC0415  # same

    # Text stays text and ids do not change from run to run: the file is small, and its changes are readable.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": path.stem, "font.size": 9}):
        figure = Figure(figsize=(10, 6.5), layout="constrained")
        yield figure
        figure.savefig(path, metadata={"Date": None})
    # Matplotlib leaves spaces at the ends of lines.
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(line.rstrip() for line in lines) + "\n", encoding="utf-8")
