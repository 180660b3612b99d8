"""Reads what can be read of a damaged file, and moves the file out of the way."""

from __future__ import annotations

from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Final, NamedTuple

from provider_trace_store.spool.directory import DAMAGED_SUFFIX
from provider_trace_store.spool.errors import SegmentDamagedError
from provider_trace_store.spool.files import JOURNAL_SUFFIX
from provider_trace_store.spool.segment import Segment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from provider_trace_store.spool.connections import Stop
    from provider_trace_store.tables.kinds import Kind
    from provider_trace_store.tables.rows import Row

# How many places without a readable row are tried in a row, if the place of the last row cannot be read.
_LARGEST_HOLE: Final = 1000
# How long a damaged file is searched, in seconds: the spool does nothing else meanwhile.
_SEARCH_TIMEOUT: Final = 10.0


class Salvaged(NamedTuple):
    """The readable rows of a damaged file.

    Args:
        kind: the table that the file has; None if its header cannot be read.
        rows: in their order.
    """

    kind: Kind | None
    rows: list[Row]


def salvage(path: Path, after: int, stop: Stop | None = None) -> Salvaged:
    """Return the readable rows of a damaged file.

    Args:
        path: the file.
        after: the place before the rows that are not stored yet.
        stop: whether the spool is being closed.

    Raises:
        OSError, sqlite3.Error: the file cannot be opened now.
        SpoolStoppedError: the spool is being closed.
    """
    rows: list[Row] = []
    kind = None
    with suppress(SegmentDamagedError):
        segment = Segment.open(path, stop, is_damaged=True)
        kind = segment.kind
        try:
            rows.extend(readable_rows(segment, after))
        finally:
            segment.close()
    return Salvaged(kind, rows)


def readable_rows(segment: Segment, after: int) -> Iterator[Row]:
    """Yield the rows that can be read and whose documents are JSON.

    Args:
        segment: a damaged file.
        after: the place before the first row.
    """
    place = after
    last = None
    with suppress(SegmentDamagedError):
        last = segment.last_place()
    missed = 0
    deadline = monotonic() + _SEARCH_TIMEOUT
    while (last is None or place < last) and missed < _LARGEST_HOLE and monotonic() < deadline:
        try:
            found = segment.read(place, 1, 0, check=True)
        except SegmentDamagedError:
            place, missed = segment.next_place(place), missed + 1
            continue
        if not found:
            return
        yield found[0].row
        place, missed = found[0].place, 0


def set_aside(path: Path) -> Path:
    """Rename a damaged file so that nothing reads it again, and return its new path.

    Raises:
        OSError: it cannot be renamed.
    """
    aside = path.with_name(path.name + DAMAGED_SUFFIX)
    # The journal first: the file may not be readable without it.
    for suffix in (JOURNAL_SUFFIX, ""):
        with suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
    return aside
