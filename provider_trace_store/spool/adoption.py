"""Adoption: the files of dead processes are taken over by exactly one other process, a few at a time."""

from __future__ import annotations

import sqlite3
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Final, NamedTuple

from provider_trace_store.spool.directory import list_files, lock_of, logger
from provider_trace_store.spool.errors import SegmentDamagedError, SpoolStoppedError
from provider_trace_store.spool.files import ForeignFileError, check_plain, delete_file, size_on_disk
from provider_trace_store.spool.lock import Ownership
from provider_trace_store.spool.sealed import Change, Sealed
from provider_trace_store.spool.segment import Segment

if TYPE_CHECKING:
    from pathlib import Path
    from threading import Lock

    from provider_trace_store.spool.connections import Stop
    from provider_trace_store.spool.rescue import Rescue
    from provider_trace_store.spool.sealed import Backlog

# How many dead processes' locks are held at a time: each takes a descriptor until the process's files are stored.
MAX_OWNERS: Final = 32
# How long files are taken over before something else is done, in seconds: new traces do not wait for longer.
_SLICE: Final = 0.05


class _Found(NamedTuple):
    """A file of a dead process, whose lock is held."""

    path: Path
    owned: Ownership


class Adoption:
    """Takes over the files of dead processes; the caller holds `Spool.reading`.

    Args:
        directory: the spool's directory.
        backlog: the backlog that the files are added to.
        lock: the lock that is held while a file is added.
        rescue: reads damaged files.
        stop: whether the spool is being closed.
    """

    def __init__(self, directory: Path, backlog: Backlog, lock: Lock, rescue: Rescue, stop: Stop) -> None:
        self._directory = directory
        self._backlog = backlog
        self._lock = lock
        self._rescue = rescue
        self._stop = stop
        # What is left of the last listing: owners that were not tried, and files whose owner's lock is held.
        self._owners: deque[tuple[str, list[str]]] = deque()
        self._files: deque[_Found] = deque()
        # Names of owners and files that are not the spool's, or could not be read: they are not tried again.
        self._left_alone: set[str] = set()
        self._news: list[str] = []
        self._taken = [0, 0]
        self._failed: list[str] = []

    @property
    def is_done(self) -> bool:
        """Whether every owner of the last listing was tried, and its files were read."""
        return not self._owners and not self._files

    def list_owners(self, own: str) -> None:
        """Read the directory once; `own`: the name of this process, whose files are left out."""
        listing = list_files(self._directory)
        self._rescue.kept_bytes = listing.kept_bytes
        for owner, names in sorted(listing.owners.items()):
            if owner != own and owner not in self._left_alone:
                self._owners.append((owner, sorted(set(names) - self._left_alone)))

    def adopt(self) -> Change:
        """Take over files of those owners that are dead and that no other process has taken over, for a short time."""
        change = Change()
        end = monotonic() + _SLICE
        try:
            while not self.is_done and monotonic() < end and not self._stop.is_set:
                if self._files:
                    change = change.plus(self._adopt_file(*self._files.popleft()))
                elif self._backlog.count_owners() >= MAX_OWNERS:
                    break
                else:
                    self._try_owner(*self._owners.popleft())
        except SpoolStoppedError:
            pass  # the lock is released by `release`
        if self.is_done:
            self._report()
        return change

    def release(self) -> None:
        """Release the locks of files that were not read yet."""
        self._report()
        for file in self._files:
            file.owned.is_complete = False
            file.owned.leave()
        self._files.clear()

    def forget(self) -> None:
        """Leave those locks to the parent, in a forked child."""
        for file in self._files:
            file.owned.forget()

    def _try_owner(self, owner: str, names: list[str]) -> None:
        lock = lock_of(self._directory, owner)
        files = [name for name in names if name != lock.name]
        if not files and lock.name not in names:
            return
        try:
            # If the lock was there and is not any more, its owner has just deleted it, and the files.
            owned = Ownership.take(lock, may_create=lock.name not in names)
        except ForeignFileError:
            self._leave_alone(owner)
            return
        except OSError as error:
            self._failed.append(f"{owner}, {type(error).__qualname__}")
            return
        if owned is None:
            return
        paths = {self._directory / name for name in files} - self._rescue.read_and_kept
        owned.files = len(paths)
        if not paths:
            owned.release(delete=len(paths) == len(files) and not self._has_left_alone(owner))
        else:
            owned.is_complete = len(paths) == len(files) and not self._has_left_alone(owner)
        self._files.extend(_Found(path, owned) for path in sorted(paths))

    def _adopt_file(self, path: Path, owned: Ownership) -> Change:
        count = rescued = 0
        is_adopted = False
        try:
            if count := _count_of(path, self._stop):
                file = Sealed(path, count, size_on_disk(path), owned)
                with self._lock:
                    self._backlog.add(file)
                is_adopted = True
            else:
                delete_file(path)
        except FileNotFoundError:
            pass  # its owner has stored it since the directory was listed
        except SegmentDamagedError:
            if (moved := self._rescue.move_rows(path, after=0)) is None:
                owned.is_complete = False
            else:
                rescued = moved
        except ForeignFileError:
            owned.is_complete = False
            self._leave_alone(path.name)
        except (sqlite3.Error, OSError) as error:
            # The file is tried again after the lock was released.
            owned.is_complete = False
            self._failed.append(f"{path.name}, {type(error).__qualname__}")
        except BaseException:
            owned.is_complete = False
            raise
        finally:
            if not is_adopted:
                owned.leave()
        if count + rescued:
            self._taken[0] += count + rescued
            self._taken[1] += 1
        return Change(adopted=count + rescued, came=rescued)

    def _has_left_alone(self, owner: str) -> bool:
        return any(name.startswith(owner) for name in self._left_alone)

    def _leave_alone(self, name: str) -> None:
        self._left_alone.add(name)
        self._news.append(name)

    def _report(self) -> None:
        """Log what was done since the last report: a line of each kind."""
        traces, files = self._taken
        if files:
            logger.info("%d traces in %d files that other processes left in the spool are taken over", traces, files)
        if self._news:
            logger.error(
                "%d files in the spool %s are left alone, because they, or files beside them, are not plain files of"
                " this user with one name each, such as %s: look at them, and remove them",
                len(self._news),
                self._directory,
                self._news[0],
            )
        if self._failed:
            logger.error(
                "%d files of the spool could not be taken over, and are tried again, such as %s",
                len(self._failed),
                self._failed[0],
            )
        self._taken, self._news, self._failed = [0, 0], [], []


def _count_of(path: Path, stop: Stop) -> int:
    """Return the number of a file's rows that are not stored yet.

    Raises:
        SegmentDamagedError: it cannot be read.
        ForeignFileError: it must not be opened.
        OSError, sqlite3.Error: the file cannot be opened now.
    """
    if not check_plain(path):
        # Its process was killed before the file had a table.
        return 0
    segment = Segment.open(path, stop)
    try:
        return segment.count_waiting()
    finally:
        segment.close()
