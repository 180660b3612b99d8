"""The memory queue: how many traces wait in memory, how large they are, and which are sent next."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from provider_trace_store.writer.options import WriterOptions
    from provider_trace_store.writer.submission import Submission

# The number of waiting batches that means that the writer's thread does not keep up.
_BEHIND: Final = 2


class MemoryQueue:
    """First in, first out. Every caller holds the lock of `SharedState`; only `is_behind` may be read without it.

    Args:
        options: how much the queue holds, and how much is sent in one batch.
    """

    def __init__(self, options: WriterOptions) -> None:
        self._options = options
        self._waiting: deque[Submission] = deque()
        self._waiting_bytes = 0
        self._in_flight: deque[Submission] = deque()
        self.bytes = 0
        # How many traces have come, and how many have left. The first to come are the first to leave.
        self.came = 0
        self.left = 0

    def __len__(self) -> int:
        return len(self._waiting) + len(self._in_flight)

    @property
    def oldest(self) -> float | None:
        """When the first waiting trace came, by the monotonic clock; None if none waits."""
        return self._waiting[0].since if self._waiting else None

    @property
    def has_batch(self) -> bool:
        """Whether a full batch waits."""
        return len(self._waiting) >= self._options.batch_rows or self._waiting_bytes >= self._options.batch_bytes

    @property
    def is_behind(self) -> bool:
        """Whether two full batches or more wait, which means that the writer's thread does not keep up."""
        options = self._options
        return (
            len(self._waiting) >= _BEHIND * options.batch_rows or self._waiting_bytes >= _BEHIND * options.batch_bytes
        )

    @property
    def is_half_empty(self) -> bool:
        """Whether at most half of the queue's room is taken."""
        return self.bytes <= self._options.max_queue_bytes // 2 and len(self) <= self._options.max_queue_traces // 2

    def has_room_for(self, submission: Submission) -> bool:
        """Say whether one more trace may come: the only one may be larger than all the room."""
        count = len(self._waiting) + len(self._in_flight)
        options = self._options
        return not count or (
            count < options.max_queue_traces and self.bytes + submission.size <= options.max_queue_bytes
        )

    def append(self, submission: Submission) -> bool:
        """Add a trace; return whether the writer's thread must look: at the first trace, and at a full batch."""
        self._waiting.append(submission)
        self._waiting_bytes += submission.size
        self.bytes += submission.size
        self.came += 1
        return len(self._waiting) == 1 or self.has_batch

    def take_batch(self) -> list[Submission]:
        """Return the next batch; its traces are in flight until `settle` or `put_back`."""
        waiting, batch, options = self._waiting, self._in_flight, self._options
        size = 0
        while (
            waiting and len(batch) < options.batch_rows and (not batch or size + waiting[0].size <= options.batch_bytes)
        ):
            size += waiting[0].size
            batch.append(waiting.popleft())
        self._waiting_bytes -= size
        return list(batch)

    def settle(self, sent: Sequence[Submission]) -> None:
        """Remove the first traces in flight: each is stored, was rejected, or will be appended again."""
        for _ in sent:
            self._in_flight.popleft()
        self.left += len(sent)
        self.bytes -= sum([submission.size for submission in sent])

    def put_back(self) -> None:
        """Let all traces in flight wait again, before the others."""
        self._waiting_bytes += sum(submission.size for submission in self._in_flight)
        self._waiting.extendleft(reversed(self._in_flight))
        self._in_flight.clear()

    @property
    def first(self) -> Submission | None:
        """The first waiting trace; None if none waits."""
        return self._waiting[0] if self._waiting else None

    def remove_first(self) -> None:
        """Remove the first waiting trace, which a close keeps elsewhere or drops."""
        size = self._waiting.popleft().size
        self._waiting_bytes -= size
        self.bytes -= size
