"""The format of a pack: many traces' documents, compressed together, and a directory that says where each one is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provider_trace_store.packs.builder import PackBuilder
from provider_trace_store.packs.directory import Directory
from provider_trace_store.packs.model import PACKED_DOCUMENTS, DamagedPackError, Documents, Pack, Part

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["PACKED_DOCUMENTS", "DamagedPackError", "Directory", "Documents", "Pack", "PackBuilder", "Part", "without"]


def without(stored: Pack, trace_ids: Sequence[str]) -> Pack | None:
    """Return a pack without some of its traces; None if none is left. No byte of the others' documents changes.

    Args:
        stored: the pack.
        trace_ids: the traces to leave out.

    Raises:
        DamagedPackError: it is not what was written.
    """
    directory = Directory(stored.directory)
    builder = PackBuilder()
    left_out = frozenset(trace_ids)
    kept = [trace_id for trace_id in directory.trace_ids if trace_id not in left_out]
    parts = {part: stored.data[part.start : part.start + part.length] for part in directory.parts_of(kept)}
    for trace_id, documents in directory.documents_of(kept, parts):
        if isinstance(documents, DamagedPackError):
            raise documents
        builder.add(trace_id, documents)
    return builder.finish() if kept else None
