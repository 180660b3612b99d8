"""Reads of many traces: pages of them, all of them, and counts, for one organization."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple, get_args

from provider_trace_store.codec import decode, encode
from provider_trace_store.errors import InvalidCursorError, InvalidFilterError, InvalidLimitError, TraceDecodingError
from provider_trace_store.reads import cursors, page_statements
from provider_trace_store.reads.cursors import Position
from provider_trace_store.reads.filters import selection_of
from provider_trace_store.reads.lookups import metadata_of
from provider_trace_store.reads.page_statements import DAY, Order, PageShape, Shape
from provider_trace_store.schemas import MetadataPage, TracePage
from provider_trace_store.tables import moments
from provider_trace_store.tables.kinds import FULL, METADATA
from provider_trace_store.tables.moments import NO_DATE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import date

    from provider_trace_store.reads.filters import Selection
    from provider_trace_store.reads.lookups import Reader
    from provider_trace_store.schemas import ProviderTraceMetadata

    # A row as SQLAlchemy gives it, which is a tuple to all that is done with it.
    _Row = Sequence[Any]

MAX_LIMIT: Final = 1000
# How many rows a statement asks for, besides one to see whether there are more: the number stands in its text, and
# hosts and servers keep only so many texts.
_ROWS: Final = (10, 20, 50, 100, 200, 500, MAX_LIMIT)
_COUNTED: Final = ("agent_id", "call_type", "org_id", "source", "user_id")


class Walk(NamedTuple):
    """What is gone through, a page at a time.

    Args:
        selection: which traces.
        order: which come first.
        columns: what is read of each, `id` and `created_at` among them; `stored_as` follows.
        is_full_only: whether only whole traces are meant.
    """

    selection: Selection
    order: Order
    columns: tuple[str, ...]
    is_full_only: bool = False

    @property
    def places(self) -> tuple[int, int]:
        """Where in a row its date and its id are."""
        return self.columns.index("created_at"), self.columns.index("id")


class Pages:
    """Goes through the traces of one organization.

    Args:
        reader: executes the statements.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def list_metadata(self, selection: Selection, order: Order, limit: int, cursor: str | None) -> MetadataPage:
        """Return a page of metadata.

        Raises:
            InvalidFilterError: there is no such order.
            InvalidLimitError: `limit` is out of its range.
            InvalidCursorError: `cursor` is none of this query.
        """
        rows, next_cursor = self._page("metadata", _metadata_walk(selection, order), limit, cursor)
        return MetadataPage(tuple(metadata_of(rows)), next_cursor)

    def list_by_run_id(self, run_id: str, limit: int, cursor: str | None) -> TracePage:
        """Return a page of the whole traces of a run, oldest first; errors as `list_metadata`."""
        if not isinstance(run_id, str):
            raise InvalidFilterError("run_id", "must be text")
        walk = Walk(selection_of(run_id=run_id), "oldest", ("id", "created_at"), is_full_only=True)
        rows, next_cursor = self._page("traces", walk, limit, cursor)
        # The bodies come by id, so that those of the page are read and those that it was picked from are not.
        return TracePage(tuple(self._reader.get_many([row[0] for row in rows])), next_cursor)

    def iter_metadata(self, selection: Selection, order: Order) -> Iterator[list[ProviderTraceMetadata]]:
        """Return an iterator over all metadata of a selection, in lists; nothing stays open between two.

        Raises:
            InvalidFilterError: there is no such order.
        """
        return self._lists(_metadata_walk(selection, order))

    def count_by(self, selection: Selection, field: str) -> dict[str | None, int]:
        """Return how many traces of a selection have each value of a field.

        Raises:
            InvalidFilterError: the field is not one that is counted by.
        """
        if field not in _COUNTED:
            raise InvalidFilterError("field", f"must be one of {', '.join(_COUNTED)}")
        counts: Counter[str | None] = self._counts(selection, field)
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0] is None, item[0] or "")))

    def count_by_day(self, selection: Selection) -> dict[date, int]:
        """Return how many traces of a selection there are of each day in UTC that has any."""
        counts: Counter[date] = self._counts(selection, DAY)
        return dict(sorted(counts.items()))

    def _page(self, kind: str, walk: Walk, limit: int, cursor: str | None) -> tuple[list[_Row], str | None]:
        if type(limit) is not int or not 1 <= limit <= MAX_LIMIT:
            raise InvalidLimitError("limit", 1, MAX_LIMIT)
        query = (kind, self._reader.organization_id, walk.order, *walk.selection.parts())
        after = None if cursor is None else cursors.from_text(cursor, query)
        rows, has_more = self._take(walk, limit, after)
        return rows, cursors.to_text(_position(walk, rows[-1]), query) if has_more else None

    def _lists(self, walk: Walk) -> Iterator[list[ProviderTraceMetadata]]:
        after = None
        has_more = True
        while has_more:
            rows, has_more = self._take(walk, MAX_LIMIT, after)
            if rows:
                after = _position(walk, rows[-1])
                yield metadata_of(rows)

    def _take(self, walk: Walk, limit: int, after: Position | None) -> tuple[list[_Row], bool]:
        """Return the next rows, of a trace in both tables the full one, and whether there are more."""
        taken: list[_Row] = []
        if walk.selection.is_empty:
            return taken, False
        asked = 1 + next(number for number in _ROWS if number >= limit)
        while True:
            rows = self._fetch(walk, asked, after)
            taken = _merged(walk, taken, rows)
            if len(rows) < asked or len(taken) > limit:
                return taken[:limit], len(taken) > limit
            # Some came twice or only looked like what was meant. The last is read again: its twin may be the next.
            after = _position(walk, rows[-2])

    def _fetch(self, walk: Walk, rows: int, after: Position | None) -> Sequence[_Row]:
        where, parameters = self._where(walk.selection)
        shape = PageShape(where, walk.columns, walk.order, is_next=False, is_full_only=walk.is_full_only)
        if after is not None:
            if isinstance(after.stored_at, str) and not where.is_sqlite:
                raise InvalidCursorError  # made on SQLite: only there is a date text
            moment = moments.moment_of(after.stored_at)
            is_past_undated = moment < NO_DATE if walk.order == "newest" else moment > NO_DATE
            shape = shape._replace(
                where=where._replace(has_undated=where.has_undated and not is_past_undated),
                is_next=True,
                is_next_undated=moment == NO_DATE,
            )
            parameters |= {"after_at": moments.bound(after.stored_at, where.dialect), "after_id": after.trace_id}
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
        )
        parameters: dict[str, Any] = dict(selection.texts)
        parameters |= {f"needle_{number}": needle for number, needle in enumerate(needles)}
        for name, moment in (("since", selection.since), ("until", selection.until)):
            parameters[name] = moments.bound_first(moment, where.dialect)
        return where, parameters


