"""Walks a table of traces in short transactions: each organization by date and id, which is the order of an index."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import String, and_, bindparam, func, not_, select, tuple_

from provider_trace_store.errors import InvalidArgumentError, MaintenanceError
from provider_trace_store.maintenance.conditions import check_tables, check_writable
from provider_trace_store.migrations.indexes import indexed_columns
from provider_trace_store.tables.moments import bound_first, moment_of, parameter, raw_date

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sqlalchemy import ColumnElement, Connection, Select

    from provider_trace_store.tables.kinds import Kind

# Dates outside of these are "-infinity", "infinity" and others that a driver may not read.
FIRST: Final = datetime(1, 1, 2, tzinfo=UTC)
END: Final = datetime(9999, 12, 31, tzinfo=UTC)
# Without an index in the order of the walk, each batch would sort the table.
_ORDER: Final = ["organization_id", "created_at", "id"]


class Position(NamedTuple):
    """The last row of a batch.

    Args:
        organization_id: its organization.
        created_at: its date as it is compared in the table: on SQLite the stored text.
        trace_id: its id.
    """

    organization_id: str
    created_at: datetime | str
    trace_id: str

    def to_text(self) -> str:
        """Return the position as text that `position_of` reads."""
        return json.dumps([self.organization_id, str(self.created_at), self.trace_id])


class Batch(NamedTuple):
    """A range of rows.

    Args:
        condition: the condition that selects the rows.
        values: the parameters of the condition.
        rows: how many rows there were when the range was made.
        end: the last row; None for the last batch of an organization.
    """

    condition: ColumnElement[bool]
    values: dict[str, Any]
    rows: int
    end: Position | None


def position_of(text_of_position: str, dialect: str) -> Position:
    """Return the position of a text that a command printed.

    Args:
        text_of_position: as `Position.to_text` returns it.
        dialect: SQLAlchemy's name of the database.

    Raises:
        InvalidArgumentError: the text is not a position.
    """
    try:
        organization_id, date, trace_id = json.loads(text_of_position)
        moment = date if dialect == "sqlite" else moment_of(date)
        if all(isinstance(part, str) for part in (organization_id, date, trace_id)):
            return Position(organization_id, moment, trace_id)
    except (ValueError, TypeError, OverflowError):
        pass  # raised below, outside of the handler
    raise InvalidArgumentError("resume_at", "must be a position that the command printed")


class Walk:
    """The rows of a table in a range of dates, in batches.

    Args:
        connection: without a transaction; each statement has one of its own.
        kind: the table.
        since: only rows of this moment and later.
        until: only rows from before this moment.
        organization_id: only this organization; None for all.
        size: the rows of a batch.
    """

    def __init__(  # noqa: PLR0913  (the range, the table and the size)
        self,
        connection: Connection,
        kind: Kind,
        *,
        since: datetime,
        until: datetime,
        organization_id: str | None,
        size: int,
    ) -> None:
        self._connection = connection
        self._kind = kind
        self._dialect = connection.dialect.name
        self._bounds = {name: bound_first(at, self._dialect) for name, at in (("since", since), ("until", until))}
        self._organization_id = organization_id
        self._size = size
        self._columns = kind.table.c
        self._date = raw_date(self._columns.created_at, self._dialect)

    def count(self) -> int:
        """Return how many rows are in the range."""
        counted = select(func.count()).select_from(self._kind.table).where(*self._in_range())
        return sum(self._one(counted, self._values(each))[0] for each in self.organizations())

    def undated(self) -> int:
        """Return how many rows have no date, or one that is not readable."""
        limits = {"first": bound_first(FIRST, self._dialect), "end": bound_first(END, self._dialect)}
        readable = and_(self._date >= parameter("first", self._dialect), self._date < parameter("end", self._dialect))
        counted = select(func.count()).select_from(self._kind.table)
        undated = self._date.is_(None) | not_(readable)
        owned = self._columns.organization_id == bindparam("organization_id", type_=String)
        return sum(
            self._one(counted.where(owned, undated), {**limits, "organization_id": each})[0]
            for each in self.organizations()
        )

    def per_day(self, day: ColumnElement[Any], *conditions: ColumnElement[bool]) -> dict[str, int]:
        """Return how many rows each day has.

        Args:
            day: the day of a row.
            conditions: only rows that meet all of these.
        """
        counted = select(day.label("day"), func.count()).where(*self._in_range(), *conditions).group_by(day)
        days: dict[str, int] = {}
        for each in self.organizations():
            with self._connection.begin():
                for found, rows in self._connection.execute(counted, self._values(each)):
                    days[str(found)] = days.get(str(found), 0) + rows
        return dict(sorted(days.items()))

    def organizations(self, first: str | None = None) -> Iterator[str]:
        """Yield the organizations in the order of the table.

        Args:
            first: begin with this one; None for the first of the table.
        """
        if self._organization_id is not None:
            yield self._organization_id
        else:
            yield from organizations_of(self._connection, self._kind, first)

    def batches(self, resume_at: Position | None = None) -> Iterator[Batch]:
        """Yield the batches; the caller changes the rows of each before it asks for the next.

        Args:
            resume_at: begin after this row; None for the first.
        """
        key = tuple_(self._date, self._columns.id)
        after = key > tuple_(parameter("after", self._dialect), bindparam("after_id", type_=String))
        upto = key <= tuple_(parameter("upto", self._dialect), bindparam("upto_id", type_=String))
        pages = select(self._date.label("created_at"), self._columns.id).order_by(self._date, self._columns.id)
        for organization_id in self.organizations(resume_at.organization_id if resume_at else None):
            last = resume_at if resume_at is not None and resume_at.organization_id == organization_id else None
            while True:
                conditions, values = [*self._in_range()], self._values(organization_id)
                if last is not None:
                    conditions.append(after)
                    values |= {"after": last.created_at, "after_id": last.trace_id}
                found = self._one(pages.where(*conditions).offset(self._size - 1).limit(1), values)
                if found is None:
                    rows = self._one(select(func.count()).select_from(self._kind.table).where(*conditions), values)[0]
                    yield Batch(and_(*conditions), values, rows, None)
                    break
                last = Position(organization_id, found.created_at, found.id)
                values |= {"upto": last.created_at, "upto_id": last.trace_id}
                yield Batch(and_(*conditions, upto), values, self._size, last)

    def _in_range(self) -> tuple[ColumnElement[bool], ...]:
        return (
            self._columns.organization_id == bindparam("organization_id", type_=String),
            self._date >= parameter("since", self._dialect),
            self._date < parameter("until", self._dialect),
        )

    def _values(self, organization_id: str) -> dict[str, Any]:
        return {**self._bounds, "organization_id": organization_id}

    def _one(self, statement: Select[Any], values: Mapping[str, Any]) -> Any:  # noqa: ANN401  (a row or None)
        with self._connection.begin():
            return self._connection.execute(statement, values).first()


def organizations_of(connection: Connection, kind: Kind, first: str | None = None) -> Iterator[str]:
    """Yield the organizations of a table, in the order of their index.

    Args:
        connection: without a transaction; each look-up has one of its own.
        kind: the table.
        first: begin with this one; None for the first of the table.
    """
    # One look into the index for each organization, where DISTINCT reads the whole index.
    column = kind.table.c.organization_id
    statement = select(column).order_by(column).limit(1)
    next_one = statement if first is None else statement.where(column >= first)
    while True:
        with connection.begin():
            found = connection.scalar(next_one)
        if found is None:
            return
        yield found
        next_one = statement.where(column > found)


def check_walk(connection: Connection, kind: Kind) -> None:
    """Check that rows of a table can be walked and changed; on SQLite the package's migrations made the index.

    Args:
        connection: in a transaction.
        kind: the table.

    Raises:
        TableMissingError: one of the tables does not exist.
        MaintenanceError: the session is read-only, or PostgreSQL has no index in the order of the walk.
    """
    check_tables(connection)
    check_writable(connection)
    if connection.dialect.name != "postgresql":
        return
    if not any(list(columns[: len(_ORDER)]) == _ORDER for columns in indexed_columns(connection, kind.table)):
        raise MaintenanceError(
            f"{kind.table.name} has no valid index on (organization_id, created_at, id), and each batch would sort the "
            "table: run `provider-trace-store index` first"
        )
