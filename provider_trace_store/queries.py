"""The statements of the reads, as pure functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Text, cast, false, select
from sqlalchemy.orm import class_mapper

from provider_trace_store.codec import ExactJSON
from provider_trace_store.models import ProviderTraceMetadataRecord, ProviderTraceRecord

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from sqlalchemy import Select

Record = type[ProviderTraceRecord] | type[ProviderTraceMetadataRecord]

_NOT_IN_SCHEMA: Final = frozenset({"is_deleted", "organization_id"})


def _schema_columns(record: Record) -> tuple[str, ...]:
    return tuple(
        attribute.key for attribute in class_mapper(record).column_attrs if attribute.key not in _NOT_IN_SCHEMA
    )


FULL_COLUMNS: Final = _schema_columns(ProviderTraceRecord)
METADATA_COLUMNS: Final = _schema_columns(ProviderTraceMetadataRecord)


def by_id(record: Record, columns: Collection[str], organization_id: str, trace_id: str) -> Select[Any]:
    """Select the trace of an id; of the metadata table, where an id may stand under two dates, the newest."""
    return _newest(_visible(record, columns, organization_id).where(record.id == trace_id), record)


def by_step_id(columns: Collection[str], organization_id: str, step_id: str) -> Select[Any]:
    """Select the whole traces of a step, oldest first."""
    record = ProviderTraceRecord
    statement = _visible(record, columns, organization_id).where(record.step_id == step_id)
    # Adopted tables may hold rows without a date: of those it is only known that they are old.
    return statement.order_by(record.created_at.asc().nulls_first(), record.id)


def newest_by_step_id(columns: Collection[str], organization_id: str, step_id: str) -> Select[Any]:
    """Select the newest whole trace of a step."""
    record = ProviderTraceRecord
    return _newest(_visible(record, columns, organization_id).where(record.step_id == step_id), record)


def stored_under(record: Record, columns: Collection[str], trace_id: str) -> Select[Any]:
    """Select every row of an id, of any organization and deleted ones too, to compare it with a new trace.

    JSON columns come as their stored text. The one statement without a tenant: its result is for comparing
    and never for returning.
    """
    return select(
        record.is_deleted,
        record.organization_id,
        *(_stored_text(record, name) for name in columns),
    ).where(record.id == trace_id)


def row(record: Record, values: Mapping[str, Any], organization_id: str) -> dict[str, Any]:
    """Return an INSERT's parameters by column, from a trace's values by attribute."""
    columns = class_mapper(record).columns
    return {
        **{columns[name].key: value for name, value in values.items()},
        "organization_id": organization_id,
        "is_deleted": False,
    }


def _visible(record: Record, columns: Collection[str], organization_id: str) -> Select[Any]:
    return select(*(getattr(record, name) for name in columns)).where(
        record.organization_id == organization_id, record.is_deleted == false()
    )


def _newest(statement: Select[Any], record: Record) -> Select[Any]:
    return statement.order_by(record.created_at.desc().nulls_last(), record.id.desc()).limit(1)


def _stored_text(record: Record, name: str) -> Any:  # noqa: ANN401  (a column of any type)
    column = getattr(record, name)
    return (cast(column, Text) if isinstance(column.type, ExactJSON) else column).label(name)
