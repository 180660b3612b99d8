"""Encodes documents that are not plain JSON: it writes special forms, and refuses values that it cannot store."""

from __future__ import annotations

import json
import re
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
    has_surrogate_pair,
)
from provider_trace_store.errors import TraceEncodingError

if TYPE_CHECKING:
    from collections.abc import Iterator

_EXACT: Final = frozenset({str, int, bool, type(None), float, dict, list, tuple, bytes})
_OPEN_TO_SUBCLASSES: Final = (str, int, float, dict, list, tuple, bytes)

_PLAIN_KEY: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MAX_KEY_CHARACTERS: Final = 40
_MAX_PATH_STEPS: Final = 12

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
    """

    value: object
    items: Iterator[tuple[str | int, Any]]
    levels: int
    close: str
    pairs: bool = False
    key_prefix: str = ""
    separator: str = ""
    step: str | int = 0


class Encoder:
    """Encodes one document. It uses no recursion, so the depth of the caller's stack does not matter.

    Args:
        path: the name of the document in errors, such as `request_json`.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._text: list[str] = []
        self._open: list[_Container] = []
        self._open_ids: set[int] = set()
        self._depth = 0

    def write(self, document: object) -> str:
        """Return the stored text of a document.

        Args:
            document: see `encode_utf8`.

        Raises:
            TraceEncodingError: the document contains a value that would not read back equal.
        """
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
        kind = _stored_type(type(value))
        if kind is None:
            raise self._error(_with_article(type(value).__name__))
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
        if has_surrogate_pair(text):
            self._write_form("str", "[" + ",".join(map(_quoted, BETWEEN_SURROGATES.split(text))) + "]", levels=2)
        else:
            self._text.append(_quoted(text))

    def _write_integer(self, value: int) -> None:
        if -INTEGER_LIMIT < value < INTEGER_LIMIT:
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
        self._text.append(f'{{"{MARK}{name}":{content}}}')

    def _open_dict(self, value: dict[Any, Any]) -> None:
        # `dict.items` of an OrderedDict ignores the order that `move_to_end` has made.
        pairs = OrderedDict.items(value) if isinstance(value, OrderedDict) else dict.items(value)
        items: list[tuple[str | int, Any]] = []
        needs_pairs = False
        for key, item in pairs:
            kind = type(key)
            if _stored_type(kind) is not str or kind.__hash__ is not _TEXT_HASH:
                raise self._error(f"a key of type {kind.__name__}")
            text = str.__str__(key)
            needs_pairs = needs_pairs or has_surrogate_pair(text)
            items.append((text, item))
        if needs_pairs:
            self._text.append('{"$pts:dict":[')
            container = _Container(value, iter(items), 3, "]]}", pairs=True, separator="[")
        else:
            self._text.append("{")
            escaped = len(items) == 1 and LOOKS_LIKE_A_FORM.match(str(items[0][0]))
            container = _Container(value, iter(items), 1, "}", key_prefix="$" if escaped else "")
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

    def _error(self, reason: str) -> TraceEncodingError:
        steps = [container.step for container in self._open]
        parts = [f"[{step}]" if isinstance(step, int) else _key_in_path(step) for step in steps]
        if len(parts) > _MAX_PATH_STEPS:
            half = _MAX_PATH_STEPS // 2
            parts = [*parts[:half], "…", *parts[-half:]]
        return TraceEncodingError(self._path + "".join(parts), reason)


def _stored_type(kind: type) -> type | None:
    """Return the type that values of a type read back as, or None if they would not read back equal."""
    if kind in _EXACT:
        return kind
    for base in _OPEN_TO_SUBCLASSES:
        if issubclass(kind, base):
            compares_alike = kind.__eq__ is base.__eq__ or (base is dict and kind.__eq__ is OrderedDict.__eq__)
            return base if compares_alike else None
    return None


def _key_in_path(key: str) -> str:
    text = key if len(key) <= _MAX_KEY_CHARACTERS else key[:_MAX_KEY_CHARACTERS]
    cut = "…" if text != key else ""
    return f".{text}{cut}" if _PLAIN_KEY.fullmatch(text) else f'["{_quoted(text)[1:-1]}{cut}"]'


def _with_article(name: str) -> str:
    return f"{'an' if name[:1] in set('aeioAEIO') else 'a'} {name}"
