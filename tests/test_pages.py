"""Pages of metadata and of a run: which traces, in which order, from where to where, in both forms."""

from __future__ import annotations

import copy
import json
import pickle
from dataclasses import FrozenInstanceError
from datetime import UTC, datetime, timedelta, timezone
from itertools import combinations, product
from typing import TYPE_CHECKING, Any, Final
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import text

from provider_trace_store import (
    InvalidCursorError,
    InvalidFilterError,
    InvalidLimitError,
    MetadataPage,
    ProviderTrace,
    ProviderTraceMetadata,
    ProviderTraceStoreError,
    TracePage,
)
from tests.batches import TABLES
from tests.spaces import MICROSECOND, MOMENT, NO_DATE, Space, allow_undated, shared_database, shown, space

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tests.servers import Database

__all__ = ["shared_database", "space"]

pytestmark = pytest.mark.newest

TEXT_FILTERS: Final = ("step_id", "run_id", "agent_id", "call_type", "source", "user_id", "org_id")
URL_SAFE: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
SECRET: Final = "sk-secret-0123456789"  # noqa: S105  (stands for what a client sent and no error may show)

on_sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


def the_metadata_of(trace: ProviderTrace) -> ProviderTraceMetadata:
    return ProviderTraceMetadata(**{name: getattr(trace, name) for name in ProviderTraceMetadata.model_fields})


async def error_of(call: Awaitable[Any]) -> BaseException:
    with pytest.raises(ProviderTraceStoreError) as caught:
        await call
    return caught.value


# Filters


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


async def test_what_is_listed_equals_what_was_written(space: Space) -> None:
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
    await space.add(the_whole(space, 2, trace), place="metadata")
    for found in (await space.repository.list_metadata()).items:
        assert type(found) is ProviderTraceMetadata
        assert found == the_metadata_of(trace if found.id == trace.id else the_whole(space, 2, trace))
        assert found.created_at.tzinfo is UTC


def the_whole(space: Space, number: int, trace: ProviderTrace) -> ProviderTrace:
    return trace.model_copy(update={"id": space.id(number)})


# Cursors


async def test_a_cursor_is_short_text_that_needs_no_escaping_in_a_url(space: Space) -> None:
    await space.add(*map(space.trace, range(3)))
    await space.add(*(space.trace(number, id=f"provider_trace-{number:08x}/é ?{space.id(1)}") for number in range(2)))
    pages = [await space.repository.list_metadata(limit=limit) for limit in (1, 2, 3, 4)]
    cursors = [page.next_cursor for page in pages]
    for cursor in cursors:
        assert cursor is not None
        assert set(cursor) <= URL_SAFE
    assert min(len(cursor or "") for cursor in cursors) <= 60
    assert len(set(cursors)) == 4


async def test_a_cursor_serves_any_session_and_any_number_of_times(space: Space) -> None:
    await space.add(*map(space.trace, range(4)))
    first = await space.repository.list_metadata(limit=2)
    other = await space.client.another()
    for client in (other, space.client, other):
        repository = client.repository(organization_id=space.organization_id, metadata_only=True, actor_id="actor")
        page = await repository.list_metadata(limit=2, cursor=first.next_cursor)
        assert space.numbers(page.items) == [1, 0]


