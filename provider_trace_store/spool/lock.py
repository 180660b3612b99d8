"""Whose files in a spool directory are: a lock that ends with its process, however that ends."""

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
    """The files of one writer are this process's, as long as this object is not released and the process runs.

    The lock is SQLite's own, on an empty file: it is the process's, so that no child inherits it, and the system lets
    it go when the process ends. It holds within a process, too, unlike the locks that it is made of. It needs a file
    system with working locks, which many of a network are not.

    Args:
        path: of the lock's file.
        connection: which holds the lock.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection

    @classmethod
    def take(cls, path: Path) -> Ownership | None:
        """Take a lock, or return None where another process, or another writer of this one, has it.

        Args:
            path: of the lock's file, which is made where there is none.

        Raises:
            sqlite3.Error: the file cannot be made or locked at all.
        """
        for _ in range(_TRIES):
            before = _number_of(path)
            connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=0)
            try:
                # Nothing is ever written: no journal beside the file.
                connection.execute("PRAGMA journal_mode = OFF")
                connection.execute("BEGIN EXCLUSIVE")
            except sqlite3.Error as error:
                connection.close()
                if sqlite_code(error) == sqlite3.SQLITE_BUSY:
                    return None
                raise
            if before is not None and before == _number_of(path):
                return cls(path, connection)
            # It was made just now, or its owner has deleted it meanwhile: a lock on that file would keep nobody out.
            connection.close()
        return None

    def release(self, *, delete: bool) -> None:
        """Let the lock go.

        Args:
            delete: whether there is nothing left that it stands for; otherwise another process may take it over.
        """
        if delete:
            # Before the lock goes: afterwards the file may be the next owner's.
            with suppress(OSError):
                self.path.unlink(missing_ok=True)
        with suppress(sqlite3.Error):
            self._connection.close()


def _number_of(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        path.touch()
        return None
