r"""A stored row as a line of JSON that has the exact text of each document.

The line is one JSON object. Its first part has `stored_as`, the columns and `bytes`: the number of bytes of each
document's text, or null. The texts follow, unchanged. A text that would not fit into a line (it has a line feed, or is
not JSON, which other programs may store) is in the first part, as the string `<column>_text`.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import orjson

from provider_trace_store.errors import MaintenanceError
from provider_trace_store.maintenance.transfer.stored import KINDS, StoredTrace
from provider_trace_store.packs.format import PACKED_DOCUMENTS
from provider_trace_store.tables.kinds import FULL

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from provider_trace_store.packs.format import Documents

# No string of the first part has this text in it: a quotation mark is escaped there.
_BYTES: Final = b',"bytes":'
# What precedes the text of each document.
_OPENINGS: Final = {name: f',"{name}":'.encode() for name in FULL.documents}
_TEXT: Final = "_text"
# The columns of the first part; both tables have them.
HEAD: Final = ("stored_as", *(name for name in FULL.layout.fields if name not in FULL.documents))
_SUMMARY: Final = "provider_trace_store_export"
_VERSION: Final = 1


def add_line(
    pieces: list[bytes],
    head: dict[str, Any],
    names: Sequence[str],
    documents: Sequence[bytes | None],
    not_json: Collection[str] = (),
) -> int:
    """Append the pieces of the line of a row, with its line feed, and return the bytes of its documents.

    Args:
        pieces: the caller joins those of many lines at once.
        head: the values of `HEAD` by their names; changed in place.
        names: the row's documents, in the order of `Kind.documents`.
        documents: the text of each.
        not_json: the documents whose text is not JSON.
    """
    size = 0
    lengths: list[int | None] = []
    texts: list[bytes] = []
    for name, text in zip(names, documents):  # noqa: B905  (the check takes a tenth of the time of a small row)
        if text is None:
            lengths.append(None)
            continue
        length = len(text)
        size += length
        if b"\n" in text or name in not_json:
            head[name + _TEXT] = text.decode()
            lengths.append(None)
        else:
            lengths.append(length)
            texts += (_OPENINGS[name], text)
    head["bytes"] = lengths
    # Without the closing brace.
    pieces += (orjson.dumps(head)[:-1], *texts, b"}\n")
    return size


def with_packed(
    names: Sequence[str], documents: Sequence[bytes | None], bodies: Documents
) -> tuple[tuple[str, ...], list[bytes | None]]:
    """Return the names and the documents of a packed trace: those of its row of metadata, and its bodies."""
    given = dict(zip(names, documents, strict=True)) | dict(zip(PACKED_DOCUMENTS, bodies, strict=True))
    return FULL.documents, [given[name] for name in FULL.documents]


def stored_in(line: bytes, number: int) -> StoredTrace:
    """Return the row of a line.

    Args:
        line: with its line feed.
        number: the line's number, from 1, for the error.

    Raises:
        MaintenanceError: it is not a line of an export.
    """
    try:
        return _parsed(line)
    except (ValueError, KeyError, TypeError, AttributeError):
        pass  # raised below: a chained error of the parser would carry the line
    raise MaintenanceError(f"line {number} of the file is not a row of an export")


def _parsed(line: bytes) -> StoredTrace:
    end = line.index(_BYTES)
    head = orjson.loads(line[:end] + b"}")
    start = end + len(_BYTES)
    position = line.index(b"]", start) + 1
    lengths = orjson.loads(line[start:position])
    layout = KINDS[head["stored_as"]].layout
    for (_, name), length in zip(layout.documents, lengths, strict=True):
        if length is None:
            text = head.get(name + _TEXT)
            head[name] = None if text is None else text.encode()
            continue
        opening = _OPENINGS[name]
        if not line.startswith(opening, position):
            raise ValueError
        position += len(opening)
        head[name] = line[position : position + length]
        position += length
    if line[position:] != b"}\n":
        raise ValueError
    for name in ("created_at", "updated_at"):
        if head[name] is not None:
            head[name] = datetime.fromisoformat(head[name])
            if head[name].tzinfo is None:
                raise ValueError
    return StoredTrace(head["stored_as"], [head[name] for name in layout.fields])


def summary_line(rows: int, checksum: int) -> bytes:
    """Return the last line of an export.

    Args:
        rows: the number of lines before it.
        checksum: the CRC-32 of these lines.
    """
    return orjson.dumps({_SUMMARY: _VERSION, "rows": rows, "crc32": f"{checksum:08x}"}) + b"\n"


def read_summary(line: bytes) -> tuple[int, int] | None:
    """Return the number of rows and the checksum of a summary; None if the line is not one.

    Raises:
        MaintenanceError: the export has the format of a later release.
    """
    if not line.startswith(b'{"' + _SUMMARY.encode()) or not line.endswith(b"\n"):
        return None
    try:
        found = orjson.loads(line)
        version, rows, checksum = found[_SUMMARY], int(found["rows"]), int(found["crc32"], 16)
    except (ValueError, KeyError, TypeError):
        return None
    if version != _VERSION:
        raise MaintenanceError("the file was written by a later release of provider_trace_store: upgrade the package")
    return rows, checksum
