"""The two kinds of table, full traces and metadata: only this module knows how they differ."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Literal

from sqlalchemy.orm import class_mapper

from provider_trace_store.schemas import ProviderTrace, ProviderTraceMetadata
from provider_trace_store.tables.models import DOCUMENTS, ProviderTraceMetadataRecord, ProviderTraceRecord
from provider_trace_store.tables.rows import RowLayout

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Table


@dataclass(frozen=True, eq=False)
class Kind:
    """One of the two tables, with everything that depends on the table.

    Args:
        name: the value of `stored_as` of a trace that is read from the table, unless it is packed.
        record: the mapped class of the table.
        schema: the class of a trace that is read from the table.
        keeps_bodies: whether a row has the request and the response.
        takes_an_id_twice: whether the primary key allows two rows with one id and different dates; a write then looks
            for the id first.
    """

    name: Literal["full", "metadata"]
    record: type[ProviderTraceRecord | ProviderTraceMetadataRecord]
    schema: type[ProviderTrace | ProviderTraceMetadata]
    keeps_bodies: bool
    takes_an_id_twice: bool

    @cached_property
    def table(self) -> Table:
        """The table, without the name of a schema."""
        return self.record.__table__  # type: ignore[return-value]  # declared as FromClause

    @property
    def looked_at(self) -> tuple[Table, ...]:
        """The tables that an insert only reads: for full traces that of the metadata, which names packed ids."""
        return (METADATA.table,) if self.keeps_bodies else ()

    @cached_property
    def layout(self) -> RowLayout:
        """The layout of the table's rows."""
        return RowLayout(self.schema)

    @cached_property
    def fields(self) -> tuple[str, ...]:
        """The fields of the schema, in the order of the schema."""
        return tuple(self.schema.model_fields)

    @cached_property
    def documents(self) -> tuple[str, ...]:
        """The fields whose columns are JSON, in the order of the schema."""
        return tuple(name for name in self.fields if name in DOCUMENTS)

    @cached_property
    def columns(self) -> dict[str, ColumnElement[Any]]:
        """The table's columns by the name of their field."""
        return dict(class_mapper(self.record).columns.items())

    @cached_property
    def row_columns(self) -> tuple[str, ...]:
        """The names of the columns for which a `Row` has values, in the order of the values."""
        return tuple(self.table_column(name) for name in self.layout.fields)

    def table_column(self, field: str) -> str:
        """Return the name of a field's column: for some fields it is the field's name with an underscore before it."""
        return str(self.columns[field].key)

    def view_of(self, trace: ProviderTrace) -> ProviderTrace | ProviderTraceMetadata:
        """Return the part of a trace that the table stores: the trace, or its metadata."""
        return trace if self.keeps_bodies else ProviderTraceMetadata.from_trace(trace)


FULL: Final = Kind("full", ProviderTraceRecord, ProviderTrace, keeps_bodies=True, takes_an_id_twice=False)
METADATA: Final = Kind(
    "metadata", ProviderTraceMetadataRecord, ProviderTraceMetadata, keeps_bodies=False, takes_an_id_twice=True
)
KINDS: Final = (METADATA, FULL)


def kind_for(*, metadata_only: bool) -> Kind:
    """Return the kind of the table that traces are written to.

    Args:
        metadata_only: whether only the metadata of traces is stored.
    """
    return METADATA if metadata_only else FULL
