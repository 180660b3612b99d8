"""The statements that read one trace, or the traces of one step, as pure functions."""

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

# Statements are built once and executed on the tables themselves: building a statement of twenty columns, or loading
# through the ORM, takes as long as the server does.


@cache
def by_id() -> Select[Any]:
    """Select the whole trace of `:trace_id`."""
    return _visible(FULL, FULL.fields).where(FULL.columns["id"] == bindparam("trace_id"))


@cache
def by_ids(lookup: Lookup) -> Select[Any]:
    """Select the whole traces of the ids of `look_up`."""
    return _visible(FULL, FULL.fields).where(is_among(FULL, lookup))


@cache
def metadata_by_id() -> Select[Any]:
    """Select the metadata of `:trace_id` and its `stored_as`, from the full table if the trace is there.

    In the metadata table an id may stand under two dates: the newest is selected.
    """
    branches = []
    for kind in KINDS:
        statement = _visible(kind, METADATA.fields).add_columns(stored_as(kind))
        branches.append(_newest(statement.where(kind.columns["id"] == bindparam("trace_id")), kind))
    both = union_all(*(select(branch.subquery()) for branch in branches)).subquery()
    return select(*map(as_it_comes, both.c)).order_by(both.c.stored_as).limit(1)


@cache
def by_step_id() -> Select[Any]:
    """Select the whole traces of `:step_id`, oldest first."""
    # Adopted tables may hold rows without a date: they count as the oldest.
    return _of_step().order_by(FULL.columns["created_at"].asc().nulls_first(), FULL.columns["id"])


@cache
def newest_by_step_id() -> Select[Any]:
    """Select the newest whole trace of `:step_id`."""
    return _newest(_of_step(), FULL)


def stored_as(kind: Kind) -> ColumnElement[str]:
    """Return a column that names the table of a row."""
    return literal_column(f"'{kind.name}'", String).label("stored_as")


def as_it_comes(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return a column as the driver has it: dates and documents are then converted for many rows at once."""
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
