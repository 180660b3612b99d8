"""Parses JSON that pydantic-core's parser refuses, and replaces special forms by their values."""

from __future__ import annotations

import json
import re
import sys
from base64 import b64decode, b64encode
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

from provider_trace_store.codec.forms import (
    BETWEEN_SURROGATES,
    INTEGER_LIMIT,
    LOOKS_LIKE_A_FORM,
    MAX_DIGITS,
    has_surrogate_pair,
)
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
        TraceDecodingError: the text is not JSON, or is nested deeper than Python's parser allows.
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
    return json.loads(text, parse_int=_parse_integer)


def _parse_integer(literal: str) -> int:
    if len(literal) <= MAX_DIGITS:
        return int(literal)
    digits = literal.removeprefix("-")
    value = 0
    for start in range(0, len(digits), MAX_DIGITS):
        chunk = digits[start : start + MAX_DIGITS]
        value = value * 10 ** len(chunk) + int(chunk)
    return -value if literal.startswith("-") else value


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
    restored = form(content) if form else None
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
    if type(content) is not list or not all(type(part) is str for part in content):
        return None
    text = "".join(content)
    return text if len(content) > 1 and BETWEEN_SURROGATES.split(text) == content else None


def _restored_dict(content: object) -> dict[str, Any] | None:
    if type(content) is not list or not all(type(pair) is list and len(pair) == 2 for pair in content):  # noqa: PLR2004  (a pair)
        return None
    if not all(type(key) is str for key, _ in content):
        return None
    restored = dict(content)
    has_duplicates = len(restored) != len(content)
    return restored if not has_duplicates and any(map(has_surrogate_pair, restored)) else None


_FORMS: Final[dict[str, Callable[[object], Any]]] = {
    "$pts:float": _restored_float,
    "$pts:bytes": _restored_bytes,
    "$pts:int": _restored_integer,
    "$pts:tuple": _restored_tuple,
    "$pts:str": _restored_text,
    "$pts:dict": _restored_dict,
}
