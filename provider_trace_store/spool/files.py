"""Files of a spool directory: made for their owner only, and checked before SQLite opens them.

SQLite follows symbolic links, rolls back any journal that lies beside a file, and deletes the super-journal that such a
journal names, wherever that is. A file is therefore opened only if it and the files beside it are what this package
makes: plain files of this user with one name each, and no super-journal.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

JOURNAL_SUFFIX: Final = "-journal"
PRIVATE: Final = 0o600
_OTHERS: Final = 0o077
# Files of SQLite's other journal mode, which the spool does not use.
_WAL_SUFFIXES: Final = ("-wal", "-shm")
# A journal that names a super-journal ends with these bytes (https://sqlite.org/fileformat2.html#the_rollback_journal).
_SUPER_JOURNAL: Final = bytes.fromhex("d9d505f920a163d7")
# What Windows lacks has no effect there: it has no links of this kind in a folder of one's own, and no FIFOs.
NO_FOLLOW: Final = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
HAS_OWNERS: Final = hasattr(os, "geteuid")


class ForeignFileError(OSError):
    """A file is not one that the spool has made: it is not opened."""


def create_private(path: Path) -> None:
    """Create an empty file that only its owner may read, whatever the umask.

    Raises:
        OSError: it exists, or cannot be created.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | NO_FOLLOW, PRIVATE)
    try:
        if HAS_OWNERS:
            os.fchmod(descriptor, PRIVATE)
    finally:
        os.close(descriptor)


def check_plain(path: Path) -> int:
    """Check a file that SQLite is to open, and the files beside it; return its size in bytes.

    A file that others may read gets mode 0600.

    Raises:
        FileNotFoundError: there is no such file.
        ForeignFileError: it, or a file beside it, is not one that the spool has made.
    """
    for name in (path, path.with_name(path.name + JOURNAL_SUFFIX)):
        with suppress(FileNotFoundError):
            _make_private(name)
    return check_untouched(path)


def check_untouched(path: Path) -> int:
    """Check a file as `check_plain` does, and change no mode.

    Raises:
        FileNotFoundError, ForeignFileError: as `check_plain`.
    """
    size = _plain(path).st_size
    for suffix in _WAL_SUFFIXES:
        if os.path.lexists(f"{path}{suffix}"):
            raise ForeignFileError
    journal = path.with_name(path.name + JOURNAL_SUFFIX)
    with suppress(FileNotFoundError):
        _plain(journal)
        if _tail_of(journal, len(_SUPER_JOURNAL)) == _SUPER_JOURNAL:
            raise ForeignFileError
    return size


def is_private_file(found: os.stat_result) -> bool:
    """Say whether a file is a plain one of this user, with one name."""
    return stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and (not HAS_OWNERS or found.st_uid == os.geteuid())


def size_on_disk(path: Path) -> int:
    """Return the bytes of a file and of its journal, 0 for one that does not exist."""
    size = 0
    for name in (str(path), f"{path}{JOURNAL_SUFFIX}"):
        with suppress(OSError):
            size += os.lstat(name).st_size
    return size


def delete_file(path: Path) -> None:
    """Delete a file of the spool, its journal first: a journal without its file would be applied to a later one."""
    path.with_name(path.name + JOURNAL_SUFFIX).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def _plain(path: Path) -> os.stat_result:
    found = path.lstat()
    if not is_private_file(found):
        raise ForeignFileError
    return found


def _make_private(path: Path) -> None:
    if HAS_OWNERS and _plain(path).st_mode & _OTHERS:
        path.chmod(PRIVATE)


def _tail_of(path: Path, length: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | NO_FOLLOW)
    try:
        size = os.fstat(descriptor).st_size
        os.lseek(descriptor, max(0, size - length), os.SEEK_SET)
        return os.read(descriptor, length)
    finally:
        os.close(descriptor)
