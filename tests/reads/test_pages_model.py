"""Pages, counts and deletion against a plain model: random writes in any order, and cursors used at any time."""

from __future__ import annotations

from collections import Counter
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

from provider_trace_store import (
    ProviderTrace,
    ProviderTraceConflictError,
    ProviderTraceMetadata,
    ProviderTraceRepository,
)
from tests.support.examples import examples
from tests.support.spaces import MICROSECOND, NO_DATE, allow_undated, shared_database

if TYPE_CHECKING:
    from tests.support.servers import Database

__all__ = ["shared_database"]


# Few enough that most traces share theirs, and on both sides of a day's and of a second's end.
MOMENTS: Final = (
    NO_DATE,
    datetime(2026, 3, 28, 23, 59, 59, 999999, tzinfo=UTC),
    datetime(2026, 3, 29, tzinfo=UTC),
    datetime(2026, 3, 29, tzinfo=UTC) + MICROSECOND,
)
NUMBERS: Final = 12
# Rows of `provider_traces` without a date, which only other writers leave.
UNDATED: Final = (3, 7)
PLACES: Final = ("full", "metadata")


def fields(number: int) -> dict[str, Any]:
    """Return what a trace of this number always holds."""
    return {
        "created_at": NO_DATE if number in UNDATED else MOMENTS[number % 5 % len(MOMENTS)],
        "run_id": f"run-{number % 2}",
        "step_id": None if number % 3 else "step-1",
        "agent_id": f"agent-{number % 3}",
        "source": None if number % 4 == 1 else f"source-{number % 2}",
        "agent_tags": [['a"'], ["a", 'b"a"'], None, ['"a"', "a"]][number % 4],
    }


class Row(NamedTuple):
    """A visible trace: its date and number, by which it is sorted, and its table."""

    created_at: datetime
    number: int
    stored_as: str


@dataclass(frozen=True)
class Query:
    """What a page is asked for, but for its size."""

    order: str
    filters: tuple[tuple[str, Any], ...]

    def selects(self, number: int) -> bool:
        """Say whether the query selects the trace of this number."""
        trace = fields(number)
        asked = dict(self.filters)
        return all(
            trace["created_at"] >= value
            if name == "since"
            else trace["created_at"] < value
            if name == "until"
            else value in (trace["agent_tags"] or ())
            if name == "agent_tag"
            else trace[name] == value
            for name, value in asked.items()
        )


@dataclass
class Model:
    """What is stored: per table, numbers and whether they are deleted."""

    rows: dict[str, dict[int, bool]] = field(default_factory=lambda: {"full": {}, "metadata": {}})

    def create(self, table: str, number: int) -> str:
        """Create a trace; return what becomes of it."""
        stored = self.rows[table]
        outcome = "created" if number not in stored else "conflict" if stored[number] else "unchanged"
        stored.setdefault(number, False)
        return outcome

    def mark(self, number: int, *, is_deleted: bool) -> bool:
        """Delete or restore a trace; return whether anything changed."""
        changed = [rows for rows in self.rows.values() if rows.get(number, is_deleted) != is_deleted]
        for rows in changed:
            rows[number] = is_deleted
        return bool(changed)

    def visible(self, query: Query, *, tables: tuple[str, ...] = PLACES) -> list[Row]:
        """Return what a query finds, in its order."""
        found = {
            number: Row(fields(number)["created_at"], number, table)
            for table in reversed(tables)
            for number, is_deleted in self.rows[table].items()
            if not is_deleted and query.selects(number)
        }
        return sorted(found.values(), reverse=query.order == "newest")


class Cursor(NamedTuple):
    """A page's end: what continues it, and behind which row."""

    query: Query
    is_run: bool
    text: str
    last: Row


