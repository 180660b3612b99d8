"""Packs without some of their traces: no byte of the left-out ones stays."""

from __future__ import annotations

from typing import TYPE_CHECKING
from zlib import crc32

from provider_trace_store.packs import zstd
from provider_trace_store.packs.blobs import FrameKind
from provider_trace_store.packs.builder import DELTA_LEVEL, PackBuilder
from provider_trace_store.packs.columns import FrameEntry, encoded
from provider_trace_store.packs.directory import Contents, Directory
from provider_trace_store.packs.model import BlobPlace, DamagedPackError, Pack, Prefix, TracePlace

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence


def without(stored: Pack, trace_ids: Collection[str]) -> Pack | None:
    """Return a pack without some of its traces; None if none is left. The documents of the others stay the same.

    Frames that have none of the traces are copied. A frame that others were compressed against cannot change alone:
    then the pack is built anew, which can change the order of its traces.

    Args:
        stored: the pack.
        trace_ids: the traces to leave out; those that the pack does not have are ignored.

    Raises:
        DamagedPackError: the pack is not what was written.
        PackSupportMissingError: Python has no zstd.
    """
    directory = Directory(stored.directory)
    ids = directory.trace_ids
    left_out = frozenset(trace_ids)
    kept = [number for number, trace_id in enumerate(ids) if trace_id not in left_out]
    if len(kept) == len(ids):
        return stored
    if not kept:
        return None
    contents = _contents(stored, directory)
    changed = {directory.place(number).frame for number, trace_id in enumerate(ids) if trace_id in left_out}
    frames = [directory.frame(number) for number in range(directory.frame_count)]
    if any(frame.prefix and frame.prefix.frame in changed for frame in frames):
        return _built_anew(directory, contents, kept)
    return _copied(stored, directory, contents, kept, changed)


def _contents(pack: Pack, directory: Directory) -> Contents:
    parts = directory.parts_of(directory.trace_ids)
    return Contents(directory, {part: pack.data[part.start : part.start + part.length] for part in parts})


def _built_anew(directory: Directory, contents: Contents, kept: Sequence[int]) -> Pack:
    # The traces of one key follow each other, the key first, as in a run.
    keys = {number: _key_of(directory, number) for number in kept}
    builder = PackBuilder()
    last = None
    for number in sorted(kept, key=lambda number: (keys[number], number)):
        if keys[number] != last:
            builder.end_run()
            last = keys[number]
        builder.add(directory.trace_ids[number], contents.documents(number))
    return builder.finish()


def _key_of(directory: Directory, number: int) -> tuple[int, int]:
    frame = directory.place(number).frame
    entry = directory.frame(frame)
    if entry.kind is FrameKind.DELTAS and entry.prefix:
        return entry.prefix.frame, entry.prefix.start
    return frame, directory.start(number)


def _copied(
    stored: Pack, directory: Directory, contents: Contents, kept: Sequence[int], changed: Collection[int]
) -> Pack:
    places = {number: directory.place(number) for number in kept}
    needed = {place.frame for place in places.values()}
    needed |= {frame for place in places.values() for frame in directory.frames_of(place)}
    new_numbers = {frame: number for number, frame in enumerate(sorted(needed))}
    entries: list[FrameEntry] = []
    data: list[bytes] = []
    for frame in new_numbers:
        entry, part = directory.frame(frame), directory.part(frame)
        compressed, raw_length = stored.data[part.start : part.start + part.length], entry.raw_length
        prefix = entry.prefix and Prefix(new_numbers[entry.prefix.frame], entry.prefix.start, entry.prefix.length)
        if frame in changed:
            text = b"".join(contents.text(number) for number, place in places.items() if place.frame == frame)
            compressed, raw_length = zstd.compress(text, DELTA_LEVEL, contents.prefix(entry)), len(text)
        entries.append(FrameEntry(entry.kind, len(compressed), raw_length, crc32(compressed), prefix))
        data.append(compressed)
    new_places = [
        TracePlace(
            new_numbers[place.frame],
            place.lengths,
            tuple(BlobPlace(blob.document, blob.position, new_numbers[blob.frame]) for blob in place.blobs),
        )
        for place in places.values()
    ]
    trace_ids = [directory.trace_ids[number] for number in kept]
    pack = Pack(encoded(entries, trace_ids, new_places), b"".join(data), len(kept), 0)
    return pack._replace(raw_bytes=_compared(pack, contents, kept))


def _compared(pack: Pack, contents: Contents, kept: Sequence[int]) -> int:
    new_contents = _contents(pack, Directory(pack.directory))
    raw_bytes = 0
    for new_number, number in enumerate(kept):
        documents = contents.documents(number)
        if new_contents.documents(new_number) != documents:
            raise DamagedPackError("a document of the rewritten pack is not the same when it is read back")
        raw_bytes += sum(len(document or b"") for document in documents)
    return raw_bytes
