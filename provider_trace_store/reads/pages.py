"""Reads of many traces of one organization: pages, iteration over all pages, and counts."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple, get_args

from sqlalchemy.exc import DataError

from provider_trace_store.codec import decode, encode
from provider_trace_store.database.drivers import sqlstate_of
from provider_trace_store.errors import InvalidCursorError, InvalidFilterError, InvalidLimitError, TraceDecodingError
from provider_trace_store.reads import cursors, page_statements
from provider_trace_store.reads.cursors import Position
from provider_trace_store.reads.decoding import log_unreadable, readable_metadata
from provider_trace_store.reads.filters import selection_of
from provider_trace_store.reads.page_statements import DAY, CountField, Order, PageShape, Shape
from provider_trace_store.schemas import MetadataPage, TracePage
from provider_trace_store.tables import moments
from provider_trace_store.tables.kinds import FULL, METADATA

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import date

    from provider_trace_store.reads.filters import Selection
    from provider_trace_store.reads.lookups import Reader
    from provider_trace_store.schemas import ProviderTraceMetadata

    # A row of SQLAlchemy's, of which only a tuple's methods are used.
    _Row = Sequence[Any]

MAX_LIMIT: Final = 1000
# The limits that statements are made for; one row is added to see whether more follow. The limit is part of the
# statement's text: with few limits there are few texts, which fit the caches of SQLAlchemy, drivers and servers.
_LIMITS: Final = (10, 20, 50, 100, 200, 500, MAX_LIMIT)


class Scan(NamedTuple):
    """A read of many rows, page by page.

    Args:
        selection: the traces to read.
        order: whether the newest or the oldest traces come first.
        columns: the fields to read, `id` and `created_at` among them; each row has `stored_as` after them.
        is_whole: whether only whole traces are read: the full ones and the packed ones.
    """

    selection: Selection
    order: Order
    columns: tuple[str, ...]
    is_whole: bool = False

    @property
    def key_indexes(self) -> tuple[int, int]:
        """The indexes of a row's date and of its id."""
        return self.columns.index("created_at"), self.columns.index("id")