numbers = st.integers(0, NUMBERS - 1)
tables = st.sampled_from(PLACES)
queries = st.builds(
    lambda order, filters: Query(order, tuple(sorted(filters.items()))),
    st.sampled_from(["newest", "oldest"]),
    st.one_of(
        st.just({}),
        st.fixed_dictionaries(
            {},
            optional={
                "since": st.sampled_from(MOMENTS),
                "until": st.sampled_from([*MOMENTS, MOMENTS[-1] + timedelta(days=1)]),
                "run_id": st.sampled_from(["run-0", "run-1"]),
                "step_id": st.just("step-1"),
                "agent_id": st.sampled_from(["agent-0", "agent-2"]),
                "source": st.sampled_from(["source-0", "source-1"]),
                "agent_tag": st.sampled_from(["a", '"a"', 'a"', "none"]),
            },
        ),
    ),
)
limits = st.sampled_from([1, 1, 2, 3, 5, 1000])
runs = st.builds(lambda run: Query("oldest", (("run_id", run),)), st.sampled_from(["run-0", "run-1"]))
steps = st.one_of(
    st.tuples(st.just("create"), tables, numbers),
    st.tuples(st.just("create_many"), tables, st.lists(numbers, max_size=8)),
    st.tuples(st.sampled_from(["delete", "restore"]), numbers),
    st.tuples(st.just("page"), queries, limits),
    st.tuples(st.just("run"), runs, limits),
    st.tuples(st.just("continue"), st.integers(0, 50), limits),
    st.tuples(st.just("continue"), st.integers(0, 50), limits),
    st.tuples(st.just("iterate"), queries),
    st.tuples(st.just("count"), queries),
    st.tuples(st.sampled_from(["commit", "rollback"])),
)
histories = st.lists(steps, min_size=1, max_size=25)


