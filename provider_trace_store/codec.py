r"""Exact JSON: what is stored reads back equal, and what could not is refused before the database is touched.

What is JSON is stored as plain JSON. What JSON lacks becomes an object with one key that begins with `$pts:`:

| Python                                        | stored                                                  |
|-----------------------------------------------|---------------------------------------------------------|
| `nan`, `inf`, `-inf`                          | `{"$pts:float": "NaN"}`, `"Infinity"`, `"-Infinity"`    |
| `bytes`                                       | `{"$pts:bytes": "<base64, RFC 4648 section 4>"}`        |
| `int` of more than 640 digits                 | `{"$pts:int": "<hexadecimal, with a minus sign>"}`      |
| `tuple`                                       | `{"$pts:tuple": [...]}`                                 |
| `str` with a high surrogate before a low one  | `{"$pts:str": ["...\ud83d", "\ude00..."]}`: its parts |
| `dict` with such a key                        | `{"$pts:dict": [[key, value], ...]}`                    |
| `dict` whose one key looks like these         | that key with one more `$`: `{"$$pts:float": ...}`      |

JSON's escapes would read two surrogates in a row as one astral character (RFC 8259, section 7); a lone one is
stored as its escape. An object that looks like one of these forms but is none, as another system may have
written it, is returned as it stands.

A subclass of a type that JSON knows is stored as that type, provided that it compares as that type does, so
that it reads back equal: `StrEnum`, `IntEnum`, `OrderedDict`, `defaultdict`, named tuples.
"""

from __future__ import annotations

import json
import re
import sys
from base64 import b64decode, b64encode
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import isfinite, isnan
from typing import TYPE_CHECKING, Any, Final

import orjson
from pydantic_core import from_json
from sqlalchemy import Text, cast, type_coerce
from sqlalchemy.types import UserDefinedType

from provider_trace_store.errors import TraceDecodingError, TraceEncodingError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from sqlalchemy import ColumnElement, Dialect

# The levels of the stored form, a form of its own included: pydantic-core's parser stops at 200, whatever the
# caller's stack, where the standard library's would count the caller's frames on CPython 3.11.
MAX_DEPTH: Final = 200

# `sys.set_int_max_str_digits` goes down to 640: an integer of so many digits can be read under any setting.
_MAX_DIGITS: Final = 640
_INTEGER_LIMIT: Final = 10**_MAX_DIGITS

_MARK: Final = "$pts:"
_LOOKS_LIKE_A_FORM: Final = re.compile(r"\$+pts:")
_BETWEEN_SURROGATES: Final = re.compile("(?<=[\ud800-\udbff])(?=[\udc00-\udfff])")
_HEXADECIMAL: Final = re.compile(r"-?[1-9a-f][0-9a-f]*")
_FLOATS: Final = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}

_PLAIN_SCALARS: Final = frozenset({str, int, bool, type(None)})
_EXACT: Final = frozenset({*_PLAIN_SCALARS, float, dict, list, tuple, bytes})
_OPEN_TO_SUBCLASSES: Final = (str, int, float, dict, list, tuple, bytes)
_OPTIONS: Final = orjson.OPT_PASSTHROUGH_SUBCLASS | orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME

_PLAIN_KEY: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MAX_KEY_CHARACTERS: Final = 40
_MAX_PATH_STEPS: Final = 12

_UNREADABLE: Final = object()
_TEXT_HASH: Final[object] = str.__hash__
_quoted: Final = json.JSONEncoder(ensure_ascii=True).encode


class Encoded(str):
    """A document's stored text, which `ExactJSON` binds as it is; its `repr`, as in logs, hides it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{len(self)} characters of JSON>"


def encode(document: object, path: str = "document") -> Encoded:
    """Return the stored text of a document.

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
        return _encode_plain(document) or Encoded(_Writer(path).write(document))
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
        document = _parse_slowly(text)
    return _restore(document) if _is_marked(text) else document


def same_document(stored: str | None, encoded: str | None) -> bool:
    """Say whether two stored texts are of equal documents; the order of keys and white space do not matter.

    Args:
        stored: the text of a column, of this package or of another writer; None for SQL's NULL.
        encoded: what `encode` returned; None for no document.
    """
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
    return "$" in text and _MARK in text


# Writing


def _encode_plain(document: object) -> Encoded | None:
    """Return the stored text where a document is plain JSON, else None."""
    # orjson goes first: it stops at a cycle. What it takes and would not read back equal (NaN, tuples, UUIDs,
    # enumerations, fragments) is found after it; it refuses keys that are not exactly text.
    try:
        text = orjson.dumps(document, option=_OPTIONS)
    except TypeError:
        return None
    if _is_marked(text) or not _is_plain(document):
        return None
    return Encoded(text, "utf-8")


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


@dataclass(slots=True)
class _Container:
    """A container whose items are being written.

    Args:
        value: the container.
        items: its items, each under its key or index.
        levels: how many levels its stored form takes.
        close: what ends its text.
        pairs: whether it is a dict that is written as a list of pairs.
        key_prefix: what its keys are stored with in front.
    """

    value: object
    items: Iterator[tuple[str | int, Any]]
    levels: int
    close: str
    pairs: bool = False
    key_prefix: str = ""
    separator: str = ""
    step: str | int = 0


