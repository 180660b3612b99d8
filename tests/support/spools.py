"""Spools of writers that are gone, and files that are damaged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.support.constants import ORG
from tests.support.writers import a_writer_to_nowhere, assert_accounted

if TYPE_CHECKING:
    from pathlib import Path

    from provider_trace_store import ProviderTrace


def left_behind(directory: Path, traces: list[ProviderTrace], **options: Any) -> list[Path]:
    """Leave traces in a spool, as a process that ended without its database, and return the files."""
    with a_writer_to_nowhere(spool_dir=directory, batch_age=3600, **options) as writer:
        for trace in traces:
            writer.submit(trace, organization_id=ORG)
    assert writer.stats.spooled == len(traces) + writer.stats.adopted
    assert_accounted(writer.stats)
    return sorted(directory.glob("*-*.db"))


def overwritten(path: Path, start: int, data: bytes) -> None:
    """Overwrite a part of a file."""
    with path.open("r+b") as file:
        file.seek(start)
        file.write(data)


def garble_the_middle(path: Path) -> None:
    """Overwrite 32 KB in the middle of a file."""
    overwritten(path, path.stat().st_size // 2, b"\xde\xad\xbe\xef" * 8192)


def garble_the_head(path: Path) -> None:
    """Overwrite the head of a file: SQLite no longer opens it."""
    overwritten(path, 0, b"no database at all" * 10)
