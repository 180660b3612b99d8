"""The format of a pack: many traces' documents, compressed together, and a directory that says where each one is."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

# The documents of a trace that a pack has, in this order; the other columns are in the trace's row of metadata.
PACKED_DOCUMENTS: Final = ("request_json", "response_json", "compaction_settings", "llm_config")

# A pack is full when it reaches one of these.
_FULL_KEY_BYTES: Final = 1_000_000
_FULL_STORED_BYTES: Final = 16_000_000
_FULL_TRACES: Final = 2_000
_FULL_RAW_BYTES: Final = 32_000_000

# The stored text, in UTF-8, of each of `PACKED_DOCUMENTS`; None for a document that the trace does not have.
Documents = tuple[bytes | None, bytes | None, bytes | None, bytes | None]


class DamagedPackError(ValueError):
    """A directory or a part of a pack's data is not what was written."""


class Pack(NamedTuple):
    """A finished pack.

    Args:
        directory: says which traces the pack has, and where.
        data: the compressed documents.
        traces: the number of traces.
        raw_bytes: the bytes of the traces' documents.
    """

    directory: bytes
    data: bytes
    traces: int
    raw_bytes: int


class Part(NamedTuple):
    """A range of a pack's data.

    Args:
        start: the index of its first byte, from 0.
        length: its number of bytes.
    """

    start: int
    length: int


class PackBuilder:
    """Makes a pack. Traces of a run are added newest first; memory holds a few MB and the compressed data."""

    def __init__(self) -> None:
        self.traces = 0
        self.raw_bytes = 0
        # The bytes of the key calls: a pack is full at about 1 MB.
        self.key_bytes = 0
        self._entries: list[tuple[str, list[int]]] = []
        self._data = bytearray()

    @property
    def is_full(self) -> bool:
        """Whether the next trace belongs into another pack."""
        return (
            self.key_bytes >= _FULL_KEY_BYTES
            or len(self._data) >= _FULL_STORED_BYTES
            or self.traces >= _FULL_TRACES
            or self.raw_bytes >= _FULL_RAW_BYTES
        )

    def add(self, trace_id: str, documents: Documents) -> None:
        """Add a trace.

        Args:
            trace_id: its id; no trace with this id was added before.
            documents: its documents.
        """
        self._entries.append((trace_id, [-1 if document is None else len(document) for document in documents]))
        for document in documents:
            self._data += document or b""
            self.raw_bytes += len(document or b"")
        self.key_bytes += 1
        self.traces += 1

    def end_run(self) -> None:
        """Say that the next trace is of another run."""

    def finish(self) -> Pack:
        """Return the pack; its documents were read back from it and compared."""
        return Pack(json.dumps(self._entries).encode(), bytes(self._data), self.traces, self.raw_bytes)


class Directory:
    """A pack's directory.

    Args:
        stored: as `Pack.directory`.

    Raises:
        DamagedPackError: it is not what was written.
    """

    def __init__(self, stored: bytes) -> None:
        try:
            entries = json.loads(stored)
        except ValueError as error:
            raise DamagedPackError("the directory is damaged") from error
        self._parts: dict[str, tuple[Part, list[int]]] = {}
        start = 0
        for trace_id, lengths in entries:
            length = sum(length for length in lengths if length > 0)
            self._parts[trace_id] = Part(start, length), lengths
            start += length

    @property
    def trace_ids(self) -> tuple[str, ...]:
        """The ids of the pack's traces, in the order in which they were added."""
        return tuple(self._parts)

    def parts_of(self, trace_ids: Collection[str]) -> list[Part]:
        """Return the parts of the data that some traces are read from, each once, in the order of the data.

        Args:
            trace_ids: ids; those that the pack does not have are left out.
        """
        return sorted({self._parts[trace_id][0] for trace_id in trace_ids if trace_id in self._parts})

    def documents_of(
        self, trace_ids: Collection[str], parts: Mapping[Part, bytes]
    ) -> Iterator[tuple[str, Documents | DamagedPackError]]:
        """Yield the id and the documents of each of some traces that the pack has, or the error for a damaged part.

        Args:
            trace_ids: ids; those that the pack does not have are left out.
            parts: the content of each part that `parts_of` returned.
        """
        for trace_id in trace_ids:
            if trace_id not in self._parts:
                continue
            part, lengths = self._parts[trace_id]
            content, start, documents = parts[part], 0, []
            for length in lengths:
                documents.append(None if length < 0 else content[start : start + length])
                start += max(length, 0)
            yield trace_id, tuple(documents)  # type: ignore[misc]


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
    kept = [trace_id for trace_id in directory.trace_ids if trace_id not in trace_ids]
    parts = {part: stored.data[part.start : part.start + part.length] for part in directory.parts_of(kept)}
    for trace_id, documents in directory.documents_of(kept, parts):
        if isinstance(documents, DamagedPackError):
            raise documents
        builder.add(trace_id, documents)
    return builder.finish() if kept else None
