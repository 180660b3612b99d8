"""The size that the stored text of a document has at least, found without writing the text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

# A value and the comma or bracket behind it.
LEAST_ITEM: Final = 2
# An integer has more decimal or hexadecimal digits than a quarter of its bits.
_BITS_OF_A_DIGIT: Final = 4


class TooLargeError(Exception):
    """A document is larger than allowed; `size` is the least number of bytes that its stored text takes."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size


def check_least_size(document: object, limit: int) -> None:
    """Raise TooLargeError if the stored text of a document takes more than `limit` bytes, as far as can be told.

    A container that is in many places is measured once, so the time depends on the objects in memory and not on the
    size of the text: a few nested lists can have a text of many gigabytes.
    """
    sizes: dict[int, int] = {}
    waiting: list[tuple[Any, bool]] = [(document, False)]
    while waiting:
        value, is_open = waiting.pop()
        items = _items_of(value)
        if items is None:
            size = _scalar_size(value)
        elif is_open:
            size = LEAST_ITEM * len(value)
            size += sum([sizes.get(id(item)) or _scalar_size(item) for item in items])
            sizes[id(value)] = size
        elif id(value) in sizes:
            continue
        else:
            size = LEAST_ITEM * len(value)
            # A container that holds itself counts as empty; the encoder refuses it.
            sizes[id(value)] = 0
            if size <= limit:
                waiting.append((value, True))
                inner = {id(item): item for item in items if isinstance(item, (dict, list, tuple))}
                waiting += [(item, False) for item in inner.values()]
        if size > limit:
            raise TooLargeError(size)


def _items_of(value: object) -> Iterable[Any] | None:
    if isinstance(value, dict):
        return [*dict.keys(value), *dict.values(value)]
    if isinstance(value, list):
        return list.__iter__(value)
    return tuple.__iter__(value) if isinstance(value, tuple) else None


def _scalar_size(value: Any) -> int:  # noqa: ANN401  (a value of any type)
    if isinstance(value, str):
        return str.__len__(value)
    if isinstance(value, bytes):
        return bytes.__len__(value)
    return int.bit_length(value) // _BITS_OF_A_DIGIT if isinstance(value, int) else 0
