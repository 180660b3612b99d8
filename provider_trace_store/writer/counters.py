"""The counters of a writer: the outcome of each trace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from provider_trace_store.writer.stats import WriterStats

if TYPE_CHECKING:
    from collections.abc import Iterable

    from provider_trace_store.writer.destination import Sent

Outcome = Literal["spooled", "rejected", "dropped"]


class Counters:
    """The counts of `WriterStats`. Each method keeps its equation: an accepted trace is in exactly one other count."""

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
            # More rows left than were counted, because an append was interrupted: count them as accepted.
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
            sizes: the sizes of the queue and the spool: `queued`, `queued_bytes`, `spooled_bytes`.
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