async def test_a_damaged_cursor_is_refused_without_being_repeated(space: Space) -> None:
    await space.add(*map(space.trace, range(2)))
    await space.add(space.trace(2, id=f"provider_trace-01234567 of another writer {space.id(2)}", run_id="run-1"))
    await space.add(space.trace(3, run_id="run-1"))
    repository = space.repository
    alphabet = "".join(sorted(URL_SAFE)) + "+/= \n\0é\ud800"
    cursors = [
        (await repository.list_metadata(order="oldest", limit=1)).next_cursor,
        (await repository.list_metadata(order="oldest", limit=3)).next_cursor,
    ]
    # Each character of one, so that none is without a check; of the other, whose last one has spare bits, the last.
    damages: list[Any] = []
    for cursor in filter(None, cursors):
        places = range(len(cursor)) if cursor is cursors[0] else (0, len(cursor) - 1)
        damages += [cursor[:place] + other + cursor[place + 1 :] for place in places for other in alphabet]
        damages += [cursor[:length] for length in range(len(cursor))]
        damages += [cursor + other for other in (*alphabet, "==", cursor)]
        damages += [other + cursor for other in " AA="]
        damages += [cursor[place:] for place in range(1, len(cursor))]
        damages += [cursor.swapcase(), cursor[::-1], cursor.encode(), [cursor]]
    damages += ["", SECRET, "A" * 44, "A" * 100_000, 7, b"", 0, False, object()]
    for damaged in damages:
        if damaged in cursors:
            continue
        with pytest.raises(InvalidCursorError) as caught:
            await repository.list_metadata(order="oldest", cursor=damaged)
        if damaged in (SECRET, cursors[0] and cursors[0][:-1]):
            assert str(damaged) not in shown(caught.value)
            assert isinstance(caught.value, ValueError)
            assert isinstance(caught.value, ProviderTraceStoreError)
            assert caught.value.args == InvalidCursorError().args
    with pytest.raises(InvalidCursorError):
        await repository.list_by_run_id("run-1", cursor=SECRET)


async def test_a_cursor_of_another_query_is_refused(space: Space) -> None:
    other = Space(space.client)
    for one in (space, other):
        await one.add(
            *(
                one.trace(number, **dict.fromkeys(TEXT_FILTERS, "run-1"), agent_tags=["run-1", "1", "n", ""])
                for number in range(3)
            )
        )
    moments = [MOMENT - timedelta(days=1), MOMENT - timedelta(days=1) + MICROSECOND]
    queries: list[dict[str, Any]] = [
        {},
        {"order": "oldest"},
        *({name: "run-1"} for name in TEXT_FILTERS),
        *({"order": "oldest", name: "run-1"} for name in TEXT_FILTERS),
        {"source": "run-1", "run_id": "run-1"},
        {"agent_tag": "run-1"},
        {"agent_tag": "1"},
        {"agent_tag": ""},
        {"agent_tag": "run-1", "run_id": "run-1"},
        *({"since": moment} for moment in moments),
        *({"until": moment + timedelta(days=2)} for moment in moments),
        {"since": moments[0], "until": moments[1] + timedelta(days=2)},
    ]

    def pages(of: Space) -> list[Callable[..., Any]]:
        def listing(query: dict[str, Any]) -> Callable[..., Any]:
            return lambda cursor: of.repository.list_metadata(limit=1, cursor=cursor, **query)

        return [*map(listing, queries), lambda cursor: of.repository.list_by_run_id("run-1", limit=1, cursor=cursor)]

    calls = [*pages(space), *pages(other)]
    cursors = [(await call(None)).next_cursor for call in calls]
    assert None not in cursors
    assert len(set(cursors)) == len(cursors)
    for (place, call), (origin, cursor) in product(enumerate(calls), enumerate(cursors)):
        # Each with each takes seconds: a third of the pairs, in which each is met with most kinds of others.
        if place != origin and (place + origin) % 3:
            continue
        if place == origin:
            assert len((await call(cursor)).items) == 1
            continue
        with pytest.raises(InvalidCursorError) as caught:
            await call(cursor)
        assert cursor not in str(caught.value)


async def test_filters_of_none_and_no_filters_are_one_query(space: Space) -> None:
    await space.add(*map(space.trace, range(2)))
    first = await space.repository.list_metadata(limit=1)
    nothing = dict.fromkeys((*TEXT_FILTERS, "agent_tag", "since", "until"))
    second = await space.repository.list_metadata(limit=1, cursor=first.next_cursor, **nothing)
    assert space.numbers(second.items) == [0]


