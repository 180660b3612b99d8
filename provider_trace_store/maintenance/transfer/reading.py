"""Reads the rows of both tables in the order of their dates, whole packed traces among them, without locks.

The rows of a page and their documents are read in one snapshot, so a trace that is packed or unpacked meanwhile is
read from one of the tables: its organization, date and id stay the same.
"""

from __future__ import annotations

from contextlib import contextmanager
from datetime import timedelta
from functools import cache, reduce
from operator import add, attrgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import (
    Integer,
    LargeBinary,
    String,
    Text,
    and_,
    bindparam,
    case,
    cast,
    func,
    literal,
    null,
    or_,
    select,
    tuple_,
    union_all,
)

from provider_trace_store.database.transactions import begin_on_sqlite
from provider_trace_store.maintenance.batches import batches_of
from provider_trace_store.maintenance.transfer.stored import StoredTrace
from provider_trace_store.packs.format import PACKED_DOCUMENTS
from provider_trace_store.packs.store import documents_of
from provider_trace_store.schemas import EARLIEST, LATEST
from provider_trace_store.tables.ids import is_among, lookup_for
from provider_trace_store.tables.kinds import FULL, METADATA
from provider_trace_store.tables.moments import bound_first, moment_of, parameter, raw_date

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from sqlalchemy import ColumnElement, Connection, Row, Select

    from provider_trace_store.tables.kinds import Kind

# The rows of one snapshot.
_PAGE: Final = 1_000
# Of one statement: the bytes of the documents as they are stored (the text is two to four times larger), and the rows.
_BATCH_BYTES: Final = 1_000_000
_BATCH_ROWS: Final = 200
# SQLite does not tell the size of text without reading it.
_BATCH_ROWS_ON_SQLITE: Final = 16
# In the order in which two rows with one date and id are read.
_KINDS: Final = (FULL, METADATA)
_UPDATED: Final = "updated_at"


class Position(NamedTuple):
    """The last row that was read.

    Args:
        organization_id: its organization.
        created_at: its date, as it is compared in the table: text on SQLite; None for a row without one.
        trace_id: its id.
        table: 0 for the table of full traces, 1 for that of metadata.
    """

    organization_id: str
    created_at: datetime | str | None
    trace_id: str
    table: int


class Read(NamedTuple):
    """A row that was read.

    Args:
        position: where it is.
        stored: the row; None if it is not readable.
        not_json: the documents whose text is not JSON, on SQLite.
    """

    position: Position
    stored: StoredTrace | None
    not_json: tuple[str, ...] = ()


