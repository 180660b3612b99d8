"""A stored row as it is exported and imported, the text that names its table, and the place where an export is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from provider_trace_store.errors import MaintenanceError
from provider_trace_store.tables.kinds import FULL, METADATA
from provider_trace_store.tables.moments import NO_DATE
from provider_trace_store.tables.rows import Row, row_size

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from provider_trace_store.tables.kinds import Kind

# By the value of `stored_as`: a packed trace is imported as a full one.
KINDS: Final[dict[object, Kind]] = {"full": FULL, "packed": FULL, "metadata": METADATA}


class Position(NamedTuple):
    """The last row that was read.

    Args:
        organization_id: its organization.
        created_at: its date, as it is compared in the table: text on SQLite; None for a row without one.
        trace_id: its id.
        table: 0 for the table of full traces, 1 for that of metadata.
    """

    organization_id: str
    created_at: datetime | str | None
    trace_id: str
    table: int


class Lines(NamedTuple):
    """The lines of some rows.

    Args:
        content: the lines.
        rows: how many there are.
        size: the bytes of their documents.
        unreadable: the ids of the rows that are not readable, and have no line.
        position: where the last row is.
    """

    content: bytes
    rows: int
    size: int
    unreadable: list[str]
    position: Position


class StoredTrace(NamedTuple):
    """A row of a table, or a packed trace.

    Args:
        stored_as: `full`, `packed` or `metadata`.
        values: a value for each of `Kind.layout.fields`; documents are the bytes of their stored text.
    """

    stored_as: str
    values: list[Any]

    @property
    def kind(self) -> Kind:
        """The table that an import writes the row to."""
        return KINDS[self.stored_as]

    @property
    def size(self) -> int:
        """The bytes of the documents."""
        return sum(len(value) for value in self.values if type(value) is bytes)


class Source(NamedTuple):
    """A row to import, as `create_rows` takes it.

    Args:
        id: the trace's id.
        row: the row.
        size: the bytes of its documents.
    """

    id: str
    row: Row
    size: int


def source_of(stored: StoredTrace, place: str) -> Source:
    """Return the row that an import inserts; a row without a date gets the date that reads show for it.

    Args:
        stored: a row of a file.
        place: the row's place in the file, for the error.

    Raises:
        MaintenanceError: a value has another type than the column.
    """
    layout = stored.kind.layout
    values = list(stored.values)
    created, _ = layout.moments
    if values[created] is None:
        values[created] = NO_DATE
    organization_id, is_deleted = values[-2:]
    texts = values[: len(layout.texts)]
    required = type(values[0]) is str and type(organization_id) is str and organization_id
    if not required or type(is_deleted) is not bool or not all(value is None or type(value) is str for value in texts):
        raise MaintenanceError(f"{place} is not a row of an export: a value has another type than its column")
    return Source(values[0], Row(values[0], values, row_size(values)), stored.size)


def stored_of(given: Mapping[str, Any]) -> StoredTrace:
    """Return the row of values by the names of their fields; KeyError if one is missing."""
    stored_as = given["stored_as"]
    return StoredTrace(stored_as, [given[name] for name in KINDS[stored_as].layout.fields])