async def test_a_cursor_whose_trace_is_gone_still_says_where(space: Space) -> None:
    await space.add(*map(space.trace, range(4)))
    first = await space.repository.list_metadata(limit=2)
    assert await space.repository.delete(space.id(2))
    assert await space.repository.delete(space.id(1))
    page = await space.repository.list_metadata(limit=2, cursor=first.next_cursor)
    assert space.numbers(page.items) == [0]
    await space.repository.delete(space.id(0))
    assert await space.repository.list_metadata(cursor=first.next_cursor) == MetadataPage((), None)


async def test_what_is_written_between_two_pages_moves_nothing(space: Space) -> None:
    await space.add(*(space.trace(number * 10, created_at=MOMENT + timedelta(seconds=number)) for number in range(4)))
    first = await space.repository.list_metadata(limit=2)
    await space.add(
        space.trace(100, created_at=MOMENT + timedelta(days=1)),
        space.trace(15, created_at=MOMENT + timedelta(seconds=1.5)),
        space.trace(25, created_at=MOMENT + timedelta(seconds=2.5)),
        place="metadata",
    )
    second = await space.repository.list_metadata(limit=10, cursor=first.next_cursor)
    assert space.numbers(first.items) == [30, 20]
    assert space.numbers(second.items) == [15, 10, 0]


# Both tables


async def test_where_a_trace_is_stored_is_told(space: Space) -> None:
    await space.add(space.trace(1), place="full")
    await space.add(space.trace(2), place="metadata")
    await space.add(space.trace(3), place="both")
    expected = {1: "full", 2: "metadata", 3: "full"}
    for found in (await space.walk(1), await space.walk(2), await space.iterate(), await space.iterate(order="oldest")):
        assert {space.numbers([trace])[0]: trace.stored_as for trace in found} == expected
    for number, stored_as in expected.items():
        trace = await space.repository.get_metadata(space.id(number))
        assert trace is not None
        assert trace.stored_as == stored_as


async def test_where_a_trace_is_stored_is_no_field(space: Space) -> None:
    trace = space.trace(1, source="service", created_by_id="a", last_updated_by_id="b", updated_at=MOMENT)
    await space.add(trace)
    await space.add(the_whole(space, 2, trace), place="metadata")
    assert "stored_as" not in ProviderTraceMetadata.model_fields
    assert "stored_as" not in str(ProviderTraceMetadata.model_json_schema())
    plain = the_metadata_of(trace)
    assert plain.stored_as is None
    got = await space.repository.get_metadata(trace.id)
    assert got is not None
    second, first = (await space.repository.list_metadata()).items
    for found in (got, first):
        assert found == plain
        assert plain == found
        assert repr(found) == repr(plain)
        assert str(found) == str(plain)
        assert found.model_dump() == plain.model_dump()
        assert found.model_dump_json() == plain.model_dump_json()
        assert found.model_fields_set == set(ProviderTraceMetadata.model_fields)
        assert list(dict(found)) == list(ProviderTraceMetadata.model_fields)
        assert ProviderTraceMetadata(**dict(found)) == plain
        assert ProviderTraceMetadata.model_validate(found.model_dump()) == plain
        assert ProviderTraceMetadata.model_validate_json(found.model_dump_json()) == plain
    assert second == the_metadata_of(the_whole(space, 2, trace))
    assert (second.stored_as, first.stored_as) == ("metadata", "full")


async def test_where_a_trace_is_stored_goes_with_its_copies(space: Space) -> None:
    await space.add(space.trace(1), place="metadata")
    found = await space.repository.get_metadata(space.id(1))
    assert found is not None
    copies = [pickle.loads(pickle.dumps(found)), copy.copy(found), copy.deepcopy(found), found.model_copy()]  # noqa: S301  (our own)
    for copied in copies:
        assert copied == found
        assert copied.stored_as == "metadata"
    found.source = "changed"
    assert found.stored_as == "metadata"
    assert found != copies[0]
    assert found.model_dump()["source"] == "changed"


