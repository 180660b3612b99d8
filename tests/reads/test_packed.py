"""Packed traces: every read returns them like any others, also while they are packed, unpacked or packed anew."""

from __future__ import annotations

import logging
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Engine, delete, event, insert, select, text, update

from provider_trace_store import ProviderTrace, TraceDecodingError
from provider_trace_store.maintenance import verify_packs
from provider_trace_store.packs.store import PACKS
from provider_trace_store.tables.kinds import METADATA
from tests.support.constants import MOMENT
from tests.support.packs import pack_now
from tests.support.spaces import Space, shared_database, space
from tests.support.traces import odd_traces, the_metadata_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from uuid import UUID

    from sqlalchemy import Connection

__all__ = ["shared_database", "space"]


def pack(space: Space, *numbers: int) -> UUID:
    with space.client.database.engine().begin() as connection:
        return pack_now(connection, [space.id(number) for number in numbers])


def replace_pack(connection: Connection, pack_id: UUID) -> None:
    """Give a pack another id, as erasing one of its traces does."""
    row = connection.execute(select(PACKS).where(PACKS.c.id == pack_id)).one()
    new_id = type(pack_id)(int=pack_id.int ^ 1)
    connection.execute(insert(PACKS), {**row._mapping, "id": new_id})
    table = METADATA.table
    connection.execute(update(table).where(table.c.pack_id == pack_id).values(pack_id=new_id))
    connection.execute(delete(PACKS).where(PACKS.c.id == pack_id))


def damage(space: Space, pack_id: UUID, column: str) -> None:
    changed = PACKS.update().where(PACKS.c.id == pack_id).values({column: b"\x00damaged"})
    with space.client.database.engine().begin() as connection:
        connection.execute(changed)


