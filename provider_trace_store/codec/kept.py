"""Encodes a document that cannot be stored exactly, so that an operator can repair a rejected trace and send it again.

A value that `encode` refuses is written as `{"$pts:kept": [type, content]}`: the pairs of a dict with other keys than
text, the items of a set, else the value's `str()`; null if it has none, or for a container that holds itself. All other
values are written as `encode` writes them. `decode` does not turn such a form back into a value.
"""

from __future__ import annotations

from typing import Any

from provider_trace_store.codec.documents import encode_utf8
from provider_trace_store.codec.encoder import Encoder, _Container, _quoted
from provider_trace_store.errors import TraceEncodingError


def kept_utf8(document: object, limit: int) -> bytes:
    """Return a document as JSON of any depth, in UTF-8.

    Args:
        document: values of any type.
        limit: the largest size of the text, in bytes.

    Raises:
        TooLargeError: the text would be larger.
    """
    try:
        return encode_utf8(document, limit=limit)
    except TraceEncodingError:
        pass  # the reason why the document is only kept
    return _KeepingEncoder("", limit).write(document).encode()


class _KeepingEncoder(Encoder):
    def _write_value(self, value: Any) -> None:  # noqa: ANN401  (as the base's)
        mark, size = len(self._text), self._size
        try:
            super()._write_value(value)
        except TraceEncodingError:
            is_refused = True
        else:
            is_refused = False
        if is_refused:
            del self._text[mark:]
            self._size = size
            self._write_kept(value)

    def _write_kept(self, value: Any) -> None:  # noqa: ANN401  (as the base's)
        self._add(f'{{"$pts:kept":[{_quoted(type(value).__name__)},')
        if id(value) in self._open_ids:
            self._add("null]}")
        else:
            self._push(_Container(value, iter([(0, _content_of(value))]), 1, "]}"))

    def _check_depth(self, levels: int) -> None:
        """Allow any depth."""


def _content_of(value: Any) -> Any:  # noqa: ANN401  (a value of any type)
    if isinstance(value, dict):
        return [[key, item] for key, item in dict.items(value)]
    if isinstance(value, set | frozenset):
        return list(value)
    try:
        return str(value)
    except Exception:  # noqa: BLE001  # an error of the host's object
        return None
