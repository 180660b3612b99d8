"""A pack's directory: which traces the pack has, and from which parts of its data each one is read."""

from __future__ import annotations

import struct
import sys
from array import array
from base64 import b64encode
from itertools import accumulate
from typing import TYPE_CHECKING, Final, NamedTuple
from zlib import crc32

from provider_trace_store.packs import zstd
from provider_trace_store.packs.blobs import FrameKind, spliced
from provider_trace_store.packs.model import BlobPlace, DamagedPackError, Documents, Part, Prefix, TracePlace

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

MAGIC: Final = b"PTSP"
VERSION: Final = 1

# Magic, version, 3 zero bytes, CRC-32 of all bytes after it; the numbers of frames, traces and blob places, and the
# number of bytes of the columns.
_HEADER: Final = struct.Struct("<4sB3sIIIII")
_CHECKED_FROM: Final = 12
_LEVEL: Final = 19

_FRAME_COLUMNS: Final = 6
_TRACE_COLUMNS: Final = 6
_BLOB_COLUMNS: Final = 2

# Contents of frames that are kept while the documents of several traces are read; bytes.
_KEPT_BYTES: Final = 16 * 1024 * 1024


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


def encoded(frames: Sequence[FrameEntry], traces: Sequence[TracePlace]) -> bytes:
    """Return a directory in its stored form.

    Args:
        frames: the frames in the order of the data; the prefix of each is in an earlier one.
        traces: the traces; those of one frame are in the order of the frame.
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
            "\0".join(trace.trace_id for trace in traces).encode("utf-8", "surrogatepass"),
        )
    )
    header = _HEADER.pack(MAGIC, VERSION, b"\0\0\0", 0, len(frames), len(traces), len(blobs), len(columns))
    checked = header[_CHECKED_FROM:] + zstd.compress(columns, _LEVEL)
    return header[: _CHECKED_FROM - 4] + crc32(checked).to_bytes(4, "little") + checked


class Directory:
    """A pack's directory.

    Args:
        stored: as `Pack.directory`.

    Raises:
        DamagedPackError: it is not what was written, or a later version of the package wrote it.
        PackSupportMissingError: Python has no zstd.
    """

    def __init__(self, stored: bytes) -> None:
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
        count = _FRAME_COLUMNS * frames + _TRACE_COLUMNS * traces + _BLOB_COLUMNS * blobs
        ids_from = 4 * count + frames + traces + blobs
        if ids_from > length:
            raise DamagedPackError("the directory of the pack is damaged")
        self._numbers = _from_planes(columns, count)
        self._kinds = columns[4 * count : 4 * count + frames]
        self._present = columns[4 * count + frames : 4 * count + frames + traces]
        self._blob_documents = columns[4 * count + frames + traces : ids_from]
        ids = columns[ids_from:].decode("utf-8", "surrogatepass").split("\0") if traces else []
        self._index = dict(zip(ids, range(traces), strict=False))
        self._frames, self._traces, self._blobs = frames, traces, blobs
        frame_of = self._trace_column(0)
        if len(ids) != traces or len(self._index) != traces or max(frame_of, default=-1) >= frames:
            raise DamagedPackError("the directory of the pack is damaged")
        self._frame_of = frame_of
        self._ends = list(accumulate(self._numbers[:frames]))
        self._blob_ends = list(accumulate(self._trace_column(5)))
        blob_frames = self._numbers[count - blobs :]
        if (self._blob_ends or [0])[-1] != blobs or max(blob_frames, default=-1) >= frames:
            raise DamagedPackError("the directory of the pack is damaged")
        # The start of each trace in its frame, by frame: made for the frames that are read.
        self._starts: dict[int, dict[int, int]] = {}

    def _trace_column(self, column: int) -> array[int]:
        start = _FRAME_COLUMNS * self._frames + column * self._traces
        return self._numbers[start : start + self._traces]

    @property
    def trace_ids(self) -> tuple[str, ...]:
        """The ids of the pack's traces, in the order in which they were added."""
        return tuple(self._index)

    def frame(self, number: int) -> FrameEntry:
        """Return a frame's entry.

        Args:
            number: the frame's number, in the order of the data, from 0.

        Raises:
            DamagedPackError: the directory is not what was written.
        """
        length, raw_length, checksum, prefix_frame, start, prefix_length = (
            self._numbers[column * self._frames + number] for column in range(_FRAME_COLUMNS)
        )
        if prefix_frame > number or self._kinds[number] > max(FrameKind):
            raise DamagedPackError("the directory of the pack is damaged")
        prefix = Prefix(prefix_frame - 1, start, prefix_length) if prefix_frame else None
        return FrameEntry(FrameKind(self._kinds[number]), length, raw_length, checksum, prefix)

    def part(self, frame: int) -> Part:
        """Return the part of the data that a frame is.

        Args:
            frame: its number.
        """
        length = self._numbers[frame]
        return Part(self._ends[frame] - length, length)

    def place(self, trace_id: str) -> TracePlace:
        """Return where a trace's documents are.

        Args:
            trace_id: an id of `trace_ids`.
        """
        number = self._index[trace_id]
        first = _FRAME_COLUMNS * self._frames + number
        present = self._present[number]
        lengths = tuple(
            self._numbers[first + (1 + document) * self._traces] if present >> document & 1 else None
            for document in range(4)
        )
        blobs_from = _FRAME_COLUMNS * self._frames + _TRACE_COLUMNS * self._traces
        blobs = tuple(
            BlobPlace(
                self._blob_documents[blob],
                self._numbers[blobs_from + blob],
                self._numbers[blobs_from + self._blobs + blob],
            )
            for blob in range(self._blob_ends[number - 1] if number else 0, self._blob_ends[number])
        )
        return TracePlace(trace_id, self._frame_of[number], lengths, blobs)  # type: ignore[arg-type]

    def start(self, trace_id: str) -> int:
        """Return the index of a trace's first byte in the content of its frame.

        Args:
            trace_id: an id of `trace_ids`.
        """
        number = self._index[trace_id]
        frame = self._frame_of[number]
        starts = self._starts.get(frame)
        if starts is None:
            numbers = [number for number, other in enumerate(self._frame_of) if other == frame]
            first = _FRAME_COLUMNS * self._frames + self._traces
            lengths = (
                sum(self._numbers[first + number : first + 4 * self._traces : self._traces]) for number in numbers
            )
            starts = self._starts[frame] = dict(zip(numbers, accumulate(lengths, initial=0), strict=False))
        return starts[number]

    def _frames_of(self, place: TracePlace) -> Iterator[int]:
        yield from {blob.frame for blob in place.blobs}
        frame: int | None = place.frame
        while frame is not None:
            yield frame
            prefix = self.frame(frame).prefix
            frame = prefix.frame if prefix else None

    def parts_of(self, trace_ids: Collection[str]) -> list[Part]:
        """Return the parts of the data that some traces are read from, each once, in the order of the data.

        Args:
            trace_ids: ids; those that the pack does not have are left out.

        Raises:
            DamagedPackError: the directory is not what was written.
        """
        places = (self.place(trace_id) for trace_id in trace_ids if trace_id in self._index)
        return [self.part(frame) for frame in sorted({frame for place in places for frame in self._frames_of(place)})]

    def documents_of(
        self, trace_ids: Collection[str], parts: Mapping[Part, bytes]
    ) -> Iterator[tuple[str, Documents | DamagedPackError]]:
        """Yield the id and the documents of each of some traces that the pack has, or the error for a damaged part.

        Args:
            trace_ids: ids; those that the pack does not have are left out, and those that a missing part is needed for.
            parts: the content of each part that `parts_of` returned.
        """
        contents = Contents(self, parts)
        for trace_id in trace_ids:
            if trace_id not in self._index:
                continue
            try:
                documents: Documents | DamagedPackError = contents.documents(trace_id)
            except DamagedPackError as error:
                documents = error
            except KeyError:
                continue
            yield trace_id, documents


