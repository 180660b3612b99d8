"""The files of a spool directory, one by one: whose they are, what is in them, what is left of a damaged one."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

from provider_trace_store.spool.lock import LOCK_SUFFIX
from provider_trace_store.spool.segment import FILE_SUFFIX, JOURNAL_SUFFIX, Segment, SegmentDamagedError

if TYPE_CHECKING:
    from pathlib import Path

    from provider_trace_store.tables.kinds import Kind
    from provider_trace_store.tables.rows import Row

_DAMAGED: Final = ".damaged"
# Of a writer's name, in characters: a UUID.
_NAME_LENGTH: Final = 32


class Remains(NamedTuple):
    """What can be read of a damaged file.

    Args:
        kind: the table that it has; None where nobody can say.
        rows: in their order, each id once.
    """

    kind: Kind | None
    rows: list[Row]


def writers_in(directory: Path) -> set[str]:
    """Return the names of the writers that have files in a directory."""
    return {path.name[:_NAME_LENGTH] for path in directory.iterdir() if _is_of_a_writer(path.name)}


def lock_of(directory: Path, name: str) -> Path:
    """Return the path of a writer's lock."""
    return directory / f"{name}{LOCK_SUFFIX}"


def segment_of(directory: Path, name: str, number: int) -> Path:
    """Return the path of one of a writer's files."""
    return directory / f"{name}-{number:08d}{FILE_SUFFIX}"


def segments_of(directory: Path, name: str) -> set[Path]:
    """Return the paths of a writer's files that are there; sorted, they are in their order."""
    return set(directory.glob(f"{name}-*{FILE_SUFFIX}"))


def count_of(path: Path) -> int:
    """Return how many rows of a file wait.

    Raises:
        SegmentDamagedError: nobody can say.
        sqlite3.Error: it cannot be opened now.
    """
    if not path.stat().st_size:
        # Its writer was killed before there was a table in it.
        return 0
    segment = Segment.open(path)
    try:
        return segment.count_after(segment.stored_up_to())
    finally:
        segment.close()


def remains_of(path: Path, after: int) -> Remains:
    """Return what can be read of a damaged file.

    Args:
        path: of the file.
        after: the place before its rows that wait.

    Raises:
        sqlite3.Error: it cannot be opened now.
    """
    rows: dict[str, Row] = {}
    kind = None
    with suppress(SegmentDamagedError):
        segment = Segment.open(path, is_damaged=True)
        kind = segment.kind
        try:
            for row in segment.readable(after):
                rows.setdefault(row.trace_id, row)
        finally:
            segment.close()
    return Remains(kind, list(rows.values()))


def set_aside(path: Path) -> Path:
    """Rename a damaged file so that nothing reads it again, and return its new path.

    Raises:
        OSError: it cannot be renamed.
    """
    aside = path.with_name(path.name + _DAMAGED)
    # Its journal before it, without which it may not be read.
    for suffix in (JOURNAL_SUFFIX, ""):
        with suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
    return aside


def sync(directory: Path) -> None:
    """See to it that a new file is still in its directory after a loss of power."""
    # Not everywhere can a directory be opened.
    with suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _is_of_a_writer(name: str) -> bool:
    digits = name[:_NAME_LENGTH]
    is_name = len(digits) == _NAME_LENGTH and not digits.strip("0123456789abcdef")
    return is_name and name.endswith((LOCK_SUFFIX, FILE_SUFFIX))
