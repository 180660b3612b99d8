"""Counts by field and by day: whichever table a trace is in, each counts once, and days are UTC's."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from provider_trace_store import ProviderTraceRepository
from tests.support.constants import MOMENT
from tests.support.spaces import MICROSECOND, NO_DATE, Space, allow_undated, shared_database, space
from tests.support.traces import a_trace

if TYPE_CHECKING:
    from provider_trace_store import ProviderTrace
    from tests.support.servers import Database

__all__ = ["shared_database", "space"]


COUNTED: Final = ("call_type", "source", "agent_id", "org_id", "user_id")
DAY: Final = datetime(2026, 3, 29, tzinfo=UTC)

on_sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


async def test_each_field_is_counted_the_most_frequent_first_and_then_by_value(space: Space) -> None:
    values = [*["b"] * 3, *["a"] * 3, *[None] * 3, *["c"] * 4, "", "z", None, "Z", "ü", "\U0001f600"]
    for number, value in enumerate(values):
        trace = space.trace(number, **dict.fromkeys(COUNTED, value))
        await space.add(trace, place="metadata" if number % 2 else "full", commit=False)
    await space.client.commit()
    for name in COUNTED:
        counted = await space.repository.count_by(name)
        # None has four; among as many, it comes last.
        assert list(counted.items()) == [
            *[("c", 4), (None, 4), ("a", 3), ("b", 3)],
            *[("", 1), ("Z", 1), ("z", 1), ("ü", 1), ("\U0001f600", 1)],
        ]
        assert type(counted) is dict
        assert {type(count) for count in counted.values()} == {int}


async def test_each_field_counts_its_own_values(space: Space) -> None:
    await space.add(space.trace(1, **{name: f"of {name}" for name in COUNTED}), space.trace(2))
    for name in COUNTED:
        assert await space.repository.count_by(name) == {f"of {name}": 1, None: 1}


async def test_nothing_is_no_count(space: Space) -> None:
    assert await space.repository.count_by("source") == {}
    assert await space.repository.count_by_day() == {}
    await space.add(space.trace(1))
    for filters in ({"since": MOMENT, "until": MOMENT}, {"since": MOMENT + MICROSECOND}, {"run_id": "none"}):
        assert await space.repository.count_by("source", **filters) == {}
        assert await space.repository.count_by_day(**filters) == {}


@pytest.mark.every_server
async def test_days_are_those_of_utc_in_their_order_and_without_gaps_filled(space: Space) -> None:
    moments = [
        DAY - MICROSECOND,
        DAY,
        DAY + timedelta(hours=23, minutes=59, seconds=59, microseconds=999999),
        DAY + timedelta(days=1),
        DAY - timedelta(days=400),
        DAY + timedelta(hours=1),
        datetime(1, 1, 2, tzinfo=UTC),
        datetime(9999, 12, 30, 23, tzinfo=UTC),
    ]
    for number, moment in enumerate(moments):
        await space.add(space.trace(number, created_at=moment), place="metadata" if number % 2 else "full")
    counted = await space.repository.count_by_day()
    assert list(counted.items()) == [
        (date(1, 1, 2), 1),
        (date(2025, 2, 22), 1),
        (date(2026, 3, 28), 1),
        (date(2026, 3, 29), 3),
        (date(2026, 3, 30), 1),
        (date(9999, 12, 30), 1),
    ]
    assert {type(day) for day in counted} == {date}
    assert await space.repository.count_by_day(since=DAY, until=DAY + timedelta(days=1)) == {date(2026, 3, 29): 3}
    assert await space.repository.count_by_day(since=DAY + MICROSECOND, until=DAY + timedelta(days=1)) == {
        date(2026, 3, 29): 2
    }


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/St_Johns", "Pacific/Kiritimati", "UTC"])
def test_the_sessions_time_zone_changes_neither_days_nor_pages(postgres: Database, zone: str) -> None:
    traces = [
        a_trace(number, created_at=DAY + timedelta(hours=hours)) for number, hours in enumerate((-1, 0, 1, 12, 23, 24))
    ]
    with Session(postgres.engine()) as session:
        session.execute(text(f"SET timezone TO '{zone}'"))
        repository = ProviderTraceRepository(session, organization_id="org-1")
        metadata = ProviderTraceRepository(session, organization_id="org-1", metadata_only=True)
        metadata.create_many(traces[::2])
        repository.create_many(traces[1:])
        session.commit()
        session.execute(text(f"SET timezone TO '{zone}'"))
        assert repository.count_by_day() == {date(2026, 3, 28): 1, date(2026, 3, 29): 4, date(2026, 3, 30): 1}
        assert repository.count_by_day(since=DAY) == {date(2026, 3, 29): 4, date(2026, 3, 30): 1}
        page = repository.list_metadata(order="oldest", limit=3)
        rest = repository.list_metadata(order="oldest", cursor=page.next_cursor)
        found = [*page.items, *rest.items]
        assert [trace.created_at for trace in found] == [trace.created_at for trace in traces]
        assert {trace.created_at.tzinfo for trace in found} == {UTC}
        assert [trace.created_at.tzinfo for trace in repository.list_by_run_id("run-1").items] == [UTC]


async def test_a_trace_in_both_tables_counts_once(space: Space) -> None:
    for number in range(6):
        place: Any = ("both", "full", "metadata")[number % 3]
        await space.add(space.trace(number, source=f"s-{number % 2}", agent_tags=["a"]), place=place)
    for filters in ({}, {"agent_tag": "a"}, {"since": MOMENT}, {"until": MOMENT + MICROSECOND}, {"agent_id": None}):
        assert await space.repository.count_by("source", **filters) == {"s-0": 3, "s-1": 3}, filters
        assert await space.repository.count_by_day(**filters) == {MOMENT.date(): 6}, filters
    assert await space.repository.count_by("call_type", source="s-0") == {None: 3}
    # A trace with a deleted row in one table and a visible row in the other counts once, too.
    for table, number in (("provider_traces", 0), ("provider_trace_metadata", 3)):
        await space.client.execute(
            text(f"UPDATE {table} SET is_deleted = true WHERE id = :id"),  # noqa: S608  (our own names)
            {"id": space.id(number)},
        )
    assert await space.repository.count_by("source") == {"s-0": 3, "s-1": 3}
    await space.repository.delete(space.id(0))
    assert await space.repository.count_by("source") == {"s-1": 3, "s-0": 2}
    assert await space.repository.count_by_day() == {MOMENT.date(): 5}


async def test_rows_without_a_date_count_on_the_first_day_of_1970(space: Space) -> None:
    allow_undated(space.client.database)
    for number in range(3):
        await space.add(space.trace(number, source="undated", created_at=NO_DATE), place="both" if number else "full")
        await space.set_column(space.trace(number), "created_at", None)
    await space.add(space.trace(4, created_at=NO_DATE - MICROSECOND), space.trace(5))
    first = date(1970, 1, 1)
    assert await space.repository.count_by_day() == {date(1969, 12, 31): 1, first: 3, MOMENT.date(): 1}
    assert await space.repository.count_by("source") == {"undated": 3, None: 2}
    assert await space.repository.count_by_day(since=NO_DATE, until=NO_DATE + MICROSECOND) == {first: 3}
    assert await space.repository.count_by_day(since=NO_DATE + MICROSECOND) == {MOMENT.date(): 1}
    assert await space.repository.count_by_day(until=NO_DATE) == {date(1969, 12, 31): 1}
    assert await space.repository.count_by("call_type", source="undated", until=MOMENT) == {None: 3}
    await space.repository.delete(space.id(0))
    await space.repository.delete(space.id(1))
    assert await space.repository.count_by("source") == {None: 2, "undated": 1}


@on_sqlite
async def test_dates_without_a_fraction_count_on_their_day(space: Space) -> None:
    stored = ["2026-03-28 23:59:59", "2026-03-29 00:00:00", "2026-03-29 23:59:59", "2026-03-30 00:00:00"]
    for number, moment in enumerate(stored):
        await space.add(space.trace(number), place="metadata" if number % 2 else "full")
        await space.set_column(space.trace(number), "created_at", moment)
    assert list((await space.repository.count_by_day()).values()) == [1, 2, 1]
    assert await space.repository.count_by_day(since=DAY, until=DAY + timedelta(days=1)) == {date(2026, 3, 29): 2}


@pytest.mark.every_server
async def test_a_tag_is_counted_exactly(space: Space) -> None:
    lists: list[list[str] | None] = [
        *[["a"], ["a", "a"], ['x"a"'], ["aa"], None, [], ["b", "a"], ['a","b'], ["A"]],
        *[["\0"], ["\ud800", "a"], ["\\u0000"], ["ü"]],
    ]
    traces = [space.trace(number, agent_tags=tags, source=f"s-{number % 2}") for number, tags in enumerate(lists)]
    await space.add(*traces[::2], place="both")
    await space.add(*traces[1::2], place="metadata")
    for tag in ("a", 'x"a"', 'a","b', "A", "\0", "\ud800", "\\u0000", "ü", "b", "x", "", "none"):
        expected = Counter(trace.source for trace in traces if tag in (trace.agent_tags or ()))
        assert await space.repository.count_by("source", agent_tag=tag) == expected, repr(tag)
        days = {MOMENT.date(): expected.total()} if expected else {}
        assert await space.repository.count_by_day(agent_tag=tag) == days, repr(tag)


async def test_counts_narrow_down_as_pages_do(space: Space) -> None:
    traces: list[ProviderTrace] = [
        space.trace(
            number,
            run_id=f"run-{number % 2}",
            step_id=f"step-{number % 3}",
            agent_id=f"agent-{number % 4}",
            user_id=f"user-{number % 5}",
            agent_tags=[f"tag-{number % 2}"],
            created_at=MOMENT + timedelta(hours=number),
        )
        for number in range(40)
    ]
    await space.add(*traces[::3], place="both")
    await space.add(*traces[1::3])
    await space.add(*traces[2::3], place="metadata")
    since = MOMENT + timedelta(hours=3)
    cases: list[dict[str, Any]] = [
        *[{"run_id": "run-1"}, {"step_id": "step-1"}, {"agent_id": "agent-1"}, {"agent_tag": "tag-1"}],
        {"run_id": "run-1", "step_id": "step-2", "since": since},
        {"agent_id": "agent-1", "since": since, "until": since + timedelta(hours=9)},
        {"user_id": "user-1", "agent_tag": "tag-0", "until": since + timedelta(days=1)},
    ]
    for filters in cases:
        found = await space.walk(1000, **filters)
        assert 0 < len(found) < 40
        users = Counter(trace.user_id for trace in found)
        assert await space.repository.count_by("user_id", **filters) == users
        days = Counter(trace.created_at.date() for trace in found)
        assert await space.repository.count_by_day(**filters) == days
