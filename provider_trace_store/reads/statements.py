"""The statements that read one trace, some traces by id, or the traces of one step."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import String, Text, bindparam, cast, false, literal_column, select, text, type_coerce, union_all
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
def by_id(dialect: str) -> Select[Any]:
    """Return the statement that selects the full trace of `:trace_id`.

    The values of this statement, and of the others here, come as the driver returns them: see `unconverted`.

    Args:
        dialect: SQLAlchemy's name of the database.
    """
    return _whole(dialect).where(FULL.columns["id"] == bindparam("trace_id"))


@cache
def by_ids(lookup: Lookup) -> Select[Any]:
    """Return the statement that selects the full traces of several ids.

    Args:
        lookup: how the statement gets the ids; `lookup_for` returns it with the parameter.
    """
    return _whole(lookup.dialect).where(is_among(FULL, lookup))


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
        statement = _visible(kind, METADATA.fields).add_columns(stored_as(kind))
        branches.append(_newest(statement.where(kind.columns["id"] == bindparam("trace_id")), kind))
    both = union_all(*(select(branch.subquery()) for branch in branches)).subquery()
    # "full" comes before "metadata".
    return select(*(unconverted(column, dialect) for column in both.c)).order_by(both.c.stored_as).limit(1)


@cache
def by_step_id(dialect: str) -> Select[Any]:
    """Return the statement that selects the full traces of `:step_id`, oldest first; argument as for `by_id`."""
    # Rows without a date, which adopted tables may have, count as the oldest.
    created_at = FULL.columns["created_at"]
    return _of_step(dialect).order_by(created_at.is_not(None), created_at, FULL.columns["id"])


@cache
def newest_by_step_id(dialect: str) -> Select[Any]:
    """Return the statement that selects the newest full trace of `:step_id`; argument as for `by_id`."""
    return _newest(_of_step(dialect), FULL)


@cache
def partitioned() -> TextClause:
    """Return the statement that selects those of the names `:full` and `:metadata` that are partitioned tables."""
    return text(
        "SELECT given.name FROM (VALUES ('full', CAST(:full AS text)), ('metadata', CAST(:metadata AS text)))"
        " AS given (name, place) JOIN pg_class ON pg_class.oid = to_regclass(given.place) WHERE relkind = 'p'"
    )


def stored_as(kind: Kind) -> ColumnElement[str]:
    """Return a column with the name of a kind, as every row of its table has it."""
    return literal_column(f"'{kind.name}'", String).label("stored_as")


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


def _of_step(dialect: str) -> Select[Any]:
    return _whole(dialect).where(FULL.columns["step_id"] == bindparam("step_id"))


def _visible(kind: Kind, fields: Collection[str]) -> Select[Any]:
    return select(*(kind.columns[name].label(name) for name in fields)).where(
        kind.columns["organization_id"] == bindparam("organization_id"),
        kind.columns["is_deleted"] == false(),
    )


def _whole(dialect: str) -> Select[Any]:
    whole = _visible(FULL, FULL.fields)
    return whole.with_only_columns(
        *(unconverted(column, dialect).label(column.name) for column in whole.selected_columns)
    )


def _newest(statement: Select[Any], kind: Kind) -> Select[Any]:
    created_at = kind.columns["created_at"]
    # Without NULLS LAST, which SQLite has from 3.30 on.
    return statement.order_by(created_at.is_(None), created_at.desc(), kind.columns["id"].desc()).limit(1)
