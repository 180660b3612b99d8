"""A directory of files in which rows wait for the database, and which outlive the process that wrote them.

Each process appends to a file of its own. A file that is full, or is to be read, is sealed, and the next file is begun:
an append never waits for a read. Sealed files are read in their order, and deleted when all their rows are stored. The
files of a dead process are taken over by exactly one other process: see `Ownership`.

    OWNER.lock                 held while the owner's process lives
    OWNER-00000001.db          the owner's files, in their order
    OWNER-00000001.db.damaged  a file that could not be read completely, set aside
    rejected.db                traces that the database refused; see `Rejects`
"""

from __future__ import annotations

import sqlite3
import threading
from typing import TYPE_CHECKING, Final

from provider_trace_store.spool.active import ActiveFiles
from provider_trace_store.spool.adoption import Adoption
from provider_trace_store.spool.errors import SegmentDamagedError, SpoolUnavailableError
from provider_trace_store.spool.rejects import Rejects
from provider_trace_store.spool.rescue import Rescue
from provider_trace_store.spool.sealed import Backlog, Change

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from provider_trace_store.spool.sealed import SpoolBatch
    from provider_trace_store.tables.kinds import Kind
    from provider_trace_store.tables.rows import Row

# Spools of a parent process. A forked child must not close their files: the parent still uses them.
_inherited: Final[list[object]] = []


