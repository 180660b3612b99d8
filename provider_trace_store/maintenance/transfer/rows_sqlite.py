"""Rows of SQLite as lines: documents are read as bytes, because its driver refuses some texts."""

from __future__ import annotations

from functools import cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Integer, LargeBinary, Text, cast, func, literal, null, select

from provider_trace_store.maintenance.transfer.lines import HEAD, add_line, with_packed
from provider_trace_store.maintenance.transfer.stored import Lines, Position
from provider_trace_store.packs.store import documents_of
from provider_trace_store.tables.ids import is_among, lookup_for
from provider_trace_store.tables.moments import moment_of, raw_date

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import ColumnElement, Connection, Row, Select

    from provider_trace_store.tables.kinds import Kind

size_of: Final = attrgetter("size")


def begin_page(connection: Connection) -> None:
    """Do nothing: dates are text in UTC."""


def columns_of(kind: Kind, place: int) -> list[ColumnElement[Any]]:
    """Return the columns of a page: where the rows are.

    Args:
        kind: the table.
        place: the table's place in the order of rows with one date and id.
    """
    date = raw_date(kind.columns["created_at"], "sqlite").label("created_at")
    return [literal(place, Integer).label("place"), kind.columns["id"], date, literal(0, Integer).label("size")]


def lines_of(connection: Connection, kinds: Sequence[Kind], organization_id: str, rows: Sequence[Row[Any]]) -> Lines:
    """Return the lines of some rows of a page.

    Args:
        connection: in the transaction that read the page.
        kinds: the tables, by their places.
        organization_id: the organization of the rows.
        rows: the rows, in the order of the page; at least one.
    """
    found: dict[tuple[int, str, Any], Row[Any]] = {}
    for place, kind in enumerate(kinds):
        if ids := [row.id for row in rows if row.place == place]:
            lookup, parameters = lookup_for(ids, "sqlite")
            owned = kind.columns["organization_id"] == organization_id
            for row in connection.execute(_rows(kind).where(is_among(kind, lookup), owned), parameters):
                found[place, row.id, row.raw_date] = row
    packs: dict[Any, list[str]] = {}
    for (_, trace_id, _), row in found.items():
        if row.pack_id is not None:
            packs.setdefault(row.pack_id, []).append(trace_id)
    packed = documents_of(connection, packs) if packs else {}
    pieces: list[bytes] = []
    unreadable: list[str] = []
    size = 0
    for row in rows:
        kind = kinds[row.place]
        try:
            size += _add(pieces, kind, found[row.place, row.id, row.created_at], packed.get(row.id))
        except (ValueError, OverflowError, AttributeError):
            unreadable.append(row.id)
    *_, last = rows
    position = Position(organization_id, last.created_at, last.id, last.place)
    return Lines(b"".join(pieces), len(rows) - len(unreadable), size, unreadable, position)


@cache
def _rows(kind: Kind) -> Select[Any]:
    """Return the SELECT of a table's rows; after the columns of the layout come those that say whether it is readable.

    Args:
        kind: the table.
    """
    columns: list[ColumnElement[Any]] = []
    checks: list[ColumnElement[Any]] = []
    for name in kind.layout.fields:
        column = kind.columns[name]
        if name in kind.documents:
            columns.append(cast(column, LargeBinary).label(name))
            checks += [func.typeof(column), func.json_valid(cast(column, Text))]
        elif name == "created_at":
            columns.append(raw_date(column, "sqlite").label("raw_date"))
        elif name == "updated_at":
            columns.append(raw_date(column, "sqlite").label(name))
        else:
            columns.append(column.label(name))
    pack_id = null() if kind.keeps_bodies else kind.table.c.pack_id
    return select(*columns, pack_id.label("pack_id"), *checks)


def _add(pieces: list[bytes], kind: Kind, row: Row[Any], packed: object) -> int:
    """Append the pieces of the line of a row, and return the bytes of its documents.

    Args:
        pieces: the pieces.
        kind: the table.
        row: of the statement of `_rows`.
        packed: the documents from its pack, or the error of a damaged one; None if it has no pack, or not any more.

    Raises:
        ValueError: the row is not readable.
        OverflowError: a date is out of range.
        AttributeError: a date is not a date.
    """
    count = len(kind.layout.fields)
    given: dict[str, Any] = dict(zip(kind.layout.fields, row[:count], strict=True))
    given["stored_as"] = kind.name
    for name in ("created_at", "updated_at"):
        given[name] = None if given[name] is None else moment_of(given[name])
    given["is_deleted"] = bool(given["is_deleted"])
    checks = row[count + 1 :]
    not_json = []
    for name, stored_type, is_json in zip(kind.documents, checks[::2], checks[1::2], strict=True):
        if stored_type == "blob":
            raise ValueError(f"{name} is not text")
        if given[name] is not None:
            given[name].decode()
            if not is_json:
                not_json.append(name)
    names: Sequence[str] = kind.documents
    documents: list[bytes | None] = [given[name] for name in names]
    if row.pack_id is not None:
        if not isinstance(packed, tuple):
            raise ValueError("its pack is damaged")
        given["stored_as"] = "packed"
        names, documents = with_packed(names, documents, packed)
    return add_line(pieces, {name: given[name] for name in HEAD}, names, documents, not_json)
