r"""Exact JSON: what is stored reads back equal, and what could not is refused before the database is touched.

What is JSON is stored as plain JSON. What JSON lacks becomes an object with one key that begins with `$pts:`:

| Python                                        | stored                                                  |
|-----------------------------------------------|---------------------------------------------------------|
| `nan`, `inf`, `-inf`                          | `{"$pts:float": "NaN"}`, `"Infinity"`, `"-Infinity"`    |
| `bytes`                                       | `{"$pts:bytes": "<base64, RFC 4648 section 4>"}`        |
| `int` of more than 640 digits                 | `{"$pts:int": "<hexadecimal, with a minus sign>"}`      |
| `tuple`                                       | `{"$pts:tuple": [...]}`                                 |
| `str` with a high surrogate before a low one  | `{"$pts:str": ["...\ud83d", "\ude00..."]}`: its parts   |
| `dict` with such a key                        | `{"$pts:dict": [[key, value], ...]}`                    |
| `dict` whose one key looks like these         | that key with one more `$`: `{"$$pts:float": ...}`      |

JSON's escapes would read two surrogates in a row as one astral character (RFC 8259, section 7); a lone one is
stored as its escape. An object that looks like one of these forms but is none, as another system may have
written it, is returned as it stands.

A subclass of a type that JSON knows is stored as that type, provided that it compares as that type does, so
that it reads back equal: `StrEnum`, `IntEnum`, `OrderedDict`, `defaultdict`, named tuples.
"""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Any, Final

import orjson
from pydantic_core import from_json
from sqlalchemy import Text, cast, type_coerce
from sqlalchemy.types import UserDefinedType

from provider_trace_store.errors import TraceDecodingError, TraceEncodingError
from provider_trace_store.stored_form import MARK, MAX_DEPTH
from provider_trace_store.stored_form_reader import parse_slowly, restore
from provider_trace_store.stored_form_writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sqlalchemy import ColumnElement, Dialect

_PLAIN_SCALARS: Final = frozenset({str, int, bool, type(None)})
_OPTIONS: Final = orjson.OPT_PASSTHROUGH_SUBCLASS | orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME

_UNREADABLE: Final = object()


class Encoded(str):
    """A document's stored text, which `ExactJSON` binds as it is; its `repr`, as in logs, hides it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{len(self)} characters of JSON>"


def encode(document: object, path: str = "document") -> Encoded:
    """Return the stored text of a document; arguments and errors as `encode_utf8`."""
    return Encoded(encode_utf8(document, path), "utf-8")


def encode_utf8(document: object, path: str = "document") -> bytes:
    """Return the stored text of a document, in UTF-8, as it comes from the serializer.

    Args:
        document: JSON as Python has it, and whatever the table of this module lists, of at most `MAX_DEPTH`
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
        return Writer(path).write(document).encode()
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


class ExactJSON(UserDefinedType[Any]):
    """A JSON column whose documents, dicts and lists, read back equal on every driver; None is SQL's NULL.

    Neither the engine's `json_serializer` and `json_deserializer` nor a driver's JSON settings have a part in
    it: the server is asked for the text.

    A document is bound as such or as what `encode` made of it. Encode first where an error matters:
    SQLAlchemy wraps one that is raised while it binds, and shows the parameters in its message.
    """

    cache_ok = True
    render_bind_cast = True

    def get_col_spec(self, **_: object) -> str:
        """Return the type's name in DDL."""
        return "JSON"

    def bind_processor(self, dialect: Dialect) -> Callable[[Any], Encoded | None]:  # noqa: ARG002  (SQLAlchemy's)
        """Return what turns a document into its stored text."""
        return _bound

    def column_expression(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        """Return the column as text, which no driver parses."""
        return type_coerce(cast(column, Text), self)

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], Any]:  # noqa: ARG002  (as above)
        """Return what turns a stored text into its document."""
        return _read


def _bound(value: object) -> Encoded | None:
    return value if value is None or isinstance(value, Encoded) else encode(value)


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
