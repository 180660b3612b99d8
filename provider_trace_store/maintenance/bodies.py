"""Reads the documents of traces to pack, without locks, a few MB at a time."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import LargeBinary, Text, cast, func, literal_column, select

from provider_trace_store.maintenance.batches import batches_of
from provider_trace_store.packs.format import PACKED_DOCUMENTS, digest
from provider_trace_store.tables.ids import is_among, lookup_for
from provider_trace_store.tables.kinds import FULL

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlalchemy import ColumnElement, Connection, Row, Select

    from provider_trace_store.maintenance.candidates import Head
    from provider_trace_store.packs.format import Documents

# Of one statement: the bytes as they are stored (the text is two to four times larger), and the traces.
_BATCH_BYTES: Final = 2_000_000
_BATCH_TRACES: Final = 200
# SQLite does not tell the size of text without reading it, and a statement takes no round trip.
_BATCH_TRACES_ON_SQLITE: Final = 8


class Body(NamedTuple):
    """The documents of a trace, as they were read.

    Args:
        head: the trace.
        documents: their stored text; None if one of them is not readable text.
        stamp: another one if the row is another one: its place and version on PostgreSQL, a digest of the documents on
            SQLite.
    """

    head: Head
    documents: Documents | None
    stamp: str | bytes


def bodies(connection: Connection, heads: Sequence[Head], organization_id: str) -> Iterator[Body]:
    """Yield the traces that are still there, in the order of `heads`.

    Args:
        connection: without a transaction.
        heads: of one organization.
        organization_id: the organization.
    """
    most = _BATCH_TRACES_ON_SQLITE if connection.dialect.name == "sqlite" else _BATCH_TRACES
    for batch in batches_of(heads, attrgetter("size"), rows=most, size=_BATCH_BYTES):
        with connection.begin():
            found = dict(read(connection, [head.trace_id for head in batch], organization_id))
        for head in batch:
            if head.trace_id in found:
                documents, stamp = found.pop(head.trace_id)
                yield Body(head, documents, stamp)


def read(
    connection: Connection, trace_ids: Sequence[str], organization_id: str
) -> Iterator[tuple[str, tuple[Documents | None, str | bytes]]]:
    """Yield the id, the documents and the stamp of each of some traces.

    Args:
        connection: in a transaction.
        trace_ids: at least one.
        organization_id: the organization that has them.
    """
    dialect = connection.dialect.name
    lookup, parameters = lookup_for(trace_ids, dialect)
    statement = _statement(dialect).where(is_among(FULL, lookup), FULL.columns["organization_id"] == organization_id)
    for row in connection.execute(statement, parameters):
        documents = _documents(row, dialect)
        if dialect == "sqlite":
            yield row.id, (documents, b"" if documents is None else digest(documents))
        else:
            yield row.id, (documents, row.stamp)


def stamp_of_row() -> ColumnElement[str]:
    """Return a column for PostgreSQL that differs between any two versions of any rows of the table."""
    return literal_column("tableoid::text || ' ' || ctid::text || ' ' || xmin::text", Text).label("stamp")


def _statement(dialect: str) -> Select[Any]:
    columns = [FULL.columns[name] for name in PACKED_DOCUMENTS]
    if dialect == "sqlite":
        # As bytes: the driver refuses text that is not UTF-8, and a BLOB must not be taken for text.
        kinds = (func.typeof(column) for column in columns)
        return select(FULL.columns["id"], *(cast(column, LargeBinary) for column in columns), *kinds)
    return select(FULL.columns["id"], *(cast(column, Text) for column in columns), stamp_of_row())


def _documents(row: Row[Any], dialect: str) -> Documents | None:
    values = row[1 : 1 + len(PACKED_DOCUMENTS)]
    try:
        if dialect == "sqlite":
            if not {"text", "null"}.issuperset(row[1 + len(PACKED_DOCUMENTS) :]):
                return None
            for value in values:
                _ = value is None or value.decode()
            one, two, three, four = values
        else:
            one, two, three, four = (None if value is None else value.encode() for value in values)
    except (AttributeError, UnicodeError):
        return None
    return one, two, three, four
