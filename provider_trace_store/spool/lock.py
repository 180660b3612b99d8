"""The lock on the files of one owner in a spool directory: it ends with its process, however that process ends."""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from provider_trace_store.database.drivers import sqlite_code

if TYPE_CHECKING:
    from pathlib import Path

LOCK_SUFFIX: Final = ".lock"
_TRIES: Final = 5


class Ownership:
    """A process owns the files of one spool name while it holds this lock: until it releases the lock or ends.

    The lock is SQLite's own lock on an empty file. The operating system drops it when the process ends, and a forked
    child does not inherit it. SQLite also keeps two locks of one process apart, which the POSIX locks below it do not.
    The file system must have working locks; many network file systems have none.

    Args:
        path: the lock's file.
        connection: the SQLite connection that holds the lock.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection

    @classmethod
    def take(cls, path: Path) -> Ownership | None:
        """Take a lock, or return None if another process, or another writer of this process, holds it.

        Args:
            path: the lock's file; it is created if it does not exist.

        Raises:
            sqlite3.Error: the file cannot be created or locked at all.
        """
        for _ in range(_TRIES):
            before = _inode_of(path)
            connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=0)
            try:
                # Nothing is ever written to the file: it needs no journal beside it.
                connection.execute("PRAGMA journal_mode = OFF")
                connection.execute("BEGIN EXCLUSIVE")
            except sqlite3.Error as error:
                connection.close()
                if sqlite_code(error) == sqlite3.SQLITE_BUSY:
                    return None
                raise
            if before is not None and before == _inode_of(path):
                return cls(path, connection)
            # The file was created just now, or its owner deleted it meanwhile: a lock on a deleted file keeps no one
            # out.
            connection.close()
        return None

    def release(self, *, delete: bool) -> None:
        """Release the lock.

        Args:
            delete: whether to delete the lock's file, because no file is left that it stands for; otherwise another
                process may take the files over.
        """
        if delete:
            # Before the lock is released: afterwards the file may belong to the next owner.
            with suppress(OSError):
                self.path.unlink(missing_ok=True)
        with suppress(sqlite3.Error):
            self._connection.close()


def _inode_of(path: Path) -> int | None:
    """Return the file's inode number; create the file and return None if it does not exist."""
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        path.touch()
        return None
