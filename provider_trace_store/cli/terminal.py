"""Text of traces on a terminal: no control character passes, lines are wrapped, and folded text is counted."""

from __future__ import annotations

import os
import re
import shutil
import sys
from typing import TYPE_CHECKING, Final

import typer
from rich.cells import cell_len

from provider_trace_store.errors import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_NARROWEST: Final = 20
_LONGEST_NAME: Final = 500
_TAB: Final = "    "
# Joiners are not printable for Python, and words of several scripts and many emoji need them.
_JOINERS: Final = frozenset("\u200c\u200d")
_SAFE: Final = re.compile(r"[\x20-\x7e\n]*")
_COLOURS: Final = {
    "title": {"bold": True},
    "user": {"fg": "green", "bold": True},
    "assistant": {"fg": "cyan", "bold": True},
    "tool": {"fg": "yellow", "bold": True},
    "system": {"fg": "magenta", "bold": True},
    "quiet": {"dim": True},
    "added": {"fg": "green"},
    "removed": {"fg": "red"},
    "error": {"fg": "red", "bold": True},
}
# Signs, and their forms for an output that cannot encode them.
_PLAIN: Final = str.maketrans({"│": "|", "─": "-", "█": "#", "…": "~", "→": ">", "·": ","})


def printable(text: str) -> str:
    """Return text without anything that a terminal acts on: other control characters than line breaks are escaped.

    Args:
        text: any text.
    """
    if _SAFE.fullmatch(text):
        return text
    text = text.replace("\r\n", "\n").replace("\t", _TAB)
    if text.replace("\n", "").isprintable():
        return text
    return "".join([c if c == "\n" or c in _JOINERS or c.isprintable() else _escaped(c) for c in text])


def one_line(text: str) -> str:
    """Return a name or an id on one line, safe for a terminal; of a very long one, the start and the length."""
    return shown(text, _LONGEST_NAME) if len(text) > _LONGEST_NAME else printable(text).replace("\n", "\\n")


def wrapped(text: str, width: int) -> Iterator[str]:
    """Yield the lines of a text, none of them wider than a terminal; spaces at the start of a line are kept.

    Args:
        text: text that `printable` returned.
        width: the cells of a line.
    """
    for line in text.split("\n"):
        rest = line
        while len(rest) > width or (not rest.isascii() and cell_len(rest) > width):
            cut = _fitting(rest, width)
            space = rest.rfind(" ", 0, cut + 1)
            cut, skipped = (space, 1) if rest[: max(space, 0)].strip() else (cut, 0)
            yield rest[:cut]
            rest = rest[cut + skipped :]
        yield rest


def _fitting(line: str, width: int) -> int:
    piece = line[:width]
    while len(piece) > 1 and not piece.isascii() and (over := cell_len(piece) - width) > 0:
        piece = piece[: -max(over // 2, 1)]
    return max(len(piece), 1)


def _escaped(character: str) -> str:
    return " " if character.isspace() and character > "\x9f" else character.encode("unicode_escape").decode("ascii")


class Screen:
    """Prints lines: within the width of the terminal, in colours where they are wanted, and counts folded text.

    Args:
        is_full: whether nothing is folded.
        most: the lines of a text that are shown before the rest is folded.

    Attributes:
        lines: the lines that are not printed yet.
    """

    def __init__(self, *, is_full: bool = False, most: int = 12) -> None:
        self.width = max(shutil.get_terminal_size().columns, _NARROWEST)
        self.folded_texts = 0
        self.folded_characters = 0
        self._most = sys.maxsize if is_full else most
        self._encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        self._has_signs = _has_signs(self._encoding)
        self._has_colours = sys.stdout is not None and sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        self.lines: list[str] = []

    def line(self, text: str = "", style: str = "", margin: str = "") -> None:
        """Add text of our own or of a trace, wrapped, with a margin before each of its lines."""
        for piece in wrapped(printable(text), max(self.width - len(margin), 8)):
            self._add(margin, piece, style)

    def block(self, text: str, style: str = "", margin: str = "") -> None:
        """Add a text of a trace; what is beyond the first lines is folded, counted and said.

        Args:
            text: the text.
            style: the name of its style.
            margin: what stands before each line.
        """
        width = max(self.width - len(margin), 8)
        # No more than this can be shown: a text of 100 MB is not made printable as a whole.
        head = text if self._most == sys.maxsize else text[: self._most * width * 2]
        length = 0
        lines = list(_first(wrapped(printable(head), width), self._most + 1))
        if len(lines) <= self._most and len(head) == len(text):
            for piece in lines:
                self._add(margin, piece, style)
            return
        for piece in lines[: self._most]:
            self._add(margin, piece, style)
            length += len(piece) + 1
        left = max(len(text) - length, 1)
        self.folded_texts += 1
        self.folded_characters += left
        self._add(margin, f"… {left:,} more characters", "quiet")

    def rule(self, title: str = "") -> None:
        """Add a line across the screen, with a title in it."""
        name = one_line(title)
        if len(name) + 8 > self.width:
            self.line(name, "title")
            return
        head = f"── {name} " if name else ""
        self._add("", head + "─" * max(self.width - 1 - cell_len(head), 0), "quiet")

    def close(self) -> None:
        """Print the lines, and how much was folded."""
        if self.folded_texts:
            texts = "1 text is" if self.folded_texts == 1 else f"{self.folded_texts:,} texts are"
            self.line()
            self.line(f"{texts} folded, {self.folded_characters:,} characters: --full shows all", "quiet")
        self.flush()

    def flush(self) -> None:
        """Print the lines that were added since."""
        if self.lines:
            typer.echo("\n".join(self.lines), color=self._has_colours)
            self.lines = []

    def _add(self, margin: str, piece: str, style: str) -> None:
        text = f"{margin}{piece}".rstrip()
        if not text.isascii():
            if not self._has_signs:
                text = text.translate(_PLAIN)
            text = text.encode(self._encoding, "backslashreplace").decode(self._encoding)
        if self._has_colours and style in _COLOURS:
            text = typer.style(text, **_COLOURS[style])  # type: ignore[arg-type]  # each entry has its arguments
        self.lines.append(text)


def _has_signs(encoding: str) -> bool:
    try:
        "│─█…→·".encode(encoding)
    except UnicodeEncodeError:
        return False
    # In the C locale Python writes UTF-8, and the terminal need not understand it.
    locale = os.environ.get("LC_ALL") or os.environ.get("LC_CTYPE") or os.environ.get("LANG")
    return locale not in {"C", "POSIX"}


def _first(lines: Iterable[str], most: int) -> Iterator[str]:
    for _, line in zip(range(most), lines, strict=False):
        yield line
