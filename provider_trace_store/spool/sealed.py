"""Sealed files of the spool in their order, and the rows in them that are to be sent next."""

from __future__ import annotations

import sqlite3
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from provider_trace_store.spool.segment import Segment, SegmentDamagedError, delete_file

if TYPE_CHECKING:
    from pathlib import Path
    from threading import Lock

    from provider_trace_store.spool.lock import Ownership
    from provider_trace_store.tables.kinds import Kind
    from provider_trace_store.tables.rows import Row


@dataclass
class Sealed:
    """A file that nothing is appended to.

    Args:
        path: of the file.
        count: how many of its rows are not stored.
        size: about what these take, in bytes.
        ownership: of a dead process's file.
    """

    path: Path
    count: int
    size: int
    ownership: Ownership | None = None


class SpoolBatch(NamedTuple):
    """Rows to be stored next.

    Args:
        kind: the table.
        rows: in the order in which they came; at least one.
        place: of the last one, in its file.
        backlog: which of the spool's they are of.
    """

    kind: Kind
    rows: list[Row]
    place: int
    backlog: Backlog


class Backlog:
    """Files in their order; the first one is being read, by one thread.

    Args:
        lock: held while files are counted; the thread that reads has one of its own.
        is_adopted: whether they are of dead processes.
    """

    def __init__(self, lock: Lock, *, is_adopted: bool) -> None:
        self._lock = lock
        self.is_adopted = is_adopted
        self.files: deque[Sealed] = deque()
        self.count = 0
        self.size = 0
        self._segment: Segment | None = None
        self._place = 0

    def add(self, file: Sealed) -> None:
        """Add a file behind the others; to be called with the lock held."""
        self.files.append(file)
        self.count += file.count
        self.size += file.size

    def read(self, max_rows: int, max_bytes: int) -> SpoolBatch | None:
        """Return the next rows of the first file, or None where it has none left and was deleted.

        Args:
            max_rows: the most to return.
            max_bytes: of about so many bytes together, but at least one.

        Raises:
            SegmentDamagedError: they cannot be read.
            sqlite3.Error: the file cannot be opened now.
        """
        if self._segment is None:
            self._segment = Segment.open(self.files[0].path)
            self._place = self._segment.stored_up_to()
        found = self._segment.read(self._place, max_rows, max_bytes, check=self.is_adopted)
        if found:
            return SpoolBatch(self._segment.kind, [one.row for one in found], found[-1].place, self)
        if self.files[0].count > 0:
            # It says that all was read, and what was appended says otherwise.
            raise SegmentDamagedError
        self._finish()
        return None

    def settle(self, batch: SpoolBatch) -> int | None:
        """Note that all rows of a batch are stored, or were refused for good.

        Returns:
            How many rows there are that nobody has counted, as an append was interrupted between the two; None where
            the spool was closed meanwhile, and the rows are the next process's.
        """
        if self._segment is None:
            return None
        file = self.files[0]
        uncounted = max(0, len(batch.rows) - file.count)
        with self._lock:
            self._lessen(len(batch.rows) - uncounted, sum(row.size for row in batch.rows))
        self._place = batch.place
        # Where the disk is full, they are sent once more, after the next start.
        with suppress(sqlite3.Error):
            self._segment.mark_stored(batch.place)
        if file.count:
            return uncounted
        # A file is not deleted because of a number in memory.
        left = 0
        with suppress(SegmentDamagedError):
            left = self._segment.count_after(batch.place)
        if left:
            with self._lock:
                self._lessen(-left, 0)
        else:
            self._finish()
        return uncounted + left

    def give_up_first(self) -> tuple[Sealed, int]:
        """Close the first file, and return it and how far its rows are stored."""
        self.close()
        return self.files[0], self._place

    def forget_first(self) -> None:
        """Let the first file go, whatever became of it."""
        with self._lock:
            file = self.files[0]
            self._lessen(file.count, file.size)
            self.files.popleft()
        owned = file.ownership
        if owned is not None and all(other.ownership is not owned for other in self.files):
            owned.release(delete=True)
        self._place = 0

    def close(self) -> None:
        """Close the file that is being read."""
        if self._segment is not None:
            self._segment.close()
            self._segment = None

    def _finish(self) -> None:
        self.close()
        with suppress(OSError):
            delete_file(self.files[0].path)
        self.forget_first()

    def _lessen(self, count: int, size: int) -> None:
        file = self.files[0]
        size = min(size, file.size)
        file.count -= count
        file.size -= size
        self.count -= count
        self.size -= size
