"""The files of this process that rows are appended to, one after the other."""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from dataclasses import dataclass
from itertools import count as numbers_from
from time import monotonic
from typing import TYPE_CHECKING, Final

from uuid_utils import uuid7

from provider_trace_store.database.drivers import sqlite_code
from provider_trace_store.spool.directory import lock_of, logger, prepared, segment_of, sync_directory
from provider_trace_store.spool.errors import SegmentDamagedError
from provider_trace_store.spool.files import delete_file, size_on_disk
from provider_trace_store.spool.lock import Ownership
from provider_trace_store.spool.sealed import Sealed
from provider_trace_store.spool.segment import PAGE_BYTES, Segment

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from provider_trace_store.tables.kinds import Kind
    from provider_trace_store.tables.rows import Row

# Large enough that the files are few while the database is away, small enough that disk space is freed soon.
SEGMENT_BYTES: Final = 64 * 2**20
_TRIES: Final = 5
# What a file takes without a row, and at most what an append adds besides its rows: pages of the table and the index
# that split, and their copies in the journal.
_EMPTY_BYTES: Final = 3 * PAGE_BYTES
_APPEND_BYTES: Final = 4 * PAGE_BYTES
# How long an append trusts the last look at its file, in seconds. Each look lets other threads run, so that a caller
# would wait for the interpreter as long as for the append itself.
_LOOK_PAUSE: Final = 0.05
# How much of a removed file is written again at a time.
_MOVED_ROWS: Final = 1000
_MOVED_BYTES: Final = 4 * 2**20


@dataclass(eq=False)
class Active:
    """The file that rows are appended to.

    Args:
        segment: the open file.
        count: the number of its rows.
        size: about what the rows take when they are sent, in bytes.
        disk: at most so many bytes the file and its journal take on the disk.
        next_look: when to look at the file on the disk again, by the monotonic clock.
    """

    segment: Segment
    count: int = 0
    size: int = 0
    disk: int = 0
    next_look: float = 0.0


class ActiveFiles:
    """Appends rows to a file of this process, and begins another file when that one is full, sealed or broken.

    The caller holds `Spool.lock`. Only `new_file` may run without it, while `has_lock` holds.

    Args:
        directory: the spool's directory.
        fsync: whether an append waits until its rows would survive a loss of power.
        on_sealed: called with each file that nothing is appended to any more.
        on_removed: called when the open file is not in the directory any more, with the number of its lost rows.
    """

    def __init__(
        self,
        directory: Path,
        *,
        fsync: bool,
        on_sealed: Callable[[Sealed], None],
        on_removed: Callable[[int], None],
    ) -> None:
        self._directory = directory
        self._fsync = fsync
        self._on_sealed = on_sealed
        self._on_removed = on_removed
        self._numbers = numbers_from(1)
        self._ownership: Ownership | None = None
        self._active: Active | None = None
        # The name in front of this process's files; "" before the first one.
        self.owner = ""

    @property
    def count(self) -> int:
        """The number of rows in the file that is appended to."""
        active = self._active
        return active.count if active else 0

    @property
    def size(self) -> int:
        """About what these rows take when they are sent, in bytes."""
        active = self._active
        return active.size if active else 0

    @property
    def disk(self) -> int:
        """What the file takes on the disk, in bytes."""
        active = self._active
        return size_on_disk(active.segment.path) if active else 0

    def fits(self, size: int, room: int) -> bool:
        """Say whether the file takes at most `room` bytes on the disk when rows of `size` bytes are appended."""
        active = self._active
        if active is None:
            return _EMPTY_BYTES + size + _APPEND_BYTES <= room
        if active.disk + size + _APPEND_BYTES > room:
            active.disk = self.disk
        return active.disk + size + _APPEND_BYTES <= room

    @property
    def has_lock(self) -> bool:
        """Whether this process holds the lock on its files, and the lock's file is in its place."""
        return self._ownership is not None and self._ownership.stands()

    @property
    def place(self) -> tuple[Active | None, int]:
        """The file that is appended to, and how many rows it has."""
        return self._active, self.count

    def has_grown(self, place: object) -> bool:
        """Say whether the open file has more rows than at `place`; they are counted in the file."""
        active = self._active
        if active is None:
            return False
        with suppress(SegmentDamagedError, sqlite3.Error):
            active.count = active.segment.count_after(0)
        return (active, active.count) != place if active.count else False

    def append(self, rows: Sequence[Row], kind: Kind, size: int) -> None:
        """Append rows.

        Args:
            rows: at least one.
            kind: their table.
            size: about what they take, in bytes.

        Raises:
            sqlite3.Error, OSError: no row was appended.
        """
        active = self._append(rows, kind)
        if (now := monotonic()) < active.next_look:
            disk: int | None = active.disk + size + _APPEND_BYTES
        else:
            disk = active.segment.size_in_place()
            active.next_look = now + _LOOK_PAUSE
        if disk is None:
            # The rows are moved with the others.
            self._active = None
            active = self._active = self._moved(active, active.count + len(rows))
        else:
            active.count += len(rows)
            active.size += size
            active.disk = disk
        if active.size >= SEGMENT_BYTES:
            self.replace(None)

    def new_file(self, kind: Kind) -> Active:
        """Create a file for a table; sqlite3.Error or OSError if it cannot be created."""
        if not self.has_lock:
            self._take_ownership()
        path = segment_of(self._directory, self.owner, next(self._numbers))
        segment = Segment.create(path, kind, fsync=self._fsync)
        if self._fsync:
            sync_directory(self._directory)
        return Active(segment, disk=size_on_disk(path))

    def replace(self, following: Active | None) -> None:
        """Seal the file that is appended to, or delete it if it has no rows.

        Args:
            following: the file that later rows are appended to; None to create it with the next append.
        """
        active, self._active = self._active, following
        if active is None:
            return
        segment = active.segment
        # A row may be there that was never counted, because an append was interrupted after writing.
        is_needed = active.count > 0 or _may_have_rows(segment)
        if is_needed and segment.size_in_place() is None:
            try:
                active = self._moved(active, active.count)
            except (sqlite3.Error, OSError):
                return
            segment = active.segment
        segment.close()
        if is_needed:
            self._on_sealed(Sealed(segment.path, active.count, size_on_disk(segment.path)))
        else:
            with suppress(OSError):
                delete_file(segment.path)

    def release(self, *, delete: bool) -> None:
        """Release this process's lock; `delete`: whether none of its files is left."""
        if self._ownership is not None:
            self._ownership.release(delete=delete)
            self._ownership = None

    def forget(self) -> None:
        """Leave the lock to the parent, in a forked child."""
        if self._ownership is not None:
            self._ownership.forget()

    def _append(self, rows: Sequence[Row], kind: Kind) -> Active:
        active = self._active
        if active is not None and active.segment.kind is not kind:
            # Rows of a dead process that wrote to the other table.
            self.replace(None)
            active = None
        if active is None:
            active = self._active = self.new_file(kind)
        try:
            _append_any(active.segment, rows)
        except sqlite3.Error as error:
            if sqlite_code(error) == sqlite3.SQLITE_FULL:
                raise
            # The file is broken: a new file may work.
            self.replace(None)
            active = self._active = self.new_file(kind)
            active.segment.append(rows)
        return active

    def _moved(self, active: Active, count: int) -> Active:
        """Write the rows of a file that was removed again; it is still open, and is closed.

        Args:
            active: the file.
            count: how many rows it should have.

        Raises:
            sqlite3.Error, OSError: the rows cannot be written.
        """
        old = active.segment
        moved = None
        try:
            moved = self.new_file(old.kind)
            with suppress(SegmentDamagedError):
                _copy(old, moved)
        except (sqlite3.Error, OSError):
            if moved is not None:
                moved.segment.close()
                delete_file(moved.segment.path)
            self._note_removed(0, active.count)
            raise
        finally:
            old.close()
        self._note_removed(moved.count, max(0, count - moved.count))
        return moved

    def _note_removed(self, moved: int, lost: int) -> None:
        logger.error(
            "a file of the spool was removed from %s: %d of its traces are written again, %d are dropped",
            self._directory,
            moved,
            lost,
        )
        self._on_removed(lost)

    def _take_ownership(self) -> None:
        """Take the lock of this process's name again, or of a new name that no other process uses."""
        prepared(self._directory)
        if self._ownership is not None:
            # The lock's file was removed. Files that are left are still this process's.
            self.release(delete=False)
            self._ownership = Ownership.take(lock_of(self._directory, self.owner))
        for _ in range(_TRIES):
            if self._ownership is not None:
                return
            self.owner = uuid7().hex
            self._ownership = Ownership.take(lock_of(self._directory, self.owner))
        if self._ownership is None:
            raise BlockingIOError


def _copy(old: Segment, new: Active) -> None:
    place = 0
    while found := old.read(place, _MOVED_ROWS, _MOVED_BYTES):
        rows = [one.row for one in found]
        new.segment.append_repeats(rows)
        new.count += len(rows)
        new.size += sum(row.size for row in rows)
        place = found[-1].place
    new.disk = size_on_disk(new.segment.path)


def _append_any(segment: Segment, rows: Sequence[Row]) -> None:
    """Append rows, whether or not their ids are in the file already: the database will compare both rows."""
    try:
        segment.append(rows)
    except sqlite3.IntegrityError:
        segment.append_repeats(rows)


def _may_have_rows(segment: Segment) -> bool:
    """Say whether a file has a row, or cannot be read."""
    try:
        return segment.count_after(0) > 0
    except (SegmentDamagedError, sqlite3.Error):
        return True