class StoredTraces:
    """The rows of both tables, by organization, date and id; those without a date first.

    Args:
        connection: without a transaction.
        organization_id: only this organization; None for all.
        since: only rows from this moment on; None for all.
        until: only rows before this moment; None for all. Rows without a date are read if both are None.
    """

    def __init__(
        self, connection: Connection, organization_id: str | None, since: datetime | None, until: datetime | None
    ) -> None:
        self._connection = connection
        self._dialect = connection.dialect.name
        self._rows = _BATCH_ROWS_ON_SQLITE if self._dialect == "sqlite" else _BATCH_ROWS
        self._organization_id = organization_id
        self._since, self._until = since, until
        self._bounds = {
            "since": bound_first(since or EARLIEST, self._dialect),
            "until": bound_first(until or LATEST + timedelta(microseconds=1), self._dialect),
        }

    def batches(self, after: Position | None) -> Iterator[list[Read]]:
        """Yield the rows in batches of a few MB.

        Args:
            after: begin after this row; None for all rows.
        """
        for organization_id in self._organizations(after):
            at = after if after is not None and after.organization_id == organization_id else None
            if self._since is self._until is None and (at is None or at.created_at is None):
                yield from self._pages(organization_id, at, dated=False)
                at = None
            yield from self._pages(organization_id, at, dated=True)

    def out_of_range(self) -> Iterator[str]:
        """Yield the ids of rows whose date no datetime of Python's can hold."""
        if self._since is not None or self._until is not None:
            return
        for kind in _KINDS:
            date = raw_date(kind.columns["created_at"], self._dialect)
            given, values = [date < parameter("since", self._dialect), date >= parameter("until", self._dialect)], {}
            statement = select(kind.columns["id"]).where(or_(*given))
            if self._organization_id is not None:
                statement = statement.where(kind.columns["organization_id"] == bindparam("organization_id"))
                values = {"organization_id": self._organization_id}
            with self._connection.begin():
                found = self._connection.scalars(statement, {**self._bounds, **values}).all()
            yield from map(str, found)

    def _organizations(self, after: Position | None) -> Iterator[str]:
        if self._organization_id is not None:
            yield self._organization_id
            return
        # One look into the index of each table for each organization: DISTINCT would read the whole indexes.
        last = after.organization_id if after is not None else None
        if last is not None:
            yield last
        while True:
            parts = []
            for kind in _KINDS:
                column = kind.columns["organization_id"]
                part = select(column.label("found")).order_by(column).limit(1)
                parts.append(select((part if last is None else part.where(column > last)).subquery().c.found))
            both = union_all(*parts).subquery()
            with self._connection.begin():
                found = self._connection.scalar(select(both.c.found).order_by(both.c.found).limit(1))
            if found is None:
                return
            yield found
            last = found

    def _pages(self, organization_id: str, after: Position | None, *, dated: bool) -> Iterator[list[Read]]:
        while True:
            with self._snapshot():
                heads = self._heads(organization_id, after, dated=dated)
                for batch in batches_of(heads, attrgetter("size"), rows=self._rows, size=_BATCH_BYTES):
                    read = self._read(organization_id, batch)
                    after = read[-1].position
                    yield read
            if len(heads) < _PAGE:
                return

    @contextmanager
    def _snapshot(self) -> Iterator[None]:
        with self._connection.begin():
            begin_on_sqlite(self._connection)
            yield

    def _heads(self, organization_id: str, after: Position | None, *, dated: bool) -> Sequence[Row[Any]]:
        parts = [self._heads_of(table, after, dated=dated) for table in range(len(_KINDS))]
        both = union_all(*(select(part.subquery()) for part in parts)).subquery()
        statement = select(both).order_by(both.c.created_at, both.c.id, both.c.place).limit(_PAGE)
        values: dict[str, Any] = {"organization_id": organization_id}
        if dated:
            values |= self._bounds
        if after is not None:
            values |= {"after_id": after.trace_id} | ({"after": after.created_at} if dated else {})
        return self._connection.execute(statement, values).all()

    def _heads_of(self, table: int, after: Position | None, *, dated: bool) -> Select[Any]:
        kind = _KINDS[table]
        date, trace_id = raw_date(kind.columns["created_at"], self._dialect), kind.columns["id"]
        size: ColumnElement[int] = literal(0, Integer)
        if kind.keeps_bodies and self._dialect == "postgresql":
            size = reduce(add, (func.coalesce(func.pg_column_size(kind.columns[name]), 0) for name in kind.documents))
        statement = (
            select(literal(table, Integer).label("place"), trace_id, date.label("created_at"), size.label("size"))
            .where(kind.columns["organization_id"] == bindparam("organization_id"))
            .order_by(date, trace_id)
            .limit(_PAGE)
        )
        key: Any = tuple_(date, trace_id) if dated else trace_id
        if dated:
            first, end = parameter("since", self._dialect), parameter("until", self._dialect)
            statement = statement.where(date >= first, date < end)
        else:
            statement = statement.where(date.is_(None))
        if after is None:
            return statement
        last_id = bindparam("after_id", type_=String)
        last: Any = tuple_(parameter("after", self._dialect), last_id) if dated else last_id
        # The table of metadata may have a row with the date and the id of the last full row.
        return statement.where(key >= last if table > after.table else key > last)

    def _read(self, organization_id: str, heads: Sequence[Row[Any]]) -> list[Read]:
        found: dict[tuple[int, str, Any], Row[Any]] = {}
        for table, kind in enumerate(_KINDS):
            ids = [head.id for head in heads if head.place == table]
            if ids:
                lookup, parameters = lookup_for(ids, self._dialect)
                statement = _rows(kind, self._dialect).where(
                    is_among(kind, lookup), kind.columns["organization_id"] == organization_id
                )
                # The dates let PostgreSQL leave out the other partitions of a table.
                if not kind.keeps_bodies and heads[0].created_at is not None:
                    date = raw_date(kind.columns["created_at"], self._dialect)
                    between = date.between(parameter("low", self._dialect), parameter("high", self._dialect))
                    statement = statement.where(between)
                    parameters |= {"low": heads[0].created_at, "high": heads[-1].created_at}
                for row in self._connection.execute(statement, parameters):
                    found[table, row.id, row.raw_date] = row
        wanted: dict[Any, list[str]] = {}
        for (_, trace_id, _), row in found.items():
            if row.pack_id is not None:
                wanted.setdefault(row.pack_id, []).append(trace_id)
        packed = documents_of(self._connection, wanted) if wanted else {}
        reads = []
        for head in heads:
            position = Position(organization_id, head.created_at, head.id, head.place)
            row = found[head.place, head.id, head.created_at]
            reads.append(_read_of(position, row, packed.get(head.id), self._dialect))
        return reads


