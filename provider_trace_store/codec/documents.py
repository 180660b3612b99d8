"""Encodes a document to its stored text, decodes it again, and compares two stored texts."""

from __future__ import annotations

import sys
from math import isfinite
from typing import TYPE_CHECKING, Any, Final

import orjson
from pydantic_core import from_json

from provider_trace_store.codec.decoder import parse_any, restore
from provider_trace_store.codec.encoder import Encoder
from provider_trace_store.codec.forms import MARK, MAX_DEPTH
from provider_trace_store.codec.keys import text_keys
from provider_trace_store.codec.scalars import SCALARS
from provider_trace_store.codec.sizes import LEAST_ITEM, TooLargeError, check_least_size
from provider_trace_store.errors import TraceDecodingError, TraceEncodingError

if TYPE_CHECKING:
    from collections.abc import Iterable

_PLAIN_SCALARS: Final = frozenset({int, bool, type(None)})
# From this size on, in bytes, a document is measured before it is visited further.
_MEASURED_FROM: Final = 2**20
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


def encode_utf8(document: object, path: str = "document", limit: int = sys.maxsize) -> bytes:
    """Return the stored text of a document as UTF-8.

    Args:
        document: values of JSON's types and of the types in the package's table, nested at most `MAX_DEPTH` levels in
            the stored form.
        path: the name of the document in errors, such as `request_json`.
        limit: the largest allowed size of the text, in bytes. Its size is estimated before the text is made, and
            counted while it is made.

    Returns:
        The text; `decode` turns it into an equal document.

    Raises:
        TraceEncodingError: the document contains a value that would not read back equal.
        TooLargeError: the text is larger than allowed.
    """
    text = _plain_text(document, limit)
    if text is None:
        return _exact_text(document, Encoder(path, limit), path).encode()
    if len(text) > limit:
        raise TooLargeError(len(text))
    return text


def json_form(document: object, path: str = "document") -> Any:  # noqa: ANN401  (a document is of any type)
    """Return a document as values that every JSON writer writes: with special forms, and without surrogates.

    Args:
        document: as for `encode_utf8`.
        path: as for `encode_utf8`.

    Returns:
        The document itself if it is plain JSON, else a new one. `from_json_form` turns it into an equal document.

    Raises:
        TraceEncodingError: the document contains a value that would not read back equal.
    """
    if _plain_text(document, sys.maxsize) is not None:
        return document
    return from_json(_exact_text(document, Encoder(path, is_utf8=True), path))


def from_json_form(document: object) -> Any:  # noqa: ANN401  (a document is of any type)
    """Return the document of a result of `json_form`; the argument stays as it is.

    Raises:
        TraceEncodingError: the argument is nested too deeply, or holds itself.
    """
    return restore(text_keys(document))


def _plain_text(document: object, limit: int) -> bytes | None:
    """Return the text of a document that is plain JSON, or None; TooLargeError if it is much larger than `limit`."""
    try:
        # `_is_plain` bounds the size of the text that orjson makes. It finds the values that orjson accepts, but that
        # would not read back equal: NaN, tuples, UUIDs, enumerations, fragments. orjson refuses keys that are not
        # exactly `str`.
        if _is_plain(document, limit) and not _is_marked(text := orjson.dumps(document, option=_OPTIONS)):
            return text
    except (TypeError, RecursionError):
        pass  # the document is not plain JSON
    return None


def _exact_text(document: object, encoder: Encoder, path: str) -> str:
    try:
        return encoder.write(document)
    except RecursionError:
        pass
    raise TraceEncodingError(path, "Python's recursion limit is reached: call with fewer frames on the stack")


def decode(text: str | bytes) -> Any:  # noqa: ANN401  (a document is of any type)
    """Return the document of a stored text.

    Args:
        text: JSON, written by this package or by another system; bytes are UTF-8.

    Raises:
        TraceDecodingError: as `parse_any`.
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
    elif scalar := SCALARS.get(kind):
        # `==` ignores the time zone of a date and the exponent of a decimal.
        same = scalar.to_text(one) == scalar.to_text(other)
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


def _is_plain(document: object, limit: int) -> bool:  # noqa: C901  (its loop must be fast)
    """Return whether a document is plain JSON, apart from its keys; TooLargeError if its values exceed `limit` bytes.

    Keys count with one byte each: reading them all would take a third of the time.
    """
    # Level by level takes half the time of recursion, and counts the levels.
    level: list[Any] = [document]
    if type(document) is not dict and type(document) is not list:
        return False
    size = 0
    bound = min(limit, _MEASURED_FROM)
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for container in level:
            size += LEAST_ITEM * len(container)
            if size > bound:
                bound = _next_bound(document, size, limit)
            for value in container.values() if type(container) is dict else container:
                kind = type(value)
                if kind is str:
                    size += len(value)
                elif kind is dict or kind is list:
                    below.append(value)
                elif kind not in _PLAIN_SCALARS and (kind is not float or not isfinite(value)):
                    return False
        if not below:
            if size > limit:
                raise TooLargeError(size)
            return True
        level = below
    return False


def _next_bound(document: object, size: int, limit: int) -> int:
    """Return the size up to which `_is_plain` may go on; TooLargeError if it may not."""
    if size > limit:
        raise TooLargeError(size)
    if size > _MEASURED_FROM:
        # Containers that are in many places would be visited in each of them, for a very long time.
        check_least_size(document, limit)
    return limit
