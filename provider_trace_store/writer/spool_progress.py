"""Whether traces go to the spool, and how far those that went there are sent."""

from __future__ import annotations

from time import monotonic


class SpoolProgress:
    """The way of traces through the spool, in numbers; `SharedState` has the lock.

    The first rows to come are the first to leave, so that two numbers say how far the spool is sent.

    Args:
        is_spilling: whether traces go to the spool from the beginning.
    """

    def __init__(self, *, is_spilling: bool) -> None:
        # Whether traces go to the spool, because memory is full or the writer is durable. Read in the path of a submit.
        self.is_spilling = is_spilling
        self._since: float | None = None
        self._came = 0
        self._left = 0
        # Rows of dead processes that wait in files of their own.
        self._adopted = 0
        # `_came` when readable rows of a damaged file were last moved behind all others.
        self._rescued_up_to = 0

    @property
    def since(self) -> float | None:
        """When the first row came that is not in a sealed file, by the monotonic clock; None if there is none."""
        return self._since

    @property
    def came(self) -> int:
        """How many rows have come."""
        return self._came

    @property
    def waiting(self) -> int:
        """How many rows wait in the spool."""
        return max(0, self._came - self._left + self._adopted)

    def has_left(self, target: int) -> bool:
        """Say whether the first `target` rows, and all rows of damaged files, have left."""
        return self._left >= max(min(target, self._came), self._rescued_up_to)

    def spill(self) -> None:
        """Let traces go to the spool."""
        self.is_spilling = True

    def stop_spilling(self) -> None:
        """Let traces go through memory."""
        self.is_spilling = False

    def count_came(self, count: int, *, is_in_file: bool = True) -> None:
        """Count rows; `is_in_file`: they are in the open file already. A count below 0 takes rows back."""
        if count > 0 and is_in_file:
            self.began()
        # Last: an exception of a signal's handler may come between any two steps.
        self._came += count

    def began(self) -> bool:
        """Note that the open file has rows; return whether they are its first ones."""
        is_first = self._since is None
        if is_first:
            self._since = monotonic()
        return is_first

    def count_rescued(self, count: int) -> None:
        """Count readable rows of a damaged file, which were appended behind all others."""
        self.count_came(count)
        if count:
            self._rescued_up_to = self._came

    def count_left(self, count: int, *, uncounted: int = 0) -> None:
        """Count rows that left, except `uncounted` ones: their append was interrupted, and they never came."""
        self._left += count - uncounted

    def count_adopted(self, count: int) -> None:
        """Count rows of dead processes that came into the spool; below 0: that left it."""
        self._adopted += count

    def sealed(self) -> None:
        """Note that every row is in a sealed file."""
        self._since = None