class Pages:
    """Pages and counts of the traces of one organization.

    Args:
        reader: executes the statements, within its organization.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def list_metadata(self, selection: Selection, order: Order, limit: int, cursor: str | None) -> MetadataPage:
        """Return a page of metadata.

        Args:
            selection: the traces.
            order: whether the newest or the oldest come first.
            limit: the most traces to return, 1 to 1,000.
            cursor: `next_cursor` of the page before, None for the first page.

        Raises:
            InvalidFilterError: `order` is not one of the two.
            InvalidLimitError: `limit` is out of its range.
            InvalidCursorError: `cursor` is damaged or of another query.
        """
        rows, next_cursor = self._page("metadata", _metadata_scan(selection, order), limit, cursor)
        found, unreadable = readable_metadata(rows, self._reader.dialect)
        return MetadataPage(tuple(found), next_cursor, log_unreadable(unreadable))

    def list_by_run_id(self, run_id: str, limit: int, cursor: str | None) -> TracePage:
        """Return a page of the whole traces of a run, oldest first.

        Args:
            run_id: the run.
            limit: the most traces to return, 1 to 1,000.
            cursor: `next_cursor` of the page before, None for the first page.

        Raises:
            InvalidFilterError: `run_id` is not text.
            InvalidLimitError: `limit` is out of its range.
            InvalidCursorError: `cursor` is damaged or of another query.
        """
        if not isinstance(run_id, str):
            raise InvalidFilterError("run_id", "must be text")
        scan = Scan(selection_of(run_id=run_id), "oldest", ("id", "created_at"), is_whole=True)
        rows, next_cursor = self._page("traces", scan, limit, cursor)
        # The bodies are read by id, so that only the bodies of the page's rows are read, and not those of all rows that
        # the page is sorted from.
        found, unreadable = self._reader.get_many([row[0] for row in rows])
        return TracePage(tuple(found), next_cursor, log_unreadable(unreadable))

    def iter_metadata(self, selection: Selection, order: Order) -> Iterator[list[ProviderTraceMetadata]]:
        """Return an iterator over all metadata of a selection, in lists of up to 1,000.

        Each list is read by a statement of its own: no cursor stays open in the database between two lists.

        Args:
            selection: the traces.
            order: whether the newest or the oldest come first.

        Raises:
            InvalidFilterError: `order` is not one of the two.
        """
        return self._pages(_metadata_scan(selection, order))

    def count_by(self, selection: Selection, field: CountField) -> dict[str | None, int]:
        """Return the number of traces of a selection for each value of a field, largest number first.

        Args:
            selection: the traces.
            field: `agent_id`, `call_type`, `org_id`, `source` or `user_id`.

        Raises:
            InvalidFilterError: `field` is not one of these.
        """
        if field not in get_args(CountField):
            raise InvalidFilterError("field", f"must be one of {', '.join(get_args(CountField))}")
        counts: Counter[str | None] = self._counts(selection, field)
        # A column of SQLite may hold values that are not text.
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0] is None, str(item[0] or ""))))

    def count_by_day(self, selection: Selection) -> dict[date, int]:
        """Return the number of traces of a selection for each day in UTC that has any, oldest day first.

        Rows of SQLite whose date is not readable are left out.
        """
        counts: Counter[date | None] = self._counts(selection, DAY)
        return dict(sorted((day, count) for day, count in counts.items() if day is not None))

    def _page(self, method: str, scan: Scan, limit: int, cursor: str | None) -> tuple[list[_Row], str | None]:
        if type(limit) is not int or not 1 <= limit <= MAX_LIMIT:
            raise InvalidLimitError("limit", 1, MAX_LIMIT)
        query = (method, self._reader.organization_id, scan.order, *scan.selection.parts())
        after = None if cursor is None else cursors.from_text(cursor, query)
        rows, has_more = self._read(scan, limit, after)
        return rows, cursors.to_text(_position(scan, rows[-1]), query) if has_more else None

    def _pages(self, scan: Scan) -> Iterator[list[ProviderTraceMetadata]]:
        after = None
        has_more = True
        while has_more:
            rows, has_more = self._read(scan, MAX_LIMIT, after)
            if rows:
                after = _position(scan, rows[-1])
                found, unreadable = readable_metadata(rows, self._reader.dialect)
                log_unreadable(unreadable)
                yield found

    def _read(self, scan: Scan, limit: int, after: Position | None) -> tuple[list[_Row], bool]:
        """Return the next rows, one for each trace, and whether more follow.

        Args:
            scan: the rows to read.
            limit: the most rows to return.
            after: the position of the row before the first, None for the first rows.
        """
        taken: list[_Row] = []
        if scan.selection.is_empty:
            return taken, False
        asked = 1 + next(number for number in _LIMITS if number >= limit)
        while True:
            rows = self._select(scan, asked, after)
            taken = _merged(scan, taken, rows)
            if len(rows) < asked or len(taken) > limit:
                return taken[:limit], len(taken) > limit
            # Some rows are of the same trace, or only look like having the tag: read on. The last row is read again,
            # because the next row may be of the same trace.
            after = _position(scan, rows[-2])

    def _select(self, scan: Scan, rows: int, after: Position | None) -> Sequence[_Row]:
        where, parameters = self._where(scan.selection)
        shape = PageShape(where, scan.columns, scan.order, scan.is_whole)
        if after is not None:
            if isinstance(after.stored_at, str) and not where.is_sqlite:
                raise InvalidCursorError  # made on SQLite, where a date is text
            side = moments.side_of_no_date(after.stored_at)
            is_past_undated = side == (-1 if scan.order == "newest" else 1)
            shape = shape._replace(
                where=where._replace(has_undated=where.has_undated and not is_past_undated),
                has_cursor=True,
                has_undated_cursor=side == 0,
            )
            if where.partitioned:
                parameters["passed_literal"] = after.stored_at
            parameters |= {"after_at": moments.bound(after.stored_at, where.dialect), "after_id": after.trace_id}
        try:
            return self._reader.execute(page_statements.page(shape), rows=rows, **parameters).all()
        except (DataError, OverflowError) as error:
            if sqlstate_of(error) is not None or where.is_sqlite or "updated_at" not in scan.columns:
                raise
        shape = shape._replace(has_text_moments=True)
        return self._reader.execute(page_statements.page(shape), rows=rows, **parameters).all()

    def _counts(self, selection: Selection, field: str) -> Counter[Any]:
        counts: Counter[Any] = Counter()
        if selection.is_empty:
            return counts
        where, parameters = self._where(selection)
        for row in self._reader.execute(page_statements.counts(where, field), **parameters):
            if selection.agent_tag is None or _has_tag(row.tags, selection.agent_tag):
                counts[row.value] += row.traces
        return counts

    def _where(self, selection: Selection) -> tuple[Shape, dict[str, Any]]:
        needles = [] if selection.agent_tag is None else _needles(selection.agent_tag)
        where = Shape(
            self._reader.dialect,
            tuple(name for name, _ in selection.texts),
            len(needles),
            selection.has_undated,
            self._reader.partitioned,
        )
        parameters: dict[str, Any] = dict(selection.texts)
        parameters |= {f"needle_{number}": needle for number, needle in enumerate(needles)}
        for name, moment in (("since", selection.since), ("until", selection.until)):
            parameters[name] = moments.bound_first(moment, where.dialect)
        if where.partitioned:
            parameters |= {"from_literal": selection.since, "to_literal": selection.until}
        return where, parameters


def _metadata_scan(selection: Selection, order: Order) -> Scan:
    if order not in get_args(Order):
        raise InvalidFilterError("order", f"must be one of {', '.join(get_args(Order))}")
    return Scan(selection, order, METADATA.fields)


def _merged(scan: Scan, taken: list[_Row], rows: Sequence[_Row]) -> list[_Row]:
    """Return the taken rows with the rows that follow, one for each trace.

    Of a trace that is in both tables, the row of the full trace stays. Rows that only look like having the tag are left
    out.
    """
    if (tag := scan.selection.agent_tag) is not None:
        place = scan.columns.index("agent_tags")
        rows = [row for row in rows if _has_tag(row[place], tag)]
    place_of_date, place_of_id = scan.key_indexes
    last_id = taken[-1][place_of_id] if taken else None
    for row in rows:
        # The two rows of a trace that is in both tables follow each other.
        if row[place_of_id] != last_id or row[place_of_date] != taken[-1][place_of_date]:
            taken.append(row)
            last_id = row[place_of_id]
        elif row[-1] == FULL.name:
            taken[-1] = row
    return taken


def _position(scan: Scan, row: _Row) -> Position:
    place_of_date, place_of_id = scan.key_indexes
    return Position(moments.comparable(row[place_of_date]), row[place_of_id])


def _needles(tag: str) -> list[str]:
    """Return the forms of a tag in the JSON text of a list: as this package writes it, and as Python's `json` does."""
    return sorted({encode([tag])[1:-1], json.dumps(tag)})


def _has_tag(tags: object, tag: str) -> bool:
    """Say whether the JSON text of a row's tags, in which a needle was found, really has the tag."""
    # The needle may also be a part of another tag that has quotation marks in it.
    try:
        found = decode(tags) if isinstance(tags, str) else None
    except TraceDecodingError:
        return False
    return type(found) is list and tag in found