def _metadata_walk(selection: Selection, order: Order) -> Walk:
    if order not in get_args(Order):
        raise InvalidFilterError("order", f"must be one of {', '.join(get_args(Order))}")
    return Walk(selection, order, METADATA.fields)


def _merged(walk: Walk, taken: list[_Row], rows: Sequence[_Row]) -> list[_Row]:
    """Return rows with the rows that follow, each trace once, without those that only look like having the tag."""
    if (tag := walk.selection.agent_tag) is not None:
        place = walk.columns.index("agent_tags")
        rows = [row for row in rows if _has_tag(row[place], tag)]
    place_of_date, place_of_id = walk.places
    last_id = taken[-1][place_of_id] if taken else None
    for row in rows:
        # The two of a trace in both tables stand side by side.
        if row[place_of_id] != last_id or row[place_of_date] != taken[-1][place_of_date]:
            taken.append(row)
            last_id = row[place_of_id]
        elif row[-1] == FULL.name:
            taken[-1] = row
    return taken


def _position(walk: Walk, row: _Row) -> Position:
    place_of_date, place_of_id = walk.places
    return Position(moments.comparable(row[place_of_date]), row[place_of_id])


def _needles(tag: str) -> list[str]:
    """Return how a tag may stand in a list's text: as this package writes it, and as Python's `json` does."""
    return sorted({encode([tag])[1:-1], json.dumps(tag)})


def _has_tag(tags: str, tag: str) -> bool:
    # What a needle was found in, but may be another tag with quotation marks in it.
    try:
        found = decode(tags)
    except TraceDecodingError:
        return False
    return type(found) is list and tag in found
