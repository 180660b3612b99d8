"""Adoption: the files of dead processes are taken over by exactly one other process."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, NamedTuple

from provider_trace_store.spool.directory import lock_of, owners_in, segments_of
from provider_trace_store.spool.errors import SegmentDamagedError
from provider_trace_store.spool.lock import Ownership
from provider_trace_store.spool.rescue import logger
from provider_trace_store.spool.sealed import Change, Sealed
from provider_trace_store.spool.segment import Segment, delete_file

if TYPE_CHECKING:
    from pathlib import Path
    from threading import Lock

    from provider_trace_store.spool.rescue import Rescue
    from provider_trace_store.spool.sealed import Backlog


class _Found(NamedTuple):
    """The files of a dead process.

    Args:
        files: those that have rows.
        rescued: the number of rows that were read from damaged files.
        is_complete: whether every file was read.
    """

    files: list[Sealed]
    rescued: int
    is_complete: bool


class Adoption:
    """Takes over the files of dead processes; the caller holds `Spool.reading`.

    Args:
        directory: the spool's directory.
        backlog: the backlog that the files are added to.
        lock: the lock that is held while a file is added.
        rescue: reads damaged files.
    """

    def __init__(self, directory: Path, backlog: Backlog, lock: Lock, rescue: Rescue) -> None:
        self._directory = directory
        self._backlog = backlog
        self._lock = lock
        self._rescue = rescue

    def owners(self) -> set[str]:
        """Return the names of all owners of files in the directory, dead or alive."""
        return owners_in(self._directory)

    def adopt(self, owners: set[str]) -> Change:
        """Take over the files of those owners that are dead and that no other process has taken over."""
        change = Change()
        for owner in sorted(owners):
            try:
                if owned := Ownership.take(lock_of(self._directory, owner)):
                    change = change.plus(self._adopt_one(owner, owned))
            except Exception as error:  # noqa: BLE001  # the files of the other processes must still be taken over
                name = type(error).__qualname__
                logger.error("files of the spool could not be taken over: %s, %s", owner, name)
        return change

    def _adopt_one(self, owner: str, owned: Ownership) -> Change:
        try:
            found = self._find(owner, owned)
        except BaseException:
            owned.release(delete=False)
            raise
        if not found.files:
            owned.release(delete=found.is_complete)
        with self._lock:
            for file in found.files:
                self._backlog.add(file)
        adopted = found.rescued + sum(file.count for file in found.files)
        if adopted:
            logger.info("%d traces that another process left in the spool are taken over", adopted)
        return Change(adopted=adopted, came=found.rescued)

    def _find(self, owner: str, owned: Ownership) -> _Found:
        files: list[Sealed] = []
        rescued = 0
        is_complete = True
        for path in sorted(segments_of(self._directory, owner) - self._rescue.read_and_kept):
            try:
                if count := _count_of(path):
                    files.append(Sealed(path, count, path.stat().st_size, owned))
                else:
                    delete_file(path)
            except SegmentDamagedError:
                if (count_read := self._rescue.move_rows(path, after=0)) is None:
                    is_complete = False
                else:
                    rescued += count_read
            except (sqlite3.Error, OSError):
                # The file is tried again after the lock was released.
                is_complete = False
        return _Found(files, rescued, is_complete)


def _count_of(path: Path) -> int:
    """Return the number of a file's rows that are not stored yet.

    Raises:
        SegmentDamagedError: it cannot be read.
        sqlite3.Error: the file cannot be opened now.
    """
    if not path.stat().st_size:
        # Its process was killed before the file had a table.
        return 0
    segment = Segment.open(path)
    try:
        return segment.count_after(segment.stored_up_to())
    finally:
        segment.close()
