"""A directory of files in which rows wait for the database, and outlive the process that put them there.

Each writer appends to a file of its own; a file that is full, or is to be read, is sealed and another begun, so that
appending never waits for reading. Sealed files are read in their order, and deleted when all of their rows are stored.
What a dead process left is taken over by exactly one other: see `Ownership`.

    WRITER.lock                 held as long as the writer's process lives
    WRITER-00000001.db          its files, in their order
    WRITER-00000001.db.damaged  one that could not be read as a whole, set aside
    rejected.db                 what the database refused; see `Rejects`
"""

from __future__ import annotations

import logging
import sqlite3
from contextlib import suppress
from dataclasses import dataclass
from itertools import count as counter
from operator import add
from threading import Lock
from typing import TYPE_CHECKING, Final, NamedTuple

from uuid_utils import uuid7

from provider_trace_store.database.drivers import sqlite_code
from provider_trace_store.spool import directory as files
from provider_trace_store.spool.lock import Ownership
from provider_trace_store.spool.rejects import Rejects
from provider_trace_store.spool.sealed import Backlog, Sealed
from provider_trace_store.spool.segment import Segment, SegmentDamagedError, delete_file

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from provider_trace_store.spool.sealed import SpoolBatch
    from provider_trace_store.tables.kinds import Kind
    from provider_trace_store.tables.rows import Row

# Large enough that files are few while the database is away, small enough that disk space comes back soon.
SEGMENT_BYTES: Final = 64 * 2**20
_TRIES: Final = 5

logger: Final = logging.getLogger("provider_trace_store.writer")

# What a forked child must not close: its parent still works with it.
_inherited: Final[list[object]] = []


class SpoolUnavailableError(Exception):
    """The spool cannot take a row: its disk is full or fails, or it is as large as it may be."""


class Change(NamedTuple):
    """By how much the rows that wait are changed by something else than a submission or a batch.

    Args:
        adopted: how many a dead process left, and wait here now.
        lost: how many waited, and cannot be read any more.
        left: of those that were this writer's own, how many are lost, or have gone behind all others.
        came: how many have gone there.
    """

    adopted: int = 0
    lost: int = 0
    left: int = 0
    came: int = 0


@dataclass
class _Active:
    """The file that rows are appended to.

    Args:
        segment: the file.
        count: how many rows it has.
        size: about what they take, in bytes.
    """

    segment: Segment
    count: int = 0
    size: int = 0


