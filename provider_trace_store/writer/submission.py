"""A trace in the writer's memory: a copy, which later changes of the caller's dicts and lists do not reach.

The copy is one block of bytes: its size is known to the byte, and the caller's objects are released. The documents are
pickled and not encoded. Pickling takes a fraction of the time; the writer's thread, which no caller waits for, finds
out whether the documents can be stored exactly. The bytes never leave the process.
"""

from __future__ import annotations

import pickle
from contextlib import suppress
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import UUID

from pydantic_core import TzInfo

from provider_trace_store.codec import TooLargeError, check_least_size
from provider_trace_store.codec.kept import kept_utf8
from provider_trace_store.errors import TraceEncodingError, TraceTooLargeError
from provider_trace_store.schemas import text_problem
from provider_trace_store.tables.rows import Row

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from provider_trace_store.schemas import BaseProviderTrace
    from provider_trace_store.tables.rows import RowMaker

# Bytes of a submission besides its texts and documents: the object, a tuple, dates, an entry of the queue.
_OVERHEAD: Final = 512
# Bytes of a short text besides its characters.
_TAG_OVERHEAD: Final = 64
_PROTOCOL: Final = 5
# From this size on, in bytes, the documents are measured before the copy goes on. From the second one on, a trace is
# encoded at once.
_MEASURED_FROM: Final = 2**19
_MAX_PICKLED: Final = 32 * 2**20
# A rejected trace's document is kept up to this size, or up to `max_body_bytes` if that is larger.
_KEPT_BYTES: Final = 4 * 2**20
# How often encoding is tried, if another thread changes the trace meanwhile.
_TRIES: Final = 3


class Position(NamedTuple):
    """A place in the order of all traces that come into memory.

    Args:
        number: how many traces came up to here.
        end: their bytes.
    """

    number: int = 0
    end: int = 0


class Submission:
    """One trace of one organization, as it was when it was submitted; it becomes a row when it is sent.

    Args:
        trace: the trace to copy; only the fields of the table are copied.
        maker: makes the organization's rows.
        is_encoded: whether to make the row now, and not when it is sent.
    """

    __slots__ = ("_documents", "_error", "_immutable", "_maker", "_row", "_storable", "id", "position", "since", "size")

    def __init__(self, trace: BaseProviderTrace, maker: RowMaker, *, is_encoded: bool = False) -> None:
        given = trace.__dict__
        layout = maker.layout
        self._maker = maker
        self._row: Row | None = None
        self._error: TraceEncodingError | TraceTooLargeError | None = None
        self.since = 0.0
        # In the memory queue, which sets it.
        self.position: Position
        self._documents: bytes | tuple[str, ...] | None
        if is_encoded:
            self._encode_now(trace)
            return
        try:
            self.id: str = given["id"]
            # Texts and dates do not change.
            self._immutable = layout.immutable_of(given)
            documents = [given[name] for _, name in layout.documents]
            self._documents = _copied(documents, maker.max_body_bytes)
            texts = [value for value in self._immutable if type(value) is str]
            self.size = _OVERHEAD + _size_of(self._documents) + len("".join(texts))
            is_copied = type(self.id) is str
        except (KeyError, ValueError, RuntimeError, pickle.PickleError, _OtherTypeError, TooLargeError):
            # The trace bypassed the schema, holds itself, is nested deeply, is large, is being changed by another
            # thread, or has a type of the host's.
            is_copied = False
        if not is_copied:
            # Outside of the handler: its error would keep the caller's objects alive.
            self._encode_now(trace)

    def make(self) -> Row:
        """Return the row; TraceEncodingError or TraceTooLargeError if it cannot be stored."""
        if self._error is not None:
            raise self._error
        return self._row or self._maker.make_from(self._fields())

    def storable_fields(self) -> dict[str, Any]:
        """Return the values of a rejected trace that can be stored, by field; documents as stored text."""
        if self._row is not None:
            return dict(zip(self._maker.layout.fields, self._row.values, strict=True))
        fields = self._fields()
        names = [name for _, name in self._maker.layout.documents]
        texts = {
            # A text that no column can hold is kept as JSON.
            name: kept_utf8(value, _KEPT_BYTES).decode() if isinstance(value, str) and text_problem(value) else value
            for name, value in fields.items()
            if name not in names
        }
        documents = self._storable if self._error is not None else _encoded(fields, names, self._maker)
        return {**texts, **documents, "organization_id": self._maker.organization_id, "is_deleted": False}

    def _fields(self) -> dict[str, Any]:
        layout = self._maker.layout
        copied = self._documents
        # This process made the bytes, of plain types.
        documents = pickle.loads(copied) if isinstance(copied, bytes) else [copied and list(copied)]  # noqa: S301
        return dict(zip(layout.copied, (*self._immutable, *documents), strict=False))

    def _encode_now(self, trace: BaseProviderTrace) -> None:
        given = trace.__dict__
        layout = self._maker.layout
        self.id = _id_of(trace)
        self.size = _OVERHEAD
        self._documents = None
        values = map(given.get, layout.immutable)
        self._immutable = tuple([value if isinstance(value, str | datetime) else None for value in values])
        made = row_or_error(trace, self._maker)
        if isinstance(made, Row):
            self._row = made
            self.size += made.size
        else:
            self._error = made
            self._storable = _encoded(given, [name for _, name in layout.documents], self._maker)
            self.size += sum(map(len, self._storable.values()))