async def test_a_trace_in_both_tables_comes_once_and_as_full_wherever_a_page_ends(space: Space) -> None:
    places: list[Any] = ["both", "both", "full", "both", "metadata", "metadata", "both", "both", "both"]
    for number, place in enumerate(places):
        await space.add(space.trace(number, run_id="run-1", agent_tags=["a"]), place=place)
    filtered: list[dict[str, Any]] = [{"run_id": "run-1"}, {"agent_tag": "a"}, {"since": MOMENT}]
    for limit, order, filters in (
        *product(range(1, 11), ("newest", "oldest"), ({},)),
        *product((1, 2, 5), ("newest", "oldest"), filtered),
    ):
        found = await space.walk(limit, order=order, **filters)
        numbers = [*range(9)] if order == "oldest" else [*range(8, -1, -1)]
        assert space.numbers(found) == numbers, (limit, order, filters)
        expected = ["metadata" if places[number] == "metadata" else "full" for number in numbers]
        assert [trace.stored_as for trace in found] == expected, (limit, order, filters)
    await space.assert_listed([*range(8, -1, -1)])


async def test_an_id_under_two_dates_is_two_traces(space: Space) -> None:
    await space.add(space.trace(1), place="full")
    await space.add(space.trace(1, created_at=MOMENT + MICROSECOND), place="metadata")
    found = await space.walk(1)
    assert [(trace.created_at, trace.stored_as) for trace in found] == [
        (MOMENT + MICROSECOND, "metadata"),
        (MOMENT, "full"),
    ]
    await space.assert_listed([1, 1])


async def test_deleted_traces_are_in_no_page(space: Space) -> None:
    places: list[Any] = ["full", "metadata", "both"]
    for number in range(12):
        await space.add(space.trace(number, run_id="run-1", agent_tags=["a"]), place=places[number % 3])
    for number in (0, 1, 2, 5, 6, 7, 11):
        assert await space.repository.delete(space.id(number))
    await space.client.commit()
    for filters in ({}, {"run_id": "run-1"}, {"agent_tag": "a"}):
        await space.assert_listed([10, 9, 8, 4, 3], **filters)
    assert space.numbers(await space.walk_run("run-1", 2)) == [3, 8, 9]
    # What is deleted in one table only, as somebody else may have done it, is left in the other.
    await space.client.execute(text("UPDATE provider_traces SET is_deleted = true WHERE id = :id"), {"id": space.id(8)})
    assert {trace.id: trace.stored_as for trace in await space.walk(3)}[space.id(8)] == "metadata"
    await space.assert_listed([10, 9, 8, 4, 3])


# Rows of other writers


@pytest.fixture
def undated_allowed(database: Database) -> None:
    """Let rows be without a date from now on."""
    allow_undated(database)


@pytest.mark.usefixtures("undated_allowed")
async def test_rows_without_a_date_are_of_1970_wherever_a_page_ends(space: Space) -> None:
    around = {
        0: NO_DATE - MICROSECOND,
        1: NO_DATE,
        3: NO_DATE,
        5: NO_DATE,
        7: NO_DATE + MICROSECOND,
        8: MOMENT,
    }
    places: list[Any] = ["full", "metadata", "both"]
    for number in range(9):
        trace = space.trace(number, run_id="run-1", step_id="step-1", agent_tags=["a"])
        if number in around:
            trace.created_at = around[number]
            await space.add(trace, place=places[number % 3])
        else:
            await space.add(trace)
            await space.set_column(trace, "created_at", None)
    everything = [8, 7, 6, 5, 4, 3, 2, 1, 0]
    for filters in ({}, {"run_id": "run-1"}, {"agent_tag": "a"}):
        await space.assert_listed(everything, **filters)
    for filters in ({}, {"step_id": "step-1"}):
        await space.assert_listed(everything[:8], since=NO_DATE, **filters)
        await space.assert_listed(everything[:2], since=NO_DATE + MICROSECOND, **filters)
        await space.assert_listed(everything[8:], until=NO_DATE, **filters)
        await space.assert_listed(everything[2:], until=NO_DATE + MICROSECOND, **filters)
        await space.assert_listed(everything[2:8], since=NO_DATE, until=NO_DATE + MICROSECOND, **filters)
        await space.assert_listed(everything[:1], since=MOMENT, **filters)
    undated = [trace for trace in await space.walk(2) if space.numbers([trace])[0] in {2, 4, 6}]
    assert [trace.created_at for trace in undated] == [NO_DATE] * 3
    assert [trace.created_at.tzinfo for trace in undated] == [UTC] * 3
    assert [trace.stored_as for trace in undated] == ["full"] * 3
    for limit in (1, 2, 3, 20):
        run = await space.walk_run("run-1", limit)
        assert space.numbers(run) == [number for number in range(9) if number in {2, 4, 6} or number % 3 != 1]
        assert [trace.created_at for trace in run if space.numbers([trace])[0] == 4] == [NO_DATE]