class Spool:
    """The files of one process, and those that it has taken over. Any thread appends rows, one thread reads them.

    Args:
        directory: the directory of the files; it exists.
        kind: the table that rows are appended for.
        max_bytes: about how many bytes may wait.
        fsync: whether an append waits until its rows would survive a loss of power.
    """

    def __init__(self, directory: Path, kind: Kind, *, max_bytes: int, fsync: bool) -> None:
        self._kind = kind
        self._max_bytes = max_bytes
        self._is_closed = False
        self._has_refused = False
        # Held for the time of one append.
        self.lock = threading.Lock()
        # Held while anything else is done with a file. It is taken before `lock`.
        self.reading = threading.Lock()
        self.rejects = Rejects(directory, self.reading)
        self._own = Backlog(self.lock, is_adopted=False)
        self._adopted = Backlog(self.lock, is_adopted=True)
        self._next_backlogs = (self._own, self._adopted)
        self._active = ActiveFiles(directory, fsync=fsync, on_sealed=self._own.add)
        self._rescue = Rescue(self.append, self.lock)
        self._adoption = Adoption(directory, self._adopted, self.lock, self._rescue)

    @property
    def size(self) -> int:
        """About what all rows that wait take, in bytes."""
        return self._active.size + self._own.size + self._adopted.size

    @property
    def has_sealed(self) -> bool:
        """Whether there are rows that can be read without sealing another file."""
        return bool(self._own.files or self._adopted.files)

    @property
    def has_own_sealed(self) -> bool:
        """Whether there are such rows of this process."""
        return bool(self._own.files)

    @property
    def is_drained(self) -> bool:
        """Whether no row of this process waits; ask with `lock` held."""
        return not self._own.files and not self._active.count

    def has_batch(self, rows: int, size: int) -> bool:
        """Say whether the file that is appended to has so many rows, or so many bytes."""
        return self._active.count >= rows or self._active.size >= size

    def has_room_for(self, size: int) -> bool:
        """Say whether rows of about so many bytes can probably be appended."""
        return not self._is_closed and not self._has_refused and self.size + size <= self._max_bytes

    def append(self, rows: Sequence[Row], kind: Kind | None = None, *, is_rescue: bool = False) -> None:
        """Append rows; a kill of the process afterwards does not lose them. The caller holds `lock`.

        Args:
            rows: at least one.
            kind: their table; None for the spool's.
            is_rescue: whether the rows wait in another file already, which is counted in the spool's size.

        Raises:
            SpoolUnavailableError: no row was appended.
        """
        size = sum([row.size for row in rows])
        if self._is_closed or (self.size + size > self._max_bytes and not is_rescue):
            raise SpoolUnavailableError
        try:
            self._active.append(rows, kind or self._kind, size)
        except (sqlite3.Error, OSError):
            self._has_refused = True
        else:
            self._has_refused = False
            return
        # Outside of the handler: the driver's error, which may hold a path, is not chained.
        raise SpoolUnavailableError

    @property
    def place(self) -> object:
        """Where the next row is appended, for `has_grown`; ask with `lock` held."""
        return self._active.place

    def has_grown(self, place: object) -> bool:
        """Say whether rows were appended since `place`, by an append that was interrupted. The caller holds `lock`."""
        return self._active.has_grown(place)

    def seal(self) -> None:
        """Seal the file that was appended to, so that it can be read, and begin another file."""
        if not self._active.count:
            return
        with self.reading:
            try:
                # Before `lock` is taken: creating a file takes many times as long as an append.
                following = self._active.new_file(self._kind)
            except (sqlite3.Error, OSError):
                following = None
            with self.lock:
                self._active.replace(following)

    def take(self, max_rows: int, max_bytes: int) -> tuple[SpoolBatch | None, Change]:
        """Return the next rows to send, from this process's files and adopted files in turn.

        Args:
            max_rows: the most rows to return.
            max_bytes: the most bytes to return, about; one row is returned however large it is.

        Returns:
            The rows, None if there are none; and what damaged files have changed.

        Raises:
            sqlite3.Error: a file cannot be opened now.
            SpoolUnavailableError: a file is damaged, and its readable rows cannot be appended now.
        """
        change = Change()
        with self.reading:
            backlogs = self._next_backlogs
            self._next_backlogs = (backlogs[1], backlogs[0])
            is_blocked = False
            for backlog in backlogs if not self._is_closed else ():
                while backlog.files:
                    try:
                        batch = backlog.read(max_rows, max_bytes)
                    except SegmentDamagedError:
                        if (rescued := self._rescue_first(backlog)) is None:
                            is_blocked = True
                            break
                        change = change.plus(rescued)
                    except (sqlite3.Error, OSError):
                        if change == Change():
                            raise
                        return None, change
                    else:
                        if batch is not None:
                            return batch, change
        if is_blocked and change == Change():
            raise SpoolUnavailableError
        return None, change

    def settle(self, batch: SpoolBatch) -> int | None:
        """Mark all rows of a batch as done; result as `Backlog.settle`."""
        with self.reading:
            return batch.backlog.settle(batch)

    def adopt(self) -> Change:
        """Take over the files of dead processes that no other process has taken over."""
        # Listed before this process's own name is read: its files are in the list only if it has a name by then.
        owners = self._adoption.owners()
        with self.reading:
            return Change() if self._is_closed else self._adoption.adopt(owners - {self._active.owner})

    def close(self, timeout: float) -> None:
        """Close all files; those that have rows are for the next process that starts.

        Args:
            timeout: how long to wait for another thread that uses a file, in seconds. A file that is in use for
                longer is closed when the process ends.
        """
        is_reading = self.reading.acquire(timeout=timeout)
        try:
            if self.lock.acquire(timeout=timeout):
                try:
                    self._is_closed = True
                    if is_reading:
                        self._active.replace(None)
                        self._own.close()
                        self._adopted.release()
                        self._active.release(delete=not self._own.files)
                finally:
                    self.lock.release()
        finally:
            if is_reading:
                self.reading.release()

    def abandon(self) -> None:
        """Forget the files, in a forked child: they are the parent's, and closing them would disturb the parent."""
        _inherited.append(self)

    def _rescue_first(self, backlog: Backlog) -> Change | None:
        """Append the readable rows of a backlog's first file; return None if they cannot be appended now."""
        file, place = backlog.give_up_first()
        rescued = self._rescue.move_rows(file.path, after=place)
        if rescued is None:
            return None
        lost, uncounted = max(0, file.count - rescued), max(0, rescued - file.count)
        left = 0 if backlog.is_adopted else file.count
        backlog.forget_first()
        return Change(adopted=uncounted, lost=lost, left=left, came=rescued)
