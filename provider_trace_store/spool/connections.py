"""Connections to the files of a spool: what a file may hold, and how long reading it may take.

A file may have been damaged, or put there by someone else. Before a row is read, the file is known to have only
ordinary tables, so that no view, trigger or generated column runs. Every read ends after `READ_TIMEOUT` seconds, and at
once when the spool is being closed.
"""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager, suppress
from time import monotonic
from typing import TYPE_CHECKING, Final

from provider_trace_store.database.drivers import sqlite_code
from provider_trace_store.spool.errors import SegmentDamagedError, SpoolStoppedError
from provider_trace_store.spool.files import check_plain, create_private

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# How long one statement may read a file, in seconds. A file has about 64 MiB.
READ_TIMEOUT: Final = 5.0
# The number of SQLite's instructions between two looks at the clock: about a millisecond of them.
_INSTRUCTIONS: Final = 10_000
_INDEXES: Final = ("CREATE INDEX ", "CREATE UNIQUE INDEX ")
# SQLite's result codes (https://sqlite.org/rescode.html) that say nothing about the file's contents.
_NOT_DAMAGE: Final = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_PROTOCOL,
    }
)


class Stop:
    """Whether a spool is being closed; statements that are running then end."""

    def __init__(self) -> None:
        self.is_set = False


class Guard:
    """Ends the statements of a connection in time, and names what their errors mean.

    Args:
        connection: the connection.
        stop: whether the spool is being closed.
    """

    def __init__(self, connection: sqlite3.Connection, stop: Stop) -> None:
        self._stop = stop
        self._deadline = float("inf")
        connection.set_progress_handler(self._must_end, _INSTRUCTIONS)

    @contextmanager
    def damage_named(self) -> Iterator[None]:
        """Raise SegmentDamagedError for an error that says that a file's contents are wrong, or that has no end.

        Raises:
            SpoolStoppedError: the spool is being closed.
        """
        self._deadline = monotonic() + READ_TIMEOUT
        try:
            yield
        except sqlite3.Error as error:
            if sqlite_code(error) in _NOT_DAMAGE:
                raise
        except (ValueError, OverflowError, TypeError, AttributeError):
            pass  # a column holds a value of another type, or text that is not a date
        else:
            return
        finally:
            self._deadline = float("inf")
        raise SpoolStoppedError if self._stop.is_set else SegmentDamagedError

    def _must_end(self) -> bool:
        return self._stop.is_set or monotonic() > self._deadline


def create_file(path: Path) -> sqlite3.Connection:
    """Create a file that only its owner may read, and connect to it.

    Raises:
        OSError, sqlite3.Error: it cannot be created.
    """
    create_private(path)
    return _connect(path)


def open_file(path: Path, timeout: float = 0.0) -> sqlite3.Connection:
    """Connect to a file that exists.

    Args:
        path: the file.
        timeout: how long to wait for another process that writes to it, in seconds.

    Raises:
        OSError: as `check_plain`.
        sqlite3.Error: it cannot be opened now.
    """
    check_plain(path)
    connection = _connect(path, timeout)
    with suppress(sqlite3.Error):
        connection.execute("PRAGMA trusted_schema = OFF")
    return connection


def has_plain_table(connection: sqlite3.Connection, name: str) -> bool:
    """Say whether a file has a table of this name, and nothing but ordinary tables and indexes."""
    tables = set()
    # The statement that made an object says what it is: the type beside it could say something else.
    for kind, found, root, sql in connection.execute("SELECT type, name, rootpage, sql FROM sqlite_master"):
        if kind == "index" and (sql is None or str(sql).startswith(_INDEXES)):
            continue
        if kind != "table" or not root or not str(sql).startswith("CREATE TABLE "):
            return False
        tables.add(found)
    # The last field says whether a column is generated, that is, computed when it is read.
    return name in tables and not any(column[-1] for column in connection.execute(f"PRAGMA table_xinfo({name})"))


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Do all or nothing."""
    connection.execute("BEGIN")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise


def _connect(path: Path, timeout: float = 0.0) -> sqlite3.Connection:
    # `rw`: a file that was deleted meanwhile is not created again. Several threads use the connection, one after the
    # other.
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None, check_same_thread=False, timeout=timeout
    )
