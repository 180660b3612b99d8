"""Parses JSON that pydantic-core's parser refuses, and replaces special forms by their values."""

from __future__ import annotations

import json
import re
import sys
from base64 import b64decode, b64encode
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Final

from provider_trace_store.codec.forms import (
    BETWEEN_SURROGATES,
    INTEGER_LIMIT,
    LOOKS_LIKE_A_FORM,
    MARK,
    MAX_DIGITS,
    MAX_LONG_DIGITS,
    has_surrogate,
)
from provider_trace_store.codec.scalars import SCALARS, restored_scalar
from provider_trace_store.errors import TraceDecodingError

if TYPE_CHECKING:
    from collections.abc import Callable

_HEXADECIMAL: Final = re.compile(r"-?[1-9a-f][0-9a-f]*")
_FLOATS: Final = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}


def parse_any(text: str | bytes) -> Any:  # noqa: ANN401  (a document is of any type)
    """Return the document of any JSON, lone surrogates and integers of any length included; slower than pydantic-core.

    Args:
        text: the JSON; bytes are UTF-8.

    Raises:
        TraceDecodingError: the text is not JSON, is nested deeper than Python's parser allows, or has more than
            `MAX_LONG_DIGITS` digits in integers that are longer than `MAX_DIGITS`.
    """
    nested = False
    try:
        return _parse(text)
    except ValueError:
        pass
    except RecursionError:
        nested = True
    if nested and sys.version_info < (3, 12):
        # CPython 3.11 counts the document's levels and the caller's stack frames together. A new thread has no frames.
        try:
            with ThreadPoolExecutor(max_workers=1) as thread:
                return thread.submit(_parse, text).result()
        except (ValueError, RuntimeError):
            pass
    # Outside of the handlers: a chained error of the parser would carry the whole text.
    raise TraceDecodingError


def _parse(text: str | bytes) -> Any:  # noqa: ANN401  (a document is of any type)
    return json.loads(text, parse_int=_Integers().parse)


class _Integers:
    """Parses the integers of one document, those that Python's own parser refuses, too."""

    def __init__(self) -> None:
        self._digits = 0

    def parse(self, literal: str) -> int:
        """Return the value of a literal; ValueError if the document has too many digits in long integers."""
        if len(literal) <= MAX_DIGITS:
            return int(literal)
        self._digits += len(literal)
        if self._digits > MAX_LONG_DIGITS:
            raise ValueError
        digits = literal.removeprefix("-")
        # The parts of the number, the lowest first. Two neighbours become one until one is left: this multiplies
        # numbers of the same length, which takes far less time than to add part after part to a growing number.
        parts = [int(digits[max(0, end - MAX_DIGITS) : end]) for end in range(len(digits), 0, -MAX_DIGITS)]
        power = INTEGER_LIMIT
        while len(parts) > 1:
            parts = [low + high * power for low, high in zip_longest(parts[::2], parts[1::2], fillvalue=0)]
            power *= power
        return -parts[0] if literal.startswith("-") else parts[0]


def restore(document: Any) -> Any:  # noqa: ANN401  (a document is of any type)
    """Replace the special forms in a document by their values, the innermost first; return the document.

    It uses no recursion, so the depth of the caller's stack does not matter.
    """
    root = [document]
    places: list[tuple[Any, Any]] = [(root, 0)]
    # The loop appends to the list that it iterates over, so it visits every level.
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


def _restored(value: dict[str, Any]) -> Any:  # noqa: ANN401  (a document is of any type)
    ((key, content),) = value.items()
    if not LOOKS_LIKE_A_FORM.match(key):
        return value
    if key.startswith("$$"):
        return {key[1:]: content}
    form = _FORMS.get(key)
    scalar = _SCALAR_FORMS.get(key)
    restored = form(content) if form else restored_scalar(scalar, content) if scalar else None
    return value if restored is None else restored


# Each of these functions returns None for content that `encode` never writes.


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
    return None if -INTEGER_LIMIT < value < INTEGER_LIMIT else value


def _restored_tuple(content: object) -> tuple[Any, ...] | None:
    return tuple(content) if type(content) is list else None


def _restored_text(content: object) -> str | None:
    if type(content) is str:
        return _restored_escapes(content)
    if type(content) is not list or not all(type(part) is str for part in content):
        return None
    text = "".join(content)
    return text if len(content) > 1 and BETWEEN_SURROGATES.split(text) == content else None


def _restored_escapes(content: str) -> str | None:
    try:
        text = json.loads(f'"{content}"')
    except ValueError:
        return None
    return text if type(text) is str and has_surrogate(text) and json.dumps(text) == f'"{content}"' else None


def _restored_dict(content: object) -> dict[str, Any] | None:
    if type(content) is not list or not all(type(pair) is list and len(pair) == 2 for pair in content):  # noqa: PLR2004  (a pair)
        return None
    if not all(type(key) is str for key, _ in content):
        return None
    restored = dict(content)
    has_duplicates = len(restored) != len(content)
    return restored if not has_duplicates and any(map(has_surrogate, restored)) else None


_FORMS: Final[dict[str, Callable[[object], Any]]] = {
    "$pts:float": _restored_float,
    "$pts:bytes": _restored_bytes,
    "$pts:int": _restored_integer,
    "$pts:tuple": _restored_tuple,
    "$pts:str": _restored_text,
    "$pts:dict": _restored_dict,
}
_SCALAR_FORMS: Final = {MARK + scalar.name: scalar for scalar in SCALARS.values()}
