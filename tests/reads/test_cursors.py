"""Cursors: a page continues after the last one, and forged or damaged cursors are refused."""

from __future__ import annotations

import random
from base64 import urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import TYPE_CHECKING, Any, Final

import pytest

from provider_trace_store import (
    InvalidCursorError,
    MetadataPage,
    ProviderTraceStoreError,
)
from provider_trace_store.reads.cursors import Position, _check, to_text
from provider_trace_store.reads.filters import selection_of
from tests.support.constants import MOMENT, SECRET
from tests.support.spaces import MICROSECOND, Space, error_of, shared_database, shown, space

if TYPE_CHECKING:
    from collections.abc import Callable


__all__ = ["shared_database", "space"]


TEXT_FILTERS: Final = ("step_id", "run_id", "agent_id", "call_type", "source", "user_id", "org_id")
URL_SAFE: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


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
    # Every character of the first cursor is damaged; of the second, whose last character has unused bits, two are.
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
        # All pairs would take seconds. A third of them still gives each call the cursors of most kinds of calls.
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


async def test_a_cursor_whose_trace_is_gone_still_marks_its_place(space: Space) -> None:
    await space.add(*map(space.trace, range(4)))
    first = await space.repository.list_metadata(limit=2)
    assert await space.repository.delete(space.id(2))
    assert await space.repository.delete(space.id(1))
    page = await space.repository.list_metadata(limit=2, cursor=first.next_cursor)
    assert space.numbers(page.items) == [0]
    await space.repository.delete(space.id(0))
    assert await space.repository.list_metadata(cursor=first.next_cursor) == MetadataPage((), None)


async def test_traces_written_between_two_pages_move_nothing(space: Space) -> None:
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


@pytest.mark.parametrize(
    "position",
    [
        Position("2026-01-01\0", "provider_trace-0123abcd"),
        Position(datetime(1, 1, 1, tzinfo=UTC), "provider_trace-0123abcd"),
        Position(datetime.max.replace(tzinfo=UTC), "provider_trace-0123abcd"),
        Position(MOMENT, "provider_trace-\0"),
        Position(MOMENT, "provider_trace-" + "0" * 3_000),
    ],
)
async def test_a_forged_cursor_is_refused(space: Space, position: Position) -> None:
    await space.add(space.trace(1))
    query = ("metadata", space.organization_id, "newest", *selection_of().parts())
    made = to_text(position, query)
    error = await error_of(space.repository.list_metadata(cursor=made))
    assert type(error) is InvalidCursorError
    assert error.__context__ is None


TEXTS: Final = ("", "no date", "0001-01-01 00:00:00+10:00", "9999-12-31 23:59:59-23:59", "1970-01-01", "-1", "\ud7ff")


@pytest.mark.parametrize("order", ["newest", "oldest"])
async def test_a_forged_cursor_of_any_content_is_refused_or_a_place(space: Space, order: Any) -> None:
    """Whoever knows the query can make a cursor: it never fails in another way, and shows no other organization."""
    await space.add(space.trace(1))
    query = ("metadata", space.organization_id, order, *selection_of().parts())
    numbers = random.Random(1)  # noqa: S311  (the same cursors each time)
    contents = [bytes([flags]) + numbers.randbytes(numbers.randrange(40)) for flags in range(4) for _ in range(40)]
    for flags in (0, 1):
        contents += [
            bytes([flags]) + micros.to_bytes(8, "big", signed=True) + b"0" * 16
            for edge in (0, 2**63 - 1, -(2**63), -62135596800000000, 253402300799999999, 253402300800000000)
            for micros in {max(min(edge + step, 2**63 - 1), -(2**63)) for step in (-86_400_000_000, -1, 0, 1)}
        ]
    contents += [b"\2" + len(text.encode()).to_bytes(8, "big") + text.encode() + b"x" for text in TEXTS]
    contents += [b"\2" + (2**64 - 1).to_bytes(8, "big") + b"2026"]
    refused: list[InvalidCursorError] = []
    for content in contents:
        cursor = urlsafe_b64encode(_check(content, query) + content).rstrip(b"=").decode()
        try:
            page = await space.repository.list_metadata(order=order, cursor=cursor)
        except InvalidCursorError as error:
            refused.append(error)
        else:
            assert len(page.items) <= 1
    assert refused
    assert all(error.__context__ is None for error in refused)
