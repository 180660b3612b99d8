"""Pages of metadata and of a run: which traces, in which order, and what is refused, in both forms."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from datetime import UTC, datetime, timedelta, timezone
from itertools import combinations, product
from typing import TYPE_CHECKING, Any, Final
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import text

from provider_trace_store import (
    InvalidFilterError,
    InvalidLimitError,
    MetadataPage,
    ProviderTrace,
    ProviderTraceMetadata,
    TracePage,
)
from tests.support.constants import MOMENT, SECRET, TABLES
from tests.support.spaces import MICROSECOND, Space, error_of, shared_database, shown, space
from tests.support.traces import the_metadata_of

if TYPE_CHECKING:
    from collections.abc import Callable


__all__ = ["shared_database", "space"]


TEXT_FILTERS: Final = ("step_id", "run_id", "agent_id", "call_type", "source", "user_id", "org_id")


# Filters


@pytest.mark.every_server
async def test_each_filter_alone_finds_the_exact_text_and_nothing_else(space: Space) -> None:
    values = ["x", "X", "x ", "", "xx", "ü", "%", "_", "' OR 1=1 --", "\U0001f600", "x" * 1024, None]
    for place, first in (("full", 0), ("metadata", 100)):
        traces = [
            space.trace(first + number, **dict.fromkeys(TEXT_FILTERS, value)) for number, value in enumerate(values)
        ]
        await space.add(*traces, place=place)  # type: ignore[arg-type]  # one of the literals
    for name in TEXT_FILTERS:
        for number, value in enumerate(values[:-1]):
            page = await space.repository.list_metadata(**{name: value})
            assert space.numbers(page.items) == [100 + number, number], (name, value)
            assert page.next_cursor is None
        assert (await space.repository.list_metadata(**{name: "unknown"})).items == ()
        everything = await space.repository.list_metadata(**{name: None})
        assert len(everything.items) == 2 * len(values)


async def test_filters_together_narrow_down(space: Space) -> None:
    traces = [
        space.trace(
            number,
            **{name: f"v-{number >> shift & 1}" for shift, name in enumerate(TEXT_FILTERS)},
            agent_tags=[f"tag-{number % 3}"],
            created_at=MOMENT + timedelta(minutes=number // 4),
        )
        for number in range(128)
    ]
    await space.add(*traces[::2])
    await space.add(*traces[1::2], place="metadata")
    given: dict[str, Any] = {
        **dict.fromkeys(TEXT_FILTERS, "v-1"),
        "agent_tag": "tag-1",
        "since": MOMENT + timedelta(minutes=5),
        "until": MOMENT + timedelta(minutes=30),
    }

    def is_meant(trace: ProviderTrace, names: tuple[str, ...]) -> bool:
        tests = {
            "since": trace.created_at >= given["since"],
            "until": trace.created_at < given["until"],
            "agent_tag": "tag-1" in (trace.agent_tags or ()),
        }
        return all(tests[name] if name in tests else getattr(trace, name) == "v-1" for name in names)

    chosen = [
        *combinations(given, 2),
        ("since", "until", "run_id"),
        ("since", "until", "step_id", "agent_id"),
        tuple(given),
    ]
    for names in chosen:
        filters = {name: given[name] for name in names}
        expected = [number for number, trace in enumerate(traces) if is_meant(trace, names)][::-1]
        page = await space.repository.list_metadata(limit=1000, **filters)
        assert space.numbers(page.items) == expected, names
        if len(names) > 2 or "since" in names:
            assert space.numbers(await space.walk(20, **filters)) == expected, names


async def test_a_range_begins_with_since_and_ends_before_until_to_the_microsecond(space: Space) -> None:
    places: list[Any] = ["full", "metadata", "both"]
    for number in range(5):
        trace = space.trace(number, run_id="run-1", created_at=MOMENT + number * MICROSECOND)
        await space.add(trace, place=places[number % 3])
    for first, last in product(range(-1, 7), repeat=2):
        expected = [number for number in range(5) if first <= number < last][::-1]
        since, until = MOMENT + first * MICROSECOND, MOMENT + last * MICROSECOND
        for filters in ({}, {"run_id": "run-1"}):
            page = await space.repository.list_metadata(since=since, until=until, **filters)
            assert space.numbers(page.items) == expected, (first, last)
            page = await space.repository.list_metadata(since=since, until=until, order="oldest", **filters)
            assert space.numbers(page.items) == expected[::-1], (first, last)
    await space.assert_listed([4, 3, 2], since=MOMENT + 2 * MICROSECOND)
    await space.assert_listed([1, 0], until=MOMENT + 2 * MICROSECOND)


async def test_whole_seconds_and_fractions_are_one_order(space: Space) -> None:
    second = MOMENT.replace(microsecond=0)
    moments = [second - MICROSECOND, second, second + MICROSECOND, second + timedelta(seconds=1)]
    await space.add(*(space.trace(number, created_at=moment) for number, moment in enumerate(moments)))
    await space.assert_listed([3, 2, 1, 0])
    for number, moment in enumerate(moments):
        await space.assert_listed([3, 2, 1, 0][: 4 - number], since=moment)
        await space.assert_listed([3, 2, 1, 0][4 - number :], until=moment)


async def test_a_range_may_be_given_in_any_time_zone(space: Space) -> None:
    await space.add(*(space.trace(number, created_at=MOMENT + timedelta(hours=number)) for number in range(3)))
    # The hour that Berlin's clocks skip begins at 01:00 UTC of this day, half an hour before the first.
    zones = [UTC, timezone(timedelta(hours=14)), timezone(-timedelta(hours=12, minutes=1)), ZoneInfo("Europe/Berlin")]
    cursor = None
    for zone in zones:
        since, until = MOMENT.astimezone(zone), (MOMENT + timedelta(hours=2)).astimezone(zone)
        page = await space.repository.list_metadata(since=since, until=until)
        assert space.numbers(page.items) == [1, 0], zone
        # The same moment is the same query, whatever it is written in.
        first = await space.repository.list_metadata(since=since, until=until, limit=1, cursor=None)
        cursor = cursor or first.next_cursor
        after = await space.repository.list_metadata(since=since, until=until, limit=1, cursor=cursor)
        assert space.numbers(after.items) == [0], zone


async def test_the_ends_of_time_are_no_error(space: Space) -> None:
    first, last = datetime(1, 1, 2, tzinfo=UTC), datetime.max.replace(tzinfo=UTC) - timedelta(days=1)
    await space.add(space.trace(1, created_at=first), space.trace(2), space.trace(3, created_at=last))
    far = timezone(timedelta(hours=14))
    west = timezone(-timedelta(hours=14))
    await space.assert_listed([3, 2, 1], since=datetime.min.replace(tzinfo=UTC), until=datetime.max.replace(tzinfo=UTC))
    await space.assert_listed(
        [3, 2, 1], since=datetime.min.replace(tzinfo=far), until=datetime.max.replace(tzinfo=west)
    )
    await space.assert_listed([], since=datetime.max.replace(tzinfo=west))
    await space.assert_listed([], until=datetime.min.replace(tzinfo=far))
    await space.assert_listed([], since=MOMENT, until=MOMENT)
    await space.assert_listed([], since=MOMENT + MICROSECOND, until=MOMENT)
    await space.assert_listed([3, 2], since=first + MICROSECOND)
    await space.assert_listed([2, 1], until=last)


@pytest.mark.parametrize("searched", ["a\0b", "\0", "\ud800", "x\udfff"])
async def test_text_that_no_column_holds_finds_nothing(space: Space, searched: str) -> None:
    await space.add(space.trace(1, **dict.fromkeys(TEXT_FILTERS, "a")))
    for name in TEXT_FILTERS:
        assert await space.repository.list_metadata(**{name: searched}) == MetadataPage((), None)
        assert await space.iterate(**{name: searched}) == []
        assert await space.repository.count_by("source", **{name: searched}) == {}
        assert await space.repository.count_by_day(**{name: searched}) == {}
    assert await space.repository.list_by_run_id(searched) == TracePage((), None)
    assert await space.repository.list_metadata(agent_tag=searched) == MetadataPage((), None)


# Order and limits


@pytest.mark.every_server
async def test_ties_are_in_the_order_of_their_ids_in_both_directions(space: Space) -> None:
    moments = [MOMENT, MOMENT - MICROSECOND, MOMENT, MOMENT, MOMENT - MICROSECOND, MOMENT + MICROSECOND, MOMENT]
    places: list[Any] = ["full", "metadata", "both"]
    for number in (3, 0, 5, 1, 6, 4, 2):
        await space.add(space.trace(number, created_at=moments[number], run_id="run-1"), place=places[number % 3])
    newest = [5, 6, 3, 2, 0, 4, 1]
    await space.assert_listed(newest)
    await space.assert_listed(newest, run_id="run-1")
    for limit in (4, 5, 6, 7, 8):
        assert space.numbers(await space.walk(limit)) == newest


async def test_a_page_that_holds_the_last_trace_has_no_cursor(space: Space) -> None:
    assert await space.repository.list_metadata() == MetadataPage((), None)
    await space.add(*map(space.trace, range(3)))
    for limit, has_more in ((1, True), (2, True), (3, False), (4, False), (1000, False)):
        page = await space.repository.list_metadata(limit=limit)
        assert len(page.items) == min(limit, 3)
        assert (page.next_cursor is not None) == has_more


async def test_a_page_holds_100_unless_the_limit_says_otherwise_and_1000_at_most(space: Space) -> None:
    await space.add(*map(space.trace, range(1002)), place="metadata")
    repository = space.repository
    assert space.numbers((await repository.list_metadata()).items) == [*range(1001, 901, -1)]
    assert len((await repository.list_metadata(limit=1000)).items) == 1000
    assert space.numbers(await space.walk(1000, order="oldest")) == [*range(1002)]
    for limit in (0, -1, 1001, 10**30, True, 1.0, "10", None):
        for call in (repository.list_metadata, lambda **given: repository.list_by_run_id("run-1", **given)):
            error = await error_of(call(limit=limit))
            assert type(error) is InvalidLimitError
            assert "limit must be a whole number from 1 to 1000" in shown(error)


async def test_the_limit_may_change_from_page_to_page(space: Space) -> None:
    await space.add(*map(space.trace, range(10)))
    found: list[int] = []
    cursor = None
    for limit in (1, 3, 2, 1000):
        page = await space.repository.list_metadata(order="oldest", limit=limit, cursor=cursor)
        found += space.numbers(page.items)
        cursor = page.next_cursor
    assert found == [*range(10)]
    assert cursor is None


async def test_a_page_is_a_value_that_cannot_be_changed(space: Space) -> None:
    await space.add(space.trace(1, run_id="run-1"))
    for page in (await space.repository.list_metadata(), await space.repository.list_by_run_id("run-1")):
        assert isinstance(page.items, tuple)
        with pytest.raises(FrozenInstanceError):
            page.next_cursor = "x"  # type: ignore[misc]
    assert type(await space.repository.list_metadata()) is MetadataPage
    assert type(await space.repository.list_by_run_id("run-1")) is TracePage


async def test_listed_metadata_equals_the_written_traces(space: Space) -> None:
    trace = space.trace(
        1,
        **{name: f"value of {name}" for name in TEXT_FILTERS},
        agent_tags=["b", "a", "", "ü", "\0", "\ud800"],
        compaction_settings={"a": 1},
        llm_config={"b": 2},
        created_by_id="user-2",
        last_updated_by_id="user-3",
        updated_at=MOMENT + timedelta(days=1),
    )
    await space.add(trace)
    await space.add(trace.model_copy(update={"id": space.id(2)}), place="metadata")
    for found in (await space.repository.list_metadata()).items:
        assert type(found) is ProviderTraceMetadata
        assert found == the_metadata_of(trace if found.id == trace.id else trace.model_copy(update={"id": space.id(2)}))
        assert found.created_at.tzinfo is UTC


# What is refused


async def test_invalid_arguments_are_refused_before_the_database_is_touched(
    space: Space, statements: list[str]
) -> None:
    repository = space.repository
    naive = datetime(2026, 1, 1)  # noqa: DTZ001  (naive on purpose)
    wrong: list[tuple[str, Any]] = [
        ("since", naive),
        ("until", naive),
        ("since", SECRET),
        ("until", naive.date()),
        ("since", 0),
        *((name, value) for name in (*TEXT_FILTERS, "agent_tag") for value in (7, SECRET.encode(), [SECRET], True)),
    ]
    calls: list[Callable[..., Any]] = [
        repository.list_metadata,
        lambda **filters: anext(repository.iter_metadata(**filters)),
        lambda **filters: repository.count_by("source", **filters),
        repository.count_by_day,
    ]
    for call, (name, value) in product(calls, wrong):
        with pytest.raises(InvalidFilterError, match=name) as caught:
            await call(**{name: value})
        assert caught.value.name == name
        assert isinstance(caught.value, ValueError)
        assert SECRET not in shown(caught.value)
    for order in ("Newest", "", None, 1, SECRET, [SECRET]):
        for call in calls[:2]:
            with pytest.raises(InvalidFilterError, match="newest, oldest") as caught:
                await call(order=order)
            assert caught.value.name == "order"
            assert SECRET not in shown(caught.value)
    for field in ("step_id", "run_id", "created_at", "organization_id", "id", "", None, SECRET, [SECRET]):
        with pytest.raises(InvalidFilterError) as caught:
            await repository.count_by(field)  # type: ignore[arg-type]  # on purpose
        assert caught.value.name == "field"
        assert SECRET not in shown(caught.value)
    for call in calls:
        for keyword in ("organization_id", "id", "offset", "tag"):
            with pytest.raises(TypeError, match=keyword):
                await call(**{keyword: "x"})
    for run_id in (None, 7, b"run-1", True):
        with pytest.raises(InvalidFilterError) as caught:
            await repository.list_by_run_id(run_id)  # type: ignore[arg-type]  # on purpose
        assert caught.value.name == "run_id"
    assert statements == []
    assert not space.client.session.in_transaction()


async def test_an_iterator_refuses_at_the_call(space: Space) -> None:
    iterate: Any = space.repository.iter_metadata
    with pytest.raises(InvalidFilterError):
        iterate(since=datetime(2026, 1, 1))  # noqa: DTZ001  (naive on purpose)
    with pytest.raises(InvalidFilterError):
        iterate(order="random")
    with pytest.raises(InvalidFilterError):
        iterate(source=5)
    for keyword in ("limit", "cursor", "organization_id"):
        with pytest.raises(TypeError, match=keyword):
            iterate(**{keyword: None})


# Runs


async def test_the_traces_of_a_run_come_whole_and_oldest_first(space: Space) -> None:
    body = {"text": "\0\ud800", "logprob": float("-inf"), "signature": b"\xff", "number": 1}
    traces = [
        space.trace(
            number,
            run_id="run-1",
            response_json=body | {"number": number},
            created_at=MOMENT - timedelta(seconds=number // 2),
            llm_config={"number": number},
            agent_tags=["a"],
        )
        for number in range(7)
    ]
    await space.add(*traces[::-1])
    await space.add(space.trace(20, run_id="run-2"), space.trace(21), space.trace(22, run_id="run-1 "))
    await space.add(space.trace(23, run_id="run-1"), place="metadata")
    expected = sorted(traces, key=lambda trace: (trace.created_at, trace.id))
    for limit in (1, 2, 3, 6, 7, 8, 1000):
        assert await space.walk_run("run-1", limit) == expected
    assert (await space.repository.list_by_run_id("run-1")).items == tuple(expected)
    assert await space.repository_of(metadata_only=True).list_by_run_id("run-1") == TracePage(tuple(expected), None)
    assert await space.repository.list_by_run_id("run-3") == TracePage((), None)


async def test_a_page_of_a_run_holds_20_unless_the_limit_says_otherwise(space: Space) -> None:
    await space.add(*(space.trace(number, run_id="run-1") for number in range(21)))
    page = await space.repository.list_by_run_id("run-1")
    assert space.numbers(page.items) == [*range(20)]
    last = await space.repository.list_by_run_id("run-1", cursor=page.next_cursor, limit=5)
    assert space.numbers(last.items) == [20]
    assert last.next_cursor is None


@pytest.mark.parametrize("searched", ["", "a\0b", "\ud800", "x" * 100_000, "' OR 1=1 --", "%"])
async def test_a_run_that_is_not_there_is_an_empty_page(space: Space, searched: str) -> None:
    await space.add(space.trace(1, run_id="run-1"))
    assert await space.repository.list_by_run_id(searched) == TracePage((), None)
    assert await space.repository.list_metadata(run_id=searched) == MetadataPage((), None)


@pytest.mark.pgbouncer
async def test_reads_see_what_the_hosts_transaction_wrote_and_never_commit(space: Space) -> None:
    await space.add(space.trace(1, run_id="run-1"), commit=False)
    assert space.numbers(await space.walk(1)) == [1]
    assert space.numbers(await space.walk_run("run-1", 1)) == [1]
    assert await space.repository.count_by("source") == {None: 1}
    await space.client.rollback()
    assert await space.walk(1) == []
    for table in TABLES.values():
        assert (
            await space.client.scalar(
                text(f"SELECT count(*) FROM {table} WHERE organization_id = :id"),  # noqa: S608  (our own names)
                {"id": space.organization_id},
            )
            == 0
        )