class Spool:
    """The files of one writer, and those that it has taken over. Rows are appended by any thread, read by one.

    Args:
        directory: where the files are; it exists.
        kind: the table that rows are appended for.
        max_bytes: about how much may wait, in bytes.
        fsync: whether an append waits until its rows would survive a loss of power.
    """

    def __init__(self, directory: Path, kind: Kind, *, max_bytes: int, fsync: bool) -> None:
        self._directory = directory
        self._kind = kind
        self._max_bytes = max_bytes
        self._fsync = fsync
        self._name = ""
        self._numbers = counter(1)
        self._ownership: Ownership | None = None
        self._active: _Active | None = None
        self._is_closed = False
        self._has_refused = False
        # Damaged files that have been read, and could not be renamed.
        self._stay: set[Path] = set()
        # Held for the time of one append.
        self.lock = Lock()
        # Held while anything else is done with a file. Taken before the other one.
        self.reading = Lock()
        self.rejects = Rejects(directory, self.reading)
        self._own = Backlog(self.lock, is_adopted=False)
        self._adopted = Backlog(self.lock, is_adopted=True)
        self._adopted_is_next = False

    @property
    def active_count(self) -> int:
        """How many rows wait in the file that is appended to."""
        active = self._active
        return active.count if active else 0

    @property
    def active_size(self) -> int:
        """About what these take, in bytes."""
        active = self._active
        return active.size if active else 0

    @property
    def size(self) -> int:
        """About what all rows that wait take, in bytes."""
        return self.active_size + self._own.size + self._adopted.size

    @property
    def has_sealed(self) -> bool:
        """Whether there are rows that can be read without sealing another file."""
        return bool(self._own.files or self._adopted.files)

    @property
    def has_own_sealed(self) -> bool:
        """Whether there are such rows of this writer's own."""
        return bool(self._own.files)

    @property
    def is_drained(self) -> bool:
        """Whether none of this writer's own rows wait; to be asked with `lock` held."""
        return not self._own.files and not self.active_count

    def has_room_for(self, size: int) -> bool:
        """Say whether rows of about so many bytes can be appended, as far as can be known before."""
        return not self._is_closed and not self._has_refused and self.size + size <= self._max_bytes

    def append(self, rows: Sequence[Row], kind: Kind | None = None, *, is_rescue: bool = False) -> None:
        """Add rows, after which a kill of the process does not cost them; to be called with `lock` held.

        Args:
            rows: at least one.
            kind: their table; None for the writer's.
            is_rescue: whether they wait already, in a file that takes up the room.

        Raises:
            SpoolUnavailableError: it cannot take them, and took none of them.
        """
        size = sum([row.size for row in rows])
        if self._is_closed or (self.size + size > self._max_bytes and not is_rescue):
            raise SpoolUnavailableError
        try:
            active = self._appended_to(rows, kind or self._kind)
        except (sqlite3.Error, OSError):
            active = None
        self._has_refused = active is None
        if active is None:
            # The driver's error, which may hold a path, is not chained.
            raise SpoolUnavailableError
        active.count += len(rows)
        active.size += size
        if active.size >= SEGMENT_BYTES:
            self._active = None
            self._retire(active)

    def seal(self) -> None:
        """Let what was appended be read, and begin another file."""
        if not self.active_count:
            return
        with self.reading:
            try:
                # Made before the other lock is taken: an append takes a fraction of the time.
                following = _Active(self._new_segment(self._kind))
            except (sqlite3.Error, OSError):
                following = None
            with self.lock:
                active, self._active = self._active, following
                if active is not None:
                    self._retire(active)

    def take(self, max_rows: int, max_bytes: int) -> tuple[SpoolBatch | None, Change]:
        """Return the next rows to store, of this writer's and of adopted files in turn, and what else was found.

        Args:
            max_rows: the most to return.
            max_bytes: of about so many bytes together, but at least one.

        Returns:
            The rows, None where there are none; and what damaged files have changed.

        Raises:
            sqlite3.Error: a file cannot be opened now.
            SpoolUnavailableError: a file is damaged, and there is no room now for what is left of it.
        """
        change = Change()
        with self.reading:
            backlogs = [self._adopted, self._own] if self._adopted_is_next else [self._own, self._adopted]
            self._adopted_is_next = not self._adopted_is_next
            blocked = False
            for backlog in backlogs if not self._is_closed else ():
                while backlog.files:
                    try:
                        batch = backlog.read(max_rows, max_bytes)
                    except SegmentDamagedError:
                        if (rescued := self._rescue(backlog)) is None:
                            blocked = True
                            break
                        change = Change(*map(add, change, rescued))
                    except (sqlite3.Error, OSError):
                        if change == Change():
                            raise
                        return None, change
                    else:
                        if batch is not None:
                            return batch, change
        if blocked and change == Change():
            raise SpoolUnavailableError
        return None, change

    def settle(self, batch: SpoolBatch) -> int | None:
        """Note that all rows of a batch are stored, or were refused for good; see `Backlog.settle`."""
        with self.reading:
            return batch.backlog.settle(batch)

    def adopt(self) -> Change:
        """Take over the files of dead processes that no other has taken over."""
        change = Change()
        names = files.writers_in(self._directory)
        with self.reading:
            for name in () if self._is_closed else sorted(names - {self._name}):
                try:
                    if owned := Ownership.take(files.lock_of(self._directory, name)):
                        change = Change(*map(add, change, self._adopt(name, owned)))
                except Exception as error:  # noqa: BLE001  # one dead process's files do not cost the others'
                    logger.error("files of the spool are not taken over: %s, %s", name, type(error).__qualname__)  # noqa: TRY400  (no traceback: see errors)
        return change

    def close(self, timeout: float) -> None:
        """Close all files, and leave those that have rows to the next process that starts.

        Args:
            timeout: how long to wait for what is just being done with a file, in seconds. What goes on longer ends
                with the process, and the files are free then, too.
        """
        is_reading = self.reading.acquire(timeout=timeout)
        try:
            if self.lock.acquire(timeout=timeout):
                try:
                    self._is_closed = True
                    if is_reading:
                        self._close()
                finally:
                    self.lock.release()
        finally:
            if is_reading:
                self.reading.release()

    def _close(self) -> None:
        if self._active is not None:
            active, self._active = self._active, None
            self._retire(active)
        self._own.close()
        self._adopted.close()
        for owned in {id(file.ownership): file.ownership for file in self._adopted.files}.values():
            if owned is not None:
                owned.release(delete=False)
        if self._ownership is not None:
            self._ownership.release(delete=not self._own.files)
            self._ownership = None

    def abandon(self) -> None:
        """Forget everything, in a forked child: the files are the parent's, and closing them would disturb it."""
        _inherited.append(self)

    def _appended_to(self, rows: Sequence[Row], kind: Kind) -> _Active:
        active = self._active
        if active is not None and active.segment.kind is not kind:
            # Adopted from a writer whose flag was another.
            self._active = None
            self._retire(active)
            active = None
        if active is None:
            active = self._active = _Active(self._new_segment(kind))
        try:
            active.segment.append(rows)
        except sqlite3.Error as error:
            if sqlite_code(error) == sqlite3.SQLITE_FULL:
                raise
            # An id that is in the file already: what that means is decided by the database. Or else the file is
            # broken, and another may not be.
            self._active = None
            self._retire(active)
            active = self._active = _Active(self._new_segment(kind))
            active.segment.append(rows)
        return active

    def _own_name(self) -> None:
        """Take a name that nobody else has a file under, and its lock."""
        for _ in range(_TRIES):
            self._name = uuid7().hex
            self._ownership = Ownership.take(files.lock_of(self._directory, self._name))
            if self._ownership is not None:
                return
        raise BlockingIOError

    def _new_segment(self, kind: Kind) -> Segment:
        if self._ownership is None:
            self._own_name()
        path = files.segment_of(self._directory, self._name, next(self._numbers))
        try:
            segment = Segment.create(path, kind, fsync=self._fsync)
        except BaseException:
            with suppress(OSError):
                delete_file(path)
            raise
        if self._fsync:
            files.sync(self._directory)
        return segment

    def _retire(self, active: _Active) -> None:
        # As in `Backlog.settle`: a row may be there that nobody has counted, as an append was interrupted.
        is_needed = active.count > 0 or active.segment.has_rows()
        active.segment.close()
        if is_needed:
            self._own.add(Sealed(active.segment.path, active.count, active.size))
        else:
            with suppress(OSError):
                delete_file(active.segment.path)

    def _rescue(self, backlog: Backlog) -> Change | None:
        """Append what can be read of a damaged file to this writer's own, and return what that changes.

        Or return None where it cannot be appended now.
        """
        file, place = backlog.give_up_first()
        rescued = self._rescued(file.path, after=place)
        if rescued is None:
            return None
        lost, uncounted = max(0, file.count - rescued), max(0, rescued - file.count)
        left = 0 if backlog.is_adopted else file.count
        backlog.forget_first()
        return Change(adopted=uncounted, lost=lost, left=left, came=rescued)

    def _rescued(self, path: Path, after: int) -> int | None:
        """Append what can be read of a file, set it aside, and return how many rows that were.

        Or return None, and leave it, where they cannot be appended now.
        """
        try:
            remains = files.remains_of(path, after)
            if remains.rows:
                with self.lock:
                    self.append(remains.rows, remains.kind, is_rescue=True)
        except (sqlite3.Error, SpoolUnavailableError):
            return None
        count = len(remains.rows)
        # Only now: a process that is killed before leaves the file to the next one, which finds the rows stored.
        try:
            aside = files.set_aside(path)
        except OSError:
            aside = path
            self._stay.add(path)
        logger.error("a file of the spool is damaged: %d traces were read, the rest is set aside as %s", count, aside)
        return count

    def _adopt(self, name: str, owned: Ownership) -> Change:
        """Take over the files of a dead writer."""
        try:
            found, rescued, is_all = self._found(name, owned)
        except BaseException:
            owned.release(delete=False)
            raise
        if not found:
            owned.release(delete=is_all)
        with self.lock:
            for file in found:
                self._adopted.add(file)
        adopted = rescued + sum(file.count for file in found)
        if adopted:
            logger.info("%d traces that another process left in the spool are taken over", adopted)
        return Change(adopted=adopted, came=rescued)

    def _found(self, name: str, owned: Ownership) -> tuple[list[Sealed], int, bool]:
        """Look through the files of a dead writer.

        Returns:
            Those that have rows, how many rows were read of damaged ones, and whether that was all.
        """
        found: list[Sealed] = []
        rescued = 0
        is_all = True
        for path in sorted(files.segments_of(self._directory, name) - self._stay):
            try:
                if waiting := files.count_of(path):
                    found.append(Sealed(path, waiting, path.stat().st_size, owned))
                else:
                    delete_file(path)
            except SegmentDamagedError:
                if (count := self._rescued(path, after=0)) is None:
                    is_all = False
                else:
                    rescued += count
            except (sqlite3.Error, OSError):
                # It is looked at again when the others are done with.
                is_all = False
        return found, rescued, is_all
