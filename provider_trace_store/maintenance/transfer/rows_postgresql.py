"""Rows of PostgreSQL as lines: one statement reads all columns of a page but large documents."""

from __future__ import annotations

from functools import cache, reduce
from operator import add, itemgetter
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import (
    DateTime,
    Integer,
    String,
    Text,
    Uuid,
    and_,
    bindparam,
    case,
    cast,
    func,
    literal_column,
    null,
    or_,
    select,
    text,
    type_coerce,
)

from provider_trace_store.maintenance.transfer.lines import HEAD, add_line, with_packed
from provider_trace_store.maintenance.transfer.stored import Lines, Position
from provider_trace_store.packs.store import documents_of
from provider_trace_store.schemas import EARLIEST, LATEST
from provider_trace_store.tables.ids import is_among, lookup_for
from provider_trace_store.tables.kinds import FULL
from provider_trace_store.tables.moments import parameter

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from uuid import UUID

    from sqlalchemy import ColumnElement, Connection, Row, Select

    from provider_trace_store.tables.ids import Lookup
    from provider_trace_store.tables.kinds import Kind

# The documents of a row up to this size are read with the row, unless they are compressed; the size is that of the
# stored form, in bytes. A look-up of its own for each row takes longer than reading it. A page of such rows has 1 MB at
# most.
_SMALL: Final = 1_000
# For one transaction, which is safe behind a pooler of transactions. The driver returns dates in the session's time
# zone. A plan for any organization would read the rows of the large ones where the pages are of a small one.
_SETTINGS: Final = text(
    "SELECT set_config('TimeZone', 'UTC', true), set_config('plan_cache_mode', 'force_custom_plan', true)"
)
_DOCUMENTS: Final = FULL.documents
# The places in a row of a page.
_CREATED: Final = HEAD.index("created_at")
_ID: Final = HEAD.index("id")
_FIRST_DOCUMENT: Final = len(HEAD)
_PLACE: Final = _FIRST_DOCUMENT + len(_DOCUMENTS)
_PACK, _SIZE, _IS_SMALL = _PLACE + 1, _PLACE + 2, _PLACE + 3

size_of: Final = itemgetter(_SIZE)


def begin_page(connection: Connection) -> None:
    """Let the transaction return dates in UTC, and plan each page for its organization."""
    connection.execute(_SETTINGS)


def columns_of(kind: Kind, place: int) -> list[ColumnElement[Any]]:
    """Return the columns of a page, the same for each table.

    Args:
        kind: the table.
        place: the table's place in the order of rows with one date and id.
    """
    sizes = (func.coalesce(func.pg_column_size(kind.columns[name]), 0) for name in kind.documents)
    size: ColumnElement[int] = reduce(add, sizes)
    compressed = (func.pg_column_compression(kind.columns[name]).is_not(None) for name in kind.documents)
    is_small = and_(size <= _SMALL, ~or_(*compressed))
    updated = kind.columns["updated_at"]
    is_readable = and_(updated >= EARLIEST, updated <= LATEST)
    special: dict[str, ColumnElement[Any]] = {
        "stored_as": literal_column(f"'{kind.name}'", Text),
        # Without the Python code of the column's type: the dates of the session are in UTC already.
        "created_at": type_coerce(kind.columns["created_at"], DateTime(timezone=True)),
        "updated_at": type_coerce(case((is_readable, updated)), DateTime(timezone=True)),
    }
    documents = (
        case((is_small, cast(kind.columns[name], Text))) if name in kind.documents else cast(null(), Text)
        for name in _DOCUMENTS
    )
    return [
        *(special.get(name, kind.columns.get(name, null())).label(name) for name in HEAD),
        *(document.label(name) for name, document in zip(_DOCUMENTS, documents, strict=True)),
        literal_column(str(place), Integer).label("place"),
        (cast(null(), Uuid) if kind.keeps_bodies else kind.table.c.pack_id).label("pack_id"),
        size.label("size"),
        is_small.label("is_small"),
        func.coalesce(~is_readable, False).label("is_unreadable"),
    ]


