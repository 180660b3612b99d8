"""A pack's directory: which traces the pack has, and from which parts of its data each one is read."""

from __future__ import annotations

from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, Final, TypeAlias
from zlib import crc32

from provider_trace_store.packs import zstd
from provider_trace_store.packs.blobs import FrameKind, encoded, spliced
from provider_trace_store.packs.columns import FRAME_COLUMNS, TRACE_COLUMNS, FrameEntry, decoded
from provider_trace_store.packs.model import BlobPlace, DamagedPackError, Documents, Part, Prefix, TracePlace

if TYPE_CHECKING:
    from array import array
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

_KINDS: Final = {int(kind): kind for kind in FrameKind}

# For more ids than these, all ids of the directory are decoded once.
_FEW_IDS: Final = 4

# Contents of frames that are kept while the documents of several traces are read; bytes.
_KEPT_BYTES: Final = 16 * 1024 * 1024


# The contents of key frames, by their numbers.
Keys: TypeAlias = "dict[int, bytes]"
# Returns the content of a key frame if it is there already.
FindKey: TypeAlias = "Callable[[int], bytes | None]"


class Directory:
    """A pack's directory.

    Args:
        stored: as `Pack.directory`.

    Raises:
        DamagedPackError: it is not what was written, or a later version of the package wrote it.
        PackSupportMissingError: Python has no zstd.
    """

    def __init__(self, stored: bytes) -> None:
        columns = decoded(stored)
        self._frames, self._traces, self._blobs = columns.frames, columns.traces, columns.blobs
        self._numbers = columns.numbers
        self._kinds, self._present, self._blob_documents = columns.kinds, columns.present, columns.blob_documents
        # Between two NULs, as each one is looked for.
        self._ids = b"\0" + columns.ids + b"\0"
        # The start of each trace in its frame, by frame: made for the frames that are read.
        self._starts: dict[int, dict[int, int]] = {}

    @cached_property
    def _index(self) -> dict[str, int]:
        ids = self._ids[1:-1].decode("utf-8", "surrogatepass").split("\0") if self._traces else []
        index = dict(zip(ids, range(self._traces), strict=False))
        if not len(ids) == len(index) == self._traces:
            raise DamagedPackError("the directory of the pack is damaged")
        return index

    @cached_property
    def _frame_of(self) -> array[int]:
        return self._trace_column(0)

    @cached_property
    def _ends(self) -> list[int]:
        return list(accumulate(self._numbers[: self._frames]))

    @cached_property
    def _blob_ends(self) -> list[int]:
        return list(accumulate(self._trace_column(5)))

    def _number(self, trace_id: str) -> int | None:
        if "_index" in self.__dict__:
            return self._index.get(trace_id)
        # One id is found faster than all are decoded.
        found = -1 if "\0" in trace_id else self._ids.find(b"\0%b\0" % trace_id.encode("utf-8", "surrogatepass"))
        return self._ids.count(b"\0", 0, found) if found >= 0 and self._traces else None

    def _known(self, trace_ids: Collection[str]) -> list[tuple[str, int]]:
        if len(trace_ids) > _FEW_IDS:
            self._index  # noqa: B018  (made for `_number`)
        numbers = ((trace_id, self._number(trace_id)) for trace_id in trace_ids)
        return [(trace_id, number) for trace_id, number in numbers if number is not None]

    def _trace_column(self, column: int) -> array[int]:
        start = FRAME_COLUMNS * self._frames + column * self._traces
        return self._numbers[start : start + self._traces]

    @property
    def frame_count(self) -> int:
        """The number of frames."""
        return self._frames

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
        length, raw_length, checksum, prefix_frame, start, prefix_length = self._numbers[
            number : FRAME_COLUMNS * self._frames : self._frames
        ]
        kind = _KINDS.get(self._kinds[number])
        if prefix_frame > number or kind is None:
            raise DamagedPackError("the directory of the pack is damaged")
        prefix = Prefix(prefix_frame - 1, start, prefix_length) if prefix_frame else None
        return FrameEntry(kind, length, raw_length, checksum, prefix)

    def part(self, frame: int) -> Part:
        """Return the part of the data that a frame is.

        Args:
            frame: its number.
        """
        length = self._numbers[frame]
        return Part(self._ends[frame] - length, length)

    def place(self, number: int) -> TracePlace:
        """Return where a trace's documents are.

        Args:
            number: the trace's index in `trace_ids`.

        Raises:
            DamagedPackError: the directory is not what was written.
        """
        first = FRAME_COLUMNS * self._frames + number
        present = self._present[number]
        lengths = tuple(
            self._numbers[first + (1 + document) * self._traces] if present >> document & 1 else None
            for document in range(4)
        )
        blobs_from = FRAME_COLUMNS * self._frames + TRACE_COLUMNS * self._traces
        blobs: tuple[BlobPlace, ...] = ()
        if self._blobs:
            blobs = tuple(
                BlobPlace(
                    self._blob_documents[blob],
                    self._numbers[blobs_from + blob],
                    self._numbers[blobs_from + self._blobs + blob],
                )
                for blob in range(self._blob_ends[number - 1] if number else 0, self._blob_ends[number])
            )
        place = TracePlace(self._frame_of[number], lengths, blobs)  # type: ignore[arg-type]
        if max(place.frame, *(blob.frame for blob in blobs), 0) >= self._frames:
            raise DamagedPackError("the directory of the pack is damaged")
        return place

    def start(self, number: int) -> int:
        """Return the index of a trace's first byte in the content of its frame.

        Args:
            number: the trace's index in `trace_ids`.
        """
        frame = self._frame_of[number]
        starts = self._starts.get(frame)
        if starts is None:
            numbers = _indexes(self._frame_of, frame)
            first = FRAME_COLUMNS * self._frames + self._traces
            lengths = (
                sum(self._numbers[first + number : first + 4 * self._traces : self._traces]) for number in numbers
            )
            starts = self._starts[frame] = dict(zip(numbers, accumulate(lengths, initial=0), strict=False))
        return starts[number]

    def frames_of(
        self, places: Iterable[TracePlace], keys: Keys | None = None, find_key: FindKey | None = None
    ) -> set[int]:
        """Return the numbers of the frames that some traces are read from.

        Args:
            places: the places of the traces.
            keys: the contents that `find_key` returns are added; what only these are read from is left out.
            find_key: called with the number of a key frame; returns its content if that is there already.

        Raises:
            DamagedPackError: the directory is not what was written.
        """
        needed: set[int] = set()
        keys = {} if keys is None else keys
        for place in places:
            needed.update(blob.frame for blob in place.blobs)
            frame: int | None = place.frame
            while frame is not None and frame not in needed and frame not in keys:
                entry = self.frame(frame)
                content = find_key(frame) if find_key and entry.kind is FrameKind.KEYS else None
                if content is not None:
                    keys[frame] = content
                    break
                needed.add(frame)
                frame = entry.prefix.frame if entry.prefix else None
        return needed

    def parts_of(
        self, trace_ids: Collection[str], keys: Keys | None = None, find_key: FindKey | None = None
    ) -> list[Part]:
        """Return the parts of the data that some traces are read from, each once, in the order of the data.

        Args:
            trace_ids: ids; those that the pack does not have are left out.
            keys: as for `frames_of`.
            find_key: as for `frames_of`.

        Raises:
            DamagedPackError: the directory is not what was written.
        """
        places = (self.place(number) for _, number in self._known(trace_ids))
        return [self.part(frame) for frame in sorted(self.frames_of(places, keys, find_key))]

    def documents_of(
        self, trace_ids: Collection[str], parts: Mapping[Part, bytes], keys: Keys | None = None
    ) -> Iterator[tuple[str, Documents | DamagedPackError]]:
        """Yield the id and the documents of each of some traces that the pack has, or the error for a damaged part.

        Args:
            trace_ids: ids; those that the pack does not have are left out, and those that a missing part is needed for.
            parts: the content of each part that `parts_of` returned.
            keys: the contents of key frames that are there already; those that are decompressed are added.
        """
        known = self._known(trace_ids)
        contents = Contents(self, parts, [number for _, number in known] if len(known) <= _FEW_IDS else (), keys)
        for trace_id, number in known:
            try:
                documents: Documents | DamagedPackError = contents.documents(number)
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
        wanted: the indexes of the traces that are read, if they are few: frames are decompressed as far as these need.
        keys: the contents of key frames that are there already; those that are decompressed are added.
    """

    def __init__(
        self,
        directory: Directory,
        parts: Mapping[Part, bytes],
        wanted: Collection[int] = (),
        keys: Keys | None = None,
    ) -> None:
        self._directory = directory
        self._parts = parts
        self._keys = keys
        self._contents: dict[int, bytes | DamagedPackError] = {}
        self._kept_bytes = 0
        # How far each frame is decompressed, where that is not to its end.
        self._needed: dict[int, int] = {}
        for number in wanted:
            place = directory.place(number)
            self._need(place.frame, directory.start(number) + sum(length or 0 for length in place.lengths))

    def _need(self, frame: int, length: int) -> None:
        self._needed[frame] = max(length, self._needed.get(frame, 0))
        prefix = self._directory.frame(frame).prefix
        if prefix:
            self._need(prefix.frame, prefix.start + prefix.length)

    def documents(self, number: int) -> Documents:
        """Return a trace's documents.

        Args:
            number: the trace's index in the directory's `trace_ids`.

        Raises:
            DamagedPackError: a frame that they are read from is damaged.
            KeyError: a part that they are read from is missing.
        """
        place = self._directory.place(number)
        text = self.text(number, place)
        start = 0
        documents: list[bytes | None] = []
        for document, length in enumerate(place.lengths):
            if length is None:
                documents.append(None)
                continue
            blobs = [(blob.position, self.content(blob.frame)) for blob in place.blobs if blob.document == document]
            documents.append(spliced(text[start : start + length], blobs))
            start += length
        return tuple(documents)  # type: ignore[return-value]

    def text(self, number: int, place: TracePlace) -> bytes:
        """Return a trace's documents without their base64, one after the other.

        Args:
            number: the trace's index in the directory's `trace_ids`.
            place: its place.

        Raises:
            DamagedPackError: a frame that they are read from is damaged.
            KeyError: a part that they are read from is missing.
        """
        start = self._directory.start(number)
        length = sum(length or 0 for length in place.lengths)
        text = self.content(place.frame)[start : start + length]
        if len(text) != length:
            raise DamagedPackError("the directory of the pack does not fit its data")
        return text

    def content(self, frame: int) -> bytes:
        """Return the content of a frame; of one of base64, the base64.

        Args:
            frame: its number.

        Raises:
            DamagedPackError: the frame, or the one that has its prefix, is damaged.
            KeyError: a part is missing.
        """
        content = self._contents.pop(frame, None)
        if content is not None:
            # The contents that were used last are kept.
            self._contents[frame] = content
        else:
            try:
                content = self._read(frame)
            except DamagedPackError as error:
                content = error
            self._keep(frame, content)
        if isinstance(content, DamagedPackError):
            raise DamagedPackError(*content.args)
        return content

    def _read(self, number: int) -> bytes:
        frame = self._directory.frame(number)
        if self._keys is None or frame.kind is not FrameKind.KEYS:
            needed = self._needed.get(number)
            content = zstd.decompress(self._stored(number), frame.raw_length, self.prefix(frame), needed)
            return encoded(frame.kind, content)
        if number not in self._keys:
            self._keys[number] = zstd.decompress(self._stored(number), frame.raw_length, self.prefix(frame))
        return self._keys[number]

    def _stored(self, number: int) -> bytes:
        part = self._directory.part(number)
        stored = self._parts[part]
        if len(stored) != part.length or crc32(stored) != self._directory.frame(number).checksum:
            raise DamagedPackError("a frame of the pack is damaged")
        return stored

    def prefix(self, frame: FrameEntry) -> bytes:
        """Return the text that a frame was compressed against.

        Args:
            frame: the frame.

        Raises:
            DamagedPackError: the frame that has the text is damaged.
            KeyError: a part is missing.
        """
        if frame.prefix is None:
            return b""
        text = self.content(frame.prefix.frame)[frame.prefix.start : frame.prefix.start + frame.prefix.length]
        if len(text) != frame.prefix.length:
            raise DamagedPackError("the directory of the pack does not fit its data")
        return text

    def _keep(self, frame: int, content: bytes | DamagedPackError) -> None:
        self._contents[frame] = content
        self._kept_bytes += 0 if isinstance(content, DamagedPackError) else len(content)
        while self._kept_bytes > _KEPT_BYTES and len(self._contents) > 1:
            oldest = next(iter(self._contents))
            dropped = self._contents.pop(oldest)
            self._kept_bytes -= 0 if isinstance(dropped, DamagedPackError) else len(dropped)


def _indexes(column: array[int], wanted: int) -> list[int]:
    found: list[int] = []
    start = 0
    for _ in range(column.count(wanted)):
        found.append(column.index(wanted, start))
        start = found[-1] + 1
    return found
