"""The files of this process that rows are appended to, one after the other."""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from dataclasses import dataclass
from itertools import count as numbers_from
from typing import TYPE_CHECKING, Final

from uuid_utils import uuid7

from provider_trace_store.database.drivers import sqlite_code
from provider_trace_store.spool.directory import lock_of, segment_of, sync_directory
from provider_trace_store.spool.errors import SegmentDamagedError
from provider_trace_store.spool.lock import Ownership
from provider_trace_store.spool.sealed import Sealed
from provider_trace_store.spool.segment import Segment, delete_file

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from provider_trace_store.tables.kinds import Kind
    from provider_trace_store.tables.rows import Row

# Large enough that the files are few while the database is away, small enough that disk space is freed soon.
SEGMENT_BYTES: Final = 64 * 2**20
_TRIES: Final = 5


@dataclass(eq=False)
class Active:
    """The file that rows are appended to.

    Args:
        segment: the open file.
        count: the number of its rows.
        size: about what the rows take, in bytes.
    """

    segment: Segment
    count: int = 0
    size: int = 0


class ActiveFiles:
    """Appends rows to a file of this process, and begins another file when that one is full, sealed or broken.

    The caller holds `Spool.lock`. Only `new_file` may run without it, when this process has a name already.

    Args:
        directory: the spool's directory.
        fsync: whether an append waits until its rows would survive a loss of power.
        on_sealed: called with each file that nothing is appended to any more.
    """

    def __init__(self, directory: Path, *, fsync: bool, on_sealed: Callable[[Sealed], None]) -> None:
        self._directory = directory
        self._fsync = fsync
        self._on_sealed = on_sealed
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
        """About what these rows take, in bytes."""
        active = self._active
        return active.size if active else 0

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
        active.count += len(rows)
        active.size += size
        if active.size >= SEGMENT_BYTES:
            self.replace(None)

    def new_file(self, kind: Kind) -> Active:
        """Create a file for a table; sqlite3.Error or OSError if it cannot be created."""
        if self._ownership is None:
            self._take_ownership()
        path = segment_of(self._directory, self.owner, next(self._numbers))
        try:
            segment = Segment.create(path, kind, fsync=self._fsync)
        except BaseException:
            with suppress(OSError):
                delete_file(path)
            raise
        if self._fsync:
            sync_directory(self._directory)
        return Active(segment)

    def replace(self, following: Active | None) -> None:
        """Seal the file that is appended to, or delete it if it has no rows.

        Args:
            following: the file that later rows are appended to; None to create it with the next append.
        """
        active, self._active = self._active, following
        if active is None:
            return
        # A row may be there that was never counted, because an append was interrupted after writing.
        is_needed = active.count > 0 or active.segment.may_have_rows()
        active.segment.close()
        if is_needed:
            self._on_sealed(Sealed(active.segment.path, active.count, active.size))
        else:
            with suppress(OSError):
                delete_file(active.segment.path)

    def release(self, *, delete: bool) -> None:
        """Release this process's lock; `delete`: whether none of its files is left."""
        if self._ownership is not None:
            self._ownership.release(delete=delete)
            self._ownership = None

    def _append(self, rows: Sequence[Row], kind: Kind) -> Active:
        active = self._active
        if active is not None and active.segment.kind is not kind:
            # Rows of a dead process that wrote to the other table.
            self.replace(None)
            active = None
        if active is None:
            active = self._active = self.new_file(kind)
        try:
            active.segment.append(rows)
        except sqlite3.Error as error:
            if sqlite_code(error) == sqlite3.SQLITE_FULL:
                raise
            # Either the id is in the file already: the database will compare both rows. Or the file is broken: a new
            # file may work.
            self.replace(None)
            active = self._active = self.new_file(kind)
            active.segment.append(rows)
        return active

    def _take_ownership(self) -> None:
        """Choose a name that no other process uses, and take its lock."""
        for _ in range(_TRIES):
            self.owner = uuid7().hex
            self._ownership = Ownership.take(lock_of(self._directory, self.owner))
            if self._ownership is not None:
                return
        raise BlockingIOError
