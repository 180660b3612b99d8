"""Encodes a document to its stored text, decodes it again, and compares two stored texts."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Any, Final

import orjson
from pydantic_core import from_json

from provider_trace_store.codec.decoder import parse_any, restore
from provider_trace_store.codec.encoder import Encoder
from provider_trace_store.codec.forms import MARK, MAX_DEPTH
from provider_trace_store.errors import TraceDecodingError, TraceEncodingError

if TYPE_CHECKING:
    from collections.abc import Iterable

_PLAIN_SCALARS: Final = frozenset({str, int, bool, type(None)})
_OPTIONS: Final = orjson.OPT_PASSTHROUGH_SUBCLASS | orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME

_UNREADABLE: Final = object()


class Encoded(str):
    """The stored text of a document: the type of a JSON column binds it unchanged, and its `repr` hides the content."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{len(self)} characters of JSON>"


def encode(document: object, path: str = "document") -> Encoded:
    """Return the stored text of a document; see `encode_utf8` for the arguments and errors."""
    return Encoded(encode_utf8(document, path), "utf-8")


def encode_utf8(document: object, path: str = "document") -> bytes:
    """Return the stored text of a document as UTF-8.

    Args:
        document: values of JSON's types and of the types in the package's table, nested at most `MAX_DEPTH` levels in
            the stored form.
        path: the name of the document in errors, such as `request_json`.

    Returns:
        The text; `decode` turns it into an equal document.

    Raises:
        TraceEncodingError: the document contains a value that would not read back equal.
    """
    try:
        # orjson runs before `_is_plain`, because it stops at a cycle, and it refuses keys that are not exactly `str`.
        # `_is_plain` finds the values that orjson accepts, but that would not read back equal: NaN, tuples, UUIDs,
        # enumerations, fragments.
        text = orjson.dumps(document, option=_OPTIONS)
        if _is_plain(document) and not _is_marked(text):
            return text
    except (TypeError, RecursionError):
        pass  # the document is not plain JSON
    try:
        return Encoder(path).write(document).encode()
    except RecursionError:
        pass
    raise TraceEncodingError(path, "Python's recursion limit is reached: call with fewer frames on the stack")


def decode(text: str | bytes) -> Any:  # noqa: ANN401  (a document is of any type)
    """Return the document of a stored text.

    Args:
        text: JSON, written by this package or by another system; bytes are UTF-8.

    Raises:
        TraceDecodingError: the text is not JSON, or is nested deeper than Python's parser allows.
    """
    try:
        document = from_json(text)
    except (TypeError, ValueError):
        document = _UNREADABLE
    if document is _UNREADABLE:
        # The text may have a lone surrogate, an integer of more than 4,300 digits or, from another system, more levels.
        document = parse_any(text)
    return restore(document) if _is_marked(text) else document


def same_document(stored: str | None, encoded: str | bytes | None) -> bool:
    """Return whether two stored texts have equal documents; the order of keys and white space do not matter.

    `-0.0` differs from `0.0`, and NaN equals NaN.

    Args:
        stored: the text of a column, written by this package or by another system; None for SQL's NULL.
        encoded: the result of `encode` or `encode_utf8`; None for no document.
    """
    if isinstance(encoded, bytes):
        encoded = encoded.decode()
    if stored == encoded:
        return True
    try:
        pairs = [(_read(stored), _read(encoded))]
    except TraceDecodingError:
        # `encode` never returns such a text, so the two differ.
        return False
    while pairs:
        inner = _inner_pairs(*pairs.pop())
        if inner is None:
            return False
        pairs += inner
    return True


def _inner_pairs(one: Any, other: Any) -> Iterable[tuple[Any, Any]] | None:  # noqa: ANN401  (as `decode`)
    """Return the pairs of inner values that still have to be compared, or None if the two documents differ."""
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
        # `==` ignores the sign of zero, and finds that NaN differs from itself.
        same = one.hex() == other.hex()
    else:
        same = one == other
    return inner if same else None


def _read(text: str | None) -> Any:  # noqa: ANN401  (as `decode`)
    return None if text is None else decode(text)


def _is_marked(text: str | bytes) -> bool:
    # Searching one character is many times faster, and most texts have no `$`.
    if isinstance(text, bytes):
        return b"$" in text and b"$pts:" in text
    return "$" in text and MARK in text


def _is_plain(document: object) -> bool:
    # Level by level takes half the time of recursion, and counts the levels.
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