class _Writer:
    """Writes any storable document, without recursion, so that the caller's stack does not matter.

    Args:
        path: what errors call the document.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._text: list[str] = []
        self._open: list[_Container] = []
        self._open_ids: set[int] = set()
        self._depth = 0

    def write(self, document: object) -> str:
        self._write_value(document)
        while self._open:
            container = self._open[-1]
            for step, value in container.items:
                container.step = step
                self._text.append(container.separator)
                self._write_key(container)
                self._write_value(value)
                if self._open[-1] is not container:
                    break
            else:
                self._open.pop()
                self._open_ids.discard(id(container.value))
                self._depth -= container.levels
                self._text.append(container.close)
        return "".join(self._text)

    def _write_key(self, container: _Container) -> None:
        key = container.step
        if container.pairs:
            container.separator = "],["
            self._write_text(str(key))
            self._text.append(",")
        else:
            container.separator = ","
            if isinstance(key, str):
                self._text.append(_quoted(container.key_prefix + key))
                self._text.append(":")

    def _write_value(self, value: Any) -> None:  # noqa: ANN401  (a value of any type)
        kind = _stored_as(type(value))
        if kind is None:
            raise self._refusal(_with_article(type(value).__name__))
        if kind is str:
            self._write_text(str.__str__(value))
        elif kind is bool:
            self._text.append("true" if value else "false")
        elif kind is int:
            self._write_integer(int.__int__(value))
        elif kind is float:
            self._write_float(float.__float__(value))
        elif kind is bytes:
            self._write_form("bytes", f'"{b64encode(value).decode("ascii")}"')
        elif kind is dict:
            self._open_dict(value)
        elif kind is list:
            self._text.append("[")
            self._push(_Container(value, enumerate(list.__iter__(value)), 1, "]"))
        elif kind is tuple:
            self._text.append('{"$pts:tuple":[')
            self._push(_Container(value, enumerate(tuple.__iter__(value)), 2, "]}"))
        else:
            self._text.append("null")

    def _write_text(self, text: str) -> None:
        if _has_surrogate_pair(text):
            self._write_form("str", "[" + ",".join(map(_quoted, _BETWEEN_SURROGATES.split(text))) + "]", levels=2)
        else:
            self._text.append(_quoted(text))

    def _write_integer(self, value: int) -> None:
        if -_INTEGER_LIMIT < value < _INTEGER_LIMIT:
            self._text.append(str(value))
        else:
            self._write_form("int", f'"{value:x}"')

    def _write_float(self, value: float) -> None:
        if isfinite(value):
            self._text.append(repr(value))
        else:
            name = "NaN" if isnan(value) else "Infinity" if value > 0 else "-Infinity"
            self._write_form("float", f'"{name}"')

    def _write_form(self, name: str, content: str, levels: int = 1) -> None:
        self._check_depth(levels)
        self._text.append(f'{{"{_MARK}{name}":{content}}}')

    def _open_dict(self, value: dict[Any, Any]) -> None:
        # An OrderedDict keeps its order apart from the dict that it is.
        pairs = OrderedDict.items(value) if isinstance(value, OrderedDict) else dict.items(value)
        items: list[tuple[str | int, Any]] = []
        odd = False
        for key, item in pairs:
            kind = type(key)
            if _stored_as(kind) is not str or kind.__hash__ is not _TEXT_HASH:
                raise self._refusal(f"a key of type {kind.__name__}")
            text = str.__str__(key)
            odd = odd or _has_surrogate_pair(text)
            items.append((text, item))
        if odd:
            self._text.append('{"$pts:dict":[')
            container = _Container(value, iter(items), 3, "]]}", pairs=True, separator="[")
        else:
            self._text.append("{")
            escaped = len(items) == 1 and _LOOKS_LIKE_A_FORM.match(str(items[0][0]))
            container = _Container(value, iter(items), 1, "}", key_prefix="$" if escaped else "")
        self._push(container)

    def _push(self, container: _Container) -> None:
        if id(container.value) in self._open_ids:
            raise self._refusal("a container that holds itself")
        self._check_depth(container.levels)
        self._depth += container.levels
        self._open_ids.add(id(container.value))
        self._open.append(container)

    def _check_depth(self, levels: int) -> None:
        if self._depth + levels > MAX_DEPTH:
            raise self._refusal(f"nested deeper than {MAX_DEPTH} levels")

    def _refusal(self, reason: str) -> TraceEncodingError:
        steps = [container.step for container in self._open]
        parts = [f"[{step}]" if isinstance(step, int) else _key_in_path(step) for step in steps]
        if len(parts) > _MAX_PATH_STEPS:
            half = _MAX_PATH_STEPS // 2
            parts = [*parts[:half], "…", *parts[-half:]]
        return TraceEncodingError(self._path + "".join(parts), reason)


def _stored_as(kind: type) -> type | None:
    """Return the type that values of a type read back as, or None where that would not be equal."""
    if kind in _EXACT:
        return kind
    for base in _OPEN_TO_SUBCLASSES:
        if issubclass(kind, base):
            compares_alike = kind.__eq__ is base.__eq__ or (base is dict and kind.__eq__ is OrderedDict.__eq__)
            return base if compares_alike else None
    return None


def _has_surrogate_pair(text: str) -> bool:
    # Far quicker than the search; nearly all text has no surrogate at all.
    if text.isascii():
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return _BETWEEN_SURROGATES.search(text) is not None
    return False


def _key_in_path(key: str) -> str:
    text = key if len(key) <= _MAX_KEY_CHARACTERS else key[:_MAX_KEY_CHARACTERS]
    cut = "…" if text != key else ""
    return f".{text}{cut}" if _PLAIN_KEY.fullmatch(text) else f'["{_quoted(text)[1:-1]}{cut}"]'


def _with_article(name: str) -> str:
    return f"{'an' if name[:1] in set('aeioAEIO') else 'a'} {name}"


# Reading


def _parse_slowly(text: str | bytes) -> Any:  # noqa: ANN401  (as `decode`)
    nested = False
    try:
        return _parse(text)
    except ValueError:
        pass
    except RecursionError:
        nested = True
    if nested and sys.version_info < (3, 12):
        # CPython 3.11 counts a document's levels on top of the caller's frames: a thread has none yet.
        try:
            with ThreadPoolExecutor(max_workers=1) as thread:
                return thread.submit(_parse, text).result()
        except (ValueError, RuntimeError):
            pass
    # Outside of the handlers: the parser's error holds the whole text.
    raise TraceDecodingError


def _parse(text: str | bytes) -> Any:  # noqa: ANN401  (as `decode`)
    return json.loads(text, parse_int=_parse_integer)


def _parse_integer(literal: str) -> int:
    if len(literal) <= _MAX_DIGITS:
        return int(literal)
    digits = literal.removeprefix("-")
    value = 0
    for start in range(0, len(digits), _MAX_DIGITS):
        chunk = digits[start : start + _MAX_DIGITS]
        value = value * 10 ** len(chunk) + int(chunk)
    return -value if literal.startswith("-") else value


def _restore(document: Any) -> Any:  # noqa: ANN401  (as `decode`)
    """Put what the special forms stand for in their place, the innermost first and without recursion."""
    root = [document]
    places: list[tuple[Any, Any]] = [(root, 0)]
    for container, key in places:
        value = container[key]
        if type(value) is dict:
            places.extend((value, name) for name, item in value.items() if type(item) in (dict, list))
        elif type(value) is list:
            places.extend((value, index) for index, item in enumerate(value) if type(item) in (dict, list))
    for container, key in reversed(places):
        value = container[key]
        if type(value) is dict and len(value) == 1:
            container[key] = _restored(value)
    return root[0]


def _restored(value: dict[str, Any]) -> Any:  # noqa: ANN401  (as `decode`)
    ((key, content),) = value.items()
    if not _LOOKS_LIKE_A_FORM.match(key):
        return value
    if key.startswith("$$"):
        return {key[1:]: content}
    restore = _FORMS.get(key)
    restored = restore(content) if restore else None
    return value if restored is None else restored


# Each returns None for content that `encode` never writes.


def _restored_float(content: object) -> float | None:
    return _FLOATS.get(content) if type(content) is str else None


def _restored_bytes(content: object) -> bytes | None:
    if type(content) is not str:
        return None
    try:
        value = b64decode(content)
    except ValueError:
        return None
    return value if b64encode(value).decode("ascii") == content else None


def _restored_integer(content: object) -> int | None:
    if type(content) is not str or not _HEXADECIMAL.fullmatch(content):
        return None
    value = int(content, 16)
    return None if -_INTEGER_LIMIT < value < _INTEGER_LIMIT else value


def _restored_tuple(content: object) -> tuple[Any, ...] | None:
    return tuple(content) if type(content) is list else None


def _restored_text(content: object) -> str | None:
    if type(content) is not list or not all(type(part) is str for part in content):
        return None
    text = "".join(content)
    return text if len(content) > 1 and _BETWEEN_SURROGATES.split(text) == content else None


def _restored_dict(content: object) -> dict[str, Any] | None:
    if type(content) is not list or not all(type(pair) is list and len(pair) == 2 for pair in content):  # noqa: PLR2004  (a pair)
        return None
    if not all(type(key) is str for key, _ in content):
        return None
    restored = dict(content)
    unlike = len(restored) != len(content) or not any(map(_has_surrogate_pair, restored))
    return None if unlike else restored


_FORMS: Final[dict[str, Callable[[object], Any]]] = {
    "$pts:float": _restored_float,
    "$pts:bytes": _restored_bytes,
    "$pts:int": _restored_integer,
    "$pts:tuple": _restored_tuple,
    "$pts:str": _restored_text,
    "$pts:dict": _restored_dict,
}
