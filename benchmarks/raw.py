"""The work without the package: ready-made rows, and the statements that a driver runs with them."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Boolean, String

from provider_trace_store import ProviderTraceMetadataRecord, ProviderTraceRecord
from provider_trace_store.codec import encode
from provider_trace_store.tables.moments import UtcDateTime
from provider_trace_store.tables.types import ExactJSON

if TYPE_CHECKING:
    from collections.abc import Iterable

    from provider_trace_store import ProviderTrace

ORGANIZATION: Final = "org-5f0c2c1e-benchmark"
BODIES: Final = ("request_json", "response_json")
# Of every row, and no part of a trace.
_HIDDEN: Final = ("organization_id", "is_deleted")

Row = tuple[Any, ...]

# What psycopg is told of a column's values where it writes the binary format.
_BINARY_TYPES: Final = ((ExactJSON, "bytea"), (UtcDateTime, "timestamptz"), (Boolean, "bool"), (String, "text"))


class Layout:
    """A table's columns and the statements on them.

    Args:
        metadata: whether of the metadata's table.
    """

    def __init__(self, *, metadata: bool) -> None:
        record = ProviderTraceMetadataRecord if metadata else ProviderTraceRecord
        self._columns = {attribute.key: attribute.columns[0] for attribute in record.__mapper__.column_attrs}
        self.table = record.__tablename__
        self.names = [str(column.name) for column in self._columns.values()]
        self._json = {key for key, column in self._columns.items() if isinstance(column.type, ExactJSON)}
        names = ", ".join(self.names)
        self.copy_text = f"COPY {self.table} ({names}) FROM STDIN"
        self.copy_binary = f"{self.copy_text} (FORMAT binary)"
        self.binary_types = [
            next(name for kind, name in _BINARY_TYPES if isinstance(column.type, kind))
            for column in self._columns.values()
        ]
        values = ", ".join(["%s"] * len(self.names))
        self.insert = f"INSERT INTO {self.table} ({names}) VALUES ({values})"  # noqa: S608  (names of our own)
        self.insert_sqlite = self.insert.replace("%s", "?")
        self.select_sqlite = self.select(as_text=False).replace("%s", "?")

    def row(self, trace: ProviderTrace) -> Row:
        """Return the row of a trace, its documents as the text that the package stores."""
        return tuple(self._value(trace, key) for key in self._columns)

    def rows(self, traces: Iterable[ProviderTrace]) -> list[Row]:
        """Return the rows of traces."""
        return [self.row(trace) for trace in traces]

    def with_bytes(self, row: Row) -> Row:
        """Return a row whose JSON is bytes."""
        return tuple(
            value.encode() if key in self._json and value is not None else value
            for key, value in zip(self._columns, row, strict=True)
        )

    def documents(self, trace: ProviderTrace) -> Row:
        """Return the row of a trace whose two bodies are still documents."""
        return tuple(getattr(trace, key) if key in BODIES else self._value(trace, key) for key in self._columns)

    def select(self, *, as_text: bool) -> str:
        """Return the SELECT of a trace by id and organization, of what a trace has.

        Args:
            as_text: whether the JSON columns come as text, which no driver parses.
        """
        where = "id = %s AND organization_id = %s AND NOT is_deleted"
        return f"SELECT {self.selected(as_text=as_text)} FROM {self.table} WHERE {where}"  # noqa: S608  (names of our own)

    def selected(self, *, as_text: bool) -> str:
        """Return the columns of what a trace has, for a SELECT; `as_text` as in `select`."""
        return ", ".join(
            f"{column.name}::text" if as_text and key in self._json else str(column.name)
            for key, column in self._columns.items()
            if key not in _HIDDEN
        )

    def place(self, name: str) -> int:
        """Return where in a row of `select` a column stands, from 0."""
        return [key for key in self._columns if key not in _HIDDEN].index(name)

    def _value(self, trace: ProviderTrace, key: str) -> object:
        if key == "organization_id":
            return ORGANIZATION
        if key == "is_deleted":
            return False
        value = getattr(trace, key)
        return str(encode(value)) if key in self._json and value is not None else value


FULL: Final = Layout(metadata=False)
METADATA: Final = Layout(metadata=True)


def size(row: Row) -> int:
    """Return how many bytes of text a row has."""
    return sum(len(value.encode()) for value in row if isinstance(value, str))


def for_sqlite(row: Row) -> Row:
    """Return a row as SQLite stores it: moments in UTC, without a zone."""
    return tuple(f"{value:%Y-%m-%d %H:%M:%S.%f}" if isinstance(value, datetime) else value for value in row)
