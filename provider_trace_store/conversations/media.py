"""Placeholders of images, sounds, documents and other files: type and size instead of the bytes."""

from __future__ import annotations

from typing import Any, Final

from provider_trace_store.conversations.model import Part
from provider_trace_store.conversations.values import first, mapping, text

# The fields that hold the bytes or the address of a file, in all wire formats.
_DATA: Final = ("data", "file_data", "bytes", "b64_json", "base64", "bytesBase64Encoded")
_PLACES: Final = (
    "url",
    "uri",
    "fileUri",
    "file_uri",
    "file_id",
    "fileId",
    "s3Location",
    "image_url",
    "file_url",
    "document_url",
)
_TYPES: Final = ("media_type", "mimeType", "mime_type", "format", "contentType")
_NAMES: Final = ("filename", "name", "title", "displayName")
_WRAPPERS: Final = (
    "source",
    "image_url",
    "input_audio",
    "file",
    "inlineData",
    "inline_data",
    "fileData",
    "file_data",
    "audio",
    "image",
    "document",
    "document_url",
    "video",
    "video_url",
    "s3Location",
)
_LONGEST_PLACE: Final = 200


def media_part(kind: str, value: object) -> Part:
    """Return the placeholder of a file.

    Args:
        kind: what it is, as the provider says: `image`, `audio`, `document`, …
        value: the part that holds it, in any wire format.
    """
    found = {} if isinstance(value, dict) else {"url": value}
    _collect(value, found)
    held = (found.get(name) for name in _DATA)
    data: str | bytes | None = next((value for value in held if isinstance(value, str | bytes)), None)
    place = first(found, *_PLACES)
    media_type = first(found, *_TYPES)
    if place.startswith("data:"):
        head, _, data = place.partition(",")
        media_type, place = media_type or head[5:].partition(";")[0], ""
    words = [kind]
    if name := first(found, *_NAMES):
        words.append(repr(name))
    if media_type:
        words.append(media_type)
    if data is not None:
        words.append(_size(data))
    if place:
        words.append(
            place if len(place) <= _LONGEST_PLACE else f"{place[:_LONGEST_PLACE]}… ({len(place):,} characters)"
        )
    return Part("media", ", ".join(words), key=hash(data if data is not None else place))


def _collect(value: object, found: dict[str, Any]) -> None:
    pending: list[object] = [value]
    for _ in range(8):  # a file is not wrapped more often
        if not pending:
            return
        fields = mapping(pending.pop())
        for name, field in fields.items():
            if name in _WRAPPERS and isinstance(field, dict):
                pending.append(field)
            else:
                found.setdefault(name, field)


def _size(data: str | bytes) -> str:
    if isinstance(data, bytes):
        return f"{len(data):,} bytes"
    padding = len(data[-2:]) - len(text(data[-2:]).rstrip("="))
    return f"{max(len(data) * 3 // 4 - padding, 0):,} bytes"