@pytest.mark.usefixtures("undated_allowed")
async def test_a_row_without_a_date_and_its_metadata_of_1970_are_one_trace(space: Space) -> None:
    for number in range(4):
        await space.add(space.trace(number, created_at=NO_DATE), place="both")
    for number in (1, 2):
        await space.set_column(space.trace(number), "created_at", None)
    await space.add(space.trace(9))
    await space.set_column(space.trace(9), "created_at", None)
    await space.assert_listed([9, 3, 2, 1, 0])
    assert {trace.stored_as for trace in await space.walk(1)} == {"full"}
    await space.client.execute(text("UPDATE provider_traces SET is_deleted = true WHERE id = :id"), {"id": space.id(9)})
    await space.assert_listed([3, 2, 1, 0])


@on_sqlite
async def test_dates_as_sqlites_own_clock_writes_them_stand_among_ours(space: Space) -> None:
    second = MOMENT.replace(microsecond=0)
    stored = {
        # By text, the same second without a fraction is the lesser one.
        0: "2026-03-29 01:29:59.999999",
        1: "2026-03-29 01:30:00",
        3: "2026-03-29 01:30:00",
        6: "2026-03-29 01:30:00",
        2: "2026-03-29 01:30:00.000000",
        4: "2026-03-29 01:30:00.000000",
        5: "2026-03-29 01:30:00.000001",
        7: "2026-03-29 01:30:01",
    }
    places: list[Any] = ["full", "metadata", "both"]
    for number, moment in stored.items():
        await space.add(space.trace(number, run_id="run-1", agent_tags=["a"]), place=places[number % 3])
        await space.set_column(space.trace(number), "created_at", moment)
    oldest = list(stored)
    for filters in ({}, {"run_id": "run-1"}, {"agent_tag": "a"}):
        for limit in range(1, 9):
            for order, expected in (("oldest", oldest), ("newest", oldest[::-1])):
                assert space.numbers(await space.walk(limit, order=order, **filters)) == expected, (limit, order)
        await space.assert_listed(oldest[:0:-1], since=second, **filters)
        await space.assert_listed([0], until=second, **filters)
        await space.assert_listed([7, 5], since=second + MICROSECOND, **filters)
        await space.assert_listed(oldest[5::-1], until=second + MICROSECOND, **filters)
        await space.assert_listed(oldest[6::-1], until=second + timedelta(seconds=1), **filters)
        await space.assert_listed([7], since=second + timedelta(seconds=1), **filters)
    found = {space.numbers([trace])[0]: trace.created_at for trace in await space.walk(3)}
    assert found[1] == found[2] == second
    run = [number for number in oldest if number % 3 != 1]
    for limit in (1, 2, 3):
        assert space.numbers(await space.walk_run("run-1", limit)) == run


