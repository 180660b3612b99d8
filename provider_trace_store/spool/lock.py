"""The lock on the files of one owner in a spool directory: it ends with its process, however that process ends."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from provider_trace_store.spool.files import HAS_OWNERS, NO_FOLLOW, PRIVATE, ForeignFileError, is_private_file

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl
    import struct

if TYPE_CHECKING:
    from pathlib import Path

LOCK_SUFFIX: Final = ".lock"
_TRIES: Final = 5
# The bytes that SQLite locks (https://sqlite.org/fileformat2.html#the_lock_byte_page). The first versions of this
# package locked the same file with SQLite: they and this one keep each other out.
_FIRST: Final = 0x40000000
_LENGTH: Final = 512

# Locks of a parent process: its files are left to the next start.
_inherited: Final[set[str]] = set()


class Ownership:
    """A process owns the files of one spool name while it holds this lock: until it releases the lock or ends.

    The lock belongs to an open file: on Linux it is an "open file description" lock, elsewhere that of flock(2).
    Nothing but closing that file releases it. A POSIX lock would be released when any other part of the process closes
    the file, such as a backup of the directory. A forked child has a copy of the open file: see `forget`. The file
    system must have working locks; many network file systems have none.

    Args:
        path: the lock's file.
        descriptor: the open file that has the lock.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor
        # How many files of a dead process are left of those that were taken over; whether no other of its files is.
        self.files = 0
        self.is_complete = True

    @classmethod
    def take(cls, path: Path, *, may_create: bool = True) -> Ownership | None:
        """Take a lock, or return None if another process, or another writer of this process, holds it.

        Args:
            path: the lock's file.
            may_create: whether to create it if it does not exist; otherwise None is returned then.

        Raises:
            ForeignFileError: the file is not one that the spool has made.
            OSError: the file cannot be created or locked at all.
        """
        if str(path) in _inherited:
            return None
        flags = os.O_RDWR | NO_FOLLOW | (os.O_CREAT if may_create else 0)
        for _ in range(_TRIES):
            with suppress(FileNotFoundError):
                # Before the file is opened: opening a device may have effects.
                _check(path.lstat())
            try:
                descriptor = os.open(path, flags, PRIVATE)
            except FileNotFoundError:
                if may_create:
                    raise
                return None
            owned = cls(path, descriptor)
            try:
                _check(os.fstat(descriptor), is_open=True)
                if HAS_OWNERS:
                    os.fchmod(descriptor, PRIVATE)
                if not _lock(descriptor):
                    return None
                if owned.stands():
                    descriptor = -1
                    return owned
            finally:
                if descriptor >= 0:
                    os.close(descriptor)
            # Its owner deleted the file meanwhile: a lock on a deleted file keeps no one out.
        return None

    def stands(self) -> bool:
        """Say whether the lock's file is still the one in its directory: otherwise it keeps no one out."""
        try:
            return os.path.samestat(self.path.lstat(), os.fstat(self._descriptor))
        except OSError:
            return False

    def release(self, *, delete: bool) -> None:
        """Release the lock.

        Args:
            delete: whether to delete the lock's file, because no file is left that it stands for; otherwise another
                process may take the files over.
        """
        if delete and self.stands():
            # Before the lock is released: afterwards the file may belong to the next owner.
            with suppress(OSError):
                self.path.unlink(missing_ok=True)
        with suppress(OSError):
            os.close(self._descriptor)

    def leave(self) -> None:
        """Count a file that is done with; release the lock if it is the last one."""
        self.files -= 1
        if not self.files:
            self.release(delete=self.is_complete)

    def forget(self) -> None:
        """Close the copy of the open file, in a forked child: the parent's lock ends with the parent."""
        _inherited.add(str(self.path))
        with suppress(OSError):
            os.close(self._descriptor)


def _check(found: os.stat_result, *, is_open: bool = False) -> None:
    # Without a name: its owner has just deleted it, and the next try finds the next file.
    is_deleted = is_open and not found.st_nlink
    if not is_deleted and (not is_private_file(found) or found.st_size):
        raise ForeignFileError


def _lock(descriptor: int) -> bool:
    """Lock an open file without waiting; return False if another open file has the lock."""
    try:
        if sys.platform == "win32":
            os.lseek(descriptor, _FIRST, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, _LENGTH)
        elif not _lock_description(descriptor):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in {errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK, errno.EDEADLK}:
            return False
        raise
    return True


if sys.platform != "win32":

    def _lock_description(descriptor: int) -> bool:
        """Lock an open file description; return False if the system has no such locks."""
        command = getattr(fcntl, "F_OFD_SETLK", None)
        if command is None:
            return False
        # `struct flock`; the zero count pads it as C does.
        wanted = struct.pack("hhqqi0q", fcntl.F_WRLCK, os.SEEK_SET, _FIRST, _LENGTH, 0)
        try:
            fcntl.fcntl(descriptor, command, wanted)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return False
        return True
