"""The counters of a writer: the outcome of each trace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from provider_trace_store.writer.stats import WriterStats
from provider_trace_store.writer.submission import Position

if TYPE_CHECKING:
    from collections.abc import Iterable

    from provider_trace_store.writer.destination import Sent

Outcome = Literal["spooled", "rejected", "dropped"]


class _Counts(NamedTuple):
    stored: int = 0
    unchanged: int = 0
    rejected: int = 0
    dropped: int = 0
    adopted: int = 0
    retries: int = 0
    left: Position = Position()


class Counters:
    """The counts of `WriterStats`, but for those that wait. Each change is one assignment.

    An exception of a signal's handler may come between any two steps of a caller's thread. `accepted` is the sum of the
    other counts, so that the equation of `WriterStats` always holds, and a trace leaves memory in the same step that
    counts its outcome.
    """

    def __init__(self) -> None:
        self._counts = _Counts()

    @property
    def left(self) -> Position:
        """The position of the last trace that has left memory."""
        return self._counts.left

    @property
    def retries(self) -> int:
        """How often a batch was sent again."""
        return self._counts.retries

    def dropped(self) -> int:
        """Count a trace that there was no room for; return how many traces were dropped."""
        self._add(dropped=1)
        return self._counts.dropped

    def sent(self, parts: Iterable[Sent], left: Position | None = None) -> None:
        """Count what became of traces that were sent; `left`: they were in memory up to here."""
        stored = unchanged = rejected = 0
        for part in parts:
            stored += part.stored
            unchanged += part.unchanged
            rejected += part.rejected
        self._add(left, stored=stored, unchanged=unchanged, rejected=rejected)

    def changed_in_spool(self, *, adopted: int, lost: int) -> None:
        """Count rows that were taken over from a dead process, and rows that cannot be read any more."""
        self._add(adopted=adopted, dropped=lost)

    def left_memory(self, outcome: Outcome, left: Position) -> None:
        """Count a trace that a close took out of memory; those in the spool are counted there."""
        if outcome == "spooled":
            self._add(left)
        else:
            self._add(left, **{outcome: 1})

    def retried(self) -> None:
        """Count a batch that is sent again."""
        self._add(retries=1)

    def stats(self, *, spooled: int, queued: int, **sizes: Any) -> WriterStats:  # noqa: ANN401  (as WriterStats)
        """Return the counts.

        Args:
            spooled: the traces that wait in the spool.
            queued: the traces that wait in memory.
            sizes: the sizes of both: `queued_bytes`, `spooled_bytes`.
        """
        counts = self._counts
        return WriterStats(
            accepted=counts.stored + counts.unchanged + counts.rejected + counts.dropped + spooled + queued,
            stored=counts.stored,
            unchanged=counts.unchanged,
            rejected=counts.rejected,
            spooled=spooled,
            queued=queued,
            dropped=counts.dropped,
            adopted=counts.adopted,
            retries=counts.retries,
            **sizes,
        )

    def _add(self, left: Position | None = None, **more: int) -> None:
        counts = self._counts
        added = {name: getattr(counts, name) + number for name, number in more.items()}
        self._counts = counts._replace(left=left or counts.left, **added)
