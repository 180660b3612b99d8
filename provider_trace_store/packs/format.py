"""The format of a pack: many traces' documents, compressed together, and a directory that says where each one is.

docs/packs.md describes the bytes.
"""

from provider_trace_store.packs.builder import PackBuilder
from provider_trace_store.packs.directory import Directory
from provider_trace_store.packs.model import PACKED_DOCUMENTS, DamagedPackError, Documents, Pack, Part, digest
from provider_trace_store.packs.rewrite import without

__all__ = [
    "PACKED_DOCUMENTS",
    "DamagedPackError",
    "Directory",
    "Documents",
    "Pack",
    "PackBuilder",
    "Part",
    "digest",
    "without",
]
