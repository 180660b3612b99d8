"""What reads of packs made lately: a run's traces are usually read one after the other, from the same frames."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Hashable

_K = TypeVar("_K", bound="Hashable")
_T = TypeVar("_T")


class Recent(Generic[_K, _T]):
    """Values that were used lately, by what decides them.

    It never waits: while another thread uses it, nothing is found, and nothing is kept. A fork at such a moment leaves
    the child without it.

    Args:
        limit: the most bytes that the values may take together, as `keep` is told.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        # The one that was used last comes last.
        self._values: dict[_K, tuple[_T, int]] = {}
        self._lock = threading.Lock()

    def find(self, key: _K) -> _T | None:
        """Return the value of a key, or None.

        Args:
            key: what decides the value: one key never has another value.
        """
        if not self._lock.acquire(blocking=False):
            return None
        try:
            found = self._values.pop(key, None)
            if found is None:
                return None
            self._values[key] = found
            return found[0]
        finally:
            self._lock.release()

    def keep(self, key: _K, value: _T, size: int) -> None:
        """Keep a value, and drop those that were used longest ago if they take too much.

        Args:
            key: what decides the value.
            value: the value.
            size: the bytes that it takes; a value above the limit is not kept.
        """
        if size > self._limit or not self._lock.acquire(blocking=False):
            return
        try:
            self._drop(key)
            self._values[key] = value, size
            self._size += size
            while self._size > self._limit:
                self._drop(next(iter(self._values)))
        finally:
            self._lock.release()

    def _drop(self, key: _K) -> None:
        dropped = self._values.pop(key, None)
        self._size -= dropped[1] if dropped else 0
