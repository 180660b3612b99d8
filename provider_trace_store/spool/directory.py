"""The names of files in a spool directory: which owner a file belongs to, and in which order its files come."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from provider_trace_store.spool.lock import LOCK_SUFFIX
from provider_trace_store.spool.segment import FILE_SUFFIX

if TYPE_CHECKING:
    from pathlib import Path

# The length of an owner's name, in characters: a UUID in hexadecimal.
_NAME_LENGTH: Final = 32


def owners_in(directory: Path) -> set[str]:
    """Return the names of the owners that have files in a directory."""
    return {path.name[:_NAME_LENGTH] for path in directory.iterdir() if _has_owner(path.name)}


def lock_of(directory: Path, owner: str) -> Path:
    """Return the path of an owner's lock."""
    return directory / f"{owner}{LOCK_SUFFIX}"


def segment_of(directory: Path, owner: str, number: int) -> Path:
    """Return the path of one of an owner's files."""
    return directory / f"{owner}-{number:08d}{FILE_SUFFIX}"


def segments_of(directory: Path, owner: str) -> set[Path]:
    """Return the paths of an owner's files that exist; sorted, they are in their order."""
    return set(directory.glob(f"{owner}-*{FILE_SUFFIX}"))


def sync_directory(directory: Path) -> None:
    """Make sure that a new file is still in its directory after a loss of power."""
    # Some systems cannot open a directory.
    with suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _has_owner(name: str) -> bool:
    digits = name[:_NAME_LENGTH]
    is_owner = len(digits) == _NAME_LENGTH and not digits.strip("0123456789abcdef")
    return is_owner and name.endswith((LOCK_SUFFIX, FILE_SUFFIX))