@pytest.fixture
def before_parts() -> Iterator[list[Callable[[], Any]]]:
    """Call each of these once, before the data of a pack is read."""
    calls: list[Callable[[], Any]] = []

    def listen(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if calls and "substr(" in statement:
            calls.pop(0)()

    event.listen(Engine, "before_cursor_execute", listen)
    yield calls
    event.remove(Engine, "before_cursor_execute", listen)


async def filled(space: Space, count: int = 4) -> list[ProviderTrace]:
    """Store traces of one step and run, one second apart."""
    traces = [
        space.trace(
            number,
            run_id="run-1",
            step_id="step-1",
            agent_tags=["a", "ü"],
            request_json={"n": number, "text": "é😀" * number, "big": 2**70, "x": b"\x00"},
            llm_config={"model": "m"},
            created_at=MOMENT + timedelta(seconds=number),
        )
        for number in range(count)
    ]
    await space.add(*traces)
    return traces


@pytest.mark.every_server
async def test_every_read_returns_packed_traces_like_any_others(space: Space) -> None:
    traces = await filled(space)
    repository = space.repository
    metadata_before = [(trace, trace.model_dump()) for trace in await space.walk(2)]
    pack(space, 0, 1, 3)
    for trace in traces:
        assert await repository.get(trace.id) == trace
        found = await repository.get_metadata(trace.id)
        assert found == the_metadata_of(trace)
        assert found is not None
        assert found.stored_as == ("full" if trace is traces[2] else "packed")
    assert await repository.get_by_step_id("step-1") == traces[3]
    assert await repository.list_by_step_id("step-1") == traces
    for limit in (1, 2, 3, 20):
        assert await space.walk_run("run-1", limit) == traces
    assert [(trace, trace.model_dump()) for trace in await space.walk(2)] == metadata_before
    assert [trace.stored_as for trace in await space.iterate(order="oldest")] == ["packed", "packed", "full", "packed"]
    await space.assert_listed([3, 2, 1, 0], run_id="run-1", agent_tag="ü")


async def test_any_document_and_text_is_the_same_after_packing(space: Space) -> None:
    traces = [trace.model_copy(update={"id": space.id(n)}) for n, trace in enumerate(odd_traces())]
    await space.add(*traces)
    before = [await space.repository.get(trace.id) for trace in traces]
    pack(space, *range(len(traces)))
    for trace, expected in zip(traces, before, strict=True):
        found = await space.repository.get(trace.id)
        assert found is not None
        assert expected is not None
        # A NaN differs from itself.
        assert repr(found.model_dump()) == repr(expected.model_dump())
        assert found.model_fields_set == expected.model_fields_set


@pytest.mark.every_server
async def test_the_order_of_full_packed_and_metadata_rows_of_one_moment(space: Space) -> None:
    for number in range(9):
        trace = space.trace(number, run_id="run-1", step_id="step-1")
        await space.add(trace, place="metadata" if number % 3 == 2 else "full")
    pack(space, 1, 7)
    pack(space, 4)
    whole = [0, 1, 3, 4, 6, 7]
    for limit in range(1, 8):
        assert space.numbers(await space.walk_run("run-1", limit)) == whole
    assert space.numbers(await space.repository.list_by_step_id("step-1")) == whole
    newest = await space.repository.get_by_step_id("step-1")
    assert newest is not None
    assert newest.id == space.id(7)
    await space.assert_listed([*range(8, -1, -1)], run_id="run-1")
    places = {0: "full", 1: "packed", 2: "metadata"}
    assert [trace.stored_as for trace in await space.walk(2, order="oldest")] == [places[n % 3] for n in range(9)]


async def test_a_trace_that_is_full_and_packed_counts_once_as_full(space: Space) -> None:
    traces = await filled(space, 3)
    pack(space, 0, 1, 2)
    other = traces[1].model_copy(update={"response_json": {"text": "of the full row"}})
    with space.client.database.engine().begin() as connection:
        columns = (
            "id, organization_id, created_at, is_deleted, step_id, run_id, agent_tags, request_json, response_json"
        )
        connection.execute(
            text(
                f"INSERT INTO provider_traces ({columns}) SELECT id, organization_id, created_at, is_deleted,"  # noqa: S608  (constants)
                " step_id, run_id, agent_tags, '{}', '{\"text\": \"of the full row\"}'"
                " FROM provider_trace_metadata WHERE id = :id"
            ),
            {"id": other.id},
        )
    for limit in (1, 2, 20):
        run = await space.walk_run("run-1", limit)
        assert [trace.response_json for trace in run] == [{"text": "hello"}, other.response_json, {"text": "hello"}]
    assert [trace.id for trace in await space.repository.list_by_step_id("step-1")] == [trace.id for trace in traces]
    found = await space.repository.get(other.id)
    assert found is not None
    assert found.response_json == other.response_json
    await space.assert_listed([2, 1, 0])
    assert [trace.stored_as for trace in await space.walk(1)] == ["packed", "full", "packed"]


async def test_a_deleted_packed_trace_is_not_returned_and_restoring_returns_it(space: Space) -> None:
    traces = await filled(space)
    pack(space, *range(4))
    await space.repository.delete(traces[3].id)
    await space.client.commit()
    assert await space.repository.get(traces[3].id) is None
    assert await space.repository.get_by_step_id("step-1") == traces[2]
    assert await space.repository.list_by_step_id("step-1") == traces[:3]
    assert await space.walk_run("run-1", 2) == traces[:3]
    await space.assert_listed([2, 1, 0])
    await space.repository.restore(traces[3].id)
    await space.client.commit()
    restored = await space.repository.get(traces[3].id)
    assert restored is not None
    assert restored.request_json == traces[3].request_json


async def test_a_cursor_stays_valid_while_the_traces_are_packed(space: Space) -> None:
    traces = await filled(space, 6)
    cursor = None
    found: list[ProviderTrace] = []
    for packed in ((0, 1, 4), (2, 5), (3,)):
        page = await space.repository.list_by_run_id("run-1", limit=2, cursor=cursor)
        found += page.items
        cursor = page.next_cursor
        await space.client.commit()
        pack(space, *packed)
    assert cursor is None
    assert found == traces


@pytest.mark.parametrize("column", ["directory", "data"])
async def test_a_damaged_pack_affects_only_its_own_traces(
    space: Space, column: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    traces = await filled(space)
    pack(space, 0)
    pack_id = pack(space, 1)
    damage(space, pack_id, column)
    with pytest.raises(TraceDecodingError) as caught:
        await space.repository.get(traces[1].id)
    assert caught.value.trace_id == traces[1].id
    others = [traces[0], *traces[2:]]
    assert await space.repository.list_by_step_id("step-1") == others
    page = await space.repository.list_by_run_id("run-1")
    assert list(page.items) == others
    assert page.unreadable == (traces[1].id,)
    assert traces[1].id in caplog.text
    await space.assert_listed([3, 2, 1, 0])


@pytest.mark.parametrize("column", ["directory", "data"])
async def test_damage_of_a_pack_that_was_read_never_gives_another_trace(space: Space, column: str) -> None:
    traces = await filled(space)
    pack_id = pack(space, 0, 1)
    assert await space.repository.get(traces[0].id) == traces[0]
    damage(space, pack_id, column)
    for trace in traces[:2]:
        # The process may still have what it needs for this trace.
        with suppress(TraceDecodingError):
            assert await space.repository.get(trace.id) == trace
    found = verify_packs(space.client.database.engine()).findings
    assert pack_id in {finding.pack_id for finding in found}


async def test_a_pack_whose_row_is_lost_is_an_error_of_its_traces(space: Space) -> None:
    traces = await filled(space)
    pack_id = pack(space, 3)
    with space.client.database.engine().begin() as connection:
        connection.execute(delete(PACKS).where(PACKS.c.id == pack_id))
    for read in (space.repository.get(traces[3].id), space.repository.get_by_step_id("step-1")):
        with pytest.raises(TraceDecodingError) as caught:
            await read
        assert caught.value.trace_id == traces[3].id
    page = await space.repository.list_by_run_id("run-1")
    assert list(page.items) == traces[:3]
    assert page.unreadable == (traces[3].id,)


READS = ["get", "get_by_step_id", "list_by_step_id", "list_by_run_id"]


async def read_last(space: Space, method: str, last: ProviderTrace) -> ProviderTrace | None:
    repository = space.repository
    match method:
        case "get":
            return await repository.get(last.id)
        case "get_by_step_id":
            return await repository.get_by_step_id("step-1")
        case "list_by_step_id":
            found = await repository.list_by_step_id("step-1")
            assert space.numbers(found) == [0, 1, 2, 3]
            return found[-1]
    page = await repository.list_by_run_id("run-1")
    assert space.numbers(page.items) == [0, 1, 2, 3]
    return page.items[-1]


# On SQLite the reader's transaction keeps its snapshot: nothing moves between two of its statements.
@pytest.mark.parametrize("method", READS)
async def test_a_pack_that_is_replaced_while_it_is_read(
    space: Space, method: str, before_parts: list[Callable[[], Any]]
) -> None:
    if space.client.database.backend == "sqlite":
        pytest.skip("a reader of SQLite has one snapshot")
    traces = await filled(space)
    pack_id = pack(space, 0, 3)

    def replace() -> None:
        with space.client.database.engine().begin() as connection:
            replace_pack(connection, pack_id)

    before_parts.append(replace)
    assert await read_last(space, method, traces[3]) == traces[3]
    assert before_parts == []


@pytest.mark.parametrize("method", READS)
async def test_a_trace_that_is_unpacked_while_it_is_read(
    space: Space, method: str, before_parts: list[Callable[[], Any]]
) -> None:
    if space.client.database.backend == "sqlite":
        pytest.skip("a reader of SQLite has one snapshot")
    traces = await filled(space)
    engine = space.client.database.engine()
    with engine.begin() as connection:
        connection.execute(
            text("CREATE TABLE IF NOT EXISTS kept (LIKE provider_traces)"),
        )
        connection.execute(text("INSERT INTO kept SELECT * FROM provider_traces WHERE id = :id"), {"id": traces[3].id})
    pack_id = pack(space, 0, 3)

    def unpack() -> None:
        with engine.begin() as connection:
            connection.execute(
                text("INSERT INTO provider_traces SELECT * FROM kept WHERE id = :id"), {"id": traces[3].id}
            )
            connection.execute(text("DELETE FROM provider_trace_metadata WHERE id = :id"), {"id": traces[3].id})
            replace_pack(connection, pack_id)

    before_parts.append(unpack)
    assert await read_last(space, method, traces[3]) == traces[3]
    assert before_parts == []


async def test_a_run_is_read_with_each_directory_and_each_pack_once(space: Space, statements: list[str]) -> None:
    await filled(space, 12)
    pack(space, *range(5))
    pack(space, *range(5, 10))
    statements.clear()
    page = await space.repository.list_by_run_id("run-1", limit=20)
    assert space.numbers(page.items) == [*range(12)]
    of_packs = [statement for statement in statements if "provider_trace_packs" in statement]
    assert len([statement for statement in of_packs if "directory" in statement]) == 1
    # SQLite's driver reads a blob by the number of its row.
    assert len([statement for statement in of_packs if "substr(" in statement or "rowid" in statement]) == 2


async def test_after_a_packed_trace_the_next_one_is_looked_for_in_both_tables_at_once(
    space: Space, statements: list[str]
) -> None:
    traces = await filled(space, 4)
    pack(space, 0, 1)
    counts, repository = [], space.repository
    for trace in (traces[0], traces[1], traces[2], traces[3], traces[0]):
        statements.clear()
        assert await repository.get(trace.id) == trace
        rows = [each for each in statements if "request_json" in each]
        counts.append((len(rows), ["UNION" in each for each in rows].count(True)))
    assert counts == [(2, 1), (1, 1), (1, 1), (1, 0), (2, 1)]
