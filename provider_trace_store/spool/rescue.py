"""Damaged files of the spool: readable rows are appended to this process's own file, the rest is set aside."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Final, Protocol

from provider_trace_store.spool.directory import logger
from provider_trace_store.spool.errors import SpoolUnavailableError
from provider_trace_store.spool.files import size_on_disk
from provider_trace_store.spool.salvage import salvage, set_aside

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from threading import Lock

    from provider_trace_store.spool.connections import Stop
    from provider_trace_store.tables.kinds import Kind
    from provider_trace_store.tables.rows import Row

# How many damaged files are named in the log, each in a line of its own; then one in as many again.
_NAMED: Final = 20


class Append(Protocol):
    """`Spool.append`."""

    def __call__(self, rows: Sequence[Row], kind: Kind | None = None, *, is_rescue: bool = False) -> None:
        """Append rows, or raise SpoolUnavailableError."""


class Rescue:
    """Moves the readable rows of damaged files into this process's own file.

    Args:
        append: `Spool.append`.
        lock: the lock that its caller holds.
        stop: whether the spool is being closed.
    """

    def __init__(self, append: Append, lock: Lock, stop: Stop) -> None:
        self._append = append
        self._lock = lock
        self._stop = stop
        self._files = 0
        # What the files that were set aside take on the disk, in bytes.
        self.kept_bytes = 0
        # Files that were read and could not be renamed: they are not read again.
        self.read_and_kept: set[Path] = set()

    def move_rows(self, path: Path, after: int) -> int | None:
        """Append the readable rows of a file, set the file aside, and return how many rows were appended.

        Args:
            path: the file.
            after: the place before the rows that are not stored yet.

        Returns:
            None if the rows cannot be appended now; the file stays then.

        Raises:
            SpoolStoppedError: the spool is being closed.
        """
        try:
            salvaged = salvage(path, after, self._stop)
            if salvaged.rows:
                with self._lock:
                    self._append(salvaged.rows, salvaged.kind, is_rescue=True)
        except (sqlite3.Error, OSError, SpoolUnavailableError):
            return None
        count = len(salvaged.rows)
        # Only now: if the process is killed before, the next one reads the file again and finds its rows stored.
        try:
            aside = set_aside(path)
        except OSError:
            aside = path
            self.read_and_kept.add(path)
        self.kept_bytes += size_on_disk(aside)
        self._files += 1
        if self._files <= _NAMED or not self._files % _NAMED:
            logger.error(
                "a file of the spool is damaged: %d traces were read, the rest is set aside as %s (damaged files: %d)",
                count,
                aside,
                self._files,
            )
        return count