def row_or_error(trace: BaseProviderTrace, maker: RowMaker) -> Row | TraceEncodingError | TraceTooLargeError:
    """Return a trace's row, or the reason why it has none, whatever its objects do meanwhile.

    Args:
        trace: of a caller, who may be changing it in another thread.
        maker: of the organization's rows.
    """
    reason = ""
    for _ in range(_TRIES):
        try:
            return maker.make(trace)
        except (TraceEncodingError, TraceTooLargeError) as error:
            # Without the traceback, which would keep the caller's objects alive.
            return error.with_traceback(None)
        except RuntimeError:
            reason = "is being changed by another thread"
        except Exception as error:  # noqa: BLE001  # an error of the host's object
            reason = f"holds an object that raises {type(error).__qualname__}"
    return TraceEncodingError("trace", reason, _id_of(trace))


def _size_of(copied: bytes | tuple[str, ...] | None) -> int:
    if isinstance(copied, bytes):
        return len(copied)
    return sum([_TAG_OVERHEAD + len(tag) for tag in copied or ()])


def _id_of(trace: BaseProviderTrace) -> str:
    """Return the id of a trace that may have bypassed the schema; empty if the id is not text."""
    found = trace.__dict__.get("id")
    return str.__str__(found) if isinstance(found, str) else ""


def _encoded(fields: Mapping[str, Any], names: Sequence[str], maker: RowMaker) -> dict[str, bytes]:
    documents: dict[str, bytes] = {}
    for name in names:
        if (document := fields.get(name)) is not None:
            # A document that is being changed, or that is too large to be kept, is left out.
            with suppress(Exception):
                documents[name] = kept_utf8(document, max(maker.max_body_bytes, _KEPT_BYTES))
    return documents


class _OtherTypeError(Exception):
    """A document holds an object that pickle would have to ask for its contents."""


class _PickledParts:
    """The file that pickle writes to, every 64 KiB and each large text; a file in memory would copy all once more.

    Args:
        documents: what is pickled.
        limit: the largest allowed size of one document as JSON text, in bytes.
    """

    __slots__ = ("_bound", "_documents", "_limit", "_parts", "_size")

    def __init__(self, documents: list[Any], limit: int) -> None:
        self._parts: list[bytes] = []
        self._size = 0
        self._bound = _MEASURED_FROM
        self._documents = documents
        self._limit = limit

    def write(self, part: bytes) -> None:
        """Take a part; TooLargeError if the copy is too large, or if a document is."""
        self._size += len(part)
        if self._size > self._bound:
            # Without this, a few nested lists, each of which is in two places, would be copied for hours.
            check_least_size(self._documents, self._limit * len(self._documents))
            self._bound = _MAX_PICKLED
            if self._size > self._bound:
                raise TooLargeError(self._size)
        self._parts.append(part)

    def joined(self) -> bytes:
        """Return all that was written."""
        parts = self._parts
        return parts[0] if len(parts) == 1 else b"".join(parts)


# Immutable types of the standard library, and the time zone of the datetimes that Pydantic parses.
_PICKLED_TYPES: Final = frozenset({datetime, date, time, timedelta, timezone, Decimal, UUID, TzInfo})


class _Pickler(pickle.Pickler):
    def reducer_override(self, obj: object) -> Any:  # noqa: ANN401  (pickle's)
        # These types and their classes are pickled as ever.
        if type(obj) in _PICKLED_TYPES or any(obj is kind for kind in _PICKLED_TYPES):
            return NotImplemented
        # A class of the host's might run its own code here, or pickle the whole application.
        raise _OtherTypeError


def _copied(documents: list[Any], limit: int) -> bytes | tuple[str, ...] | None:
    """Return a copy of documents. Metadata has only tags: its copy is mostly a tuple of texts."""
    if len(documents) == 1:
        [tags] = documents
        if tags is None:
            return None
        if type(tags) is list and tags and all(type(tag) is str for tag in tags):
            return tuple(tags)
    parts = _PickledParts(documents, limit)
    pickler = _Pickler(parts, _PROTOCOL)
    # Without the memo, in which pickle would look up every text. A container that holds itself is a ValueError anyway.
    pickler.fast = True
    pickler.dump(documents)
    return parts.joined()
