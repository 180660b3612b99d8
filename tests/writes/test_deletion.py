"""Soft deletion and restoring: both tables, one organization, the host's transaction."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from provider_trace_store import (
    ProviderTrace,
    ProviderTraceConflictError,
    ProviderTraceMetadata,
    ProviderTraceRejectedError,
    ProviderTraceRepository,
    ProviderTraceUnavailableError,
    TableMissingError,
)
from tests.support.batches import assert_keeps_the_secret, both_modes, run_script
from tests.support.constants import MOMENT, ORG, SECRET, TABLES
from tests.support.hosts import HostRow
from tests.support.traces import a_trace, trace_id

if TYPE_CHECKING:
    from tests.support.clients import Client
    from tests.support.servers import Database


ID: Final = trace_id(1)
places = pytest.mark.parametrize("flags", [(False,), (True,), (False, True)], ids=["full", "metadata", "both"])


def a_marked_trace(number: int) -> ProviderTrace:
    """Return a trace that says who created and who changed it."""
    return a_trace(
        number,
        step_id="step-1",
        agent_tags=["a"],
        created_by_id="user-1",
        last_updated_by_id="user-2",
        updated_at=MOMENT,
    )


async def add(client: Client, *traces: ProviderTrace, flags: tuple[bool, ...], organization: str = ORG) -> None:
    for flag in flags:
        for trace in traces:
            await client.repository(organization_id=organization, metadata_only=flag).create(trace)
    await client.commit()


async def rows(client: Client) -> list[tuple[Any, ...]]:
    return [
        (table, *row)
        for table in TABLES.values()
        for row in await client.execute(text(f"SELECT * FROM {table} ORDER BY id"))  # noqa: S608  (our own names)
    ]


@places
@both_modes
async def test_a_deleted_trace_is_in_no_read_and_is_restored_equal(
    client: Client, flags: tuple[bool, ...], metadata_only: bool
) -> None:
    trace, other = a_marked_trace(1), a_trace(2, step_id="step-1", run_id="run-1")
    await add(client, trace, other, flags=flags)
    repository = client.repository(organization_id=ORG, metadata_only=metadata_only)

    async def reads() -> list[Any]:
        return [
            await repository.get(ID),
            await repository.get_metadata(ID),
            await repository.get_by_step_id("step-1"),
            await repository.list_by_step_id("step-1"),
            await repository.list_by_run_id("run-1"),
            await repository.list_metadata(),
            await repository.list_metadata(run_id="run-1"),
            await repository.count_by("source"),
            await repository.count_by_day(),
        ]

    assert await repository.delete(ID) is True
    await client.commit()
    assert await repository.get(ID) is None
    assert await repository.get_metadata(ID) is None
    assert [item.id for item in (await repository.list_metadata()).items] == [other.id]
    assert await repository.count_by("source") == {SECRET: 1}
    hidden = await reads()
    assert ID not in repr(hidden)

    before = datetime.now(UTC)
    assert await repository.restore(ID) is True
    await client.commit()
    found = await repository.get_metadata(ID)
    assert found is not None
    assert found.stored_as == ("metadata" if flags == (True,) else "full")
    assert found.updated_at is not None
    assert before <= found.updated_at <= datetime.now(UTC)
    unchanged = {"updated_at": MOMENT}
    assert found.model_copy(update=unchanged) == ProviderTraceMetadata.from_trace(trace)
    if flags != (True,):
        whole = await repository.get(ID)
        assert whole is not None
        assert whole.model_copy(update=unchanged) == trace
    assert await repository.count_by("source") == {SECRET: 2}


@pytest.mark.every_server
@places
async def test_a_second_time_nothing_changes(client: Client, flags: tuple[bool, ...]) -> None:
    await add(client, a_marked_trace(1), flags=flags)
    repository = client.repository(organization_id=ORG)
    assert await repository.restore(ID) is False
    assert await repository.delete(ID) is True
    after = await rows(client)
    assert await repository.delete(ID) is False
    assert await rows(client) == after
    assert await repository.restore(ID) is True
    after = await rows(client)
    assert await repository.restore(ID) is False
    assert await rows(client) == after


async def test_a_trace_that_is_deleted_in_one_table_is_deleted_in_the_other(client: Client) -> None:
    await add(client, a_trace(1), flags=(False, True))
    await client.execute(text("UPDATE provider_traces SET is_deleted = true WHERE id = :id"), {"id": ID})
    repository = client.repository(organization_id=ORG)
    assert await repository.get_metadata(ID) is not None
    assert await repository.delete(ID) is True
    assert await repository.get_metadata(ID) is None
    assert await repository.restore(ID) is True
    assert await repository.get(ID) is not None


@pytest.mark.parametrize("unknown", [trace_id(9), "", "a\0b", "\ud800", "x" * 100_000, "' OR 1=1 --", "%"])
async def test_an_unknown_id_changes_nothing(client: Client, unknown: str) -> None:
    await add(client, a_trace(1), flags=(False, True))
    before = await rows(client)
    repository = client.repository(organization_id=ORG)
    assert await repository.delete(unknown) is False
    assert await repository.restore(unknown) is False
    assert await rows(client) == before


async def test_a_trace_of_another_organization_is_unknown(client: Client) -> None:
    await add(client, a_trace(1), flags=(False, True), organization="org-other")
    other = client.repository(organization_id="org-other")
    ours = client.repository(organization_id=ORG)
    before = await rows(client)
    assert await ours.delete(ID) is False
    assert await ours.restore(ID) is False
    assert await rows(client) == before
    await other.delete(ID)
    before = await rows(client)
    assert await ours.restore(ID) is False
    assert await ours.delete(ID) is False
    assert await rows(client) == before


@places
async def test_the_bookkeeping_names_the_actor_and_the_time(client: Client, flags: tuple[bool, ...]) -> None:
    await add(client, a_marked_trace(1), flags=flags)
    columns = "updated_at, _last_updated_by_id, _created_by_id, is_deleted"
    for actor, last in (("actor-1", "actor-1"), (None, "actor-1"), ("actor-2", "actor-2")):
        repository = client.repository(organization_id=ORG, actor_id=actor)
        for method, is_deleted in (("delete", True), ("restore", False)):
            before = datetime.now(UTC)
            assert await getattr(repository, method)(ID) is True
            for flag in flags:
                row = tuple((await client.execute(text(f"SELECT {columns} FROM {TABLES[flag]}"))).one())  # noqa: S608  (our own)
                moment = row[0] if isinstance(row[0], datetime) else datetime.fromisoformat(row[0] + "+00:00")
                assert before <= moment <= datetime.now(UTC)
                assert (row[1], row[2], bool(row[3])) == (last, "user-1", is_deleted)


@places
async def test_nothing_but_the_mark_and_the_bookkeeping_is_written(client: Client, flags: tuple[bool, ...]) -> None:
    await add(client, a_marked_trace(1), a_marked_trace(2), flags=flags)
    before = await rows(client)
    repository = client.repository(organization_id=ORG, actor_id="user-2")
    await repository.delete(ID)
    await repository.restore(ID)
    assert len(before) == 2 * len(flags)
    for old, new in zip(before, await rows(client), strict=True):
        changed = sum(one != other for one, other in zip(old, new, strict=True))
        assert changed == (1 if ID in old else 0)


async def test_deletion_never_commits(client: Client) -> None:
    await add(client, a_trace(1), flags=(False, True))
    repository = client.repository(organization_id=ORG)
    assert await repository.delete(ID)
    other = (await client.another()).repository(organization_id=ORG)
    assert await other.get_metadata(ID) is not None
    await client.rollback()
    assert await repository.get(ID) is not None
    assert await repository.delete(ID)
    await client.commit()
    assert await repository.restore(ID)
    assert await repository.get(ID) is not None
    await client.rollback()
    assert await repository.get(ID) is None


@pytest.mark.pgbouncer
async def test_a_savepoint_of_the_hosts_takes_the_deletion_back(client: Client) -> None:
    await add(client, a_trace(1), a_trace(2), flags=(False,))
    repository = client.repository(organization_id=ORG)
    assert await repository.delete(trace_id(2))
    await client.execute(text("SAVEPOINT of_the_host"))
    assert await repository.delete(ID)
    await client.execute(text("ROLLBACK TO SAVEPOINT of_the_host"))
    await client.commit()
    assert [item.id for item in (await repository.list_metadata()).items] == [ID]


@both_modes
async def test_the_id_of_a_deleted_trace_stays_taken(client: Client, metadata_only: bool) -> None:
    trace = a_marked_trace(1)
    repository = client.repository(organization_id=ORG, metadata_only=metadata_only)
    await repository.create(trace)
    assert await repository.delete(ID)
    await client.commit()
    with pytest.raises(ProviderTraceConflictError):
        await repository.create(trace)
    result = await repository.create_many([trace])
    assert [type(rejected.error) for rejected in result.rejected] == [ProviderTraceConflictError]
    assert await repository.restore(ID)
    await client.commit()
    again = await repository.create(trace)
    assert again.id == ID
    assert (await repository.create_many([trace])).unchanged == 1
    await client.commit()
    assert len((await repository.list_metadata()).items) == 1


# What the database refuses


def refuse_updates(database: Database, table: str) -> None:
    """Let the host have a rule that a trace, once written, stays as it is."""
    if database.backend == "postgresql":
        run_script(
            database,
            "CREATE FUNCTION hosts_rule() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'refused: %', OLD; END $$",
            f"CREATE TRIGGER hosts_rule BEFORE UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION hosts_rule()",
        )
    else:
        run_script(
            database,
            f"CREATE TRIGGER hosts_rule BEFORE UPDATE ON {table} BEGIN SELECT RAISE(ABORT, 'refused'); END",
        )


@pytest.mark.parametrize("table", TABLES.values())
async def test_a_refusal_is_typed_and_leaves_the_transaction_usable_and_both_rows_as_they_were(
    client: Client, table: str
) -> None:
    await add(client, a_trace(1), flags=(False, True))
    refuse_updates(client.database, table)
    before = await rows(client)
    repository = client.repository(organization_id=ORG)
    await repository.create(a_trace(2))
    with pytest.raises(ProviderTraceRejectedError) as caught:
        await repository.delete(ID)
    assert caught.value.trace_id == ID
    assert_keeps_the_secret(caught.value)
    assert await repository.delete(trace_id(9)) is False
    await repository.create(a_trace(3))
    await client.commit()
    assert [row for row in await rows(client) if ID in row] == before
    assert await repository.get(trace_id(2)) is not None
    assert await repository.get(trace_id(3)) is not None


def test_a_lock_that_is_not_acquired_in_time_is_unavailable(postgres: Database) -> None:
    with Session(postgres.engine()) as session, Session(postgres.engine()) as other:
        repository = ProviderTraceRepository(session, organization_id=ORG)
        repository.create(a_trace(1))
        session.commit()
        other.execute(text("SELECT 1 FROM provider_traces FOR UPDATE"))
        repository.create(a_trace(2))
        session.execute(text("SET LOCAL lock_timeout = '50ms'"))
        with pytest.raises(ProviderTraceUnavailableError) as caught:
            repository.delete(ID)
        assert_keeps_the_secret(caught.value)
        other.rollback()
        assert repository.delete(ID)
        session.commit()
        assert repository.get(trace_id(2)) is not None


def test_a_server_that_is_not_there_is_unavailable(postgres: Database) -> None:
    engine = create_engine(postgres.url.set(host="127.0.0.1", port=1, query={}))
    with Session(engine) as session, pytest.raises(ProviderTraceUnavailableError) as caught:
        ProviderTraceRepository(session, organization_id=ORG).restore(ID)
    engine.dispose()
    assert_keeps_the_secret(caught.value)


@pytest.mark.parametrize("method", ["delete", "restore"])
def test_a_database_that_was_never_migrated_is_an_error_that_says_so(empty_database: Database, method: str) -> None:
    with Session(empty_database.engine()) as session:
        repository = ProviderTraceRepository(session, organization_id=ORG)
        with pytest.raises(TableMissingError) as caught:
            getattr(repository, method)(ID)
        assert_keeps_the_secret(caught.value)
        assert session.scalar(text("SELECT 1")) == 1


async def test_a_failure_of_the_hosts_pending_objects_is_the_hosts_error(client: Client) -> None:
    await add(client, a_trace(1), flags=(False,))
    await client.execute(text("CREATE TABLE host_rows (id integer PRIMARY KEY)"))
    await client.execute(text("INSERT INTO host_rows VALUES (1)"))
    await client.commit()
    client.session.add(HostRow(id=1))
    with pytest.raises(IntegrityError):
        await client.repository(organization_id=ORG).delete(ID)
    await client.rollback()
    assert await client.repository(organization_id=ORG).get(ID) is not None