@on_sqlite
@pytest.mark.parametrize("moment", ["2026-03-29 01:30:00.123", "2026-03-29", "2026-03-29T01:30:00", "2026-03-29 01:30"])
async def test_pages_over_dates_of_any_writer_on_sqlite_end_and_repeat_nothing(space: Space, moment: str) -> None:
    for number in range(4):
        await space.add(space.trace(number))
        if number:
            await space.set_column(space.trace(number), "created_at", moment)
    for limit, order in product((1, 2, 3), ("newest", "oldest")):
        assert sorted(space.numbers(await space.walk(limit, order=order))) == [0, 1, 2, 3], (limit, order)


# Tags

TAGS: Final[list[list[str] | None]] = [
    None,
    [],
    [""],
    ["a"],
    ["aa", "b"],
    ["b", "a"],
    ["a,b"],
    ['a","b'],
    ['"a"'],
    ['"'],
    ['\\"a\\"'],
    ["\\"],
    ["\\\\"],
    ["a\\", "b"],
    ["ü"],
    ["u\u0308"],
    ["Ü", "ß", "日本"],
    ["\U0001f600"],
    ["\ud83d\ude00"],
    ["\ud83d", "\ude00"],
    ["\ud83d"],
    ["x\ud800y", "plain"],
    ["\0"],
    ["a\0b", "a"],
    ["\\u0000"],
    ["\\ud83d"],
    ["\x7f", "\x1f", "\n", "\t", "\u2028"],
    ["/", "</script>"],
    ["[", "]", "{", "}", ","],
    ["null"],
    ["$pts:float"],
    ["%", "_", "a%"],
    ["A"],
    [" a", "a "],
    ["x" * 10_000],
    ["1"],
]


async def test_a_tag_is_found_exactly_whatever_its_characters(space: Space) -> None:
    traces = [space.trace(number, agent_tags=tags, run_id="run-1") for number, tags in enumerate(TAGS)]
    await space.add(*traces[::2])
    await space.add(*traces[1::2], place="metadata")
    for tag in {tag for tags in TAGS for tag in tags or ()} | {"unknown", "b,a", "u", "x", "y", ", ", "\ude00x"}:
        expected = [number for number, tags in enumerate(TAGS) if tag in (tags or ())][::-1]
        page = await space.repository.list_metadata(agent_tag=tag)
        assert space.numbers(page.items) == expected, repr(tag)
        assert [trace.agent_tags for trace in page.items] == [TAGS[number] for number in expected], repr(tag)
        assert space.numbers(await space.walk(1, agent_tag=tag, run_id="run-1")) == expected, repr(tag)
        counted = await space.repository.count_by("call_type", agent_tag=tag)
        assert counted == ({None: len(expected)} if expected else {}), repr(tag)


async def test_tags_of_other_writers_are_found_and_what_is_no_list_of_tags_is_not(space: Space) -> None:
    tags = ["a", "ü", "\U0001f600", 'quo"te', "back\\slash", "a,b", "nul\0"]
    texts = [
        json.dumps(tags),
        json.dumps(tags, indent=2),
        json.dumps(tags, ensure_ascii=False),
        json.dumps(tags, separators=(",", ":")),
        "null",
        '"a"',
        '{"a": 1}',
        '{"x": "a"}',
        '[["a"]]',
        "5",
        "true",
        '["b\\"a\\"", "x"]',
    ]
    if space.client.database.backend == "postgresql":
        # As it is told to write text, which PostgreSQL's `json` keeps as it is.
        texts.append('[\n"a"\t,"\\u00fc","\\ud83d\\ude00","quo\\"te","back\\\\slash","a,b","nul\\u0000"\n]')
    has_tags = {0, 1, 2, 3, 12} & {*range(len(texts))}
    places: list[Any] = ["full", "metadata", "both"]
    for number, stored in enumerate(texts):
        await space.add(space.trace(number), place=places[number % 3])
        await space.set_column(space.trace(number), "agent_tags", stored)
    assert len((await space.repository.list_metadata()).items) == len(texts)
    for tag in tags:
        await space.assert_listed(sorted(has_tags, reverse=True), agent_tag=tag)
    for tag in ("x", 'b"a"'):
        await space.assert_listed([11], agent_tag=tag)
    for tag in ("A", "u", "quo", "5", "true", "null", '"a"'):
        await space.assert_listed([], agent_tag=tag)


