"""Cutting the traces of a bulk write into chunks, each small enough for one statement."""

from __future__ import annotations

from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Final, TypeVar

from provider_trace_store.errors import ProviderTraceStoreError, TraceEncodingError, TraceTooLargeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from provider_trace_store.tables.rows import Row

# The limits of one statement. A larger one is no faster, and it must fit into memory and fails as a whole.
MAX_ROWS = 1000
MAX_BYTES = 4 * 2**20
# Number of parts that refused rows are split into. More parts repeat less work; fewer parts need fewer statements.
_PARTS: Final = 4

_Source = TypeVar("_Source")


class Chunk:
    """The rows of one statement, made one by one while the chunk is iterated over.

    One object serves all chunks of a window: `begin` starts each of them.

    Args:
        make: makes the row of a trace.
        window: at most `MAX_ROWS` traces; a tuple, or an iterator of which the rest is not known yet.

    Attributes:
        is_listed: whether the window is a tuple, so that reading it runs no code of the host's.
        rows: the rows made so far, each id once.
        repeats: rows whose id another row of the chunk has; they must be written after it.
        rejected: traces that no row could be made of, each with the reason.
    """

    def __init__(self, make: Callable[[Any], Row], window: Iterable[Any]) -> None:
        self.is_listed = isinstance(window, tuple)
        self.rows: list[Row] = []
        self.repeats: list[Row] = []
        self.rejected: list[tuple[object, ProviderTraceStoreError]] = []
        self._make = make
        self._window: Iterable[Any] | None = window
        self._traces = iter(window)
        self._next: Row | None = None
        self._is_read = False

    def begin(self) -> bool:
        """Begin the next chunk; return False if the window is used up."""
        if self._is_read:
            return False
        self.rows, self.repeats, self.rejected = [], [], []
        return True

    def ids_ahead(self) -> list[str] | None:
        """Return the ids of a chunk before it is read, or None if they are not known yet.

        The list may hold more ids than the chunk: the window may be cut by its size.
        """
        if not self.is_listed or self._window is None:
            return None
        try:
            ids = [trace.id for trace in self._window]
            joined = "".join(ids)
        except (AttributeError, TypeError):
            # A trace that bypassed the schema's checks: making its row reports it.
            return None
        return ids if joined.isascii() and "\0" not in joined else None

    def __iter__(self) -> Iterator[Row]:
        rows, make = self.rows, self._make
        ids: set[str] = set()
        size = 0
        if (row := self._next) is not None:
            self._next = None
            size = row.size
            ids.add(row.trace_id)
            rows.append(row)
            yield row
        for trace in self._traces:
            try:
                row = make(trace)
            except (TraceEncodingError, TraceTooLargeError) as error:
                self.rejected.append((trace, error))
                continue
            trace_id, _, row_size = row
            size += row_size
            if size > MAX_BYTES and ids:
                self._next = row
                self._window = None
                return
            if trace_id in ids:
                self.repeats.append(row)
                continue
            ids.add(trace_id)
            rows.append(row)
            yield row
        self._is_read = True


def windows_of(traces: Iterable[Any]) -> Iterator[Iterable[Any]]:
    """Cut traces into windows of at most `MAX_ROWS`: tuples of a list or tuple, iterators of anything else.

    Args:
        traces: a list is copied, because another task may change it while it is written.
    """
    return _slices(tuple(traces)) if type(traces) in {list, tuple} else _pulls(iter(traces))


def _slices(traces: tuple[Any, ...]) -> Iterator[Iterable[Any]]:
    return (traces[start : start + MAX_ROWS] for start in range(0, len(traces), MAX_ROWS))


def _pulls(traces: Iterator[Any]) -> Iterator[Iterable[Any]]:
    for first in traces:
        yield chain((first,), islice(traces, MAX_ROWS - 1))


def parts_of(rows: Sequence[_Source]) -> list[Sequence[_Source]]:
    """Split rows that a statement or a transaction failed with into at most four even parts, in the same order."""
    step = -(-len(rows) // _PARTS)
    return [rows[start : start + step] for start in range(0, len(rows), step)]
