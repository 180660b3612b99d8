"""Encodes documents that are not plain JSON: it writes special forms, and refuses values that it cannot store."""

from __future__ import annotations

import json
import sys
from base64 import b64encode
from collections import OrderedDict
from dataclasses import dataclass
from math import isfinite, isnan
from typing import TYPE_CHECKING, Any, Final

from provider_trace_store.codec.forms import (
    BETWEEN_SURROGATES,
    INTEGER_LIMIT,
    LOOKS_LIKE_A_FORM,
    MARK,
    MAX_DEPTH,
    has_surrogate,
    has_surrogate_pair,
)
from provider_trace_store.codec.paths import path_of
from provider_trace_store.codec.scalars import SCALARS
from provider_trace_store.codec.sizes import TooLargeError, check_least_size
from provider_trace_store.errors import TraceEncodingError, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from provider_trace_store.codec.scalars import Scalar

_OPEN_TO_SUBCLASSES: Final[tuple[type, ...]] = (str, int, float, dict, list, tuple, bytes, *SCALARS)
_EXACT: Final[frozenset[type]] = frozenset({bool, type(None), *_OPEN_TO_SUBCLASSES})

_KEYS_OF_OTHER_WRITERS: Final = (int, float, type(None))
_TEXT_KEYS: Final = "turn such keys into text with provider_trace_store.text_keys(document)"
_AS_JSON: Final = (
    'convert it to a type of the table in provider_trace_store.codec, as `model_dump(mode="json")` of Pydantic does,'
)

_TEXT_HASH: Final[object] = str.__hash__
_quoted: Final = json.JSONEncoder(ensure_ascii=True).encode


@dataclass(slots=True)
class _Container:
    """A container whose items are being written.

    Args:
        value: the container.
        items: its remaining items, each with its key or index.
        levels: the number of levels that its stored form adds.
        close: the end of its text.
        pairs: whether it is a dict that is stored as a list of pairs.
        key_prefix: the prefix of its keys in the stored form.
        separator: the text before the next item.
        step: the key or index of the current item, for the path in an error.
        keys: the keys of a dict, in the order of the items.
    """

    value: object
    items: Iterator[tuple[str | int, Any]]
    levels: int
    close: str
    pairs: bool = False
    key_prefix: str = ""
    separator: str = ""
    step: str | int = 0
    keys: Sequence[str] = ()


