"""What a pack is made of, and the error for one that is damaged."""

from __future__ import annotations

from hashlib import sha256
from typing import Final, NamedTuple

# The documents of a trace that a pack has, in this order; the other columns are in the trace's row of metadata.
PACKED_DOCUMENTS: Final = ("request_json", "response_json", "compaction_settings", "llm_config")

# The stored text, in UTF-8, of each of `PACKED_DOCUMENTS`; None for a document that the trace does not have.
Documents = tuple[bytes | None, bytes | None, bytes | None, bytes | None]


def digest(documents: Documents) -> bytes:
    """Return the SHA-256 of a trace's documents: other documents have another one.

    Args:
        documents: the documents.
    """
    made = sha256()
    for document in documents:
        made.update(b"-" if document is None else b"%d:" % len(document))
        made.update(document or b"")
    return made.digest()


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


class Prefix(NamedTuple):
    """The text that a frame was compressed against: a range of the content of an earlier frame.

    Args:
        frame: the number of the earlier frame.
        start: the index of the range's first byte in the frame's content.
        length: the range's number of bytes.
    """

    frame: int
    start: int
    length: int


class BlobPlace(NamedTuple):
    """Where base64 was cut out of a document.

    Args:
        document: the index of the document, from 0 to 3.
        position: the index in the document without its base64 where the base64 is inserted again.
        frame: the number of the frame that has the base64.
    """

    document: int
    position: int
    frame: int


class TracePlace(NamedTuple):
    """Where a trace's documents are.

    Args:
        frame: the number of the frame that has the documents without their base64, one after the other.
        lengths: the number of bytes of each document without its base64; None for a document that is not there.
        blobs: the places of base64, by document and position.
    """

    frame: int
    lengths: tuple[int | None, int | None, int | None, int | None]
    blobs: tuple[BlobPlace, ...]