def lines_of(connection: Connection, kinds: Sequence[Kind], organization_id: str, rows: Sequence[Row[Any]]) -> Lines:
    """Return the lines of some rows of a page.

    Args:
        connection: in the transaction that read the page.
        kinds: the tables, by their places.
        organization_id: the organization of the rows.
        rows: the rows, in the order of the page; at least one.
    """
    large: dict[tuple[Any, str, int], tuple[str | None, ...]] = {}
    packs: dict[UUID, list[str]] = {}
    for place, kind in enumerate(kinds):
        if wanted := [row for row in rows if not row[_IS_SMALL] and row[_PLACE] == place]:
            large.update(_large(connection, kind, place, organization_id, wanted))
    for row in rows:
        if row[_PACK] is not None:
            packs.setdefault(row[_PACK], []).append(row[_ID])
    packed = documents_of(connection, packs) if packs else {}
    # The documents of each table stand side by side in a row.
    places = []
    for kind in kinds:
        first = _FIRST_DOCUMENT + _DOCUMENTS.index(kind.documents[0])
        places.append((kind.documents, slice(first, first + len(kind.documents))))
    pieces: list[bytes] = []
    unreadable: list[str] = []
    size = 0
    # This loop runs for each row of the database: what it calls decides how fast an export is.
    for row in rows:
        place, pack_id, _, is_small, is_unreadable = row[_PLACE:]
        if is_unreadable:
            unreadable.append(row[_ID])
            continue
        head = dict(zip(HEAD, row))  # noqa: B905  (the row has more columns)
        names, where = places[place]
        texts = row[where] if is_small else large[row[_CREATED], row[_ID], place]
        documents = [None if value is None else value.encode() for value in texts]
        if pack_id is not None:
            bodies = packed.get(row[_ID])
            if not isinstance(bodies, tuple):  # damaged
                unreadable.append(row[_ID])
                continue
            head["stored_as"] = "packed"
            names, documents = with_packed(names, documents, bodies)
        size += add_line(pieces, head, names, documents)
    *_, last = rows
    position = Position(organization_id, last[_CREATED], last[_ID], last[_PLACE])
    return Lines(b"".join(pieces), len(rows) - len(unreadable), size, unreadable, position)


def _large(
    connection: Connection, kind: Kind, place: int, organization_id: str, rows: Sequence[Row[Any]]
) -> Iterator[tuple[tuple[Any, str, int], tuple[str | None, ...]]]:
    """Yield the key and the documents of each of some rows of a table."""
    lookup, ids = lookup_for([row[_ID] for row in rows], "postgresql")
    low, high = rows[0][_CREATED], rows[-1][_CREATED]
    # The dates let PostgreSQL leave out the other partitions of a table. A page has only rows with dates, or none.
    has_dates = not kind.keeps_bodies and low is not None
    values = {**ids, "organization_id": organization_id, **({"low": low, "high": high} if has_dates else {})}
    for row in connection.execute(_documents(kind, lookup, has_dates=has_dates), values):
        trace_id, created_at, *documents = row
        yield (created_at, trace_id, place), tuple(documents)


@cache
def _documents(kind: Kind, lookup: Lookup, *, has_dates: bool) -> Select[Any]:
    date = kind.columns["created_at"]
    raw = type_coerce(date, DateTime(timezone=True))
    documents = (cast(kind.columns[name], Text) for name in kind.documents)
    statement = select(kind.columns["id"], raw, *documents).where(
        is_among(kind, lookup), kind.columns["organization_id"] == bindparam("organization_id", type_=String)
    )
    if not has_dates:
        return statement
    return statement.where(date.between(parameter("low", "postgresql"), parameter("high", "postgresql")))
