"""The stored form of a directory: a header, and columns of numbers compressed together."""

from __future__ import annotations

import struct
import sys
from array import array
from typing import TYPE_CHECKING, Final, NamedTuple
from zlib import crc32

from provider_trace_store.packs import zstd
from provider_trace_store.packs.model import DamagedPackError, Prefix, TracePlace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from provider_trace_store.packs.blobs import FrameKind

MAGIC: Final = b"PTSP"
VERSION: Final = 1

# Magic, version, 3 zero bytes, CRC-32 of all bytes after it; the numbers of frames, traces and blob places, and the
# number of bytes of the columns.
_HEADER: Final = struct.Struct("<4sB3sIIIII")
_CHECKED_FROM: Final = 12
_LEVEL: Final = 19

FRAME_COLUMNS: Final = 6
TRACE_COLUMNS: Final = 6
BLOB_COLUMNS: Final = 2


class FrameEntry(NamedTuple):
    """A frame of the data.

    Args:
        kind: what its content is.
        length: its number of bytes.
        raw_length: the number of bytes of its content.
        checksum: the CRC-32 of its bytes.
        prefix: the text that it was compressed against.
    """

    kind: FrameKind
    length: int
    raw_length: int
    checksum: int
    prefix: Prefix | None


def encoded(frames: Sequence[FrameEntry], trace_ids: Sequence[str], traces: Sequence[TracePlace]) -> bytes:
    """Return a directory in its stored form.

    Args:
        frames: the frames in the order of the data; the prefix of each is in an earlier one.
        trace_ids: the ids of the traces.
        traces: the places of the traces; those of one frame are in the order of the frame.
    """
    blobs = [blob for trace in traces for blob in trace.blobs]
    prefixes = [frame.prefix or Prefix(-1, 0, 0) for frame in frames]
    numbers = array("I")
    for column in (
        [frame.length for frame in frames],
        [frame.raw_length for frame in frames],
        [frame.checksum for frame in frames],
        [prefix.frame + 1 for prefix in prefixes],
        [prefix.start for prefix in prefixes],
        [prefix.length for prefix in prefixes],
        [trace.frame for trace in traces],
        *([trace.lengths[document] or 0 for trace in traces] for document in range(4)),
        [len(trace.blobs) for trace in traces],
        [blob.position for blob in blobs],
        [blob.frame for blob in blobs],
    ):
        numbers.extend(column)
    if sys.byteorder == "big":
        numbers.byteswap()
    plain = numbers.tobytes()
    columns = b"".join(
        (
            # The first bytes of all numbers, then the second ones …: most of the later ones are zero.
            *(plain[plane::4] for plane in range(4)),
            bytes(frame.kind for frame in frames),
            bytes(
                sum((length is not None) << document for document, length in enumerate(trace.lengths))
                for trace in traces
            ),
            bytes(blob.document for blob in blobs),
            "\0".join(trace_ids).encode("utf-8", "surrogatepass"),
        )
    )
    header = _HEADER.pack(MAGIC, VERSION, b"\0\0\0", 0, len(frames), len(traces), len(blobs), len(columns))
    checked = header[_CHECKED_FROM:] + zstd.compress(columns, _LEVEL)
    return header[: _CHECKED_FROM - 4] + crc32(checked).to_bytes(4, "little") + checked


class Columns(NamedTuple):
    """The columns of a directory.

    Args:
        frames: the number of frames.
        traces: the number of traces.
        blobs: the number of places of base64.
        numbers: FRAME_COLUMNS numbers of frames, TRACE_COLUMNS of traces and BLOB_COLUMNS of places, column by column.
        kinds: the kind of each frame.
        present: the documents of each trace that are there; the lowest bit is the first document.
        blob_documents: the document of each place of base64.
        ids: the ids, joined by NUL.
    """

    frames: int
    traces: int
    blobs: int
    numbers: array[int]
    kinds: bytes
    present: bytes
    blob_documents: bytes
    ids: bytes


def decoded(stored: bytes) -> Columns:
    """Return the columns of a directory.

    Args:
        stored: as `encoded` returned it.

    Raises:
        DamagedPackError: it is not what was written, or a later version of the package wrote it.
        PackSupportMissingError: Python has no zstd.
    """
    if len(stored) < _HEADER.size:
        raise DamagedPackError("the directory of the pack is cut off")
    magic, version, reserved, checksum, frames, traces, blobs, length = _HEADER.unpack_from(stored)
    if magic != MAGIC:
        raise DamagedPackError("the directory of the pack does not begin as one")
    if version != VERSION:
        raise DamagedPackError(
            f"the pack's format has version {version}, and this version of provider_trace_store reads {VERSION}"
        )
    if any(reserved) or crc32(memoryview(stored)[_CHECKED_FROM:]) != checksum:
        raise DamagedPackError("the directory of the pack is damaged")
    columns = zstd.decompress(stored[_HEADER.size :], length)
    count = FRAME_COLUMNS * frames + TRACE_COLUMNS * traces + BLOB_COLUMNS * blobs
    ids_from = 4 * count + frames + traces + blobs
    if ids_from > length:
        raise DamagedPackError("the directory of the pack is damaged")
    kinds_end = 4 * count + frames
    present_end = kinds_end + traces
    return Columns(
        frames,
        traces,
        blobs,
        _from_planes(columns, count),
        columns[4 * count : kinds_end],
        columns[kinds_end:present_end],
        columns[present_end:ids_from],
        columns[ids_from:],
    )


def _from_planes(columns: bytes, count: int) -> array[int]:
    plain = bytearray(4 * count)
    for plane in range(4):
        plain[plane::4] = columns[plane * count : (plane + 1) * count]
    numbers = array("I")
    numbers.frombytes(plain)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers
