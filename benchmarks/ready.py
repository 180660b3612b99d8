"""Ready-made input of the raw side, made once for a load; only the ids are new in each round."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Final, TypeVar

from benchmarks import copy_formats, raw
from provider_trace_store.schemas import new_trace_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from benchmarks.raw import Layout, Row
    from provider_trace_store import ProviderTrace

_Item = TypeVar("_Item")

# Stands for the id until there is one, and is as long as one.
_PLACEHOLDER: Final = new_trace_id()


class Ready:
    """The rows of a load.

    Args:
        layout: their table.
        batch: rows in a batch.
        traces: of all batches.
    """

    def __init__(self, layout: Layout, batch: int, traces: Iterable[ProviderTrace]) -> None:
        self._layout = layout
        self._batch = batch
        self._place = layout.names.index("id")
        self._rows = [self._named(layout.row(trace), _PLACEHOLDER) for trace in traces]
        self.size = sum(map(raw.size, self._rows))

    def rows(self) -> list[list[Row]]:
        """Return batches of rows: JSON is text."""
        return self._batches([self._named(row, new_trace_id()) for row in self._rows])

    def rows_for_binary(self) -> list[list[Row]]:
        """Return batches of rows: JSON is bytes, which psycopg sends as they are."""
        return self._batches([self._named(row, new_trace_id()) for row in self._rows_of_bytes])

    def text(self) -> list[bytes]:
        """Return COPY's data of each batch in the text format."""
        return [b"".join(batch) for batch in self._batches(_filled(self._text))]

    def binary(self) -> list[bytes]:
        """Return COPY's data of each batch in the binary format."""
        header, trailer = copy_formats.BINARY_HEADER, copy_formats.BINARY_TRAILER
        return [b"".join([header, *batch, trailer]) for batch in self._batches(_filled(self._binary))]

    @cached_property
    def _rows_of_bytes(self) -> list[Row]:
        return [self._layout.with_bytes(row) for row in self._rows]

    @cached_property
    def _text(self) -> list[list[bytes]]:
        return self._cut(copy_formats.text_line)

    @cached_property
    def _binary(self) -> list[list[bytes]]:
        return self._cut(copy_formats.binary_tuple)

    def _cut(self, encoded: Callable[[Row], bytes]) -> list[list[bytes]]:
        return [encoded(row).split(_PLACEHOLDER.encode(), 1) for row in self._rows]

    def _named(self, row: Row, trace_id: str) -> Row:
        return (*row[: self._place], trace_id, *row[self._place + 1 :])

    def _batches(self, items: list[_Item]) -> list[list[_Item]]:
        return [items[start : start + self._batch] for start in range(0, len(items), self._batch)]


def _filled(pieces: list[list[bytes]]) -> list[bytes]:
    return [before + new_trace_id().encode() + after for before, after in pieces]