class Contents:
    """The contents of frames, each decompressed once as long as all of them take a few MB.

    Args:
        directory: the pack's directory.
        parts: the bytes of the frames.
    """

    def __init__(self, directory: Directory, parts: Mapping[Part, bytes]) -> None:
        self._directory = directory
        self._parts = parts
        self._contents: dict[int, bytes | DamagedPackError] = {}
        self._kept_bytes = 0

    def documents(self, trace_id: str) -> Documents:
        """Return a trace's documents.

        Args:
            trace_id: an id of the directory.

        Raises:
            DamagedPackError: a frame that they are read from is damaged.
            KeyError: a part that they are read from is missing.
        """
        place = self._directory.place(trace_id)
        text = self.content(place.frame)
        start = self._directory.start(trace_id)
        if start + sum(length or 0 for length in place.lengths) > len(text):
            raise DamagedPackError("the directory of the pack does not fit its data")
        documents: list[bytes | None] = []
        for number, length in enumerate(place.lengths):
            if length is None:
                documents.append(None)
                continue
            document = text[start : start + length]
            blobs = [(blob.position, self.content(blob.frame)) for blob in place.blobs if blob.document == number]
            documents.append(spliced(document, blobs) if blobs else document)
            start += length
        return tuple(documents)  # type: ignore[return-value]

    def content(self, frame: int) -> bytes:
        """Return the content of a frame; of one of base64, the base64.

        Args:
            frame: its number.

        Raises:
            DamagedPackError: the frame, or the one that has its prefix, is damaged.
            KeyError: a part is missing.
        """
        content = self._contents.get(frame)
        if content is None:
            try:
                content = self._read(frame)
            except DamagedPackError as error:
                content = error
            self._keep(frame, content)
        if isinstance(content, DamagedPackError):
            raise DamagedPackError(*content.args)
        return content

    def _read(self, number: int) -> bytes:
        part, frame = self._directory.part(number), self._directory.frame(number)
        stored = self._parts[part]
        if len(stored) != part.length or crc32(stored) != frame.checksum:
            raise DamagedPackError("a frame of the pack is damaged")
        prefix = b""
        if frame.prefix:
            text = self.content(frame.prefix.frame)
            prefix = text[frame.prefix.start : frame.prefix.start + frame.prefix.length]
            if len(prefix) != frame.prefix.length:
                raise DamagedPackError("the directory of the pack does not fit its data")
        content = zstd.decompress(stored, frame.raw_length, prefix)
        return b64encode(content) if frame.kind is FrameKind.DECODED_BLOB else content

    def _keep(self, frame: int, content: bytes | DamagedPackError) -> None:
        self._contents[frame] = content
        self._kept_bytes += 0 if isinstance(content, DamagedPackError) else len(content)
        while self._kept_bytes > _KEPT_BYTES and len(self._contents) > 1:
            oldest = next(iter(self._contents))
            dropped = self._contents.pop(oldest)
            self._kept_bytes -= 0 if isinstance(dropped, DamagedPackError) else len(dropped)


def _from_planes(columns: bytes, count: int) -> array[int]:
    plain = bytearray(4 * count)
    for plane in range(4):
        plain[plane::4] = columns[plane * count : (plane + 1) * count]
    numbers = array("I")
    numbers.frombytes(plain)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers
