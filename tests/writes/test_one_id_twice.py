"""Metadata: two sessions at once store one id under one date only, though the primary key allows two."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from datetime import timedelta
from threading import Barrier
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from provider_trace_store import (
    ProviderTraceConflictError,
    ProviderTraceRepository,
    ProviderTraceUnavailableError,
)
from tests.support.batches import assert_keeps_the_secret, counts, refusals, run_script
from tests.support.clients import Client
from tests.support.constants import MOMENT, ORG, PATIENCE
from tests.support.traces import a_batch, a_trace, trace_id
from tests.support.waiting import until_a_session_waits_for_a_lock

if TYPE_CHECKING:
    from collections.abc import Callable

    from provider_trace_store import ProviderTrace
    from tests.support.clients import Form
    from tests.support.servers import Database

ROWS = text("SELECT count(*) FROM provider_trace_metadata")
TWICE = text("SELECT count(*) - count(DISTINCT id) FROM provider_trace_metadata")
LOCKS = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted")


def later(*numbers: int, days: int = 1) -> list[ProviderTrace]:
    """Return traces with the ids of `a_batch`, and other dates."""
    return [a_trace(number, created_at=MOMENT + timedelta(days=days, seconds=number)) for number in numbers]


def one(repository: ProviderTraceRepository, traces: list[ProviderTrace]) -> list[str]:
    """Create traces one by one and return the ids of the conflicts."""
    conflicts = []
    for trace in traces:
        try:
            repository.create(trace)
        except ProviderTraceConflictError as error:
            conflicts.append(error.trace_id)
    return conflicts


def many(repository: ProviderTraceRepository, traces: list[ProviderTrace]) -> list[str]:
    """Create traces by `create_many` and return the ids of the conflicts."""
    found = refusals(repository.create_many(traces))
    assert {kind for _, kind in found} <= {ProviderTraceConflictError}
    return [trace_id for trace_id, _ in found]


def pulled(repository: ProviderTraceRepository, traces: list[ProviderTrace]) -> list[str]:
    """Do as `many`, from an iterator."""
    return many(repository, iter(traces))  # type: ignore[arg-type]  # a list is what the others take


Way = Any
WAYS = pytest.mark.parametrize("first", [one, many, pulled], ids=["one", "many", "pulled"])
SECOND_WAYS = pytest.mark.parametrize("second", [one, many, pulled], ids=["one", "many", "pulled"])


@pytest.mark.every_server
@WAYS
@SECOND_WAYS
@pytest.mark.parametrize("owner", [ORG, "org-2"])
@pytest.mark.parametrize("outcome", ["commit", "rollback"])
async def test_the_second_session_waits_and_then_knows(
    postgres: Database, first: Way, second: Way, owner: str, outcome: str
) -> None:
    with Session(postgres.engine()) as early, Session(postgres.engine()) as late:
        repository = ProviderTraceRepository(early, organization_id=ORG, metadata_only=True)
        other = ProviderTraceRepository(late, organization_id=owner, metadata_only=True)
        assert first(repository, a_batch(5)) == []
        waiting = asyncio.create_task(asyncio.to_thread(second, other, later(9, 3, 4, 8)))
        await until_a_session_waits_for_a_lock(early)
        assert not waiting.done()
        if outcome == "commit":
            early.commit()
        else:
            early.rollback()
        assert await waiting == ([trace_id(3), trace_id(4)] if outcome == "commit" else [])
        late.commit()
        assert late.scalar(ROWS) == (7 if outcome == "commit" else 4)
        assert late.scalar(TWICE) == 0


@WAYS
@SECOND_WAYS
def test_sessions_that_write_the_same_ids_at_once_store_each_once(database: Database, first: Way, second: Way) -> None:
    numbers = range(60)
    barrier = Barrier(2)

    def write(way: Callable[..., list[str]], organization_id: str, traces: list[ProviderTrace]) -> int:
        with Session(database.engine(**_patient(database))) as session:
            repository = ProviderTraceRepository(session, organization_id=organization_id, metadata_only=True)
            barrier.wait()
            conflicts = 0
            # Of two transactions with several statements each, one may end as a deadlock, with any kind of lock.
            size = 1 if way is one else 5
            for start in range(0, len(traces), size):
                conflicts += len(way(repository, traces[start : start + size]))
                session.commit()
            return conflicts

    async def both() -> tuple[int, int]:
        return await asyncio.gather(
            asyncio.to_thread(write, first, ORG, a_batch(len(numbers))),
            asyncio.to_thread(write, second, "org-2", later(*numbers)),
        )

    assert sum(asyncio.run(both())) == len(numbers)
    with Session(database.engine()) as session:
        assert session.scalar(ROWS) == len(numbers)
        assert session.scalar(TWICE) == 0


def _patient(database: Database) -> dict[str, Any]:
    # SQLite's driver begins a transaction that reads first, and SQLite then refuses the write if another one wrote.
    return {"isolation_level": "AUTOCOMMIT"} if database.backend == "sqlite" else {}


def test_different_ids_of_two_transactions_never_wait_for_each_other(postgres: Database) -> None:
    with Session(postgres.engine()) as one_session, Session(postgres.engine()) as other_session:
        one_session.execute(text("SET lock_timeout = '1ms'"))
        other_session.execute(text("SET lock_timeout = '1ms'"))
        for start in range(0, 6_000, 1_000):
            for number, session in enumerate((one_session, other_session)):
                repository = ProviderTraceRepository(session, organization_id=ORG, metadata_only=True)
                batch = a_batch(500, start + 500 * number)
                assert counts(repository.create_many(batch[1:])) == (499, 0, 0)
                repository.create(batch[0])


def test_a_large_transaction_leaves_half_of_the_servers_table_of_locks_free(postgres: Database) -> None:
    with Session(postgres.engine()) as session:
        repository = ProviderTraceRepository(session, organization_id=ORG, metadata_only=True)
        assert counts(repository.create_many(a_batch(20_000))) == (20_000, 0, 0)
        for trace in a_batch(100, 30_000):
            repository.create(trace)
        places = session.scalar(
            text(
                "SELECT current_setting('max_locks_per_transaction')::int * (current_setting('max_connections')::int"
                " + current_setting('max_worker_processes')::int + current_setting('max_wal_senders')::int)"
            )
        )
        assert places is not None
        assert 1_000 <= (session.scalar(LOCKS) or 0) <= places / 2
        session.commit()
        assert session.scalar(LOCKS) == 0


def test_a_loop_of_single_writes_leaves_room_too(postgres: Database) -> None:
    with Session(postgres.engine()) as filler, Session(postgres.engine()) as session:
        filler.execute(text("SELECT count(pg_advisory_xact_lock(n)) FROM generate_series(1, 5000) n"))
        before = session.scalar(LOCKS) or 0
        for trace in a_batch(100):
            ProviderTraceRepository(session, organization_id=ORG, metadata_only=True).create(trace)
        assert (session.scalar(LOCKS) or 0) - before == 64
        session.commit()
        assert session.scalar(ROWS) == 100


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
@SECOND_WAYS
async def test_a_transaction_that_cannot_see_what_it_waited_for_asks_for_a_retry(
    postgres: Database, second: Way, level: str
) -> None:
    with Session(postgres.engine()) as early, Session(postgres.engine(isolation_level=level)) as late:
        ProviderTraceRepository(early, organization_id=ORG, metadata_only=True).create(a_trace(3))
        repository = ProviderTraceRepository(late, organization_id=ORG, metadata_only=True)
        waiting = asyncio.create_task(asyncio.to_thread(second, repository, later(1, 3)))
        await until_a_session_waits_for_a_lock(early)
        early.commit()
        with pytest.raises(ProviderTraceUnavailableError) as caught:
            await waiting
        assert caught.value.sqlstate == "40001"
        assert_keeps_the_secret(caught.value)
        late.rollback()
        assert second(repository, later(1, 3)) == [trace_id(3)]


@pytest.mark.parametrize("way", [one, many])
async def test_an_autocommit_connection_holds_the_lock_until_the_row_is_there(postgres: Database, way: Way) -> None:
    """Without a transaction, the lock would end with its own statement."""
    run_script(
        postgres,
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "PERFORM pg_advisory_xact_lock(1); RETURN NEW; END $$",
        "CREATE TRIGGER slow BEFORE INSERT ON provider_trace_metadata FOR EACH ROW WHEN (NEW.user_id = 'slow') "
        "EXECUTE FUNCTION slow()",
    )
    engine = postgres.engine(isolation_level="AUTOCOMMIT")
    with Session(postgres.engine()) as holder, Session(engine) as early, Session(engine) as late:
        holder.execute(text("SELECT pg_advisory_xact_lock(1)"))
        slow = [a_trace(number, user_id="slow") for number in range(2)]
        repository = ProviderTraceRepository(early, organization_id=ORG, metadata_only=True)
        first = asyncio.create_task(asyncio.to_thread(way, repository, slow))
        await until_a_session_waits_for_a_lock(holder)
        other = ProviderTraceRepository(late, organization_id=ORG, metadata_only=True)
        second = asyncio.create_task(asyncio.to_thread(way, other, later(0, 1)))
        await _until_two_wait(holder)
        holder.commit()
        refused = await first, await second
        assert trace_id(0) in refused[1]
        # Where each trace is a call of its own, the second call may come first with the other trace.
        assert sorted([*refused[0], *refused[1]]) == [trace_id(0), trace_id(1)]
        assert holder.scalar(ROWS) == 2


async def _until_two_wait(session: Session) -> None:
    waiting = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
    async with asyncio.timeout(PATIENCE):
        while session.scalar(waiting) != 2:  # noqa: ASYNC110  (the event is in the server)
            await asyncio.sleep(0.01)


@pytest.mark.pgbouncer
async def test_a_metadata_write_sends_two_statements_and_a_retry_compares(
    database: Database, form: Form, statements: list[str]
) -> None:
    async with AsyncExitStack() as stack:
        client = Client(database, form, stack)
        repository = client.repository(organization_id=ORG, metadata_only=True)
        await client.scalar(text("SELECT 1"))
        statements.clear()
        await repository.create(a_trace(1))
        sent = [statement for statement in statements if "SAVEPOINT" not in statement and statement != "BEGIN"]
        assert len(sent) == (1 if database.backend == "sqlite" else 2), sent
        await client.commit()
        await repository.create(a_trace(1))
        with pytest.raises(ProviderTraceConflictError):
            await repository.create(later(1)[0])
        assert await client.scalar(ROWS) == 1


def test_a_rejected_row_of_the_batch_leaves_the_others_locked(postgres: Database) -> None:
    """The statement of the whole batch is rolled back, and with it the locks: each part locks its own ids again."""
    run_script(postgres, "ALTER TABLE provider_trace_metadata ADD CONSTRAINT hosts_rule CHECK (call_type <> 'poison')")
    with Session(postgres.engine()) as session:
        repository = ProviderTraceRepository(session, organization_id=ORG, metadata_only=True)
        batch = [*a_batch(20), a_trace(30, call_type="poison")]
        assert counts(repository.create_many(batch)) == (20, 0, 1)
        assert (session.scalar(LOCKS) or 0) >= 20


@pytest.mark.parametrize("way", [one, many, pulled])
def test_a_transaction_that_finds_everything_stored_makes_nobody_wait(postgres: Database, way: Way) -> None:
    with Session(postgres.engine()) as session, Session(postgres.engine()) as other:
        repository = ProviderTraceRepository(session, organization_id=ORG, metadata_only=True)
        repository.create_many(a_batch(5))
        session.commit()
        assert way(repository, a_batch(5)) == []
        assert way(repository, later(1)) == [trace_id(1)]
        assert session.scalar(LOCKS) == 0
        other.execute(text("SET lock_timeout = '1ms'"))
        assert way(ProviderTraceRepository(other, organization_id=ORG, metadata_only=True), a_batch(5)) == []


@WAYS
def test_of_two_serializable_transactions_one_is_refused(postgres: Database, first: Way) -> None:
    engine = postgres.engine(isolation_level="SERIALIZABLE")
    with Session(engine) as early, Session(engine) as late:
        late.scalar(ROWS)
        first(ProviderTraceRepository(early, organization_id=ORG, metadata_only=True), a_batch(3))
        early.commit()
        try:
            first(ProviderTraceRepository(late, organization_id=ORG, metadata_only=True), later(0, 1, 2))
            late.commit()
        except (ProviderTraceUnavailableError, DBAPIError):
            late.rollback()
        assert late.scalar(TWICE) == 0
