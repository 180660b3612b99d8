"""Documents to their stored text and back, and whether two stored texts are of equal documents."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Any, Final

import orjson
from pydantic_core import from_json

from provider_trace_store.codec.decoder import parse_slowly, restore
from provider_trace_store.codec.encoder import Encoder
from provider_trace_store.codec.forms import MARK, MAX_DEPTH
from provider_trace_store.errors import TraceDecodingError, TraceEncodingError

if TYPE_CHECKING:
    from collections.abc import Iterable

_PLAIN_SCALARS: Final = frozenset({str, int, bool, type(None)})
_OPTIONS: Final = orjson.OPT_PASSTHROUGH_SUBCLASS | orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME

_UNREADABLE: Final = object()


class Encoded(str):
    """A document's stored text, which is bound as it is; its `repr`, as in logs, hides it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{len(self)} characters of JSON>"


def encode(document: object, path: str = "document") -> Encoded:
    """Return the stored text of a document; arguments and errors as `encode_utf8`."""
    return Encoded(encode_utf8(document, path), "utf-8")


def encode_utf8(document: object, path: str = "document") -> bytes:
    """Return the stored text of a document, in UTF-8, as it comes from the serializer.

    Args:
        document: JSON as Python has it, and whatever the table of this package lists, of at most `MAX_DEPTH`
            levels in its stored form.
        path: what errors call the document, such as `request_json`.

    Returns:
        The text, which `decode` turns back into an equal document.

    Raises:
        TraceEncodingError: the document holds something that would not read back equal.
    """
    try:
        # orjson goes first: it stops at a cycle. What it takes and would not read back equal (NaN, tuples, UUIDs,
        # enumerations, fragments) is found after it; it refuses keys that are not exactly text.
        text = orjson.dumps(document, option=_OPTIONS)
        if _is_plain(document) and not _is_marked(text):
            return text
    except (TypeError, RecursionError):
        """It is not plain JSON."""
    try:
        return Encoder(path).write(document).encode()
    except RecursionError:
        pass
    raise TraceEncodingError(path, "the caller's stack leaves no room to encode it")


def decode(text: str | bytes) -> Any:  # noqa: ANN401  (a document is of any type)
    """Return the document of a stored text.

    Args:
        text: JSON, of this package or of another writer; bytes in UTF-8.

    Raises:
        TraceDecodingError: it is not JSON, or nested too deeply for Python's own parser.
    """
    try:
        document = from_json(text)
    except (TypeError, ValueError):
        document = _UNREADABLE
    if document is _UNREADABLE:
        # Lone surrogates, integers of more than 4,300 digits and foreign documents of more levels.
        document = parse_slowly(text)
    return restore(document) if _is_marked(text) else document


def same_document(stored: str | None, encoded: str | bytes | None) -> bool:
    """Say whether two stored texts are of equal documents; the order of keys and white space do not matter.

    Args:
        stored: the text of a column, of this package or of another writer; None for SQL's NULL.
        encoded: what `encode` or `encode_utf8` returned; None for no document.
    """
    if isinstance(encoded, bytes):
        encoded = encoded.decode()
    if stored == encoded:
        return True
    try:
        pairs = [(_read(stored), _read(encoded))]
    except TraceDecodingError:
        # Another writer's, and nothing that `encode` returns.
        return False
    while pairs:
        inner = _inner_pairs(*pairs.pop())
        if inner is None:
            return False
        pairs += inner
    return True


def _inner_pairs(one: Any, other: Any) -> Iterable[tuple[Any, Any]] | None:  # noqa: ANN401  (as `decode`)
    """Return the values of two documents that must be the same for these to be, or None where these differ."""
    kind = type(one)
    inner: Iterable[tuple[Any, Any]] = ()
    if kind is not type(other):
        same = False
    elif kind is dict:
        same = one.keys() == other.keys()
        inner = ((value, other[key]) for key, value in one.items())
    elif kind in {list, tuple}:
        same = len(one) == len(other)
        inner = zip(one, other, strict=False)
    elif kind is float:
        # To the last bit, where `==` knows no sign of zero and no NaN that equals itself.
        same = one.hex() == other.hex()
    else:
        same = one == other
    return inner if same else None


def _read(text: str | None) -> Any:  # noqa: ANN401  (as `decode`)
    return None if text is None else decode(text)


def _is_marked(text: str | bytes) -> bool:
    # The search for one character is many times faster, and most texts have none.
    if isinstance(text, bytes):
        return b"$" in text and b"$pts:" in text
    return "$" in text and MARK in text


def _is_plain(document: object) -> bool:
    # Level by level rather than by recursion: half the time, and the levels are counted by the way.
    level: list[Any] = [document]
    if type(document) is not dict and type(document) is not list:
        return False
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for container in level:
            for value in container.values() if type(container) is dict else container:
                kind = type(value)
                if kind in _PLAIN_SCALARS:
                    continue
                if kind is dict or kind is list:
                    below.append(value)
                elif kind is not float or not isfinite(value):
                    return False
        if not below:
            return True
        level = below
    return False
