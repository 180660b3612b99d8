"""Walks a table of traces in short transactions, by date, through the index on organization, date and id.

A batch is a period with a bounded number of rows of up to 1,000 organizations. Rows are stored in about the order of
their dates, so a batch touches a small part of the table. Organization by organization, each batch would touch nearly
all of it.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import Integer, String, and_, any_, bindparam, func, literal, select, text, tuple_

from provider_trace_store.errors import InvalidArgumentError, MaintenanceError
from provider_trace_store.maintenance.conditions import check_tables, check_writable
from provider_trace_store.migrations.indexes import indexed_columns
from provider_trace_store.tables.ids import Lookup, each_of
from provider_trace_store.tables.moments import bound_first, comparable, moment_of, parameter, raw_date, sqlite_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sqlalchemy import ColumnElement, Connection, Select

    from provider_trace_store.tables.kinds import Kind

# Dates outside of these are "-infinity", "infinity" and others that a driver may not read.
FIRST: Final = datetime(1, 1, 2, tzinfo=UTC)
END: Final = datetime(9999, 12, 31, tzinfo=UTC)
# Without an index in the order of the walk, each batch would sort the table.
_ORDER: Final = ["organization_id", "created_at", "id"]
# Organizations of a batch: each one costs a look into the index.
_GROUP: Final = 1_000
# Batches grow and shrink to take about this long, in seconds: a client that changes one of the rows waits for the end.
_AIM: Final = 0.1
_FEWEST: Final = 100
_LARGEST: Final = 10  # times the first size
# How full the next batch is to be.
_FILLED: Final = 0.9
_NARROWEST: Final = timedelta(microseconds=1)
# With the statistics of an empty table, the server would read all of it for each batch.
_BY_INDEX: Final = text(
    "SELECT set_config(name, 'off', true) FROM pg_settings "
    "WHERE name IN ('enable_hashjoin', 'enable_mergejoin', 'enable_seqscan')"
)


class Position(NamedTuple):
    """A point between two batches.

    Args:
        organization_id: the first organization of the batch before.
        created_at: the end of its period.
    """

    organization_id: str
    created_at: datetime

    def to_text(self) -> str:
        """Return the position as text that `position_of` reads."""
        return json.dumps([self.organization_id, self.created_at.isoformat(" ")])


class Batch(NamedTuple):
    """Some rows of the range.

    Args:
        condition: the condition that selects the rows.
        values: the parameters of the condition.
        rows: how many rows there were when the batch was made.
        end: the position after the batch; None for a part of the rows of one moment.
    """

    condition: ColumnElement[bool]
    values: dict[str, Any]
    rows: int
    end: Position | None


def position_of(text_of_position: str) -> Position:
    """Return the position of a text that a command printed.

    Args:
        text_of_position: as `Position.to_text` returns it.

    Raises:
        InvalidArgumentError: the text is not a position.
    """
    try:
        organization_id, date = json.loads(text_of_position)
        if isinstance(organization_id, str) and isinstance(date, str):
            return Position(organization_id, moment_of(date))
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
        size: the most rows of the first batch; `took` changes it.
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
        self._since = since
        self._until = until
        self._organization_id = organization_id
        self._size = size
        self._largest = size * _LARGEST
        self._columns = kind.table.c
        self._each = each_of(Lookup(self._dialect, is_one=False))
        self._date = raw_date(self._columns.created_at, self._dialect)
        self._in_period = (
            self._date >= parameter("since", self._dialect),
            self._date < parameter("until", self._dialect),
        )

    def took(self, seconds: float) -> None:
        """Tell how long the change of a batch took: the next ones are larger or smaller.

        Args:
            seconds: the time of the transaction.
        """
        if seconds > 2 * _AIM:
            self._size = max(self._size // 2, min(self._size, _FEWEST))
        elif seconds < _AIM:
            self._size = min(self._size * 2, self._largest)

    def count(self) -> int:
        """Return how many rows are in the range."""
        counted = select(func.count()).select_from(self._kind.table).where(*self._in_range())
        return sum(self._one(counted, self._values(each))[0] for each in self._groups())

    def undated(self) -> int:
        """Return how many rows have no date, or one that is not readable."""
        limits = {"first": bound_first(FIRST, self._dialect), "end": bound_first(END, self._dialect)}
        # One look into the index for each of the three. As one condition, it would be compared with each row.
        undated = (
            self._date.is_(None),
            self._date < parameter("first", self._dialect),
            self._date >= parameter("end", self._dialect),
        )
        counted = select(func.count()).select_from(self._kind.table).where(self._owned())
        counts = select(*(counted.where(condition).scalar_subquery() for condition in undated))
        return sum(sum(self._one(counts, {**limits, "ids": _array(each)})) for each in self._groups())

    def per_day(self, day: ColumnElement[Any], *conditions: ColumnElement[bool]) -> dict[str, int]:
        """Return how many rows each day has.

        Args:
            day: the day of a row.
            conditions: only rows that meet all of these.
        """
        counted = select(day.label("day"), func.count()).where(*self._in_range(), *conditions).group_by(day)
        days: dict[str, int] = {}
        for each in self._groups():
            with self._connection.begin():
                for found, rows in self._connection.execute(counted, self._values(each)):
                    days[str(found)] = days.get(str(found), 0) + rows
        return dict(sorted(days.items()))

    def batches(self, resume_at: Position | None = None) -> Iterator[Batch]:
        """Yield the batches; the caller changes the rows of each before it asks for the next.

        Args:
            resume_at: begin after this position; None for the first batch.
        """
        since = max(self._since, resume_at.created_at) if resume_at else self._since
        for organizations in self._groups(resume_at.organization_id if resume_at else None):
            yield from self._batches_of(organizations, since)
            since = self._since

    def _batches_of(self, organizations: Sequence[str], since: datetime) -> Iterator[Batch]:
        conditions = self._in_range()
        some = select(literal(1)).select_from(self._kind.table).where(*conditions)
        counted = select(func.count()).select_from(some.limit(bindparam("most", type_=Integer)).subquery())
        since = self._oldest(organizations, since)
        width = self._until - since
        while since < self._until:
            width = min(max(width, _NARROWEST), self._until - since)
            until, size = since + width, self._size
            values = self._values(organizations, since, until)
            rows = self._one(counted, {**values, "most": size + 1})[0]
            if rows > size and width > _NARROWEST:
                width /= 2
                continue
            if rows > size:
                for organization_id in organizations:
                    yield from self._batches_by_id(self._values([organization_id], since, until))
            elif rows:
                yield Batch(and_(*conditions), values, rows, Position(organizations[0], until))
            width *= min(2, _FILLED * size / rows) if rows else 4
            since = until if rows else self._oldest(organizations, until)

    def _oldest(self, organizations: Sequence[str], since: datetime) -> datetime:
        """Return the oldest date from a moment on, or the end of the range."""
        owners = select(self._each.label("organization_id")).subquery()
        of_owner = self._columns.organization_id == owners.c.organization_id
        first = select(self._date).where(of_owner, *self._in_period).order_by(self._date).limit(1)
        oldest = select(func.min(first.scalar_subquery())).select_from(owners)
        found = self._one(oldest, self._values(organizations, since))[0]
        if found is None:
            return self._until
        if self._dialect != "sqlite":
            return moment_of(found)
        # SQLite compares text: one in another form can be less than the text of its moment.
        moment = comparable(found)
        return moment if isinstance(moment, datetime) and sqlite_text(moment) == found else since

    def _batches_by_id(self, values: dict[str, Any]) -> Iterator[Batch]:
        """Yield the batches of rows that one organization has at one moment."""
        key = tuple_(self._date, self._columns.id)
        after = key > tuple_(parameter("after", self._dialect), bindparam("after_id", type_=String))
        upto = key <= tuple_(parameter("upto", self._dialect), bindparam("upto_id", type_=String))
        pages = select(self._date.label("created_at"), self._columns.id).order_by(self._date, self._columns.id)
        conditions = self._in_range()
        while True:
            size = self._size
            found = self._one(pages.where(*conditions).offset(size - 1).limit(1), values)
            if found is None:
                counted = select(func.count()).select_from(self._kind.table).where(*conditions)
                if rows := self._one(counted, values)[0]:
                    yield Batch(and_(*conditions), values, rows, None)
                return
            yield Batch(and_(*conditions, upto), {**values, "upto": found.created_at, "upto_id": found.id}, size, None)
            conditions = (*self._in_range(), after)
            values = {**values, "after": found.created_at, "after_id": found.id}

    def _groups(self, first: str | None = None) -> Iterator[list[str]]:
        """Yield the organizations in the order of the table, some at a time, from one on."""
        if self._organization_id is not None:
            yield [self._organization_id]
        else:
            yield from _groups_of(self._connection, self._kind, first)

    def _owned(self) -> ColumnElement[bool]:
        organizations = select(self._each)
        if self._dialect == "sqlite":
            return self._columns.organization_id.in_(organizations)
        # An array is a condition of the index: one range of it for each organization.
        return self._columns.organization_id == any_(func.array(organizations.scalar_subquery()))

    def _in_range(self) -> tuple[ColumnElement[bool], ...]:
        return (self._owned(), *self._in_period)

    def _values(
        self, organizations: Sequence[str], since: datetime | None = None, until: datetime | None = None
    ) -> dict[str, Any]:
        return {
            "ids": _array(organizations),
            "since": bound_first(since or self._since, self._dialect),
            "until": bound_first(until or self._until, self._dialect),
        }

    def _one(self, statement: Select[Any], values: Mapping[str, Any]) -> Any:  # noqa: ANN401  (a row or None)
        with self._connection.begin():
            by_index(self._connection)
            return self._connection.execute(statement, values).first()


def _array(texts: Sequence[str]) -> str:
    return json.dumps(texts, ensure_ascii=False)


def by_index(connection: Connection) -> None:
    """Let the server find the rows of a batch by an index, in this transaction.

    Args:
        connection: in a transaction.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(_BY_INDEX)


def organizations_of(connection: Connection, kind: Kind) -> Iterator[str]:
    """Yield the organizations of a table, in the order of their index.

    Args:
        connection: without a transaction; each look-up has one of its own.
        kind: the table.
    """
    for organizations in _groups_of(connection, kind, None):
        yield from organizations


def _groups_of(connection: Connection, kind: Kind, first: str | None) -> Iterator[list[str]]:
    # One look into the index for each organization, where DISTINCT reads the whole index.
    column = kind.table.c.organization_id
    least = select(column).order_by(column).limit(1)
    begin = bindparam("begin", type_=String)

    def statement(begins: Select[Any]) -> Select[Any]:
        found = select(begins.scalar_subquery().label("id")).cte("found", recursive=True)
        following = least.where(column > found.c.id).scalar_subquery()
        found = found.union_all(select(following).where(found.c.id.is_not(None)))
        return select(found.c.id).where(found.c.id.is_not(None)).limit(_GROUP)

    begins = least if first is None else least.where(column >= begin)
    while True:
        with connection.begin():
            group = list(connection.scalars(statement(begins), {} if first is None else {"begin": first}))
        if group:
            yield group
        if len(group) < _GROUP:
            return
        begins, first = least.where(column > begin), group[-1]


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
