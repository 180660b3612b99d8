"""What reads of packs made lately: a run's traces are usually read one after the other, from the same frames."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Recent(Generic[_T]):
    """Values that were made from bytes lately, by these bytes, so no value can be out of date.

    It never waits: while another thread uses it, nothing is found, and nothing is kept. A fork at such a moment leaves
    the child without it.

    Args:
        limit: the most bytes that the values may take together, as `keep` is told.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        # The one that was used last comes last.
        self._values: dict[bytes, tuple[_T, int]] = {}
        self._lock = threading.Lock()

    def find(self, source: bytes) -> _T | None:
        """Return the value that was made from bytes, or None.

        Args:
            source: the bytes.
        """
        if not self._lock.acquire(blocking=False):
            return None
        try:
            found = self._values.pop(source, None)
            if found is None:
                return None
            self._values[source] = found
            return found[0]
        finally:
            self._lock.release()

    def keep(self, source: bytes, value: _T, size: int) -> None:
        """Keep a value, and drop those that were used longest ago if they take too much.

        Args:
            source: the bytes that it was made from.
            value: the value.
            size: the bytes that it takes, with its source; a value above the limit is not kept.
        """
        if size > self._limit or not self._lock.acquire(blocking=False):
            return
        try:
            self._drop(source)
            self._values[source] = value, size
            self._size += size
            while self._size > self._limit:
                self._drop(next(iter(self._values)))
        finally:
            self._lock.release()

    def _drop(self, source: bytes) -> None:
        dropped = self._values.pop(source, None)
        self._size -= dropped[1] if dropped else 0
