"""Makes packs: chooses key calls, groups texts into frames, compresses them, and verifies the result."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final
from zlib import crc32

from provider_trace_store.packs import blobs, zstd
from provider_trace_store.packs.blobs import FrameKind
from provider_trace_store.packs.columns import FrameEntry, encoded
from provider_trace_store.packs.directory import Directory
from provider_trace_store.packs.model import BlobPlace, DamagedPackError, Pack, Prefix, TracePlace
from provider_trace_store.packs.model import digest as digest_of
from provider_trace_store.packs.sharing import common_prefix, is_mostly_in

if TYPE_CHECKING:
    from collections.abc import Sequence

    from provider_trace_store.packs.model import Documents

# A pack is full at any of these.
_FULL_KEY_BYTES: Final = 2_000_000
_FULL_STORED_BYTES: Final = 8_000_000
_FULL_TRACES: Final = 2_000
_FULL_RAW_BYTES: Final = 64_000_000
# Large calls share a key with about this many others, up to a limit.
_DELTAS_OF_LARGE_KEYS: Final = 32
_MAX_FULL_RAW_BYTES: Final = 256_000_000

# Traces are added to a frame up to this size; one trace alone may be larger. A delta frame may be as large as its key,
# up to a limit: reading the key costs as much.
_KEY_FRAME_BYTES: Final = 192 * 1024
_DELTA_FRAME_BYTES: Final = 256 * 1024
_MAX_DELTA_FRAME_BYTES: Final = 1024 * 1024
# Key frames after the first are compressed against the start of the first.
_MAX_KEY_PREFIX_BYTES: Final = 1024 * 1024

# Traces below this size are not worth a frame that refers to a key.
_MIN_DELTA_BYTES: Final = 4096
# Recent keys of a run that a trace is compared with.
_RECENT_KEYS: Final = 4
# After this many traces of a run in a row were compressed for comparison in vain, only common prefixes are looked for.
_VAIN_COMPARISONS: Final = 8

DELTA_LEVEL: Final = 6
_BLOB_LEVEL: Final = 3
# Higher levels take much longer, for little less space.
_KEY_LEVEL: Final = 9


@dataclass
class _Frame:
    kind: FrameKind
    number: int
    prefix: Prefix | None = None
    prefix_text: bytes = b""
    text: bytearray = field(default_factory=bytearray)
    raw_length: int = 0
    compressed: bytes | None = None

    def close(self, level: int) -> None:
        self.compressed = zstd.compress(self.text, level, self.prefix_text)
        self.raw_length = len(self.text)
        self.text = bytearray()
        self.prefix_text = b""

    def entry(self) -> FrameEntry:
        compressed = self.compressed or b""
        return FrameEntry(self.kind, len(compressed), self.raw_length, crc32(compressed), self.prefix)


@dataclass
class _Key:
    place: Prefix
    request: bytes
    text: bytes
    open_frame: _Frame | None = None
    dictionary: Any = None


class PackBuilder:
    """Makes a pack. Traces of a run are added newest first; memory holds a few MB and the compressed data."""

    def __init__(self) -> None:
        self.traces = 0
        self.raw_bytes = 0
        # The bytes of the key calls, without base64.
        self.key_bytes = 0
        self._stored_bytes = 0
        self._frames: list[_Frame] = []
        self._trace_ids: list[str] = []
        self._places: list[TracePlace] = []
        self._digests: list[bytes] = []
        self._blobs: dict[bytes, int] = {}
        self._key_frames: list[_Frame] = []
        # The recent keys of the run, the last used one first.
        self._keys: list[_Key] = []
        self._vain = 0

    @property
    def is_full(self) -> bool:
        """Whether the pack is large enough: the next trace belongs in another one."""
        # Recent keys of the run do not count yet: its next traces are likely to be compressed against them.
        recent = sum(len(key.text) for key in self._keys)
        largest = max((len(key.text) for key in self._keys), default=0)
        full_raw_bytes = min(max(_FULL_RAW_BYTES, _DELTAS_OF_LARGE_KEYS * largest), _MAX_FULL_RAW_BYTES)
        return (
            self.key_bytes - recent >= _FULL_KEY_BYTES
            or self._stored_bytes >= _FULL_STORED_BYTES
            or self.traces >= _FULL_TRACES
            or self.raw_bytes >= full_raw_bytes
        )

    def add(self, trace_id: str, documents: Documents) -> None:
        """Add a trace.

        Args:
            trace_id: its id; no trace with this id was added before.
            documents: its documents.

        Raises:
            PackSupportMissingError: Python has no zstd.
        """
        self._digests.append(digest_of(documents))
        self.traces += 1
        self.raw_bytes += sum(len(document or b"") for document in documents)
        cut, places = self._cut(documents)
        text = b"".join(document or b"" for document in cut)
        frame = self._frame_for(cut[0] or b"", text)
        lengths = tuple(None if document is None else len(document) for document in cut)
        self._trace_ids.append(trace_id)
        self._places.append(TracePlace(frame.number, lengths, tuple(places)))  # type: ignore[arg-type]

    def end_run(self) -> None:
        """Say that the next trace is of another run."""
        for key in self._keys:
            self._close_delta(key)
        self._keys = []
        self._vain = 0

    def finish(self) -> Pack:
        """Return the pack; its documents were read back from it and compared.

        Raises:
            DamagedPackError: a document that was read back is not the one that was added.
        """
        self.end_run()
        for frame in self._key_frames:
            first = self._key_frames[0]
            if frame is first:
                prefix_text = bytes(first.text[:_MAX_KEY_PREFIX_BYTES])
            else:
                frame.prefix = Prefix(first.number, 0, len(prefix_text))
                frame.prefix_text = prefix_text
            frame.close(_KEY_LEVEL)
        entries = [frame.entry() for frame in self._frames]
        data = b"".join(frame.compressed or b"" for frame in self._frames)
        pack = Pack(encoded(entries, self._trace_ids, self._places), data, self.traces, self.raw_bytes)
        _verify(pack, self._trace_ids, self._digests)
        return pack

    def _frame_for(self, request: bytes, text: bytes) -> _Frame:
        key = self._key_of(request, text) if len(text) >= _MIN_DELTA_BYTES else None
        if key is None:
            return self._add_key(request, text)
        limit = max(_DELTA_FRAME_BYTES, min(len(key.text), _MAX_DELTA_FRAME_BYTES))
        if key.open_frame and len(key.open_frame.text) + len(text) > limit:
            self._close_delta(key)
        if key.open_frame is None:
            key.open_frame = self._new_frame(FrameKind.DELTAS, key.place, key.text)
        frame = key.open_frame
        frame.text += text
        if len(frame.text) >= limit:
            self._close_delta(key)
        return frame

    def _key_of(self, request: bytes, text: bytes) -> _Key | None:
        found = next((key for key in self._keys if 2 * common_prefix(key.request, request) >= len(request)), None)
        if found is None and self._keys and self._vain < _VAIN_COMPARISONS:
            alone = zstd.size_with(text)
            for key in self._keys:
                key.dictionary = key.dictionary or zstd.raw_dictionary(key.text)
                if is_mostly_in(text, alone, key.dictionary):
                    found = key
                    break
            self._vain = 0 if found else self._vain + 1
        if found:
            self._keys.remove(found)
            self._keys.insert(0, found)
        return found

    def _add_key(self, request: bytes, text: bytes) -> _Frame:
        frame = self._key_frames[-1] if self._key_frames else None
        if frame is None or (frame.text and len(frame.text) + len(text) > _KEY_FRAME_BYTES):
            frame = self._new_frame(FrameKind.KEYS)
            self._key_frames.append(frame)
        if len(text) >= _MIN_DELTA_BYTES:
            self._keys.insert(0, _Key(Prefix(frame.number, len(frame.text), len(text)), request, text))
            for old in self._keys[_RECENT_KEYS:]:
                self._close_delta(old)
            del self._keys[_RECENT_KEYS:]
        frame.text += text
        self.key_bytes += len(text)
        return frame

    def _new_frame(self, kind: FrameKind, prefix: Prefix | None = None, prefix_text: bytes = b"") -> _Frame:
        frame = _Frame(kind, len(self._frames), prefix, prefix_text)
        self._frames.append(frame)
        return frame

    def _close_delta(self, key: _Key) -> None:
        if key.open_frame:
            key.open_frame.close(DELTA_LEVEL)
            self._stored_bytes += len(key.open_frame.compressed or b"")
            key.open_frame = None

    def _cut(self, documents: Documents) -> tuple[list[bytes | None], list[BlobPlace]]:
        cut: list[bytes | None] = []
        places: list[BlobPlace] = []
        for number, document in enumerate(documents):
            if document is None or len(document) < blobs.MIN_BLOB_BYTES:
                cut.append(document)
                continue
            pieces: list[bytes] = []
            done = length = 0
            for start, end in blobs.find(document):
                pieces.append(document[done:start])
                length += start - done
                done = end
                places.append(BlobPlace(number, length, self._blob(document[start:end])))
            cut.append(b"".join((*pieces, document[done:])) if pieces else document)
        return cut, places

    def _blob(self, text: bytes) -> int:
        digest = sha256(text).digest()
        known = self._blobs.get(digest)
        if known is not None:
            return known
        kind, content = blobs.decoded(text)
        frame = self._new_frame(kind)
        frame.text += content
        frame.close(_BLOB_LEVEL)
        self._stored_bytes += len(frame.compressed or b"")
        self._blobs[digest] = frame.number
        return frame.number


def _verify(pack: Pack, trace_ids: Sequence[str], digests: Sequence[bytes]) -> None:
    directory = Directory(pack.directory)
    parts = {part: pack.data[part.start : part.start + part.length] for part in directory.parts_of(trace_ids)}
    read = 0
    for (trace_id, documents), wanted_id, wanted in zip(
        directory.documents_of(trace_ids, parts), trace_ids, digests, strict=True
    ):
        if isinstance(documents, DamagedPackError) or trace_id != wanted_id or digest_of(documents) != wanted:
            raise DamagedPackError("a document that was packed is not the same when it is read back")
        read += 1
    if read != pack.traces or directory.trace_ids != tuple(trace_ids):
        raise DamagedPackError("a trace that was packed is missing when the pack is read back")
