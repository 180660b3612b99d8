"""Rows as COPY takes them: by the driver, in text or in binary, or made ready as one piece of either.

https://www.postgresql.org/docs/current/sql-copy.html, "File Formats"
"""

from __future__ import annotations

import struct
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from benchmarks.raw import Row

_ESCAPES: Final = str.maketrans({"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"})
BINARY_HEADER: Final = b"PGCOPY\n\xff\r\n\0" + struct.pack("!ii", 0, 0)
BINARY_TRAILER: Final = struct.pack("!h", -1)
_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def text_line(row: Row) -> bytes:
    """Return a row in the text format."""
    return ("\t".join(map(_text, row)) + "\n").encode()


def binary_tuple(row: Row) -> bytes:
    """Return a row in the binary format; json and varchar are their text there."""
    return struct.pack("!h", len(row)) + b"".join(map(_binary, row))


def _text(value: object) -> str:
    if value is None:
        return r"\N"
    if value is False:
        return "f"
    return str(value).translate(_ESCAPES)


def _binary(value: object) -> bytes:
    if value is None:
        return struct.pack("!i", -1)
    if value is False:
        data = b"\0"
    elif isinstance(value, datetime):
        data = struct.pack("!q", (value - _EPOCH) // _MICROSECOND)
    else:
        data = str(value).encode()
    return struct.pack("!i", len(data)) + data
