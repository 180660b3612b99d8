"""What a writer counts: what became of each trace, and how far the spool is sent."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any, Literal

from provider_trace_store.writer.stats import WriterStats

if TYPE_CHECKING:
    from collections.abc import Iterable

    from provider_trace_store.writer.destination import Sent

Outcome = Literal["spooled", "rejected", "dropped"]


class Counters:
    """The counts of `WriterStats`. Each method keeps its equation: what is accepted is somewhere."""

    def __init__(self) -> None:
        self._accepted = 0
        self._stored = 0
        self._unchanged = 0
        self._rejected = 0
        self._spooled = 0
        self._dropped = 0
        self._adopted = 0
        self._retries = 0

    @property
    def spooled(self) -> int:
        """The traces that wait in the spool."""
        return self._spooled

    @property
    def retries(self) -> int:
        """How often a batch was sent again."""
        return self._retries

    def took(self) -> None:
        """Count a trace that was taken into memory."""
        self._accepted += 1

    def took_into_spool(self) -> None:
        """Count a trace that was taken into the spool."""
        self._accepted += 1
        self._spooled += 1

    def dropped(self) -> int:
        """Count a trace that there was no room for; return how many traces were dropped."""
        self._accepted += 1
        self._dropped += 1
        return self._dropped

    def sent(self, parts: Iterable[Sent]) -> None:
        """Count what became of traces that were sent."""
        for part in parts:
            self._stored += part.stored
            self._unchanged += part.unchanged
            self._rejected += part.rejected

    def left_spool(self, rows: int, *, uncounted: int, again: int) -> None:
        """Count rows that left the spool.

        Args:
            rows: how many rows left it.
            uncounted: how many rows of its files were never counted, because an append was interrupted after writing
                and before counting.
            again: how many of the rows came back, to be sent again.
        """
        self._accepted += uncounted
        self._spooled += uncounted + again - rows
        if self._spooled < 0:
            # Another append was interrupted before it was counted here.
            self._accepted -= self._spooled
            self._spooled = 0

    def changed_in_spool(self, *, adopted: int, lost: int) -> None:
        """Count rows that were taken over from a dead process, and rows that cannot be read any more."""
        self._adopted += adopted
        self._accepted += adopted
        self._spooled += adopted - lost
        self._dropped += lost

    def left_memory(self, outcome: Outcome) -> None:
        """Count a trace that a close took out of memory."""
        self._spooled += outcome == "spooled"
        self._rejected += outcome == "rejected"
        self._dropped += outcome == "dropped"

    def retried(self) -> None:
        """Count a batch that is sent again."""
        self._retries += 1

    def stats(self, **sizes: Any) -> WriterStats:  # noqa: ANN401  (as WriterStats)
        """Return the counts.

        Args:
            sizes: what waits: `queued`, `queued_bytes`, `spooled_bytes`.
        """
        return WriterStats(
            accepted=self._accepted,
            stored=self._stored,
            unchanged=self._unchanged,
            rejected=self._rejected,
            spooled=self._spooled,
            dropped=self._dropped,
            adopted=self._adopted,
            retries=self._retries,
            **sizes,
        )


class SpoolProgress:
    """Whether traces go to the spool, and how far those that went there are sent.

    The first rows to come are the first to leave, so that two numbers say how far the spool is sent.

    Args:
        is_spilling: whether traces go to the spool from the beginning.
    """

    def __init__(self, *, is_spilling: bool) -> None:
        self._is_spilling = is_spilling
        self._since: float | None = None
        self._came = 0
        self._left = 0
        # `_came` when readable rows of a damaged file were last moved behind all others.
        self._rescued_up_to = 0

    @property
    def is_spilling(self) -> bool:
        """Whether traces go to the spool, because memory is full or the writer is durable."""
        return self._is_spilling

    @property
    def since(self) -> float | None:
        """When the first row came that is not in a sealed file, by the monotonic clock; None if there is none."""
        return self._since

    @property
    def came_in(self) -> int:
        """How many rows have come."""
        return self._came

    def has_left(self, target: int) -> bool:
        """Say whether the first `target` rows, and all rows of damaged files, have left."""
        return self._left >= max(target, self._rescued_up_to)

    def spill(self) -> None:
        """Let traces go to the spool."""
        self._is_spilling = True

    def stop_spilling(self) -> None:
        """Let traces go through memory."""
        self._is_spilling = False

    def came(self, count: int) -> bool:
        """Count rows that were appended; return whether they are the first ones of a file."""
        self._came += count
        is_first = count > 0 and self._since is None
        if is_first:
            self._since = monotonic()
        return is_first

    def rescued(self, count: int) -> None:
        """Count readable rows of a damaged file, which were appended behind all others."""
        self.came(count)
        if count:
            self._rescued_up_to = self._came

    def left(self, count: int, *, uncounted: int = 0) -> None:
        """Count rows that left, and `uncounted` rows whose append was not counted."""
        self._came += uncounted
        self._left += count

    def sealed(self) -> None:
        """Note that every row is in a sealed file."""
        self._since = None
