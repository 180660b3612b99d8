"""The raw driver's input: rows that are ready before the clock starts, and the statements that take them."""

from collections.abc import Iterable
from datetime import datetime
from functools import cached_property
from typing import Any, Final

import orjson
from sqlalchemy.dialects import postgresql

from provider_trace_store import ProviderTrace, ProviderTraceMetadataRecord, ProviderTraceRecord
from provider_trace_store.schemas import new_trace_id

ORGANIZATION: Final = "org-5f0c2c1e-benchmark"
BODIES: Final = ("request_json", "response_json")
# The table of packs, which only packing writes.
PACKS: Final = "provider_trace_packs"
# Columns that a row has and a trace does not have.
_ROW_ONLY: Final = {"organization_id": ORGANIZATION, "is_deleted": False}
# Only packing writes this column; it is NULL in all other rows.
_PACK: Final = "pack_id"

Row = tuple[Any, ...]

# The types that psycopg needs for COPY in the binary format; it sends bytes as they are.
_BINARY_TYPES: Final = {
    "JSON": "bytea",
    "TIMESTAMP WITH TIME ZONE": "timestamptz",
    "BOOLEAN": "bool",
    "VARCHAR": "text",
}


class Layout:
    """A table's columns and the statements on them."""

    def __init__(self, *, metadata: bool) -> None:
        record = ProviderTraceMetadataRecord if metadata else ProviderTraceRecord
        columns = {attribute.key: attribute.columns[0] for attribute in record.__mapper__.column_attrs}
        columns.pop(_PACK, None)
        types = [column.type.compile(dialect=postgresql.dialect()) for column in columns.values()]  # type: ignore[no-untyped-call]  # SQLAlchemy's
        self._keys = list(columns)
        self._json = {key for key, kind in zip(columns, types, strict=True) if kind == "JSON"}
        self.table = record.__tablename__
        self.names = [str(column.name) for column in columns.values()]
        self.binary_types = [_BINARY_TYPES[kind] for kind in types]
        names = ", ".join(self.names)
        self.copy_text = f"COPY {self.table} ({names}) FROM STDIN"
        self.copy_binary = f"{self.copy_text} (FORMAT binary)"
        values = ", ".join(["%s"] * len(self.names))
        self.insert = f"INSERT INTO {self.table} ({names}) VALUES ({values})"

    def row(self, trace: ProviderTrace) -> Row:
        """Return a trace's row, its documents as the text that the package stores."""
        values = ((key, _ROW_ONLY[key] if key in _ROW_ONLY else getattr(trace, key)) for key in self._keys)
        return tuple(
            orjson.dumps(value).decode() if key in self._json and value is not None else value for key, value in values
        )

    def with_bytes(self, row: Row) -> Row:
        """Return a row whose JSON is bytes."""
        pairs = zip(self._keys, row, strict=True)
        return tuple(value.encode() if key in self._json and value is not None else value for key, value in pairs)

    def select(self, *, as_text: bool) -> str:
        """Return the SELECT of a trace by id and organization; no driver parses JSON `as_text`."""
        select = f"SELECT {self.selected(as_text=as_text)} FROM {self.table}"
        return f"{select} WHERE id = %s AND organization_id = %s AND NOT is_deleted"

    def selected(self, *, as_text: bool) -> str:
        """Return the columns of a trace, separated by commas; `as_text` as in `select`."""
        pairs = zip(self._keys, self.names, strict=True)
        return ", ".join(
            f"{name}::text" if as_text and key in self._json else name for key, name in pairs if key not in _ROW_ONLY
        )

    def place(self, key: str) -> int:
        """Return the position of a column in a row of `select`, from 0."""
        return [each for each in self._keys if each not in _ROW_ONLY].index(key)


FULL: Final = Layout(metadata=False)
METADATA: Final = Layout(metadata=True)


class Ready:
    """The rows of a load's traces, made once; only the ids are new in each round."""

    def __init__(self, layout: Layout, batch: int, traces: Iterable[ProviderTrace]) -> None:
        self._layout = layout
        self._batch = batch
        self._rows = [layout.row(trace) for trace in traces]
        self.size = sum(map(size, self._rows))

    def rows(self, *, for_sqlite: bool = False) -> list[list[Row]]:
        """Return batches of rows whose JSON is text."""
        return self._named(self._for_sqlite if for_sqlite else self._rows)

    def rows_of_bytes(self) -> list[list[Row]]:
        """Return batches of rows whose JSON is bytes."""
        return self._named(self._with_bytes)

    @cached_property
    def _with_bytes(self) -> list[Row]:
        return [self._layout.with_bytes(row) for row in self._rows]

    @cached_property
    def _for_sqlite(self) -> list[Row]:
        # As the package stores them: timestamps are UTC, without a zone.
        return [
            tuple(f"{value:%Y-%m-%d %H:%M:%S.%f}" if isinstance(value, datetime) else value for value in row)
            for row in self._rows
        ]

    def _named(self, rows: list[Row]) -> list[list[Row]]:
        place = self._layout.names.index("id")
        named = [(*row[:place], new_trace_id(), *row[place + 1 :]) for row in rows]
        return [named[start : start + self._batch] for start in range(0, len(named), self._batch)]


def size(row: Row) -> int:
    """Return the bytes of text in a row."""
    return sum(len(value.encode()) for value in row if isinstance(value, str))
