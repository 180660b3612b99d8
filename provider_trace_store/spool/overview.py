"""What a spool directory has, for an operator: read without a lock that its writers could meet for long."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Final, NamedTuple

from provider_trace_store.spool.connections import Guard, Stop, has_plain_table
from provider_trace_store.spool.directory import REJECTS, list_files
from provider_trace_store.spool.errors import SegmentDamagedError
from provider_trace_store.spool.files import check_untouched, size_on_disk
from provider_trace_store.spool.lock import LOCK_SUFFIX
from provider_trace_store.spool.rejects import TABLE

if TYPE_CHECKING:
    from pathlib import Path

# How long to wait for a writer of the file, in seconds.
_BUSY_TIMEOUT: Final = 0.2


class Overview(NamedTuple):
    """What a spool directory has.

    Args:
        files: the number of files with traces that wait.
        file_bytes: their size with their journals.
        damaged_bytes: the size of damaged files that were set aside.
        rejected: the number of rejected traces; None if they could not be counted.
        rejected_bytes: the size of the file that has them.
    """

    files: int
    file_bytes: int
    damaged_bytes: int
    rejected: int | None
    rejected_bytes: int


def look_at(directory: Path) -> Overview:
    """Return what a spool directory has. Files of traces that wait are not opened: a reader would block their writer.

    Raises:
        OSError: the directory cannot be read.
    """
    listing = list_files(directory)
    names = [name for files in listing.owners.values() for name in files if not name.endswith(LOCK_SUFFIX)]
    path = directory / REJECTS
    return Overview(
        files=len(names),
        file_bytes=sum(size_on_disk(directory / name) for name in names),
        damaged_bytes=listing.kept_bytes,
        rejected=_count(path),
        rejected_bytes=size_on_disk(path),
    )


def _count(path: Path) -> int | None:
    """Return the number of rejected traces; its writers wait for a reader, for longer than a count takes."""
    try:
        check_untouched(path)
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_BUSY_TIMEOUT)
        with closing(connection), Guard(connection, Stop()).damage_named():
            if not has_plain_table(connection, TABLE):
                return None
            return int(connection.execute(f"SELECT count(*) FROM {TABLE}").fetchone()[0])  # noqa: S608  # our name
    except FileNotFoundError:
        return 0
    except (OSError, sqlite3.Error, SegmentDamagedError):
        return None
