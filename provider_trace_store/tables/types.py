"""The column types of both tables: exact JSON, and moments in UTC."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import DateTime, Text, TypeDecorator, cast, type_coerce
from sqlalchemy.types import UserDefinedType

from provider_trace_store.codec import Encoded, decode, encode

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import ColumnElement
    from sqlalchemy.engine import Dialect


class ExactJSON(UserDefinedType[Any]):
    """A JSON column whose documents, dicts and lists, read back equal on every driver; None is SQL's NULL.

    Neither the engine's `json_serializer` and `json_deserializer` nor a driver's JSON settings have a part in
    it: the server is asked for the text.

    A document is bound as such or as what `encode` made of it. Encode first where an error matters:
    SQLAlchemy wraps one that is raised while it binds, and shows the parameters in its message.
    """

    cache_ok = True
    render_bind_cast = True

    def get_col_spec(self, **_: object) -> str:
        """Return the type's name in DDL."""
        return "JSON"

    def bind_processor(self, dialect: Dialect) -> Callable[[Any], Encoded | None]:  # noqa: ARG002  (SQLAlchemy's)
        """Return what turns a document into its stored text."""
        return _bound

    def column_expression(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        """Return the column as text, which no driver parses."""
        return type_coerce(cast(column, Text), self)

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], Any]:  # noqa: ARG002  (as above)
        """Return what turns a stored text into its document."""
        return _read


class UtcDateTime(TypeDecorator[datetime]):
    """A moment: refuses naive values and gives UTC back, also on SQLite, whose own type forgets the zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002  (SQLAlchemy's signature)
        """Return the moment in UTC; ValueError for a naive datetime, whose moment nobody knows."""
        if value is None:
            return None
        if value.utcoffset() is None:
            raise ValueError("a datetime without a time zone cannot be stored")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002  (SQLAlchemy's signature)
        """Return the moment in UTC, whatever the session's time zone is."""
        return None if value is None else moment_of(value)


def moment_of(value: datetime | str) -> datetime:
    """Return the moment of a stored date, in UTC.

    Args:
        value: as a driver returns it: SQLite's are text or without a zone, both in UTC.
    """
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def sqlite_text(moment: datetime) -> str:
    """Return a moment in UTC as SQLAlchemy stores it on SQLite."""
    return moment.replace(tzinfo=None).isoformat(" ", "microseconds")


def _bound(value: object) -> Encoded | None:
    return value if value is None or isinstance(value, Encoded) else encode(value)


def _read(text: str | None) -> Any:  # noqa: ANN401  (a document is of any type)
    return None if text is None else decode(text)
