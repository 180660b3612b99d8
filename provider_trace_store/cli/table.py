"""A table as wide as the terminal: columns without values, and those that do not fit, are left out and named."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from rich.cells import cell_len, set_cell_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from provider_trace_store.cli.terminal import Screen

_KEPT = 2  # columns that are always shown, on a line of their own if need be


class Column(NamedTuple):
    """A column.

    Args:
        title: its title.
        least: the cells that it needs.
        most: the cells that it takes at most; the end of a wider value is left out, and marked.
        is_number: whether values stand at the right.
    """

    title: str
    least: int
    most: int
    is_number: bool = False


class Table:
    """A table that may get rows several times; its title stands above the first.

    Args:
        screen: where to.
        columns: the columns, the most important first; the second has ids, which are never cut.
    """

    def __init__(self, screen: Screen, columns: Sequence[Column]) -> None:
        self.screen = screen
        self._columns = columns
        self._widths: dict[int, int] | None = None

    def show(self, rows: Sequence[Sequence[str]]) -> None:
        """Add rows.

        Args:
            rows: a text for each column, safe for a terminal.
        """
        if not rows:
            return
        if self._widths is None:
            self._widths = self._fitting(rows)
            shown = self._widths
            self.screen.line(self._joined([column.title for column in self._columns]), "title")
            hidden = [
                column.title
                for index, column in enumerate(self._columns)
                if index not in shown and any(row[index] for row in rows)
            ]
            if hidden:
                self.screen.line(f"(too narrow for: {', '.join(hidden)}; --json has all)", "quiet")
        for row in rows:
            self.screen.line(self._joined(row))

    def _fitting(self, rows: Sequence[Sequence[str]]) -> dict[int, int]:
        widths: dict[int, int] = {}
        left = self.screen.width
        for index, column in enumerate(self._columns):
            widest = max(cell_len(row[index]) for row in rows)
            if index >= _KEPT and not widest:
                continue
            wanted = max(widest if index == 1 else min(widest, column.most), cell_len(column.title))
            if index >= _KEPT and left < min(wanted, column.least):
                continue
            widths[index] = wanted if index < _KEPT else min(wanted, left)
            left -= widths[index] + 2
        return widths

    def _joined(self, row: Sequence[str]) -> str:
        cells = []
        for index, width in (self._widths or {}).items():
            cell = row[index]
            if index >= _KEPT and cell_len(cell) > width:
                cell = set_cell_size(cell, width - 1) + "…"
            space = " " * max(width - cell_len(cell), 0)
            cells.append(space + cell if self._columns[index].is_number else cell + space)
        return "  ".join(cells).rstrip()
