"""Pages over both tables, and over rows that other programs wrote."""

from __future__ import annotations

import copy
import pickle
from datetime import UTC, timedelta
from itertools import product
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from provider_trace_store import (
    ProviderTraceMetadata,
)
from tests.support.constants import MOMENT
from tests.support.spaces import MICROSECOND, NO_DATE, Space, allow_undated, shared_database, space
from tests.support.traces import the_metadata_of

if TYPE_CHECKING:
    from tests.support.servers import Database

__all__ = ["shared_database", "space"]


on_sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


# Both tables


async def test_a_listed_trace_says_where_it_is_stored(space: Space) -> None:
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
    await space.add(trace.model_copy(update={"id": space.id(2)}), place="metadata")
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
    assert second == the_metadata_of(trace.model_copy(update={"id": space.id(2)}))
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


@pytest.mark.every_server
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
    # A row that another program deleted in one table only is left in the other.
    await space.client.execute(text("UPDATE provider_traces SET is_deleted = true WHERE id = :id"), {"id": space.id(8)})
    assert {trace.id: trace.stored_as for trace in await space.walk(3)}[space.id(8)] == "metadata"
    await space.assert_listed([10, 9, 8, 4, 3])


# Rows of other writers


@pytest.fixture
def undated_allowed(database: Database) -> None:
    """Allow rows without a date."""
    allow_undated(database)


@pytest.mark.every_server
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
