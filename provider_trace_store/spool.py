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
import os
import sqlite3
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from threading import Lock
from typing import TYPE_CHECKING, Final

from uuid_utils import uuid7

from provider_trace_store import ownership, segments
from provider_trace_store.backlog import Backlog, Sealed
from provider_trace_store.ownership import Ownership
from provider_trace_store.rejects import Rejects
from provider_trace_store.segments import Segment, SegmentDamagedError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from provider_trace_store.backlog import SpoolBatch
    from provider_trace_store.rows import Row
    from provider_trace_store.writer_options import WriterOptions

# Large enough that files are few while the database is away, small enough that disk space comes back soon.
SEGMENT_BYTES: Final = 64 * 2**20
_DAMAGED: Final = ".damaged"
# Of a writer's name, in characters: a UUID.
_NAME_LENGTH: Final = 32

logger: Final = logging.getLogger("provider_trace_store.writer")

# What a forked child must not close: its parent still works with it.
_inherited: Final[list[object]] = []


class SpoolUnavailableError(Exception):
    """The spool cannot take a row: its disk is full or fails, or it is as large as it may be."""


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
        options: the table that rows are appended for, how durable they are, and how much may wait.
        directory: where the files are; it exists.
    """

    def __init__(self, options: WriterOptions, directory: Path) -> None:
        self._options = options
        self._directory = directory
        self._name = uuid7().hex
        self._numbers = count(1)
        self._ownership: Ownership | None = None
        self._active: _Active | None = None
        self._is_closed = False
        self.rejects = Rejects(directory)
        # Held for the time of one append.
        self.lock = Lock()
        # Held by the thread that reads. Taken before the other one.
        self.reading = Lock()
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

    def append(self, rows: Sequence[Row]) -> None:
        """Add rows, after which a kill of the process does not cost them; to be called with `lock` held.

        Raises:
            SpoolUnavailableError: it cannot take them, and took none of them.
        """
        size = sum([row.size for row in rows])
        if self._is_closed or self.size + size > self._options.max_spool_bytes:
            raise SpoolUnavailableError
        try:
            active = self._appended_to(rows)
        except (sqlite3.Error, OSError):
            active = None
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
        try:
            # Made before the lock is taken: an append takes a fraction of the time.
            following = _Active(self._new_segment())
        except (sqlite3.Error, OSError):
            following = None
        with self.lock:
            active, self._active = self._active, following
            if active is not None:
                self._retire(active)

    def take(self, max_rows: int, max_bytes: int) -> tuple[SpoolBatch | None, int]:
        """Return the next rows to store, of this writer's and of adopted files in turn, and how many are lost.

        Args:
            max_rows: the most to return.
            max_bytes: of about so many bytes together, but at least one.

        Returns:
            The rows, None where there are none; and how many waited here and cannot be read any more.

        Raises:
            sqlite3.Error: a file cannot be opened now.
        """
        lost = 0
        with self.reading:
            if self._is_closed:
                return None, lost
            backlogs = [self._adopted, self._own] if self._adopted_is_next else [self._own, self._adopted]
            self._adopted_is_next = not self._adopted_is_next
            for backlog in backlogs:
                while backlog.files:
                    try:
                        batch = backlog.read(max_rows, max_bytes)
                    except SegmentDamagedError:
                        if (missing := self._rescue(backlog)) is None:
                            break
                        lost += missing
                    else:
                        if batch is not None:
                            return batch, lost
        return None, lost

    def settle(self, batch: SpoolBatch) -> None:
        """Note that all rows of a batch are stored, or were refused for good."""
        with self.reading:
            batch.backlog.settle(batch)

    def adopt(self) -> int:
        """Take over the files of dead processes that no other has taken over, and return how many rows wait there."""
        names = {path.name[:_NAME_LENGTH] for path in self._directory.iterdir() if _is_of_a_writer(path.name)}
        adopted = 0
        with self.reading:
            for name in () if self._is_closed else sorted(names - {self._name}):
                with suppress(sqlite3.Error):
                    if owned := Ownership.take(self._directory / f"{name}{ownership.SUFFIX}"):
                        adopted += self._adopt(name, owned)
        return adopted

    def close(self) -> None:
        """Close all files, and leave those that have rows to the next process that starts."""
        with self.reading, self.lock:
            self._is_closed = True
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

    def _appended_to(self, rows: Sequence[Row]) -> _Active:
        active = self._active
        if active is None:
            active = self._active = _Active(self._new_segment())
        try:
            active.segment.append(rows)
        except sqlite3.Error as error:
            if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_FULL:
                raise
            # An id that is in the file already: what that means is decided by the database. Or else the file is
            # broken, and another may not be.
            self._active = None
            self._retire(active)
            active = self._active = _Active(self._new_segment())
            active.segment.append(rows)
        return active

    def _new_segment(self) -> Segment:
        if self._ownership is None:
            self._ownership = Ownership.take(self._directory / f"{self._name}{ownership.SUFFIX}")
        path = self._directory / f"{self._name}-{next(self._numbers):08d}{segments.SUFFIX}"
        try:
            segment = Segment.create(path, self._options.record, fsync=self._options.fsync)
        except BaseException:
            with suppress(OSError):
                segments.delete(path)
            raise
        if self._options.fsync:
            _sync_directory(self._directory)
        return segment

    def _retire(self, active: _Active) -> None:
        active.segment.close()
        if active.count:
            self._own.add(Sealed(active.segment.path, active.count, active.size))
        else:
            with suppress(OSError):
                segments.delete(active.segment.path)

    def _rescue(self, backlog: Backlog) -> int | None:
        """Append what can be read of a damaged file to this writer's own, and return how many rows are lost.

        Or return None where it cannot be appended now.
        """
        file, place = backlog.give_up_first()
        try:
            rescued = self._rescued(file.path, after=place)
        except SpoolUnavailableError:
            return None
        lost = max(0, file.count - rescued)
        backlog.forget_first()
        return lost

    def _rescued(self, path: Path, after: int) -> int:
        """Append what can be read of a file, set it aside, and return how many rows that were."""
        rows: dict[str, Row] = {}
        with suppress(SegmentDamagedError):
            segment = Segment.open(path)
            try:
                for row in segment.readable(after):
                    rows.setdefault(row.trace_id, row)
            finally:
                segment.close()
        if rows:
            with self.lock:
                self.append(list(rows.values()))
        aside = path.with_name(path.name + _DAMAGED)
        for suffix in (segments.JOURNAL_SUFFIX, ""):
            with suppress(FileNotFoundError):
                path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
        logger.error(
            "a file of the spool is damaged: %d traces were read, the rest is set aside as %s", len(rows), aside
        )
        return len(rows)

    def _adopt(self, name: str, owned: Ownership) -> int:
        """Take over the files of a dead writer, and return how many rows wait in them."""
        found: list[Sealed] = []
        rescued = 0
        is_all = True
        for path in sorted(self._directory.glob(f"{name}-*{segments.SUFFIX}")):
            try:
                if waiting := _count_of(path):
                    found.append(Sealed(path, waiting, path.stat().st_size, owned))
                else:
                    segments.delete(path)
            except SegmentDamagedError:
                try:
                    rescued += self._rescued(path, after=0)
                except (sqlite3.Error, OSError, SpoolUnavailableError):
                    is_all = False
            except (sqlite3.Error, OSError):
                # It is looked at again when the others are done with.
                is_all = False
        if not found:
            owned.release(delete=is_all)
        with self.lock:
            for file in found:
                self._adopted.add(file)
        adopted = rescued + sum(file.count for file in found)
        if adopted:
            logger.info("%d traces that another process left in the spool are taken over", adopted)
        return adopted


def _is_of_a_writer(name: str) -> bool:
    digits = name[:_NAME_LENGTH]
    is_name = len(digits) == _NAME_LENGTH and not digits.strip("0123456789abcdef")
    return is_name and name.endswith((ownership.SUFFIX, segments.SUFFIX))


def _count_of(path: Path) -> int:
    segment = Segment.open(path)
    try:
        return segment.count_after(segment.stored_up_to())
    finally:
        segment.close()


def _sync_directory(directory: Path) -> None:
    # Not everywhere can a directory be opened.
    with suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
