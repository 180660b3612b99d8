"""The statements that read one trace, some traces by id, or the traces of one step."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import String, Text, bindparam, cast, false, literal_column, select, type_coerce, union_all
from sqlalchemy.types import NullType

from provider_trace_store.tables.ids import is_among
from provider_trace_store.tables.kinds import FULL, KINDS, METADATA
from provider_trace_store.tables.moments import UtcDateTime
from provider_trace_store.tables.types import ExactJSON

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy import ColumnElement, Select

    from provider_trace_store.tables.ids import Lookup
    from provider_trace_store.tables.kinds import Kind

# Each statement is built once, and selects columns rather than mapped objects: to build a statement of twenty columns,
# or to load an object with the ORM, takes as long as the server needs for the statement.


@cache
def by_id() -> Select[Any]:
    """Return the statement that selects the full trace of `:trace_id`."""
    return _visible(FULL, FULL.fields).where(FULL.columns["id"] == bindparam("trace_id"))


@cache
def by_ids(lookup: Lookup) -> Select[Any]:
    """Return the statement that selects the full traces of several ids.

    Args:
        lookup: how the statement gets the ids; `lookup_for` returns it with the parameter.
    """
    return _visible(FULL, FULL.fields).where(is_among(FULL, lookup))


@cache
def metadata_by_id() -> Select[Any]:
    """Return the statement that selects the metadata of `:trace_id` and the name of its kind as `stored_as`.

    If the trace is in both tables, the row of the full trace is selected. In the metadata table an id may have two
    dates: the newest row is selected.
    """
    branches = []
    for kind in KINDS:
        statement = _visible(kind, METADATA.fields).add_columns(stored_as(kind))
        branches.append(_newest(statement.where(kind.columns["id"] == bindparam("trace_id")), kind))
    both = union_all(*(select(branch.subquery()) for branch in branches)).subquery()
    # "full" comes before "metadata".
    return select(*map(unconverted, both.c)).order_by(both.c.stored_as).limit(1)


@cache
def by_step_id() -> Select[Any]:
    """Return the statement that selects the full traces of `:step_id`, oldest first."""
    # Rows without a date, which adopted tables may have, count as the oldest.
    return _of_step().order_by(FULL.columns["created_at"].asc().nulls_first(), FULL.columns["id"])


@cache
def newest_by_step_id() -> Select[Any]:
    """Return the statement that selects the newest full trace of `:step_id`."""
    return _newest(_of_step(), FULL)


def stored_as(kind: Kind) -> ColumnElement[str]:
    """Return a column with the name of a kind, as every row of its table has it."""
    return literal_column(f"'{kind.name}'", String).label("stored_as")


def unconverted(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return a column whose values come as the driver returns them; the caller converts dates and documents.

    SQLAlchemy would convert them with one call for each value of each row.
    """
    match column.type:
        case ExactJSON():
            return cast(column, Text)
        case UtcDateTime():
            return type_coerce(column, NullType())
    return column


def _of_step() -> Select[Any]:
    return _visible(FULL, FULL.fields).where(FULL.columns["step_id"] == bindparam("step_id"))


def _visible(kind: Kind, fields: Collection[str]) -> Select[Any]:
    return select(*(kind.columns[name].label(name) for name in fields)).where(
        kind.columns["organization_id"] == bindparam("organization_id"),
        kind.columns["is_deleted"] == false(),
    )


def _newest(statement: Select[Any], kind: Kind) -> Select[Any]:
    newest_first = kind.columns["created_at"].desc().nulls_last(), kind.columns["id"].desc()
    return statement.order_by(*newest_first).limit(1)
