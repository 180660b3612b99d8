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
from provider_trace_store.spool.connections import Stop
from provider_trace_store.spool.directory import logger
from provider_trace_store.spool.errors import SegmentDamagedError, SpoolStoppedError, SpoolUnavailableError
from provider_trace_store.spool.files import ForeignFileError
from provider_trace_store.spool.rejects import Rejects
from provider_trace_store.spool.rescue import Rescue
from provider_trace_store.spool.sealed import Backlog, Change, SpoolBatch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from provider_trace_store.tables.kinds import Kind
    from provider_trace_store.tables.rows import Row

# Spools of a parent process. A forked child must not close their files: the parent still uses them.
_inherited: Final[list[object]] = []


class Spool:
    """The files of one process, and those that it has taken over. Any thread appends rows, one thread reads them.

    Args:
        directory: the directory of the files; it exists.
        kind: the table that rows are appended for.
        max_bytes: how many bytes its files may take on the disk; rejected traces take at most half of them.
        fsync: whether an append waits until its rows would survive a loss of power.
        on_change: called with what was lost because files were removed, with `lock` held.
    """

    def __init__(
        self, directory: Path, kind: Kind, *, max_bytes: int, fsync: bool, on_change: Callable[[Change], None]
    ) -> None:
        self._kind = kind
        self._max_bytes = max_bytes
        self._is_closed = False
        self._has_refused = False
        # Held for the time of one append.
        self.lock = threading.Lock()
        # Held while anything else is done with a file. It is taken before `lock`.
        self.reading = threading.Lock()
        self.rejects = Rejects(directory, self.reading, max_bytes // 2)
        self._stop = Stop()
        self._on_change = on_change
        self._own = Backlog(self.lock, self._stop, is_adopted=False)
        self._adopted = Backlog(self.lock, self._stop, is_adopted=True)
        self._next_backlogs = (self._own, self._adopted)
        self._active = ActiveFiles(directory, fsync=fsync, on_sealed=self._own.add, on_removed=self._note_removed)
        self._rescue = Rescue(self.append, self.lock, self._stop)
        self._adoption = Adoption(directory, self._adopted, self.lock, self._rescue, self._stop)

    @property
    def size(self) -> int:
        """What the files take on the disk, with those of rejected traces and damaged ones, in bytes."""
        return self._waiting + self._active.disk

    @property
    def _waiting(self) -> int:
        return self._own.size + self._adopted.size + self._rescue.kept_bytes + self.rejects.size

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
        return not self._is_closed and not self._has_refused and self._fits(size)

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
        if self._is_closed or not (is_rescue or self._fits(size)):
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
            following = None
            try:
                # Before `lock` is taken: creating a file takes many times as long as an append.
                if self._active.has_lock:
                    following = self._active.new_file(self._kind)
            except (sqlite3.Error, OSError):
                pass  # the next append tries again
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
            OSError, sqlite3.Error: a file cannot be opened now.
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
                        found = self._read(backlog, max_rows, max_bytes)
                    except SpoolStoppedError:
                        return None, change
                    except SpoolUnavailableError:
                        is_blocked = True
                        break
                    except (sqlite3.Error, OSError):
                        if change == Change():
                            raise
                        return None, change
                    if isinstance(found, SpoolBatch):
                        return found, change
                    change = change.plus(found)
        if is_blocked and change == Change():
            raise SpoolUnavailableError
        return None, change

    def settle(self, batch: SpoolBatch) -> int | None:
        """Mark all rows of a batch as done; result as `Backlog.settle`."""
        with self.reading:
            return batch.backlog.settle(batch)

    def adopt(self) -> tuple[Change, bool]:
        """Take over files of dead processes that no other process has taken over, for a short time.

        Returns:
            What has changed, and whether every file that is in the directory was looked at.
        """
        with self.reading:
            if self._is_closed:
                return Change(), True
            if self._adoption.is_done:
                self._adoption.list_owners(self._active.owner)
            return self._adoption.adopt(), self._adoption.is_done

    def close(self, timeout: float) -> None:
        """Close all files; those that have rows are for the next process that starts.

        Args:
            timeout: how long to wait for another thread that uses a file, in seconds. A file that is in use for
                longer is closed when the process ends.
        """
        # A read that is running ends.
        self._stop.is_set = True
        is_reading = self.reading.acquire(timeout=timeout)
        try:
            if self.lock.acquire(timeout=timeout):
                try:
                    self._is_closed = True
                    if is_reading:
                        self._active.replace(None)
                        self._own.close()
                        self._adoption.release()
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
        self._active.forget()
        self._adopted.forget()
        self._adoption.forget()

    def _read(self, backlog: Backlog, max_rows: int, max_bytes: int) -> SpoolBatch | Change:
        """Return a backlog's next rows, or what has changed because its first file has none left."""
        try:
            return backlog.read(max_rows, max_bytes) or Change()
        except SegmentDamagedError:
            pass
        except (FileNotFoundError, ForeignFileError):
            return _forgotten(backlog)
        return self._rescue_first(backlog)

    def _rescue_first(self, backlog: Backlog) -> Change:
        """Append the readable rows of a backlog's first file; SpoolUnavailableError if they cannot be appended now."""
        file, place = backlog.give_up_first()
        rescued = self._rescue.move_rows(file.path, after=place)
        if rescued is None:
            raise SpoolUnavailableError
        lost, uncounted = max(0, file.count - rescued), max(0, rescued - file.count)
        left = 0 if backlog.is_adopted else file.count
        backlog.forget_first()
        return Change(adopted=uncounted, lost=lost, left=left, came=rescued)

    def _fits(self, size: int) -> bool:
        return self._active.fits(size, self._max_bytes - self._waiting)

    def _note_removed(self, lost: int) -> None:
        """Count rows of the open file that were lost with it, and those of other files that were removed as well."""
        lost += self._own.forget_removed()
        adopted = self._adopted.forget_removed()
        self._on_change(Change(lost=lost + adopted, left=lost))


def _forgotten(backlog: Backlog) -> Change:
    """Remove a backlog's first file, which was removed or replaced, from it; return what has changed."""
    file = backlog.files[0]
    logger.error("a file of the spool was removed or replaced: %d traces are dropped: %s", file.count, file.path)
    if file.ownership is not None:
        file.ownership.is_complete = False
    backlog.forget_first()
    return Change(lost=file.count, left=0 if backlog.is_adopted else file.count)
