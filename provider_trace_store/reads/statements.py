"""The statements that read one trace, some traces by id, or the traces of one step.

Whole traces are read from `provider_traces`, and from the rows of metadata that have a pack, in one statement: packing
moves a trace in one transaction, so each statement finds it in one place or the other.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    String,
    Text,
    Uuid,
    bindparam,
    case,
    cast,
    false,
    literal_column,
    null,
    select,
    text,
    type_coerce,
    union_all,
)
from sqlalchemy.types import NullType

from provider_trace_store.tables.ids import is_among
from provider_trace_store.tables.kinds import FULL, KINDS, METADATA
from provider_trace_store.tables.moments import UtcDateTime
from provider_trace_store.tables.types import ExactJSON

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy import ColumnElement, Select, TextClause

    from provider_trace_store.tables.ids import Lookup
    from provider_trace_store.tables.kinds import Kind

# Each statement is built once, and selects columns rather than mapped objects: to build a statement of twenty columns,
# or to load an object with the ORM, takes as long as the server needs for the statement.


@cache
def full_by_id(dialect: str) -> Select[Any]:
    """Return the statement that selects the fields of the full trace of `:trace_id`, without `pack_id`.

    `by_id` takes longer for a full trace: it is for ids that this statement does not find.

    Args:
        dialect: SQLAlchemy's name of the database.
    """
    return _full(dialect).where(FULL.columns["id"] == bindparam("trace_id"))


@cache
def by_id(dialect: str) -> Select[Any]:
    """Return the statement that selects the whole trace of `:trace_id`.

    The values of this statement, and of the others here, come as the driver returns them: see `unconverted`. Each
    statement of whole traces also selects `pack_id`, which is None for a row of `provider_traces`; the documents of a
    packed trace are NULL. A trace that is in both tables comes as two rows.

    Args:
        dialect: SQLAlchemy's name of the database.
    """
    return _both(
        _whole(dialect).where(FULL.columns["id"] == bindparam("trace_id")),
        _newest(_packed(dialect).where(METADATA.columns["id"] == bindparam("trace_id")), METADATA),
    )


@cache
def by_ids(lookup: Lookup) -> Select[Any]:
    """Return the statement that selects the whole traces of several ids.

    Args:
        lookup: how the statement gets the ids; `lookup_for` returns it with the parameter.
    """
    return _both(
        _whole(lookup.dialect).where(is_among(FULL, lookup)),
        _packed(lookup.dialect).where(is_among(METADATA, lookup)),
    )


@cache
def metadata_by_id(dialect: str) -> Select[Any]:
    """Return the statement that selects the metadata of `:trace_id` and the name of its kind as `stored_as`.

    If the trace is in both tables, the row of the full trace is selected. In the metadata table an id may have two
    dates: the newest row is selected.

    Args:
        dialect: SQLAlchemy's name of the database.
    """
    branches = []
    for kind in KINDS:
        statement = _visible(kind, METADATA.fields).add_columns(stored_as(kind, kind.columns.get("pack_id")))
        branches.append(_newest(statement.where(kind.columns["id"] == bindparam("trace_id")), kind))
    both = union_all(*(select(branch.subquery()) for branch in branches)).subquery()
    # "full" comes before the others.
    return select(*(unconverted(column, dialect) for column in both.c)).order_by(both.c.stored_as).limit(1)


@cache
def by_step_id(dialect: str) -> Select[Any]:
    """Return the statement that selects the whole traces of `:step_id`, oldest first; argument as for `by_id`."""
    both = _both(_of_step(_whole(dialect), FULL), _of_step(_packed(dialect), METADATA))
    columns = both.selected_columns
    # Rows without a date, which adopted tables may have, count as the oldest. Of a trace in both tables, the full row
    # comes first.
    return both.order_by(columns.created_at.is_not(None), columns.created_at, columns.id, columns.pack_id.is_not(None))


@cache
def newest_by_step_id(dialect: str) -> Select[Any]:
    """Return the statement that selects the newest whole trace of `:step_id`; argument as for `by_id`."""
    both = _both(
        _newest(_of_step(_whole(dialect), FULL), FULL), _newest(_of_step(_packed(dialect), METADATA), METADATA)
    )
    columns = both.selected_columns
    return both.order_by(
        columns.created_at.is_(None), columns.created_at.desc(), columns.id.desc(), columns.pack_id.is_not(None)
    ).limit(1)


@cache
def partitioned() -> TextClause:
    """Return the statement that selects those of the names `:full` and `:metadata` that are partitioned tables."""
    return text(
        "SELECT given.name FROM (VALUES ('full', CAST(:full AS text)), ('metadata', CAST(:metadata AS text)))"
        " AS given (name, place) JOIN pg_class ON pg_class.oid = to_regclass(given.place) WHERE relkind = 'p'"
    )


def stored_as(kind: Kind, pack_id: ColumnElement[Any] | None) -> ColumnElement[str]:
    """Return a column that says where the trace of a row is stored: the name of the kind, or `packed`.

    Args:
        kind: the table.
        pack_id: the table's column of that name; None for a table without one.
    """
    name: ColumnElement[str] = literal_column(f"'{kind.name}'", String)
    if pack_id is not None:
        name = case((pack_id.is_(None), name), else_=literal_column("'packed'", String))
    return name.label("stored_as")


def unconverted(column: ColumnElement[Any], dialect: str) -> ColumnElement[Any]:
    """Return a column whose values come as the driver returns them; the caller converts dates and documents.

    SQLAlchemy would convert them with one call for each value of each row, and its errors do not name the row.

    Args:
        column: the column.
        dialect: SQLAlchemy's name of the database. SQLite returns a document as it is stored: a BLOB that is cast to
            text may make the driver fail for the whole result.
    """
    if dialect == "sqlite":
        return type_coerce(column, NullType())
    match column.type:
        case ExactJSON():
            return cast(column, Text)
        case UtcDateTime():
            return type_coerce(column, NullType())
    return column


def _of_step(statement: Select[Any], kind: Kind) -> Select[Any]:
    return statement.where(kind.columns["step_id"] == bindparam("step_id"))


def _visible(kind: Kind, fields: Collection[str]) -> Select[Any]:
    return select(*(kind.columns[name].label(name) for name in fields)).where(
        kind.columns["organization_id"] == bindparam("organization_id"),
        kind.columns["is_deleted"] == false(),
    )


def _whole(dialect: str) -> Select[Any]:
    return _full(dialect).add_columns(cast(null(), Uuid).label("pack_id"))


def _full(dialect: str) -> Select[Any]:
    """Return the statement that selects the visible rows of `provider_traces`."""
    full = _visible(FULL, FULL.fields)
    return full.with_only_columns(
        *(unconverted(column, dialect).label(column.name) for column in full.selected_columns)
    )


def _packed(dialect: str) -> Select[Any]:
    """Return the statement that selects the visible rows of packed traces, with the columns of `_whole`."""
    pack_id = METADATA.columns["pack_id"]
    visible = _visible(METADATA, METADATA.fields).where(pack_id.is_not(None))
    stored = visible.selected_columns
    columns = (
        (unconverted(stored[name], dialect) if name in stored else cast(null(), Text)).label(name)
        for name in FULL.fields
    )
    return visible.with_only_columns(*columns, pack_id)


def _both(full: Select[Any], packed: Select[Any]) -> Select[Any]:
    """Return the statement that selects the rows of two statements."""
    # Each is a subquery: SQLite allows no LIMIT inside of a UNION.
    return select(union_all(select(full.subquery()), select(packed.subquery())).subquery())


def _newest(statement: Select[Any], kind: Kind) -> Select[Any]:
    created_at = kind.columns["created_at"]
    # Without NULLS LAST, which SQLite has from 3.30 on.
    return statement.order_by(created_at.is_(None), created_at.desc(), kind.columns["id"].desc()).limit(1)