async def test_a_page_by_tag_is_full_where_many_rows_only_look_alike(space: Space) -> None:
    look_alikes = [space.trace(number, agent_tags=['x"a"', "b"]) for number in range(50)]
    await space.add(*look_alikes, place="both")
    for number in (100, 20_000, 7_000):
        await space.add(space.trace(number, agent_tags=["a"]), place="both")
    for tag, expected in (("a", [20_000, 7_000, 100]), ('x"a"', [*range(49, -1, -1)]), ("b", [*range(49, -1, -1)])):
        for limit in (1, 3, 7, 1000):
            assert space.numbers(await space.walk(limit, agent_tag=tag)) == expected


# What is refused


async def test_what_cannot_be_meant_is_refused_before_the_database_is_touched(
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


# Iteration


@pytest.fixture(scope="module")
def many() -> int:
    """Return more than two reads' worth of rows."""
    return 2_100


async def test_an_iterator_gives_everything_once_while_the_host_commits_and_rolls_back(space: Space, many: int) -> None:
    await space.add(*map(space.trace, range(0, many, 2)), place="both")
    await space.add(*map(space.trace, range(1, many, 2)), place="metadata")
    for order in ("newest", "oldest"):
        found = []
        async for trace in space.repository.iter_metadata(order=order):
            found += space.numbers([trace])
            if len(found) % 500 == 1:
                await (space.client.commit() if len(found) % 1000 == 1 else space.client.rollback())
        assert found == ([*range(many)] if order == "oldest" else [*range(many - 1, -1, -1)])
        await space.client.rollback()


async def test_an_iterator_goes_on_where_it_was_while_traces_come_and_go(space: Space, many: int) -> None:
    await space.add(*map(space.trace, range(10, 10 + many)), place="metadata")
    deleted = {10, 11, 500, 1_700, many + 9}
    found: list[int] = []
    async for trace in space.repository.iter_metadata():
        found += space.numbers([trace])
        if len(found) == 1:
            # One that was read already, one of this read, and some of the next.
            for number in deleted:
                assert await space.repository.delete(space.id(number))
            await space.add(
                space.trace(5_000, created_at=MOMENT + timedelta(days=1)),
                space.trace(1, created_at=MOMENT - timedelta(days=1)),
            )
    assert len(found) == len(set(found))
    # Of the first read nothing changes any more.
    read_already = set(range(many + 10 - 1000, many + 10))
    assert set(found) == (set(range(10, many + 10)) - (deleted - read_already)) | {1}
    assert found == sorted(found, reverse=True)


async def test_an_iterator_that_is_left_leaves_nothing_open(space: Space) -> None:
    await space.add(*map(space.trace, range(5)))
    iterator: AsyncIterator[ProviderTraceMetadata] = space.repository.iter_metadata()
    assert space.numbers([await anext(iterator)]) == [4]
    await space.client.commit()
    assert not space.client.session.in_transaction()
    two = space.repository.iter_metadata(), space.repository.iter_metadata(order="oldest")
    pairs = [(space.numbers([await anext(two[0])])[0], space.numbers([await anext(two[1])])[0]) for _ in range(5)]
    assert pairs == [(4, 0), (3, 1), (2, 2), (1, 3), (0, 4)]
    for one in two:
        with pytest.raises(StopAsyncIteration):
            await anext(one)
        with pytest.raises(StopAsyncIteration):
            await anext(one)


async def test_an_iterator_over_nothing_ends_at_once(space: Space) -> None:
    assert await space.iterate() == []
    assert await space.iterate(since=MOMENT, until=MOMENT) == []


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