class Encoder:
    """Encodes one document. It uses no recursion, so the depth of the caller's stack does not matter.

    Args:
        path: the name of the document in errors, such as `request_json`.
        limit: the largest allowed size of the text, in bytes.
        is_utf8: whether the parsed text must have no surrogate, because another writer will write it as UTF-8.
    """

    def __init__(self, path: str, limit: int = sys.maxsize, *, is_utf8: bool = False) -> None:
        self._path = path
        self._limit = limit
        self._is_utf8 = is_utf8
        self._needs_form = has_surrogate if is_utf8 else has_surrogate_pair
        self._text: list[str] = []
        self._size = 0
        self._open: list[_Container] = []
        self._open_ids: set[int] = set()
        self._depth = 0

    def write(self, document: object) -> str:
        """Return the stored text of a document.

        Args:
            document: see `encode_utf8`.

        Raises:
            TraceEncodingError: the document contains a value that would not read back equal.
            TooLargeError: the text is larger than allowed.
        """
        check_least_size(document, self._limit)
        self._write_value(document)
        while self._open:
            container = self._open[-1]
            for step, value in container.items:
                container.step = step
                self._add(container.separator)
                self._write_key(container)
                self._write_value(value)
                self._check_size()
                if self._open[-1] is not container:
                    break
            else:
                self._open.pop()
                self._open_ids.discard(id(container.value))
                self._depth -= container.levels
                self._add(container.close)
        self._check_size()
        return "".join(self._text)

    def _check_size(self) -> None:
        if self._size > self._limit:
            raise TooLargeError(self._size)

    def _add(self, text: str) -> None:
        # The text is ASCII: a character is a byte.
        self._size += len(text)
        self._text.append(text)

    def _write_key(self, container: _Container) -> None:
        key = container.step
        if container.pairs:
            container.separator = "],["
            self._write_text(str(key))
            self._add(",")
        else:
            container.separator = ","
            if isinstance(key, str):
                self._add(_quoted(container.key_prefix + key))
                self._add(":")

    def _write_value(self, value: Any) -> None:  # noqa: ANN401  (a value of any type)
        kind = _stored_type(type(value))
        if kind is None:
            raise self._error(_with_article(shown(type(value).__name__)), _AS_JSON)
        if kind is str:
            self._write_text(str.__str__(value))
        elif kind is bool:
            self._add("true" if value else "false")
        elif kind is int:
            self._write_integer(int.__int__(value))
        elif kind is float:
            self._write_float(float.__float__(value))
        elif kind is bytes:
            self._write_form("bytes", f'"{b64encode(value).decode("ascii")}"')
        elif scalar := SCALARS.get(kind):
            self._write_scalar(scalar, value)
        elif value is None:
            self._add("null")
        else:
            self._open_container(kind, value)

    def _open_container(self, kind: type, value: Any) -> None:  # noqa: ANN401  (as above)
        if kind is dict:
            self._open_dict(value)
        elif kind is list:
            self._add("[")
            self._push(_Container(value, enumerate(list.__iter__(value)), 1, "]"))
        else:
            self._add('{"$pts:tuple":[')
            self._push(_Container(value, enumerate(tuple.__iter__(value)), 2, "]}"))

    def _write_scalar(self, scalar: Scalar, value: object) -> None:
        try:
            text = scalar.to_text(value)
        except (ValueError, OverflowError, TypeError):
            text = None
        if text is None:
            raise self._error(f"{_with_article(scalar.name)} whose time zone is neither a ZoneInfo nor a fixed offset")
        self._write_form(scalar.name, _quoted(text))

    def _write_text(self, text: str) -> None:
        if not self._needs_form(text):
            self._add(_quoted(text))
            return
        parts = BETWEEN_SURROGATES.split(text)
        written = [_escaped_form(part) if self._is_utf8 and has_surrogate(part) else _quoted(part) for part in parts]
        if len(parts) == 1:
            self._check_depth(1)
            self._add(written[0])
        else:
            self._write_form("str", f"[{','.join(written)}]", levels=3 if self._is_utf8 else 2)

    def _write_integer(self, value: int) -> None:
        if -INTEGER_LIMIT < value < INTEGER_LIMIT:
            self._add(str(value))
        else:
            self._write_form("int", f'"{value:x}"')

    def _write_float(self, value: float) -> None:
        if isfinite(value):
            self._add(repr(value))
        else:
            name = "NaN" if isnan(value) else "Infinity" if value > 0 else "-Infinity"
            self._write_form("float", f'"{name}"')

    def _write_form(self, name: str, content: str, levels: int = 1) -> None:
        self._check_depth(levels)
        self._add(f'{{"{MARK}{name}":{content}}}')

    def _open_dict(self, value: dict[Any, Any]) -> None:
        # `dict.items` of an OrderedDict ignores the order that `move_to_end` has made.
        pairs = OrderedDict.items(value) if isinstance(value, OrderedDict) else dict.items(value)
        items: list[tuple[str, Any]] = []
        needs_pairs = False
        for key, item in pairs:
            kind = type(key)
            if _stored_type(kind) is not str or kind.__hash__ is not _TEXT_HASH:
                remedy = _TEXT_KEYS if isinstance(key, _KEYS_OF_OTHER_WRITERS) else "make it text"
                raise self._error(f"a key of type {shown(kind.__name__)}", remedy)
            text = str.__str__(key)
            needs_pairs = needs_pairs or self._needs_form(text)
            items.append((text, item))
        if needs_pairs:
            self._add('{"$pts:dict":[')
            container = _Container(value, iter(items), 3, "]]}", pairs=True, separator="[")
        else:
            self._add("{")
            escaped = len(items) == 1 and LOOKS_LIKE_A_FORM.match(items[0][0])
            container = _Container(value, iter(items), 1, "}", key_prefix="$" if escaped else "")
        container.keys = [key for key, _ in items]
        self._push(container)

    def _push(self, container: _Container) -> None:
        if id(container.value) in self._open_ids:
            raise self._error("a container that holds itself")
        self._check_depth(container.levels)
        self._depth += container.levels
        self._open_ids.add(id(container.value))
        self._open.append(container)

    def _check_depth(self, levels: int) -> None:
        if self._depth + levels > MAX_DEPTH:
            raise self._error(f"nested deeper than {MAX_DEPTH} levels")

    def _error(self, reason: str, remedy: str = "") -> TraceEncodingError:
        # An empty list of keys stands for a list, whose step is the index.
        steps = [(one.step, one.keys.index(one.step) if isinstance(one.step, str) else one.step) for one in self._open]
        return TraceEncodingError(path_of(self._path, steps), reason, remedy=remedy)


def _stored_type(kind: type) -> type | None:
    """Return the type that values of a type read back as, or None if they would not read back equal."""
    if kind in _EXACT:
        return kind
    for base in _OPEN_TO_SUBCLASSES:
        if issubclass(kind, base):
            compared: object = kind.__eq__
            compares_alike = compared is base.__eq__ or (base is dict and compared is OrderedDict.__eq__)
            return base if compares_alike else None
    return None


def _escaped_form(text: str) -> str:
    return f'{{"{MARK}str":{_quoted(_quoted(text)[1:-1])}}}'


def _with_article(name: str) -> str:
    return f"{'an' if name[:1] in set('aeioAEIO') else 'a'} {name}"
