"""A spool directory: who may use it, the names of its files, and in which order an owner's files come."""

from __future__ import annotations

import logging
import os
import re
import stat
import tempfile
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

from provider_trace_store.spool.files import HAS_OWNERS
from provider_trace_store.spool.lock import LOCK_SUFFIX
from provider_trace_store.spool.segment import FILE_SUFFIX

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

# The writer's logger, which hosts know from docs/writer.md.
logger: Final = logging.getLogger("provider_trace_store.writer")

PRIVATE: Final = 0o700
REJECTS: Final = "rejected.db"
DAMAGED_SUFFIX: Final = ".damaged"
_OTHERS: Final = 0o077
_OTHERS_WRITE: Final = 0o022
# An owner's name is a UUID in hexadecimal.
_NAME: Final = re.compile(rf"([0-9a-f]{{32}})(?:-\d{{8,}}{re.escape(FILE_SUFFIX)}|{re.escape(LOCK_SUFFIX)})")
_KEPT: Final = re.compile(rf"{re.escape(REJECTS)}.*|[0-9a-f]{{32}}-\d+{re.escape(FILE_SUFFIX + DAMAGED_SUFFIX)}.*")
_KNOWN: Final = re.compile(rf"[0-9a-f]{{32}}.*|{re.escape(REJECTS)}.*")


class DirectoryRefusedError(OSError):
    """The directory is not safe to keep traces in; the text says why, and what to do."""


class Listing(NamedTuple):
    """The files in a spool directory.

    Args:
        owners: the names of each owner's files and of its lock, by the owner's name.
        kept_bytes: the size of the damaged files that were set aside.
    """

    owners: dict[str, list[str]]
    kept_bytes: int


def prepared(directory: Path) -> Path:
    """Create a directory if it does not exist, make sure that only this user may enter it, and return its real path.

    Raises:
        DirectoryRefusedError: it belongs to another user, or others may write to it.
        OSError: it cannot be created or read.
    """
    # The files hold bodies: only this user may read them.
    directory.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
    directory = directory.resolve()
    with os.scandir(directory) as entries:
        if HAS_OWNERS:
            _make_private(directory, (entry.name for entry in entries))
    return directory


def has_files(directory: Path) -> bool:
    """Say whether a directory has a file."""
    with os.scandir(directory) as entries:
        return any(True for _ in entries)


def list_files(directory: Path) -> Listing:
    """Return the files of a spool directory, read once."""
    owners: dict[str, list[str]] = {}
    kept_bytes = 0
    with os.scandir(directory) as entries:
        for entry in entries:
            if owned := _NAME.fullmatch(entry.name):
                owners.setdefault(owned[1], []).append(entry.name)
            elif DAMAGED_SUFFIX in entry.name and _KEPT.fullmatch(entry.name):
                with suppress(OSError):
                    kept_bytes += entry.stat(follow_symlinks=False).st_size
    return Listing(owners, kept_bytes)


def lock_of(directory: Path, owner: str) -> Path:
    """Return the path of an owner's lock."""
    return directory / f"{owner}{LOCK_SUFFIX}"


def segment_of(directory: Path, owner: str, number: int) -> Path:
    """Return the path of one of an owner's files."""
    return directory / f"{owner}-{number:08d}{FILE_SUFFIX}"


def sync_directory(directory: Path) -> None:
    """Make sure that a new file is still in its directory after a loss of power."""
    # Some systems cannot open a directory.
    with suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _make_private(directory: Path, names: Iterable[str]) -> None:
    found = directory.stat()
    if found.st_uid != os.geteuid():
        raise DirectoryRefusedError(
            f"belongs to user {found.st_uid}, and this process runs as user {os.geteuid()}: name a directory inside of"
            f" it that does not exist yet, or run: chown {os.geteuid()} {directory}"
        )
    mode = stat.S_IMODE(found.st_mode)
    if not mode & _OTHERS:
        return
    # A temporary file system that was just mounted is empty and open to all. The system's own folder must stay so.
    is_own = str(directory) != os.path.realpath(tempfile.gettempdir())
    if is_own and all(_KNOWN.fullmatch(name) for name in names):
        directory.chmod(mode & ~(_OTHERS | stat.S_ISVTX))
        now = stat.S_IMODE(directory.stat().st_mode)
        if not now & _OTHERS:
            logger.warning("the spool %s was open to other users (mode %o): its mode is %o now", directory, mode, now)
            return
    elif not mode & _OTHERS_WRITE:
        # The host keeps other files there: its mode is the host's. Each file of the spool has mode 0600.
        logger.warning(
            "the spool %s has other files, too, and other users can list it: give it a directory of its own", directory
        )
        return
    raise DirectoryRefusedError(
        f"can be written to by other users (mode {mode:o}), who could plant traces: name a directory inside of it that"
        f" does not exist yet, or run: chmod 700 {directory}"
    )
