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
_ALPHABET: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_RUN: Final = re.compile(rb"[A-Za-z0-9+/]*+={0,2}")


class FrameKind(IntEnum):
    """What a frame's content is; the numbers are stored."""

    KEYS = 0
    DELTAS = 1
    BLOB = 2
    DECODED_BLOB = 3


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


def decoded(text: bytes) -> bytes | None:
    """Return the bytes that base64 stands for; None if they do not encode to the same text.

    Args:
        text: base64.
    """
    try:
        content = b64decode(text, validate=True)
    except binascii.Error:
        return None
    return content if b64encode(content) == text else None


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
