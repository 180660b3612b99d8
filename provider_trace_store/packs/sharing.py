"""How much text two calls have in common."""

from __future__ import annotations

from typing import Any

from provider_trace_store.packs import zstd


def common_prefix(left: bytes, right: bytes) -> int:
    """Return the number of bytes at the start of two texts that are equal.

    Args:
        left: a text.
        right: another text.
    """
    low, high = 0, min(len(left), len(right))
    while low < high:
        middle = (low + high + 1) // 2
        if left.startswith(right[low:middle], low):
            low = middle
        else:
            high = middle - 1
    return low


def is_mostly_in(text: bytes, alone: int, dictionary: Any) -> bool:  # noqa: ANN401
    """Whether a text takes clearly less than half its size when it is compressed against another.

    Args:
        text: the text.
        alone: its compressed size in bytes, without a dictionary.
        dictionary: the other text, as `zstd.raw_dictionary` returned it.
    """
    return 5 * zstd.size_with(text, dictionary) < 2 * alone
