"""Copies a document and turns the keys of its dicts into text."""

from __future__ import annotations

from typing import Any

from provider_trace_store.errors import TraceEncodingError


def text_keys(document: Any) -> Any:  # noqa: ANN401  (a document is of any type)
    """Return a copy of a document whose keys of type `int`, `float`, `bool` and None are text, as `json.dumps` writes.

    The keys of JSON are text, so `create` refuses other ones: it does not know whether the host finds `1` again under
    `"1"`. Call this function where the host does. Keys of other types stay as they are.

    Args:
        document: dicts, lists and tuples in any nesting; other values are not copied.

    Raises:
        TraceEncodingError: two keys of a dict become the same text, or the document is nested too deeply.
    """
    try:
        return _copied(document, {})
    except RecursionError:
        pass
    # Outside of the handler: the error would be chained.
    raise TraceEncodingError("document", "nested too deeply, or a container that holds itself")


def _copied(value: Any, copies: dict[int, Any]) -> Any:  # noqa: ANN401  (as `text_keys`)
    # A container that is in many places is copied once.
    if id(value) in copies:
        return copies[id(value)]
    if isinstance(value, dict):
        copied: dict[Any, Any] = {}
        copies[id(value)] = copied
        for key, item in value.items():
            text = _text_of(key)
            if text in copied:
                raise TraceEncodingError("document", "two keys of a dict become the same text")
            copied[text] = _copied(item, copies)
        return copied
    if isinstance(value, list):
        items: list[Any] = []
        copies[id(value)] = items
        items.extend([_copied(item, copies) for item in value])
        return items
    if isinstance(value, tuple):
        return copies.setdefault(id(value), tuple([_copied(item, copies) for item in value]))
    return value


def _text_of(key: Any) -> Any:  # noqa: ANN401  (as `text_keys`)
    if key is None or key is True or key is False:
        return {None: "null", True: "true", False: "false"}[key]
    if isinstance(key, int):
        return int.__repr__(key)
    if isinstance(key, float):
        return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}.get(text := float.__repr__(key), text)
    return key
