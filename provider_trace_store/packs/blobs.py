"""Base64 in documents, such as screenshots: found, cut out, and inserted again."""

from __future__ import annotations

import binascii
import re
from base64 import b64decode, b64encode
from enum import IntEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# Base64 below this size stays in the text.
MIN_BLOB_BYTES: Final = 16 * 1024

# Every run of at least MIN_BLOB_BYTES has a whole probe at a multiple of the stride.
_STRIDE: Final = MIN_BLOB_BYTES // 2
_PROBE: Final = 64
# Both alphabets of RFC 4648: some SDKs send images in the one for URLs.
_ALPHABET: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_"
_RUN: Final = re.compile(rb"[A-Za-z0-9+/_-]*+={0,2}")
_URL_CHARACTERS: Final = b"-_"


class FrameKind(IntEnum):
    """What a frame's content is; the numbers are stored."""

    KEYS = 0
    DELTAS = 1
    BLOB = 2
    DECODED_BLOB = 3
    DECODED_URL_BLOB = 4


def find(text: bytes) -> Iterator[tuple[int, int]]:
    """Yield the start and the end of each run of base64 that is cut out of a text.

    Args:
        text: the text of a document.
    """
    done = 0
    position = 0
    while position + _PROBE <= len(text):
        if text[position : position + _PROBE].translate(None, _ALPHABET):
            position += _STRIDE
            continue
        before = text[max(done, position - _STRIDE) : position]
        start = position - (len(before) - len(before.rstrip(_ALPHABET)))
        match = _RUN.match(text, position)
        end = match.end() if match else position
        rest = (end - start) % 4
        if rest and text.endswith(b"=", start, end):
            # Padding says where the base64 ends, so letters in front of it, as of an escape `\n`, are not part of it.
            start += rest
        else:
            end -= rest
        if end - start >= MIN_BLOB_BYTES:
            yield start, end
            done = end
        position = max(-(-end // _STRIDE) * _STRIDE, position + _STRIDE)


def decoded(text: bytes) -> tuple[FrameKind, bytes]:
    """Return what a frame has of base64: the bytes that it stands for, or the text if they do not encode to the same.

    Args:
        text: base64.
    """
    for kind in (FrameKind.DECODED_BLOB, FrameKind.DECODED_URL_BLOB):
        try:
            content = b64decode(text, _characters(kind), validate=True)
        except binascii.Error:
            continue
        if encoded(kind, content) == text:
            return kind, content
    return FrameKind.BLOB, text


def encoded(kind: FrameKind, content: bytes) -> bytes:
    """Return a frame's content as it stands in a text.

    Args:
        kind: the frame's kind.
        content: its content.
    """
    if kind in (FrameKind.DECODED_BLOB, FrameKind.DECODED_URL_BLOB):
        return b64encode(content, _characters(kind))
    return content


def encoded_length(kind: FrameKind, length: int) -> int:
    """Return the length of what `encoded` returns.

    Args:
        kind: the frame's kind.
        length: the length of its content.
    """
    is_decoded = kind in (FrameKind.DECODED_BLOB, FrameKind.DECODED_URL_BLOB)
    return (length + 2) // 3 * 4 if is_decoded else length


def _characters(kind: FrameKind) -> bytes | None:
    return _URL_CHARACTERS if kind is FrameKind.DECODED_URL_BLOB else None


def spliced(text: bytes, blobs: Iterable[tuple[int, bytes]]) -> bytes:
    """Return a text with its base64.

    Args:
        text: the text without its base64.
        blobs: the position in `text` and the base64 of each place, by position.
    """
    pieces: list[bytes] = []
    done = 0
    for position, blob in blobs:
        pieces += (text[done:position], blob)
        done = position
    pieces.append(text[done:])
    return b"".join(pieces)
