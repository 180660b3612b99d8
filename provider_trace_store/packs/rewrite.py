"""Packs without some of their traces: no byte of the left-out ones stays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from zlib import crc32

from provider_trace_store.packs import zstd
from provider_trace_store.packs.blobs import FrameKind, encoded_length
from provider_trace_store.packs.builder import DELTA_LEVEL, PackBuilder
from provider_trace_store.packs.columns import FrameEntry, encoded
from provider_trace_store.packs.directory import Contents, Directory
from provider_trace_store.packs.model import BlobPlace, DamagedPackError, Pack, Prefix, TracePlace

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

_DIFFERENT: Final = "a document of the rewritten pack is not the same when it is read back"


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
    trace_ids = directory.trace_ids
    last = None
    for number in sorted(kept, key=lambda number: (keys[number], number)):
        if keys[number] != last:
            builder.end_run()
            last = keys[number]
        builder.add(trace_ids[number], contents.documents(number))
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
    needed |= directory.frames_of(places.values())
    new_numbers = {frame: number for number, frame in enumerate(sorted(needed))}
    entries: list[FrameEntry] = []
    data: list[bytes] = []
    for frame in new_numbers:
        entry = directory.frame(frame)
        compressed, raw_length = _bytes_of(stored, directory, frame), entry.raw_length
        prefix = _moved_frame(entry, new_numbers).prefix
        if frame in changed:
            text = b"".join(contents.text(number, place) for number, place in places.items() if place.frame == frame)
            compressed, raw_length = zstd.compress(text, DELTA_LEVEL, contents.prefix(entry)), len(text)
        entries.append(FrameEntry(entry.kind, len(compressed), raw_length, crc32(compressed), prefix))
        data.append(compressed)
    new_places = [_moved(place, new_numbers) for place in places.values()]
    all_ids = directory.trace_ids
    trace_ids = [all_ids[number] for number in kept]
    raw_bytes = sum(_raw_bytes(directory, place) for place in places.values())
    pack = Pack(encoded(entries, trace_ids, new_places), b"".join(data), len(kept), raw_bytes)
    _compare(pack, stored, directory, contents, kept, new_numbers, changed)
    return pack


def _moved(place: TracePlace, new_numbers: Mapping[int, int]) -> TracePlace:
    blobs = tuple(BlobPlace(blob.document, blob.position, new_numbers[blob.frame]) for blob in place.blobs)
    return TracePlace(new_numbers[place.frame], place.lengths, blobs)


def _moved_frame(frame: FrameEntry, new_numbers: Mapping[int, int]) -> FrameEntry:
    prefix = frame.prefix and Prefix(new_numbers[frame.prefix.frame], frame.prefix.start, frame.prefix.length)
    return frame._replace(prefix=prefix)


def _raw_bytes(directory: Directory, place: TracePlace) -> int:
    blobs = (directory.frame(blob.frame) for blob in place.blobs)
    return sum(length or 0 for length in place.lengths) + sum(encoded_length(b.kind, b.raw_length) for b in blobs)


def _compare(  # noqa: PLR0913, PLR0917  (two packs, and how they correspond)
    pack: Pack,
    stored: Pack,
    directory: Directory,
    contents: Contents,
    kept: Sequence[int],
    new_numbers: Mapping[int, int],
    changed: Collection[int],
) -> None:
    """Compare a new pack with the stored one: copied frames byte for byte, and the documents of the changed ones."""
    new_directory = Directory(pack.directory)
    all_ids = directory.trace_ids
    if new_directory.trace_ids != tuple(all_ids[number] for number in kept):
        raise DamagedPackError(_DIFFERENT)
    for old, new in new_numbers.items():
        if old in changed:
            continue
        frame = directory.frame(old)
        content = _bytes_of(stored, directory, old)
        if crc32(content) != frame.checksum:
            raise DamagedPackError("a frame of the pack is damaged")
        if content != _bytes_of(pack, new_directory, new) or new_directory.frame(new) != _moved_frame(
            frame, new_numbers
        ):
            raise DamagedPackError(_DIFFERENT)
    new_contents = _contents(pack, new_directory)
    for new_number, number in enumerate(kept):
        place = directory.place(number)
        if place.frame in changed:
            is_same = new_contents.documents(new_number) == contents.documents(number)
        else:
            is_same = new_directory.place(new_number) == _moved(place, new_numbers) and new_directory.start(
                new_number
            ) == directory.start(number)
        if not is_same:
            raise DamagedPackError(_DIFFERENT)


def _bytes_of(pack: Pack, directory: Directory, frame: int) -> bytes:
    part = directory.part(frame)
    return pack.data[part.start : part.start + part.length]
