"""An id that is packed is compared with the packed trace, and never stored a second time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from provider_trace_store import (
    ProviderTraceConflictError,
    ProviderTraceRepository,
    ProviderTraceStoreError,
    ProviderTraceUnavailableError,
)
from provider_trace_store.packs.store import PACKS
from tests.support.batches import refusals
from tests.support.constants import MOMENT, ORG, PATIENCE
from tests.support.packed_tables import await_a_lock, row_counts, store, store_packed
from tests.support.packs import pack_now
from tests.support.traces import a_batch, a_trace
from tests.support.writers import a_writer

if TYPE_CHECKING:
    from collections.abc import Callable

    from provider_trace_store import ProviderTrace
    from tests.support.clients import Client
    from tests.support.servers import Database


def changed(trace: ProviderTrace) -> ProviderTrace:
    return trace.model_copy(update={"response_json": {"changed": True}})


async def test_create_returns_a_packed_trace_and_refuses_another_content(client: Client, database: Database) -> None:
    traces = a_batch(3)
    store_packed(database.engine(), traces)
    repository = client.repository(organization_id=ORG)
    assert await repository.create(traces[0]) == traces[0]
    for other in (
        changed(traces[1]),
        traces[1].model_copy(update={"run_id": "another"}),
        traces[1].model_copy(update={"agent_tags": ["another"]}),
        traces[1].model_copy(update={"llm_config": {"another": 1}}),
    ):
        with pytest.raises(ProviderTraceConflictError):
            await repository.create(other)
    assert await repository.get(traces[0].id) == traces[0]
    await client.commit()
    assert row_counts(database.engine())[:2] == (0, 3)


async def test_create_many_counts_packed_traces_as_unchanged(client: Client, database: Database) -> None:
    traces = a_batch(30)
    store_packed(database.engine(), traces[:20])
    repository = client.repository(organization_id=ORG)
    result = await repository.create_many([*traces[:10], changed(traces[10]), *traces[11:]])
    assert (result.created, result.unchanged) == (10, 19)
    assert refusals(result) == [(traces[10].id, ProviderTraceConflictError)]
    await client.commit()
    assert row_counts(database.engine())[:2] == (10, 20)


async def test_of_one_id_that_is_sent_several_times_only_the_same_content_is_unchanged(
    client: Client, database: Database
) -> None:
    [trace] = traces = a_batch(1)
    store_packed(database.engine(), traces)
    repository = client.repository(organization_id=ORG)
    for batch in ([trace, trace, changed(trace)], [changed(trace), trace, changed(trace), trace]):
        result = await repository.create_many(batch)
        wrong = sum(one is not trace for one in batch)
        assert (result.created, result.unchanged, len(result.rejected)) == (0, len(batch) - wrong, wrong)


async def test_another_organization_gets_a_conflict(client: Client, database: Database) -> None:
    traces = a_batch(2)
    store_packed(database.engine(), traces)
    repository = client.repository(organization_id="another")
    with pytest.raises(ProviderTraceConflictError):
        await repository.create(traces[0])
    assert await repository.get(traces[0].id) is None


async def test_metadata_of_a_packed_trace_is_unchanged(client: Client, database: Database) -> None:
    traces = a_batch(2)
    store_packed(database.engine(), traces)
    repository = client.repository(organization_id=ORG, metadata_only=True)
    assert (await repository.create(traces[0])).id == traces[0].id
    with pytest.raises(ProviderTraceConflictError):
        await repository.create(traces[0].model_copy(update={"run_id": "another"}))
    await client.commit()
    assert row_counts(database.engine())[:2] == (0, 2)


async def test_a_deleted_packed_trace_is_a_conflict(client: Client, database: Database) -> None:
    traces = a_batch(1)
    store_packed(database.engine(), traces)
    repository = client.repository(organization_id=ORG)
    assert await repository.delete(traces[0].id)
    assert not await repository.delete(traces[0].id)
    assert await repository.get(traces[0].id) is None
    with pytest.raises(ProviderTraceConflictError):
        await repository.create(traces[0])
    assert await repository.restore(traces[0].id)
    assert await repository.get(traces[0].id) is not None


async def test_a_damaged_pack_never_counts_as_the_same(client: Client, database: Database) -> None:
    traces = a_batch(1)
    store_packed(database.engine(), traces)
    repository = client.repository(organization_id=ORG)
    # What this leaves in memory is not what is stored.
    assert await repository.get(traces[0].id) is not None
    await client.commit()
    with database.engine().begin() as connection:
        connection.execute(PACKS.update().values(data=b"damaged"))
    with pytest.raises(ProviderTraceConflictError):
        await repository.create(traces[0])
    await client.commit()
    assert row_counts(database.engine())[:2] == (0, 1)


def test_the_writer_stores_no_packed_trace_again(database: Database) -> None:
    traces = a_batch(20)
    store_packed(database.engine(), traces[:10])
    with a_writer(database) as writer:
        for trace in traces:
            writer.submit(trace, organization_id=ORG)
        assert writer.flush(PATIENCE)
        assert (writer.stats.stored, writer.stats.unchanged, writer.stats.rejected) == (10, 10, 0)
    assert row_counts(database.engine())[:2] == (10, 10)


def while_it_is_packed(database: Database, traces: list[ProviderTrace], action: Callable[[], Any]) -> Any:
    """Begin an action on traces while a transaction packs them, commit when the action waits, and return its result."""
    engine = database.engine()
    with ThreadPoolExecutor(1) as pool:
        with engine.begin() as connection:
            pack_now(connection, [trace.id for trace in traces])
            running = pool.submit(action)
            await_a_lock(database, running)
        return running.result(PATIENCE)


@pytest.mark.parametrize("level", ["READ COMMITTED", "AUTOCOMMIT", "REPEATABLE READ", "SERIALIZABLE"])
@pytest.mark.parametrize("number", [1, 20])
def test_an_id_that_is_sent_while_it_is_packed_is_not_stored_twice(postgres: Database, level: str, number: int) -> None:
    traces = a_batch(number)
    store(postgres.engine(), traces)

    def send() -> str:
        with Session(postgres.engine(isolation_level=level)) as session, session.begin():
            session.execute(text("SELECT 1 FROM provider_traces"))
            repository = ProviderTraceRepository(session, organization_id=ORG)
            try:
                if number == 1:
                    repository.create(traces[0])
                    return "unchanged"
                return "unchanged" if repository.create_many(traces).unchanged == number else "other"
            except ProviderTraceUnavailableError:
                return "again"

    said = while_it_is_packed(postgres, traces, send)
    assert said == "unchanged" if level in {"READ COMMITTED", "AUTOCOMMIT"} else said in {"again", "unchanged"}
    assert row_counts(postgres.engine())[:2] == (0, number)


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
@pytest.mark.parametrize("has_another_date", [False, True])
def test_an_old_snapshot_does_not_hide_a_packed_trace(postgres: Database, level: str, has_another_date: bool) -> None:
    trace = a_trace(1)
    with Session(postgres.engine()) as session, session.begin():
        ProviderTraceRepository(session, organization_id=ORG).create(trace)
    with Session(postgres.engine(isolation_level=level)) as session:
        session.execute(text("SELECT 1"))
        session.execute(text("SELECT count(*) FROM provider_traces"))
        with postgres.engine().begin() as connection:
            pack_now(connection, [trace.id])
        sent = trace.model_copy(update={"created_at": MOMENT}) if has_another_date else trace
        with pytest.raises(ProviderTraceStoreError):
            ProviderTraceRepository(session, organization_id=ORG).create(sent)
        session.rollback()
    assert row_counts(postgres.engine())[:2] == (0, 1)


def test_a_trace_that_is_deleted_while_it_is_packed_is_deleted(postgres: Database) -> None:
    traces = a_batch(2)
    store(postgres.engine(), traces)

    def delete() -> bool:
        with Session(postgres.engine()) as session, session.begin():
            return ProviderTraceRepository(session, organization_id=ORG).delete(traces[0].id)

    assert while_it_is_packed(postgres, traces, delete)
    with Session(postgres.engine()) as session:
        repository = ProviderTraceRepository(session, organization_id=ORG)
        assert repository.get(traces[0].id) is None
        assert repository.get(traces[1].id) == traces[1]


def test_a_session_of_another_encoding_compares_packed_traces(postgres: Database) -> None:
    traces = a_batch(3)
    store_packed(postgres.engine(), traces)
    with Session(postgres.engine()) as session:
        session.execute(text("SET client_encoding TO 'LATIN1'"))
        repository = ProviderTraceRepository(session, organization_id=ORG)
        assert repository.create(traces[0]).id == traces[0].id
        assert repository.create_many([*traces, changed(traces[1])]).unchanged == 3
        session.rollback()
