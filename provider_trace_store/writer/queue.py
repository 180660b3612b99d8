"""Traces that wait in memory: how many and how large they may be, and when it is time to send the next of them."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from provider_trace_store.writer.options import WriterOptions
    from provider_trace_store.writer.submission import Submission


# How many batches wait where the thread that sends them does not keep up.
_BEHIND: Final = 2


class MemoryQueue:
    """First in, first out. Whoever calls it holds the ledger's lock, but to ask `is_behind`.

    Args:
        limits: how much it holds, and how much is sent at a time.
    """

    def __init__(self, limits: WriterOptions) -> None:
        self._limits = limits
        self._waiting: deque[Submission] = deque()
        self._waiting_bytes = 0
        self._in_flight: deque[Submission] = deque()
        self.bytes = 0
        # How many have come and left: the first to come are the first to leave.
        self.came = 0
        self.left = 0

    def __len__(self) -> int:
        return len(self._waiting) + len(self._in_flight)

    @property
    def oldest(self) -> float | None:
        """Since when the first has waited, by the monotonic clock; None where none waits."""
        return self._waiting[0].since if self._waiting else None

    @property
    def is_batch(self) -> bool:
        """Whether there are as many as are sent at a time."""
        return len(self._waiting) >= self._limits.batch_rows or self._waiting_bytes >= self._limits.batch_bytes

    @property
    def is_behind(self) -> bool:
        """Whether more waits than is sent soon."""
        options = self._limits
        return (
            len(self._waiting) >= _BEHIND * options.batch_rows or self._waiting_bytes >= _BEHIND * options.batch_bytes
        )

    @property
    def is_half_empty(self) -> bool:
        """Whether there is room for some time to come."""
        return self.bytes <= self._limits.max_queue_bytes // 2 and len(self) <= self._limits.max_queue_traces // 2

    def has_room_for(self, submission: Submission) -> bool:
        """Say whether one more may come: the only one may be larger than all the room."""
        count = len(self._waiting) + len(self._in_flight)
        limits = self._limits
        return not count or (count < limits.max_queue_traces and self.bytes + submission.size <= limits.max_queue_bytes)

    def append(self, submission: Submission) -> bool:
        """Add one, and return whether the thread that sends should look: at the first one, and at a whole batch."""
        self._waiting.append(submission)
        self._waiting_bytes += submission.size
        self.bytes += submission.size
        self.came += 1
        return len(self._waiting) == 1 or self.is_batch

    def take_batch(self) -> list[Submission]:
        """Return the next that are sent at a time; they are in flight until `settle`."""
        waiting, batch, limits = self._waiting, self._in_flight, self._limits
        size = 0
        while (
            waiting and len(batch) < limits.batch_rows and (not batch or size + waiting[0].size <= limits.batch_bytes)
        ):
            size += waiting[0].size
            batch.append(waiting.popleft())
        self._waiting_bytes -= size
        return list(batch)

    def settle(self, sent: Sequence[Submission]) -> None:
        """Let go of the first in flight."""
        for _ in sent:
            self._in_flight.popleft()
        self.left += len(sent)
        self.bytes -= sum([submission.size for submission in sent])

    def put_back(self) -> None:
        """Let all in flight wait again, before the others."""
        self._waiting_bytes += sum(submission.size for submission in self._in_flight)
        self._waiting.extendleft(reversed(self._in_flight))
        self._in_flight.clear()

    def empty(self) -> list[Submission]:
        """Return all, and let go of them."""
        self.put_back()
        left = list(self._waiting)
        self._waiting.clear()
        self._waiting_bytes = self.bytes = 0
        return left
