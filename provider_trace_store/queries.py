"""The statements of the reads, as pure functions."""

from __future__ import annotations

from functools import cache, reduce
from itertools import pairwise
from operator import add
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson
from sqlalchemy import (
    JSON,
    LargeBinary,
    String,
    Text,
    and_,
    bindparam,
    cast,
    false,
    func,
    literal,
    literal_column,
    select,
    type_coerce,
    union_all,
)
from sqlalchemy.orm import class_mapper
from sqlalchemy.types import NullType

from provider_trace_store.codec import Encoded, ExactJSON
from provider_trace_store.models import DOCUMENTS, ProviderTraceMetadataRecord, ProviderTraceRecord, UtcDateTime
from provider_trace_store.schemas import ProviderTrace, ProviderTraceMetadata

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from sqlalchemy import ColumnElement, Select, Table

Record = type[ProviderTraceRecord] | type[ProviderTraceMetadataRecord]

# `provider_trace-` and a UUID of 36 characters, in lower case.
_UUID_ID_LENGTH: Final = 51
_UUID_ID_HYPHENS: Final = (14, 23, 28, 33, 38)


# In the order of the schemas, in which a trace that is read has its fields, too.
FULL_COLUMNS: Final = tuple(ProviderTrace.model_fields)
METADATA_COLUMNS: Final = tuple(ProviderTraceMetadata.model_fields)
# Both tables, and what `stored_as` calls them.
RECORDS: Final[dict[Record, str]] = {ProviderTraceMetadataRecord: "metadata", ProviderTraceRecord: "full"}


# Reads are built once and executed on the tables themselves: building a statement of twenty columns, or going
# through the ORM's loading, takes as long as the server does.


@cache
def by_id() -> Select[Any]:
    """Select the whole trace of `:trace_id`."""
    is_meant = column_of(ProviderTraceRecord, "id") == bindparam("trace_id")
    return _visible(ProviderTraceRecord, FULL_COLUMNS).where(is_meant)


@cache
def by_ids(lookup: Lookup) -> Select[Any]:
    """Select the whole traces of the ids of `look_up`."""
    return _visible(ProviderTraceRecord, FULL_COLUMNS).where(_is_among(ProviderTraceRecord, lookup))


@cache
def metadata_by_id() -> Select[Any]:
    """Select the metadata of `:trace_id`, and how it is `stored_as`, the whole trace's first where there is one.

    In the metadata table, an id may stand under two dates: it is the newest.
    """
    branches = []
    for record, name in RECORDS.items():
        is_meant = column_of(record, "id") == bindparam("trace_id")
        branches.append(
            _newest(_visible(record, METADATA_COLUMNS).add_columns(stored_as(name)).where(is_meant), record)
        )
    whole = union_all(*(select(branch.subquery()) for branch in branches)).subquery()
    return select(*map(as_it_comes, whole.c)).order_by(whole.c.stored_as).limit(1)


@cache
def by_step_id() -> Select[Any]:
    """Select the whole traces of `:step_id`, oldest first."""
    record = ProviderTraceRecord
    statement = _visible(record, FULL_COLUMNS).where(column_of(record, "step_id") == bindparam("step_id"))
    # Adopted tables may hold rows without a date: of those it is only known that they are old.
    return statement.order_by(column_of(record, "created_at").asc().nulls_first(), column_of(record, "id"))


@cache
def newest_by_step_id() -> Select[Any]:
    """Select the newest whole trace of `:step_id`."""
    record = ProviderTraceRecord
    return _newest(_visible(record, FULL_COLUMNS).where(column_of(record, "step_id") == bindparam("step_id")), record)


@cache
def heads_under(record: Record, compared: tuple[str, ...], lookup: Lookup) -> Select[Any]:
    """Select every row of the ids of `look_up`, of any organization and deleted ones too, to compare with new traces.

    This statement and the next have no tenant: their results are for comparing and never for returning.

    Args:
        record: the table.
        compared: the attributes that come first; the others but documents follow, then the `size` of these in bytes.
        lookup: as `look_up` says.
    """
    others = [name for name in _columns_of(record) if name not in DOCUMENTS and name not in compared]
    # Of text, SQLite counts characters.
    sizes = [
        func.coalesce(func.length(cast(cast(column_of(record, name), Text), LargeBinary)), 0)
        if lookup.dialect == "sqlite"
        else func.coalesce(func.octet_length(cast(column_of(record, name), Text)), 0)
        for name in _documents_of(record)
    ]
    return select(
        *(column_of(record, name).label(name) for name in (*compared, *others)), reduce(add, sizes).label("size")
    ).where(_is_among(record, lookup))


@cache
def documents_under(record: Record, lookup: Lookup) -> Select[Any]:
    """Select the documents of the ids of `look_up`, as their stored text; for what `heads_under` found."""
    documents = (cast(column_of(record, name), Text).label(name) for name in _documents_of(record))
    return select(column_of(record, "id"), column_of(record, "created_at"), *documents).where(_is_among(record, lookup))


@cache
def any_stored_under(record: Record, lookup: Lookup) -> Select[Any]:
    """Select one row if any of the ids of `look_up` is taken."""
    return select(literal(1)).where(_is_among(record, lookup)).limit(1)


