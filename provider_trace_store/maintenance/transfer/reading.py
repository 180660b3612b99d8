"""Reads the lines of both tables in the order of their dates, whole packed traces among them, without locks.

The rows of a page and their documents are read in one snapshot, so a trace that is packed or unpacked meanwhile is
read from one of the tables: its organization, date and id stay the same.
"""

from __future__ import annotations

from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Protocol

from sqlalchemy import String, bindparam, select, tuple_, union_all

from provider_trace_store.database.transactions import begin_on_sqlite
from provider_trace_store.maintenance.batches import batches_of
from provider_trace_store.maintenance.transfer import rows_postgresql, rows_sqlite
from provider_trace_store.schemas import EARLIEST, LATEST
from provider_trace_store.tables.kinds import FULL, METADATA
from provider_trace_store.tables.moments import bound_first, parameter, raw_date

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from sqlalchemy import ColumnElement, Connection, Row, Select

    from provider_trace_store.maintenance.transfer.stored import Lines, Position
    from provider_trace_store.tables.kinds import Kind

# The rows of one snapshot.
_PAGE: Final = 1_000
# Of the lines that are in memory: the bytes of the documents as they are stored (the text is two to four times larger),
# and the rows.
_BATCH_BYTES: Final = 1_000_000
_BATCH_ROWS: Final = 500
# SQLite does not tell the size of text without reading it.
_BATCH_ROWS_ON_SQLITE: Final = 16
# In the order in which two rows with one date and id are read.
_KINDS: Final = (FULL, METADATA)


class _Rows(Protocol):
    """What differs between the databases: `rows_postgresql` and `rows_sqlite`."""

    def begin_page(self, connection: Connection) -> None: ...

    def size_of(self, row: Row[Any]) -> int: ...

    def columns_of(self, kind: Kind, place: int) -> list[ColumnElement[Any]]: ...

    def lines_of(
        self, connection: Connection, kinds: Sequence[Kind], organization_id: str, rows: Sequence[Row[Any]]
    ) -> Lines: ...


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
        is_sqlite = self._dialect == "sqlite"
        self._rows = _BATCH_ROWS_ON_SQLITE if is_sqlite else _BATCH_ROWS
        self._form: _Rows = rows_sqlite if is_sqlite else rows_postgresql
        self._statements: dict[tuple[bool, int | None], Select[Any]] = {}
        self._organization_id = organization_id
        self._since, self._until = since, until
        self._bounds = {
            "since": bound_first(since or EARLIEST, self._dialect),
            "until": bound_first(until or LATEST + timedelta(microseconds=1), self._dialect),
        }

    def batches(self, after: Position | None) -> Iterator[Lines]:
        """Yield the lines of the rows in batches of a few MB.

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
        # Of one organization after the other: the index has its rows by date, and nothing else is read.
        parts = []
        for kind in _KINDS:
            date = raw_date(kind.columns["created_at"], self._dialect)
            for is_outside in (date < parameter("since", self._dialect), date >= parameter("until", self._dialect)):
                owned = kind.columns["organization_id"] == bindparam("organization_id", type_=String)
                parts.append(select(kind.columns["id"]).where(owned, is_outside))
        statement = union_all(*parts)
        for organization_id in self._organizations(None):
            with self._connection.begin():
                found = self._connection.scalars(statement, {**self._bounds, "organization_id": organization_id}).all()
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

    def _pages(self, organization_id: str, after: Position | None, *, dated: bool) -> Iterator[Lines]:
        while True:
            with self._snapshot():
                rows = self._page(organization_id, after, dated=dated)
                for batch in batches_of(rows, self._form.size_of, rows=self._rows, size=_BATCH_BYTES):
                    lines = self._form.lines_of(self._connection, _KINDS, organization_id, batch)
                    after = lines.position
                    yield lines
            if len(rows) < _PAGE:
                return

    @contextmanager
    def _snapshot(self) -> Iterator[None]:
        with self._connection.begin():
            begin_on_sqlite(self._connection)
            yield

    def _page(self, organization_id: str, after: Position | None, *, dated: bool) -> Sequence[Row[Any]]:
        key = dated, None if after is None else after.table
        if key not in self._statements:
            parts = [self._page_of(table, *key).subquery() for table in range(len(_KINDS))]
            both = union_all(*(select(part) for part in parts)).subquery()
            self._statements[key] = select(both).order_by(both.c.created_at, both.c.id, both.c.place).limit(_PAGE)
        values: dict[str, Any] = {"organization_id": organization_id}
        if dated:
            values |= self._bounds
        if after is not None:
            values |= {"after_id": after.trace_id} | ({"after": after.created_at} if dated else {})
        self._form.begin_page(self._connection)
        return self._connection.execute(self._statements[key], values).all()

    def _page_of(self, table: int, is_dated: bool, after_table: int | None) -> Select[Any]:  # noqa: FBT001  (a key)
        kind = _KINDS[table]
        date, trace_id = raw_date(kind.columns["created_at"], self._dialect), kind.columns["id"]
        statement = (
            select(*self._form.columns_of(kind, table))
            .where(kind.columns["organization_id"] == bindparam("organization_id", type_=String))
            .order_by(date, trace_id)
            .limit(_PAGE)
        )
        key: Any = tuple_(date, trace_id) if is_dated else trace_id
        if is_dated:
            first, end = parameter("since", self._dialect), parameter("until", self._dialect)
            statement = statement.where(date >= first, date < end)
        else:
            statement = statement.where(date.is_(None))
        if after_table is None:
            return statement
        last_id = bindparam("after_id", type_=String)
        last: Any = tuple_(parameter("after", self._dialect), last_id) if is_dated else last_id
        # The table of metadata may have a row with the date and the id of the last full row.
        return statement.where(key >= last if table > after_table else key > last)
