"""Sealed files of the spool in their order, the batches that are read from them, and how their number changes."""

from __future__ import annotations

import sqlite3
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from operator import add
from typing import TYPE_CHECKING, NamedTuple

from provider_trace_store.spool.errors import SegmentDamagedError
from provider_trace_store.spool.files import delete_file
from provider_trace_store.spool.segment import Segment

if TYPE_CHECKING:
    from pathlib import Path
    from threading import Lock

    from provider_trace_store.spool.connections import Stop
    from provider_trace_store.spool.lock import Ownership
    from provider_trace_store.tables.kinds import Kind
    from provider_trace_store.tables.rows import Row


@dataclass
class Sealed:
    """A file that nothing is appended to any more.

    Args:
        path: the file.
        count: the number of its rows that are not stored in the database.
        size: what the file takes on the disk, in bytes.
        ownership: the lock on a dead process's file; None for a file of this process.
    """

    path: Path
    count: int
    size: int
    ownership: Ownership | None = None


class SpoolBatch(NamedTuple):
    """Rows to send to the database next.

    Args:
        kind: the table.
        rows: at least one, in the order in which they were appended.
        place: the place of the last row in its file.
        backlog: the backlog that the rows were read from.
    """

    kind: Kind
    rows: list[Row]
    place: int
    backlog: Backlog


class Change(NamedTuple):
    """How the number of rows in the spool changes, other than by an append or a batch that was sent.

    Args:
        adopted: rows of a dead process that are this process's now.
        lost: rows that cannot be read any more.
        left: rows of this process that are lost, or were moved behind all others.
        came: rows that were moved behind all others.
    """

    adopted: int = 0
    lost: int = 0
    left: int = 0
    came: int = 0

    def plus(self, other: Change) -> Change:
        """Return both changes together."""
        return Change(*map(add, self, other))


class Backlog:
    """Sealed files in their order. One thread reads the first one.

    Args:
        lock: the lock that is held while files are counted; the reading thread has a lock of its own.
        stop: whether the spool is being closed.
        is_adopted: whether the files are of dead processes.
    """

    def __init__(self, lock: Lock, stop: Stop, *, is_adopted: bool) -> None:
        self._lock = lock
        self._stop = stop
        self.is_adopted = is_adopted
        self.files: deque[Sealed] = deque()
        self.size = 0
        self._segment: Segment | None = None
        self._place = 0

    def add(self, file: Sealed) -> None:
        """Add a file after the others; the caller holds the lock."""
        self.files.append(file)
        self.size += file.size

    def read(self, max_rows: int, max_bytes: int) -> SpoolBatch | None:
        """Return the next rows of the first file, or delete the file and return None if it has none left.

        Args:
            max_rows: the most rows to return.
            max_bytes: the most bytes to return, about; one row is returned however large it is.

        Raises:
            SegmentDamagedError: the rows cannot be read.
            FileNotFoundError, ForeignFileError: the file was removed, or replaced by another.
            OSError, sqlite3.Error: the file cannot be opened now.
            SpoolStoppedError: the spool is being closed.
        """
        if self._segment is None:
            self._segment = Segment.open(self.files[0].path, self._stop)
            self._place = self._segment.stored_up_to()
        found = self._segment.read(self._place, max_rows, max_bytes, check=self.is_adopted)
        if found:
            return SpoolBatch(self._segment.kind, [one.row for one in found], found[-1].place, self)
        if self.files[0].count > 0:
            # Fewer rows can be read than were appended.
            raise SegmentDamagedError
        self._finish()
        return None

    def settle(self, batch: SpoolBatch) -> int | None:
        """Mark all rows of a batch as done: each is stored, or was rejected.

        Returns:
            The number of rows that were never counted, because an append was interrupted after writing and before
            counting. None if the spool was closed meanwhile: the next process reads the rows.
        """
        if self._segment is None:
            return None
        file = self.files[0]
        uncounted = max(0, len(batch.rows) - file.count)
        with self._lock:
            file.count -= len(batch.rows) - uncounted
        self._place = batch.place
        # If the disk is full, the next process sends the rows again.
        with suppress(sqlite3.Error):
            self._segment.mark_stored(batch.place)
        if file.count:
            return uncounted
        # Look into the file before it is deleted: the count in memory may be too low.
        left = 0
        with suppress(SegmentDamagedError):
            left = self._segment.count_after(batch.place)
        if left:
            with self._lock:
                file.count += left
        else:
            self._finish()
        return uncounted + left

    def give_up_first(self) -> tuple[Sealed, int]:
        """Close the first file; return it and the place up to which its rows are stored."""
        self.close()
        return self.files[0], self._place

    def forget_first(self) -> None:
        """Remove the first file from the backlog, and release its lock if it is the last one of its owner."""
        self.close()
        with self._lock:
            file = self.files.popleft()
            self.size -= file.size
        _release(file)
        self._place = 0

    def forget_removed(self) -> int:
        """Remove the files that are not in the directory any more; return how many rows they had.

        The first one is left: it may be open, and its rows are read then. The caller holds the lock.
        """
        rest = list(self.files)[1:]
        removed = [file for file in rest if not file.path.exists()]
        for file in removed:
            self.files.remove(file)
            self.size -= file.size
            _release(file)
        return sum(file.count for file in removed)

    def close(self) -> None:
        """Close the file that is being read."""
        if self._segment is not None:
            self._segment.close()
            self._segment = None

    def release(self) -> None:
        """Close the file that is being read, and let other processes take all files over."""
        self.close()
        for owned in self._ownerships():
            owned.release(delete=False)

    def forget(self) -> None:
        """Leave the locks to the parent, in a forked child."""
        for owned in self._ownerships():
            owned.forget()

    def count_owners(self) -> int:
        """Return the number of dead processes whose locks are held."""
        return len(self._ownerships())

    def _ownerships(self) -> list[Ownership]:
        owned = {id(file.ownership): file.ownership for file in self.files}
        return [one for one in owned.values() if one is not None]

    def _finish(self) -> None:
        self.close()
        with suppress(OSError):
            delete_file(self.files[0].path)
        self.forget_first()


def _release(file: Sealed) -> None:
    """Release the lock of a file that was removed from a backlog, if it is the last one of its owner."""
    if file.ownership is not None:
        file.ownership.leave()