class Play:
    """A history, played on a repository and on the model.

    Args:
        session: on a database that others use, too.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.mark = uuid4().hex[:8]
        self.repositories = {
            table: ProviderTraceRepository(
                session, organization_id=f"org-{self.mark}", metadata_only=table == "metadata"
            )
            for table in PLACES
        }
        self.repository = self.repositories["full"]
        self.model = Model()
        self.cursors: list[Cursor] = []
        # Most pages are of some rows, of which some are in both tables.
        for table, stored in (("full", range(0, NUMBERS, 2)), ("metadata", range(0, NUMBERS, 3))):
            self.create_many(table, list(stored))
        self.commit()

    def commit(self) -> None:
        self.session.commit()
        self.committed = deepcopy(self.model)

    def rollback(self) -> None:
        self.session.rollback()
        self.model = deepcopy(self.committed)

    def id(self, number: int) -> str:
        return f"provider_trace-{self.mark}-0000-7000-8000-{number:012x}"

    def trace(self, number: int) -> ProviderTrace:
        return ProviderTrace(id=self.id(number), request_json={"number": number}, response_json={}, **fields(number))

    def undate(self, table: str, *given: int) -> None:
        if table == "full" and set(given) & set(UNDATED):
            self.session.execute(
                text("UPDATE provider_traces SET created_at = NULL WHERE id IN (:one, :two)"),
                dict(zip(("one", "two"), map(self.id, UNDATED), strict=True)),
            )

    def date(self, table: str, *given: int) -> None:
        """Undo `undate`, so that a trace that is sent again is the same."""
        if table == "full" and set(given) & set(UNDATED):
            self.session.execute(
                text("UPDATE provider_traces SET created_at = :moment WHERE id IN (:one, :two)"),
                {
                    "moment": NO_DATE
                    if self.session.get_bind().dialect.name == "postgresql"
                    else "1970-01-01 00:00:00.000000",
                    **dict(zip(("one", "two"), map(self.id, UNDATED), strict=True)),
                },
            )

    def create(self, table: str, number: int) -> None:
        self.date(table, number)
        before = number in self.model.rows[table]
        expected = self.model.create(table, number)
        if expected == "conflict":
            with pytest.raises(ProviderTraceConflictError):
                self.repositories[table].create(self.trace(number))
        else:
            assert self.repositories[table].create(self.trace(number)).id == self.id(number)
            assert (expected == "unchanged") == before
        self.undate(table, number)

    def create_many(self, table: str, given: list[int]) -> None:
        self.date(table, *given)
        expected = Counter(self.model.create(table, number) for number in given)
        result = self.repositories[table].create_many([self.trace(number) for number in given])
        assert result.created == expected["created"]
        assert result.unchanged == expected["unchanged"]
        assert len(result.rejected) == expected["conflict"]
        self.undate(table, *given)

    def delete(self, number: int) -> None:
        assert self.repository.delete(self.id(number)) == self.model.mark(number, is_deleted=True)

    def restore(self, number: int) -> None:
        assert self.repository.restore(self.id(number)) == self.model.mark(number, is_deleted=False)

    def page(self, query: Query, limit: int, after: Cursor | None = None) -> None:
        filters: Any = dict(query.filters)
        order: Any = query.order
        page = self.repository.list_metadata(order=order, limit=limit, cursor=after and after.text, **filters)
        expected = self._behind(self.model.visible(query), after)
        assert [self._row(item) for item in page.items] == expected[:limit]
        self._keep(query, expected[:limit], page.next_cursor, has_more=len(expected) > limit, is_run=False)

    def run(self, query: Query, limit: int, after: Cursor | None = None) -> None:
        run_id = dict(query.filters)["run_id"]
        page = self.repository.list_by_run_id(run_id, limit=limit, cursor=after and after.text)
        expected = self._behind(self.model.visible(query, tables=("full",)), after)
        found = [item.model_copy(update={"updated_at": None}) for item in page.items]
        assert found == [self.trace(row.number) for row in expected[:limit]]
        self._keep(query, expected[:limit], page.next_cursor, has_more=len(expected) > limit, is_run=True)

    def go_on(self, place: int, limit: int) -> None:
        if self.cursors:
            after = self.cursors[place % len(self.cursors)]
            (self.run if after.is_run else self.page)(after.query, limit, after)

    def iterate(self, query: Query) -> None:
        filters: Any = dict(query.filters)
        order: Any = query.order
        found = self.repository.iter_metadata(order=order, **filters)
        assert [self._row(item) for item in found] == self.model.visible(query)

    def count(self, query: Query) -> None:
        filters: Any = dict(query.filters)
        meant = [fields(row.number) for row in self.model.visible(query)]
        for name in ("source", "agent_id"):
            expected = Counter(trace[name] for trace in meant)
            in_order = sorted(expected.items(), key=lambda item: (-item[1], item[0] is None, item[0] or ""))
            assert list(self.repository.count_by(name, **filters).items()) == in_order
        days = Counter(trace["created_at"].date() for trace in meant)
        assert list(self.repository.count_by_day(**filters).items()) == sorted(days.items())

    def _row(self, item: ProviderTraceMetadata) -> Row:
        number = int(item.id[-12:], 16)
        # When a row was deleted and restored is not compared.
        assert item.model_copy(update={"updated_at": None}) == ProviderTraceMetadata.from_trace(self.trace(number))
        return Row(item.created_at, number, item.stored_as or "")

    def _behind(self, rows: list[Row], after: Cursor | None) -> list[Row]:
        if after is None:
            return rows
        newest = after.query.order == "newest"
        return [row for row in rows if (row[:2] < after.last[:2] if newest else row[:2] > after.last[:2])]

    def _keep(self, query: Query, shown: list[Row], cursor: str | None, *, has_more: bool, is_run: bool) -> None:
        assert (cursor is not None) == has_more
        if cursor is not None:
            self.cursors.append(Cursor(query, is_run, cursor, shown[-1]))


def test_any_history_gives_the_pages_of_the_model(database: Database) -> None:
    allow_undated(database)
    engine = create_engine(database.url, connect_args=database.connect_args)

    @settings(max_examples=examples(100), deadline=None, suppress_health_check=list(HealthCheck))
    @given(histories)
    def check(history: list[tuple[Any, ...]]) -> None:
        with Session(engine) as session:
            play = Play(session)
            for name, *arguments in history:
                getattr(play, {"continue": "go_on"}.get(name, name))(*arguments)
            for order in ("newest", "oldest"):
                play.iterate(Query(order, ()))

    try:
        check()
    finally:
        engine.dispose()
