"""How a moment is stored, bound and compared on each database.

PostgreSQL stores a moment as `timestamptz` and compares moments. SQLite has no type for dates: SQLAlchemy stores the
moment in UTC as text, such as `2026-03-28 20:00:00.123456`, and SQLite compares the texts. The order of the texts is
the order of the moments only where all have this form. Other writers, SQLite's own `CURRENT_TIMESTAMP` among them,
write other forms of the same moment.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Date, DateTime, String, TypeDecorator, bindparam, cast, func, literal_column, type_coerce

if TYPE_CHECKING:
    from sqlalchemy import BindParameter, ColumnElement
    from sqlalchemy.engine import Dialect

# The date of a row without one, in results, filters and orders. Only adopted tables have such rows. The date is older
# than the calls of any provider.
NO_DATE: Final = datetime(1970, 1, 1, tzinfo=UTC)


class UtcDateTime(TypeDecorator[datetime]):
    """A column of moments: it refuses naive datetimes and returns UTC, also on SQLite, which stores no time zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002  (SQLAlchemy's signature)
        """Return the moment in UTC; ValueError for a naive datetime, whose moment is unknown."""
        if value is None:
            return None
        if value.utcoffset() is None:
            raise ValueError("a datetime without a time zone cannot be stored")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002  (SQLAlchemy's signature)
        """Return the moment in UTC, also if the database session has another time zone."""
        return None if value is None else moment_of(value)


def moment_of(value: datetime | str) -> datetime:
    """Return the moment of a stored date, in UTC.

    Args:
        value: the date as a driver returns it; text, and a datetime without a time zone, are in UTC.

    Raises:
        ValueError: the text is not a date, or the value is neither text nor a datetime.
        OverflowError: the moment is outside the range of a datetime in UTC.
    """
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if not isinstance(value, datetime):
        raise ValueError  # noqa: TRY004  (a column of SQLite can hold values of any type: the caller handles one error)
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def sqlite_text(value: datetime) -> str:
    """Return the text that SQLAlchemy stores for a moment on SQLite.

    Args:
        value: the moment; without a time zone it is in UTC.

    Raises:
        OverflowError: the moment is outside the range of a datetime in UTC.
    """
    return moment_of(value).replace(tzinfo=None).isoformat(" ", "microseconds")


def comparable(stored: datetime | str) -> datetime | str:
    """Return the value that rows are compared with in place of a stored date.

    It is the moment, in UTC. On SQLite it is the stored text where another writer wrote the date in another form, or
    wrote text that is not a date: the order of the rows follows that text.

    Args:
        stored: the date as a driver returns it.
    """
    try:
        moment = moment_of(stored)
    except (ValueError, OverflowError):
        if isinstance(stored, str):
            return stored
        raise
    return stored if isinstance(stored, str) and stored != sqlite_text(moment) else moment


def side_of_no_date(value: datetime | str) -> int:
    """Return -1, 0 or 1 for a row that is sorted before, among or after the rows without a date.

    Args:
        value: the row's date, as `comparable` returns it.
    """
    try:
        moment = moment_of(value)
    except (ValueError, OverflowError):
        return 1 if str(value) > sqlite_text(NO_DATE) else -1
    return (moment > NO_DATE) - (moment < NO_DATE)


def raw_date(column: ColumnElement[Any], dialect: str) -> ColumnElement[Any]:
    """Return a date as it is compared in the table: on SQLite it is text, also in a form that is not a date.

    Args:
        column: the column.
        dialect: SQLAlchemy's name of the database.
    """
    return type_coerce(column, String()) if dialect == "sqlite" else column


def parameter(name: str, dialect: str) -> BindParameter[Any]:
    """Return a parameter that columns of moments are compared with; `bound` and `bound_first` return its values.

    Args:
        name: the parameter's name.
        dialect: SQLAlchemy's name of the database.
    """
    return bindparam(name, type_=String() if dialect == "sqlite" else UtcDateTime())


def bound(value: datetime | str, dialect: str) -> datetime | str:
    """Return the value of a parameter that stands for one stored date.

    Args:
        value: as `comparable` returns it; text only for SQLite.
        dialect: SQLAlchemy's name of the database.
    """
    return sqlite_text(value) if dialect == "sqlite" and isinstance(value, datetime) else value


def bound_first(moment: datetime, dialect: str) -> datetime | str:
    """Return the value of a parameter that separates earlier dates from the moment and later ones.

    Args:
        moment: the first moment of the later dates, in UTC.
        dialect: SQLAlchemy's name of the database.
    """
    # The shortest form: as text, no other form of the same moment sorts before it.
    return sqlite_text(moment).rstrip("0").rstrip(".") if dialect == "sqlite" else moment


def no_date(dialect: str) -> ColumnElement[Any]:
    """Return `NO_DATE` as an SQL literal.

    Args:
        dialect: SQLAlchemy's name of the database.
    """
    if dialect == "sqlite":
        return literal_column("'1970-01-01 00:00:00.000000'", UtcDateTime)
    return literal_column("TIMESTAMPTZ '1970-01-01 00:00:00+00'", UtcDateTime)


def day_of(moment: ColumnElement[Any], dialect: str) -> ColumnElement[Any]:
    """Return the day of a column of moments, in UTC.

    Args:
        moment: the column.
        dialect: SQLAlchemy's name of the database.
    """
    if dialect == "sqlite":
        return type_coerce(func.date(moment), Date)
    return cast(func.timezone("UTC", moment), Date)
