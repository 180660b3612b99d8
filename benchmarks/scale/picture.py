"""The picture: how the time of each read grows with the table, both axes logarithmic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pathlib import Path

_MARKS: Final = "osD^v<>pP*Xh"
_STYLES: Final = {"page": "-", "count": "--"}


def draw(document: dict[str, Any], path: Path) -> None:
    """Draw the picture.

    Args:
        document: what the command measured.
        path: of the SVG.
    """
    # Imported here: only this needs it, and it is not installed for anything else.
    import matplotlib as mpl  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    sizes = document["sizes"]
    rows = [size["rows"] for size in sizes]
    # Text as text, and names that do not change from run to run: the file is small, and its changes can be read.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "scale", "font.size": 9}):
        figure = Figure(figsize=(10, 6.5), layout="constrained")
        axes = figure.subplots()
        colors = mpl.colormaps["tab20"]
        for number, at_sizes in enumerate(zip(*(size["questions"] for size in sizes), strict=True)):
            medians = [at["ours"]["p50"] for at in at_sizes]
            label = f"{at_sizes[0]['title'].replace('`', '')} (×{medians[-1] / medians[0]:.2f})"
            style = ":" if at_sizes[0]["grows"] else _STYLES[at_sizes[0]["kind"]]
            mark = _MARKS[number % len(_MARKS)]
            axes.plot(rows, medians, style, marker=mark, markersize=5, color=colors(number % colors.N), label=label)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("rows of metadata; dotted: the traces that are counted grow with them")
        axes.set_ylabel("median of a call, ms")
        axes.set_xticks(rows, [f"{count:,}" for count in rows])
        axes.minorticks_off()
        axes.yaxis.set_major_formatter("{x:g}")
        axes.grid(visible=True, alpha=0.3)
        figure.legend(loc="outside right upper", frameon=False, title="× growth, smallest to largest table")
        figure.savefig(path, metadata={"Date": None})
    # Matplotlib leaves spaces at the ends of lines.
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(line.rstrip() for line in lines) + "\n", encoding="utf-8")
