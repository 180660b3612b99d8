"""Cutting rows into batches, each small enough to be in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_Item = TypeVar("_Item")


def batches_of(
    items: Iterable[_Item], size_of: Callable[[_Item], int], *, rows: int, size: int
) -> Iterator[list[_Item]]:
    """Yield the items in batches, each with one item at least.

    Args:
        items: the items.
        size_of: returns the bytes of an item.
        rows: the most items of a batch.
        size: the most bytes of a batch of several items.
    """
    batch: list[_Item] = []
    total = 0
    for item in items:
        added = size_of(item)
        if batch and (len(batch) == rows or total + added > size):
            yield batch
            batch, total = [], 0
        batch.append(item)
        total += added
    if batch:
        yield batch
