"""The memory queue: how many traces wait in memory, how large they are, and which are sent next."""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Final

from provider_trace_store.writer.submission import Position

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from provider_trace_store.writer.counters import Counters
    from provider_trace_store.writer.options import WriterOptions
    from provider_trace_store.writer.submission import Submission

# The number of waiting batches that means that the writer's thread does not keep up.
_BEHIND: Final = 2


class MemoryQueue:
    """First in, first out. Every caller holds the lock of `SharedState`; only what says so may be read without it.

    Each trace has a position: its number, and where its bytes end. All counts and sizes are differences of positions.
    An exception of a signal's handler may come between any two steps and cannot make them disagree: a trace has come
    when it is in the deque, and has left when `Counters.left` is at its position.

    Args:
        options: how much the queue holds, and how much is sent in one batch.
        counters: count the traces that have left.
    """

    def __init__(self, options: WriterOptions, counters: Counters) -> None:
        self._options = options
        self._counters = counters
        # The first may have left already, until `forget`.
        self._traces: deque[Submission] = deque()
        # The position of the last trace in flight; that of the last one that has left, if none is.
        self._sent = Position()

    def __len__(self) -> int:
        """Return the number of traces; no lock is needed."""
        return max(0, self._came.number - self._counters.left.number)

    @property
    def came(self) -> int:
        """How many traces have come. The first to come are the first to leave."""
        return self._came.number

    @property
    def left(self) -> int:
        """How many traces have left."""
        return self._counters.left.number

    @property
    def bytes(self) -> int:
        """The size of all traces."""
        return self._came.end - self._counters.left.end

    @property
    def oldest(self) -> float | None:
        """When the first waiting trace came, by the monotonic clock; None if none waits."""
        traces = self._traces
        number = self._sent.number + 1
        return traces[number - traces[0].position.number].since if self._came.number >= number else None

    @property
    def has_batch(self) -> bool:
        """Whether a full batch waits."""
        return self._has_batches(1)

    @property
    def is_behind(self) -> bool:
        """Whether two full batches or more wait: the writer's thread does not keep up. No lock is needed."""
        return self._has_batches(_BEHIND)

    @property
    def is_half_empty(self) -> bool:
        """Whether at most half of the queue's room is taken."""
        return self.bytes <= self._options.max_queue_bytes // 2 and len(self) <= self._options.max_queue_traces // 2

    def take(self, submission: Submission, notify: Callable[[], None]) -> bool:
        """Add a trace if there is room; return whether there was.

        Args:
            submission: the trace.
            notify: called if the writer's thread must look: at the first trace, and at a full batch. It is called
                first, so that adding the trace is the last step.
        """
        # In the path of each submit: the properties would cost as much again.
        traces, options = self._traces, self._options
        left, left_end = self._counters.left
        number, end = traces[-1].position if traces else (left, left_end)
        new_end = end + submission.size
        if number != left and (
            number - left >= options.max_queue_traces or new_end - left_end > options.max_queue_bytes
        ):
            return False
        sent, sent_end = self._sent
        submission.position = Position(number + 1, new_end)
        waiting = number + 1 - sent
        if waiting == 1 or waiting >= options.batch_rows or new_end - sent_end >= options.batch_bytes:
            notify()
        traces.append(submission)
        return True

    def append(self, submission: Submission) -> None:
        """Add a trace that was in the queue before, whether there is room or not."""
        number, end = self._came
        submission.position = Position(number + 1, end + submission.size)
        self._traces.append(submission)

    def take_batch(self) -> list[Submission]:
        """Return the next batch; its traces are in flight until they have left, or `put_back`."""
        self.forget()
        batch: list[Submission] = []
        limit = self._counters.left.end + self._options.batch_bytes
        for submission in islice(self._traces, self._options.batch_rows):
            if batch and submission.position.end > limit:
                break
            batch.append(submission)
        if batch:
            self._sent = batch[-1].position
        return batch

    def after(self, sent: Sequence[Submission]) -> Position:
        """Return the value of `Counters.left` when so many of the first traces in flight have left."""
        self.forget()
        return self._traces[len(sent) - 1].position

    def forget(self) -> None:
        """Release the traces that have left."""
        traces, left = self._traces, self._counters.left.number
        while traces and traces[0].position.number <= left:
            traces.popleft()

    def put_back(self) -> None:
        """Let all traces in flight wait again, before the others."""
        self._sent = self._counters.left

    @property
    def first(self) -> Submission | None:
        """The first trace; None if there is none."""
        self.forget()
        return self._traces[0] if self._traces else None

    @property
    def _came(self) -> Position:
        """The position of the last trace that came."""
        try:
            return self._traces[-1].position
        except IndexError:
            return self._counters.left

    def _has_batches(self, count: int) -> bool:
        traces = self._traces
        try:
            number, end = traces[-1].position
        except IndexError:
            return False
        sent, sent_end = self._sent
        options = self._options
        return number - sent >= count * options.batch_rows or end - sent_end >= count * options.batch_bytes