@cache
def any_stored_between(record: Record) -> Select[Any]:
    """Select one row if any id from `:lowest` to `:highest` is taken.

    For ids that `are_of_one_form`, where `order_is_plain`. New UUIDv7 lie close together: one look at their range
    mostly replaces a thousand.
    """
    in_range = column_of(record, "id").between(bindparam("lowest", type_=Text), bindparam("highest", type_=Text))
    return select(literal(1)).where(in_range).limit(1)


@cache
def order_is_plain(record: Record) -> Select[Any]:
    """Select whether the id column's collation puts hexadecimal digits in their order, one after the other.

    An ICU collation may take runs of digits for numbers, or put letters first.
    """
    # Of no row, and still of the column's collation, which decides how it compares with what stands before it.
    nothing = select(column_of(record, "id")).limit(0).scalar_subquery()
    pairs = (*pairwise("0123456789abcdef"), ("10", "2"), ("1a", "2"), ("19", "1a"))
    return select(and_(*(literal(low) < func.coalesce(nothing, literal(high)) for low, high in pairs)))


def are_of_one_form(trace_ids: Collection[str]) -> bool:
    """Say whether all ids are written as this package writes new ones, and so differ in hexadecimal digits only."""
    joined = "".join(trace_ids)
    count = len(trace_ids)
    if len(joined) != _UUID_ID_LENGTH * count or not joined.isascii():
        return False
    # Rather than a regular expression, which a thousand ids at a time would wait for. Which characters there are, and
    # that hyphens are in place, together leave no other form.
    without_digits = joined.encode().translate(None, b"0123456789abcdef")
    hyphens = "-" * count
    return without_digits == b"provir_tr-----" * count and all(
        joined[place::_UUID_ID_LENGTH] == hyphens for place in _UUID_ID_HYPHENS
    )


class Lookup(NamedTuple):
    """In which way a statement is given ids.

    Args:
        dialect: SQLAlchemy's name of the database.
        is_one: whether it is one id, rather than JSON of several.
    """

    dialect: str
    is_one: bool


def look_up(trace_ids: Collection[str], dialect: str) -> tuple[Lookup, dict[str, str]]:
    """Return in which way a statement looks ids up, and its parameter.

    Args:
        trace_ids: at least one; checked text without NUL.
        dialect: SQLAlchemy's name of the database.
    """
    if len(trace_ids) == 1:
        return Lookup(dialect, is_one=True), {"ids": next(iter(trace_ids))}
    # One parameter, whatever their number: SQLite allows only so many, and each costs a driver time.
    return Lookup(dialect, is_one=False), {"ids": orjson.dumps(list(trace_ids)).decode()}


def parameters(record: Record, fields: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
    """Return an INSERT's parameters, documents as `ExactJSON` binds them.

    Args:
        record: the table.
        fields: its attributes.
        values: one for each; documents as their stored text in UTF-8.
    """
    return {
        field: Encoded(value, "utf-8") if type(value) is bytes else value
        for field, value in zip(_column_keys(record, tuple(fields)), values, strict=True)
    }


@cache
def _column_keys(record: Record, fields: tuple[str, ...]) -> tuple[str, ...]:
    columns = class_mapper(record).columns
    return tuple(columns[field].key for field in fields)


def _is_among(record: Record, lookup: Lookup) -> ColumnElement[bool]:
    parameter = bindparam("ids", type_=Text)
    if lookup.is_one:
        return column_of(record, "id") == parameter
    if lookup.dialect == "sqlite":
        return column_of(record, "id").in_(select(func.json_each(parameter).table_valued("value").c.value))
    # No array: with one that is not constant, a sequential scan would compare each row with each of its elements.
    return column_of(record, "id").in_(select(func.json_array_elements_text(cast(parameter, JSON))))


def table_of(record: Record) -> Table:
    """Return the table of a mapped class."""
    return record.__table__  # type: ignore[return-value]  # declared as FromClause


@cache
def column_of(record: Record, name: str) -> ColumnElement[Any]:
    """Return the column of an attribute of a mapped class."""
    return class_mapper(record).columns[name]


def stored_as(name: str) -> ColumnElement[str]:
    """Return the column that says of which table a row is."""
    return literal_column(f"'{name}'", String).label("stored_as")


def as_it_comes(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return a column as the driver has it: dates and documents are then converted for many rows at once."""
    match column.type:
        case ExactJSON():
            return cast(column, Text)
        case UtcDateTime():
            return type_coerce(column, NullType())
    return column


def _columns_of(record: Record) -> tuple[str, ...]:
    return FULL_COLUMNS if record is ProviderTraceRecord else METADATA_COLUMNS


def _documents_of(record: Record) -> list[str]:
    return [name for name in _columns_of(record) if name in DOCUMENTS]


def _visible(record: Record, columns: Collection[str]) -> Select[Any]:
    return select(*(column_of(record, name).label(name) for name in columns)).where(*_is_visible(record))


def _is_visible(record: Record) -> tuple[ColumnElement[bool], ...]:
    return (
        column_of(record, "organization_id") == bindparam("organization_id"),
        column_of(record, "is_deleted") == false(),
    )


def _newest(statement: Select[Any], record: Record) -> Select[Any]:
    return statement.order_by(
        column_of(record, "created_at").desc().nulls_last(), column_of(record, "id").desc()
    ).limit(1)
