"""The statements of the reads, as pure functions."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson
from sqlalchemy import JSON, Text, any_, bindparam, cast, false, func, literal, select
from sqlalchemy.orm import class_mapper

from provider_trace_store.codec import Encoded, ExactJSON
from provider_trace_store.models import ProviderTraceMetadataRecord, ProviderTraceRecord
from provider_trace_store.schemas import ID_PREFIX

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from sqlalchemy import ColumnElement, Select

Record = type[ProviderTraceRecord] | type[ProviderTraceMetadataRecord]

_UUIDS: Final = re.compile(f"(?:{ID_PREFIX}[0-9a-f]{{8}}(?:-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}})+")
_NOT_IN_SCHEMA: Final = frozenset({"is_deleted", "organization_id"})


def _schema_columns(record: Record) -> tuple[str, ...]:
    return tuple(
        attribute.key for attribute in class_mapper(record).column_attrs if attribute.key not in _NOT_IN_SCHEMA
    )


FULL_COLUMNS: Final = _schema_columns(ProviderTraceRecord)
METADATA_COLUMNS: Final = _schema_columns(ProviderTraceMetadataRecord)


# Reads are built once and executed on the tables themselves: building a statement of twenty columns, or going
# through the ORM's loading, takes as long as the server does.


@cache
def by_id(record: Record, columns: tuple[str, ...]) -> Select[Any]:
    """Select the trace of `:trace_id`; of the metadata table, where an id may stand under two dates, the newest."""
    statement = _visible(record, columns)
    return _newest(statement.where(_column(record, "id") == bindparam("trace_id")), record)


@cache
def by_step_id(columns: tuple[str, ...]) -> Select[Any]:
    """Select the whole traces of `:step_id`, oldest first."""
    record = ProviderTraceRecord
    statement = _visible(record, columns).where(_column(record, "step_id") == bindparam("step_id"))
    # Adopted tables may hold rows without a date: of those it is only known that they are old.
    return statement.order_by(_column(record, "created_at").asc().nulls_first(), _column(record, "id"))


@cache
def newest_by_step_id(columns: tuple[str, ...]) -> Select[Any]:
    """Select the newest whole trace of `:step_id`."""
    record = ProviderTraceRecord
    return _newest(_visible(record, columns).where(_column(record, "step_id") == bindparam("step_id")), record)


@cache
def stored_under(record: Record, ids: Ids) -> Select[Any]:
    """Select every row of some ids, of any organization and deleted ones too, to compare them with new traces.

    JSON columns come as their stored text. The one statement with bodies and without a tenant: its result is
    for comparing and never for returning.
    """
    columns = FULL_COLUMNS if record is ProviderTraceRecord else METADATA_COLUMNS
    texts = (_stored_text(record, name) for name in (*columns, "organization_id", "is_deleted"))
    return select(*texts).where(_is_among(record, ids))


@cache
def any_stored_under(record: Record, ids: Ids) -> Select[Any]:
    """Select one row if any of the ids is taken."""
    statement = select(literal(1)).where(_is_among(record, ids)).limit(1)
    if not ids.of_one_form:
        return statement
    # Ids of one form sort alike in every collation, and new UUIDv7 lie close together: one look at their range
    # mostly replaces a thousand. The server makes it first, as it depends on no row.
    in_range = _column(record, "id").between(bindparam("lowest", type_=Text), bindparam("highest", type_=Text))
    return statement.where(select(literal(1)).where(in_range).correlate(None).exists())


class Ids(NamedTuple):
    """How a statement is given ids to look up.

    Args:
        as_array: as an array of JSON; else, on SQLite, as what its `json_each` reads.
        of_one_form: whether all of them are written as this package writes new ones.
    """

    as_array: bool
    of_one_form: bool


def id_parameters(trace_ids: Collection[str], dialect: str) -> tuple[Ids, dict[str, str]]:
    """Return how some ids are given to a statement, and its parameters.

    Args:
        trace_ids: at least one; checked text, without NUL.
        dialect: SQLAlchemy's name of the database.
    """
    # One parameter, whatever their number: SQLite allows only so many, and each costs a driver time.
    parameters = {"ids": orjson.dumps(list(trace_ids)).decode()}
    of_one_form = _UUIDS.fullmatch("".join(trace_ids)) is not None
    if of_one_form:
        parameters |= {"lowest": min(trace_ids), "highest": max(trace_ids)}
    return Ids(dialect != "sqlite", of_one_form), parameters


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


def _is_among(record: Record, ids: Ids) -> ColumnElement[bool]:
    parameter = bindparam("ids", type_=Text)
    if not ids.as_array:
        return _column(record, "id").in_(select(func.json_each(parameter).table_valued("value").c.value))
    elements = select(func.json_array_elements_text(cast(parameter, JSON))).scalar_subquery()
    return _column(record, "id") == any_(func.array(elements))


@cache
def _column(record: Record, name: str) -> ColumnElement[Any]:
    return class_mapper(record).columns[name]


def _visible(record: Record, columns: Collection[str]) -> Select[Any]:
    return select(*(_column(record, name).label(name) for name in columns)).where(
        _column(record, "organization_id") == bindparam("organization_id"),
        _column(record, "is_deleted") == false(),
    )


def _newest(statement: Select[Any], record: Record) -> Select[Any]:
    return statement.order_by(_column(record, "created_at").desc().nulls_last(), _column(record, "id").desc()).limit(1)


def _stored_text(record: Record, name: str) -> ColumnElement[Any]:
    column = _column(record, name)
    return (cast(column, Text) if isinstance(column.type, ExactJSON) else column).label(name)