@cache
def _rows(kind: Kind, dialect: str) -> Select[Any]:
    """Return the SELECT of a table's rows; after the columns of the layout come those that say whether it is readable.

    Args:
        kind: the table.
        dialect: SQLAlchemy's name of the database.
    """
    is_sqlite = dialect == "sqlite"
    columns: list[ColumnElement[Any]] = []
    checks: list[ColumnElement[Any]] = []
    for name in kind.layout.fields:
        column = kind.columns[name]
        if name in kind.documents:
            # SQLite returns bytes: its driver refuses some texts.
            columns.append(cast(column, LargeBinary if is_sqlite else Text).label(name))
            if is_sqlite:
                checks += [func.typeof(column), func.json_valid(cast(column, Text))]
        elif name == "created_at":
            columns.append(raw_date(kind.columns["created_at"], dialect).label("raw_date"))
        elif name == _UPDATED and is_sqlite:
            columns.append(raw_date(column, dialect).label(name))
        elif name == _UPDATED:
            readable = and_(column >= EARLIEST, column <= LATEST)
            columns.append(case((readable, column)).label(name))
            checks.append(and_(column.is_not(None), ~readable))
        else:
            columns.append(column.label(name))
    pack_id = null() if kind.keeps_bodies else kind.table.c.pack_id
    return select(*columns, pack_id.label("pack_id"), *checks)


def _read_of(
    position: Position,
    row: Row[Any],
    packed: object,
    dialect: str,
) -> Read:
    """Return a row as it is exported.

    Args:
        position: where it is.
        row: of the statement of `_rows`.
        packed: the documents from its pack, or the error of a damaged one; None if it has no pack, or not any more.
        dialect: SQLAlchemy's name of the database.
    """
    kind = _KINDS[position.table]
    count = len(kind.layout.fields)
    values, checks = list(row[:count]), row[count + 1 :]
    try:
        not_json = (_from_sqlite if dialect == "sqlite" else _from_postgres)(kind, values, checks)
        for place in kind.layout.moments:
            values[place] = None if values[place] is None else moment_of(values[place])
    except (ValueError, OverflowError, AttributeError):
        return Read(position, None)
    if row.pack_id is None:
        return Read(position, StoredTrace(kind.name, values), not_json)
    if not isinstance(packed, tuple):
        return Read(position, None)
    given = dict(zip(kind.layout.fields, values, strict=True)) | dict(zip(PACKED_DOCUMENTS, packed, strict=True))
    return Read(position, StoredTrace("packed", [given[name] for name in FULL.layout.fields]), not_json)


def _from_postgres(kind: Kind, values: list[Any], checks: Sequence[Any]) -> tuple[str, ...]:
    """Turn the documents into bytes; ValueError if the row is not readable. Arguments and result as `_from_sqlite`."""
    if checks[-1]:
        raise ValueError
    for place, _ in kind.layout.documents:
        if values[place] is not None:
            values[place] = values[place].encode()
    return ()


def _from_sqlite(kind: Kind, values: list[Any], checks: Sequence[Any]) -> tuple[str, ...]:
    """Check the documents, and return the names of those that are not JSON; ValueError if one is not text.

    Args:
        kind: the table.
        values: those of the row, changed in place.
        checks: the last columns of the statement of `_rows`.
    """
    not_json = []
    for (place, name), stored_type, is_json in zip(kind.layout.documents, checks[::2], checks[1::2], strict=True):
        if stored_type == "blob":
            raise ValueError
        if values[place] is not None:
            values[place].decode()
            if not is_json:
                not_json.append(name)
    values[-1] = bool(values[-1])
    return tuple(not_json)
