"""`create` and the reads of one trace, in both forms: stored, found, refused, kept apart."""

from __future__ import annotations

import asyncio
import inspect
import traceback
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from provider_trace_store import (
    AsyncProviderTraceRepository,
    ProviderTrace,
    ProviderTraceMetadata,
    ProviderTraceRepository,
)
from provider_trace_store.errors import (
    InvalidIdentifierError,
    ProviderTraceConflictError,
    ProviderTraceUnavailableError,
    TraceEncodingError,
)
from tests.support.batches import both_modes
from tests.support.constants import MOMENT, ORG, SECRET
from tests.support.hosts import HostRow
from tests.support.traces import a_trace, every_field, the_metadata_of, trace_id
from tests.support.waiting import until_a_session_waits_for_a_lock

if TYPE_CHECKING:
    from tests.support.clients import Client, RepositoryClient
    from tests.support.servers import Database

ID: Final = trace_id(0)
COUNTS: Final = {
    False: text("SELECT count(*) FROM provider_traces"),
    True: text("SELECT count(*) FROM provider_trace_metadata"),
}


async def read(repository: RepositoryClient, trace_id: str, *, metadata_only: bool) -> Any:
    return await (repository.get_metadata(trace_id) if metadata_only else repository.get(trace_id))


async def delete(client: Client, trace_id: str) -> None:
    for table in ("provider_traces", "provider_trace_metadata"):
        await client.execute(text(f"UPDATE {table} SET is_deleted = true WHERE id = :id"), {"id": trace_id})  # noqa: S608  (our own names)


# What is stored


@pytest.mark.every_server
@pytest.mark.pgbouncer
@pytest.mark.parametrize("make", [a_trace, every_field], ids=["required fields", "every field"])
async def test_a_trace_reads_back_equal(client: Client, make: Any) -> None:
    trace = make(0)
    repository = client.repository(organization_id=ORG)
    created = await repository.create(trace)
    await client.commit()
    assert type(created) is ProviderTrace
    assert created == trace
    assert await repository.get(ID) == trace


@pytest.mark.every_server
@pytest.mark.parametrize("make", [a_trace, every_field], ids=["required fields", "every field"])
async def test_metadata_reads_back_equal_with_the_traces_own_id_and_date(client: Client, make: Any) -> None:
    trace = make(0)
    repository = client.repository(organization_id=ORG, metadata_only=True)
    created = await repository.create(trace)
    await client.commit()
    assert type(created) is ProviderTraceMetadata
    assert created == the_metadata_of(trace)
    found = await repository.get_metadata(ID)
    assert found == the_metadata_of(trace)
    assert found is not None
    assert (found.id, found.created_at) == (ID, MOMENT)


async def test_moments_read_back_in_utc(client: Client) -> None:
    trace = a_trace(0, created_at="2026-03-29T03:30:00.123456+02:00", updated_at="2026-03-29T10:30:00+09:00")
    repository = client.repository(organization_id=ORG)
    await repository.create(trace)
    await client.commit()
    found = await repository.get(ID)
    assert found is not None
    assert found.created_at == MOMENT
    assert found.created_at.tzinfo is UTC
    assert found.updated_at == datetime(2026, 3, 29, 1, 30, tzinfo=UTC)


async def test_the_flag_decides_where_create_writes_and_nothing_else(client: Client) -> None:
    whole, bare = a_trace(0, step_id="step-1"), a_trace(0, id=f"{ID}-2", step_id="step-1")
    full = client.repository(organization_id=ORG)
    flagged = client.repository(organization_id=ORG, metadata_only=True)
    await full.create(whole)
    await flagged.create(bare)
    await client.commit()
    for repository in (full, flagged):
        assert await repository.get(whole.id) == whole
        assert await repository.get(bare.id) is None
        assert await repository.get_by_step_id("step-1") == whole
        assert await repository.list_by_step_id("step-1") == [whole]
        assert await repository.get_metadata(whole.id) == the_metadata_of(whole)
        assert await repository.get_metadata(bare.id) == the_metadata_of(bare)
    assert [await client.scalar(COUNTS[flag]) for flag in (False, True)] == [1, 1]


async def test_a_trace_may_be_kept_in_both_forms(client: Client) -> None:
    trace = a_trace(0)
    for flag in (False, True):
        await client.repository(organization_id=ORG, metadata_only=flag).create(trace)
    await client.commit()
    repository = client.repository(organization_id=ORG)
    assert await repository.get(ID) == trace
    assert await repository.get_metadata(ID) == the_metadata_of(trace)


@both_modes
async def test_the_actor_wrote_the_row_unless_the_trace_names_another(client: Client, metadata_only: bool) -> None:
    repository = client.repository(organization_id=ORG, actor_id="actor-1", metadata_only=metadata_only)
    created = await repository.create(a_trace(0))
    await repository.create(a_trace(0, id=f"{ID}-2", created_by_id="user-2"))
    await client.commit()
    found = await read(repository, ID, metadata_only=metadata_only)
    assert found == created
    assert (found.created_by_id, found.last_updated_by_id) == ("actor-1", "actor-1")
    other = await read(repository, f"{ID}-2", metadata_only=metadata_only)
    assert (other.created_by_id, other.last_updated_by_id) == ("user-2", "actor-1")


@both_modes
async def test_create_leaves_the_callers_trace_as_it_was(client: Client, metadata_only: bool) -> None:
    trace = a_trace(0)
    await client.repository(organization_id=ORG, actor_id="actor-1", metadata_only=metadata_only).create(trace)
    assert trace == a_trace(0)


async def test_metadata_does_not_care_whether_the_bodies_can_be_stored(client: Client) -> None:
    trace = a_trace(0, request_json={"tools": {SECRET}}, llm_config={"when": object()})
    repository = client.repository(organization_id=ORG, metadata_only=True)
    await repository.create(trace)
    await client.commit()
    assert await repository.get_metadata(ID) == the_metadata_of(trace)


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"request_json": {"messages": [{}, {"content": {SECRET}}]}}, "request_json.messages[1].content"),
        ({"response_json": {"choices": [{1: SECRET}]}}, "response_json.choices[0]"),
        ({"llm_config": {"model": memoryview(SECRET.encode())}}, "llm_config.model"),
        ({"compaction_settings": {SECRET: UnicodeError(SECRET)}}, "compaction_settings.<key 0>"),
    ],
    ids=["set", "key", "memoryview", "object"],
)
async def test_a_body_that_cannot_be_stored_is_refused_before_the_database_is_touched(
    client: Client, statements: list[str], fields: dict[str, Any], path: str
) -> None:
    with pytest.raises(TraceEncodingError) as caught:
        await client.repository(organization_id=ORG).create(a_trace(0, **fields))
    assert statements == []
    assert not client.session.in_transaction()
    assert (caught.value.trace_id, caught.value.path) == (ID, path)
    assert ID in str(caught.value)
    assert path in str(caught.value)
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + str(vars(caught.value))
    assert SECRET not in shown
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


@both_modes
@pytest.mark.parametrize("name", ["step_id", "agent_id", "id", "organization_id_of_the_protocol"])
async def test_text_put_around_the_schema_is_refused_before_the_database_is_touched(
    client: Client, statements: list[str], metadata_only: bool, name: str
) -> None:
    field = "org_id" if name == "organization_id_of_the_protocol" else name
    trace = a_trace(0).model_copy(update={field: f"provider_trace-01234567{SECRET}\0"})
    repository = client.repository(organization_id=ORG, metadata_only=metadata_only)
    with pytest.raises(ValueError, match="NUL") as caught:
        await repository.create(trace)
    assert statements == []
    if field != "id":
        assert SECRET not in "".join(traceback.format_exception(caught.value))


# The host's transaction


@pytest.mark.pgbouncer
@both_modes
async def test_create_never_commits_not_even_as_the_first_statement(client: Client, metadata_only: bool) -> None:
    repository = client.repository(organization_id=ORG, metadata_only=metadata_only)
    await repository.create(a_trace(0))
    assert await client.scalar(COUNTS[metadata_only]) == 1
    other = await client.another()
    assert await other.scalar(COUNTS[metadata_only]) == 0
    await other.rollback()
    await client.rollback()
    assert await client.scalar(COUNTS[metadata_only]) == 0


@both_modes
async def test_a_rollback_after_reads_and_several_creates_removes_them(client: Client, metadata_only: bool) -> None:
    repository = client.repository(organization_id=ORG, metadata_only=metadata_only)
    assert await repository.get(ID) is None
    await repository.create(a_trace(0))
    await repository.create(a_trace(0))
    await repository.create(a_trace(0, id=f"{ID}-2"))
    await client.rollback()
    assert await client.scalar(COUNTS[metadata_only]) == 0


@pytest.mark.every_server
@pytest.mark.pgbouncer
@both_modes
async def test_a_savepoint_of_the_hosts_takes_the_trace_back_and_nothing_more(
    client: Client, metadata_only: bool
) -> None:
    repository = client.repository(organization_id=ORG, metadata_only=metadata_only)
    await repository.create(a_trace(0))
    await client.execute(text("SAVEPOINT of_the_host"))
    await repository.create(a_trace(0, id=f"{ID}-2"))
    await client.execute(text("ROLLBACK TO SAVEPOINT of_the_host"))
    await client.commit()
    assert await read(repository, ID, metadata_only=metadata_only) is not None
    assert await read(repository, f"{ID}-2", metadata_only=metadata_only) is None


@both_modes
async def test_a_failure_leaves_the_transaction_usable_and_earlier_writes_intact(
    client: Client, metadata_only: bool
) -> None:
    repository = client.repository(organization_id=ORG, metadata_only=metadata_only)
    await repository.create(a_trace(0))
    with pytest.raises(ProviderTraceConflictError):
        await repository.create(a_trace(0, step_id="another"))
    await repository.create(a_trace(0, id=f"{ID}-2"))
    await client.commit()
    for stored in (ID, f"{ID}-2"):
        assert await read(repository, stored, metadata_only=metadata_only) is not None


@both_modes
async def test_a_failure_of_the_hosts_pending_objects_is_the_hosts_error(client: Client, metadata_only: bool) -> None:
    await client.execute(text("CREATE TABLE host_rows (id integer PRIMARY KEY)"))
    await client.execute(text("INSERT INTO host_rows VALUES (1)"))
    await client.commit()
    client.session.add(HostRow(id=1))
    with pytest.raises(IntegrityError):
        await client.repository(organization_id=ORG, metadata_only=metadata_only).create(a_trace(0))
    await client.rollback()
    assert await client.scalar(COUNTS[metadata_only]) == 0


@both_modes
async def test_pending_objects_of_the_hosts_survive_a_failure(client: Client, metadata_only: bool) -> None:
    await client.execute(text("CREATE TABLE host_rows (id integer PRIMARY KEY)"))
    repository = client.repository(organization_id=ORG, metadata_only=metadata_only)
    await repository.create(a_trace(0))
    client.session.add(HostRow(id=1))
    with pytest.raises(ProviderTraceConflictError):
        await repository.create(a_trace(0, step_id="another"))
    await client.commit()
    assert await client.scalar(text("SELECT count(*) FROM host_rows")) == 1


# The same id again


@pytest.mark.pgbouncer
@both_modes
async def test_the_same_trace_again_returns_what_is_stored_and_adds_no_row(client: Client, metadata_only: bool) -> None:
    repository = client.repository(organization_id=ORG, metadata_only=metadata_only)
    first = await repository.create(every_field(0))
    again = await repository.create(every_field(0))
    await client.commit()
    once_more = await repository.create(every_field(0))
    await client.commit()
    assert first == again == once_more
    assert type(again) is type(first)
    assert await client.scalar(COUNTS[metadata_only]) == 1


async def test_the_order_of_keys_is_not_content(client: Client) -> None:
    repository = client.repository(organization_id=ORG)
    stored = a_trace(0, request_json={"a": {"x": 1, "y": [1.5]}, "b": 2})
    await repository.create(stored)
    again = await repository.create(a_trace(0, request_json={"b": 2, "a": {"y": [1.5], "x": 1}}))
    assert again == stored
    assert await client.scalar(COUNTS[False]) == 1


async def test_documents_that_json_lacks_are_the_same_again(client: Client) -> None:
    repository = client.repository(organization_id=ORG)
    body = {"logprob": float("-inf"), "nan": float("nan"), "signature": b"\xff\0", "text": "\0\ud800"}
    await repository.create(a_trace(0, response_json=body))
    await repository.create(a_trace(0, response_json=dict(body)))
    assert await client.scalar(COUNTS[False]) == 1


@both_modes
async def test_the_bookkeeping_of_the_first_writer_stands(client: Client, metadata_only: bool) -> None:
    first, second = (
        client.repository(organization_id=ORG, actor_id=actor, metadata_only=metadata_only)
        for actor in ("actor-1", "actor-2")
    )
    await first.create(a_trace(0))
    await client.commit()
    again = await second.create(a_trace(0, updated_at=MOMENT))
    await client.commit()
    found = await read(first, ID, metadata_only=metadata_only)
    assert again == found
    assert (found.created_by_id, found.last_updated_by_id, found.updated_at) == ("actor-1", "actor-1", None)


_CHANGES: Final[dict[str, Any]] = {
    "step_id": None,
    "agent_id": "other",
    "agent_tags": ["a", "b", "", "ü"],
    "call_type": "summarization",
    "run_id": "other",
    "source": None,
    "org_id": "other",
    "user_id": "other",
    "created_at": MOMENT + timedelta(microseconds=1),
}
_BODY_CHANGES: Final[dict[str, Any]] = {
    "request_json": {"model": "m-2"},
    "response_json": {},
    "compaction_settings": None,
    "llm_config": {"model": "m-1", "temperature": 0.10000000000000002},
}


@pytest.mark.every_server
@pytest.mark.parametrize("metadata_only", [False, True], ids=["full", "metadata"])
async def test_other_content_under_the_same_id_is_a_conflict_and_the_stored_row_stands(
    client: Client, metadata_only: bool
) -> None:
    repository = client.repository(organization_id=ORG, metadata_only=metadata_only)
    stored = await repository.create(every_field(0))
    await client.commit()
    for name, value in (_CHANGES if metadata_only else _CHANGES | _BODY_CHANGES).items():
        with pytest.raises(ProviderTraceConflictError) as caught:
            await repository.create(every_field(0, **{name: value}))
        assert caught.value.trace_id == ID, name
    await client.commit()
    assert await read(repository, ID, metadata_only=metadata_only) == stored
    assert await client.scalar(COUNTS[metadata_only]) == 1


async def test_bodies_are_no_content_of_metadata(client: Client) -> None:
    repository = client.repository(organization_id=ORG, metadata_only=True)
    stored = await repository.create(every_field(0))
    assert await repository.create(every_field(0, **_BODY_CHANGES)) == stored


@both_modes
async def test_an_id_taken_by_another_organization_or_a_deleted_row_is_a_conflict_like_any_other(
    client: Client, metadata_only: bool
) -> None:
    others, ours = (
        client.repository(organization_id=organization, metadata_only=metadata_only)
        for organization in ("org-other", ORG)
    )
    await others.create(a_trace(0, user_id=SECRET))
    await ours.create(a_trace(0, id=f"{ID}-2"))
    await delete(client, f"{ID}-2")
    await ours.create(a_trace(0, id=f"{ID}-3"))
    await client.commit()
    errors = []
    for attempt in (
        a_trace(0, user_id=SECRET),
        a_trace(0, user_id="different"),
        a_trace(0, id=f"{ID}-2"),
        a_trace(0, id=f"{ID}-3", user_id="different"),
    ):
        with pytest.raises(ProviderTraceConflictError) as caught:
            await ours.create(attempt)
        errors.append(caught.value)
        await client.commit()
    assert {str(error).replace(error.trace_id, "ID") for error in errors} == {
        "ID is the id of a stored trace with other content, which stays unchanged: give this call an id of its own"
    }
    for error in errors:
        assert vars(error) == {"trace_id": error.trace_id}
        assert SECRET not in "".join(traceback.format_exception(error))
        assert error.__cause__ is None
        assert error.__context__ is None


# What is read


async def test_reads_see_only_the_repositorys_organization(client: Client) -> None:
    for flag in (False, True):
        await client.repository(organization_id="org-other", metadata_only=flag).create(
            a_trace(0, step_id="step-1", org_id=ORG)
        )
    await client.commit()
    repository = client.repository(organization_id=ORG)
    assert await repository.get(ID) is None
    assert await repository.get_by_step_id("step-1") is None
    assert await repository.list_by_step_id("step-1") == []
    assert await repository.get_metadata(ID) is None


async def test_reads_never_see_a_deleted_row(client: Client) -> None:
    repository = client.repository(organization_id=ORG)
    kept = a_trace(0, id=f"{ID}-2", step_id="step-1", created_at=MOMENT - timedelta(days=1))
    await repository.create(a_trace(0, step_id="step-1"))
    await repository.create(kept)
    await client.repository(organization_id=ORG, metadata_only=True).create(a_trace(0, step_id="step-1"))
    await delete(client, ID)
    await client.commit()
    assert await repository.get(ID) is None
    assert await repository.get_by_step_id("step-1") == kept
    assert await repository.list_by_step_id("step-1") == [kept]
    assert await repository.get_metadata(ID) is None


async def test_of_several_traces_of_a_step_the_newest_is_found_and_all_are_listed_oldest_first(
    client: Client,
) -> None:
    repository = client.repository(organization_id=ORG)
    oldest = a_trace(0, id=f"{ID}-9", step_id="step-1", created_at=MOMENT - timedelta(microseconds=1))
    ties = [a_trace(0, id=f"{ID}-{number}", step_id="step-1") for number in (1, 2, 3)]
    for trace in (ties[1], ties[2], oldest, ties[0], a_trace(0, id=f"{ID}-0", step_id="step-2")):
        await repository.create(trace)
    await client.commit()
    assert await repository.list_by_step_id("step-1") == [oldest, *ties]
    assert await repository.get_by_step_id("step-1") == ties[2]


async def test_the_newest_of_two_metadata_rows_under_one_id_is_found(client: Client) -> None:
    repository = client.repository(organization_id=ORG, metadata_only=True)
    await repository.create(a_trace(0))
    await client.execute(
        text(
            "INSERT INTO provider_trace_metadata (id, created_at, organization_id, is_deleted, source)"
            " SELECT id, :moment, organization_id, is_deleted, 'second' FROM provider_trace_metadata"
        ),
        {
            "moment": MOMENT + timedelta(seconds=1)
            if client.database.backend != "sqlite"
            else "2026-03-30 00:00:00.000000"
        },
    )
    await client.commit()
    found = await repository.get_metadata(ID)
    assert found is not None
    assert found.source == "second"
    again = await repository.create(a_trace(0))
    assert again.created_at == MOMENT


@pytest.mark.parametrize(
    "searched", ["provider_trace-ffffffff", "", "a\0b", "\ud800", "x" * 100_000, "' OR 1=1 --", "%"]
)
async def test_a_missing_trace_is_none_or_an_empty_list(client: Client, searched: str) -> None:
    repository = client.repository(organization_id=ORG)
    await repository.create(a_trace(0, step_id="step-1"))
    assert await repository.get(searched) is None
    assert await repository.get_by_step_id(searched) is None
    assert await repository.list_by_step_id(searched) == []
    assert await repository.get_metadata(searched) is None
    await client.commit()
    assert await repository.get(ID) is not None


@pytest.mark.every_server
async def test_an_adopted_row_without_a_date_reads_as_1970_and_is_the_oldest(postgres: Database) -> None:
    with Session(postgres.engine()) as session:
        session.execute(text("ALTER TABLE provider_traces ALTER COLUMN created_at DROP NOT NULL"))
        repository = ProviderTraceRepository(session, organization_id=ORG)
        before_1970 = a_trace(0, step_id="step-1", created_at=datetime(1960, 1, 1, tzinfo=UTC))
        repository.create(before_1970)
        repository.create(a_trace(0, id=f"{ID}-2", step_id="step-1"))
        session.execute(text("UPDATE provider_traces SET created_at = NULL WHERE id = :id"), {"id": f"{ID}-2"})
        session.commit()
        undated = a_trace(0, id=f"{ID}-2", step_id="step-1", created_at=datetime(1970, 1, 1, tzinfo=UTC))
        assert repository.get(undated.id) == undated
        assert repository.list_by_step_id("step-1") == [undated, before_1970]
        assert repository.get_by_step_id("step-1") == before_1970
        metadata = repository.get_metadata(undated.id)
        assert metadata == the_metadata_of(undated)


@pytest.mark.every_server
async def test_a_session_in_another_time_zone_reads_utc(postgres: Database) -> None:
    for flag in (False, True):
        with Session(postgres.engine()) as session:
            session.execute(text("SET timezone TO 'Asia/Tokyo'"))
            repository = ProviderTraceRepository(session, organization_id=ORG, metadata_only=flag)
            repository.create(every_field(0))
            session.commit()
            session.execute(text("SET timezone TO 'America/St_Johns'"))
            found = repository.get_metadata(ID) if flag else repository.get(ID)
            assert found == (the_metadata_of(every_field(0)) if flag else every_field(0))
            assert found is not None
            assert found.created_at.tzinfo is UTC
            repository.create(every_field(0))


# Two sessions at once


@pytest.mark.every_server
@both_modes
@pytest.mark.parametrize("same", [True, False], ids=["equal", "different"])
async def test_of_two_concurrent_creates_the_second_waits_and_then_finds_the_first(
    postgres: Database, metadata_only: bool, same: bool
) -> None:
    first_trace, second_trace = every_field(0), every_field(0, user_id="user-1" if same else "user-9")
    with Session(postgres.engine()) as first, Session(postgres.engine()) as second:
        stored = ProviderTraceRepository(
            first, organization_id=ORG, actor_id="actor-1", metadata_only=metadata_only
        ).create(first_trace)
        waiting = asyncio.create_task(
            asyncio.to_thread(
                ProviderTraceRepository(second, organization_id=ORG, metadata_only=metadata_only).create,
                second_trace,
            )
        )
        await until_a_session_waits_for_a_lock(first)
        assert not waiting.done()
        first.commit()
        if same:
            assert await waiting == stored
        else:
            with pytest.raises(ProviderTraceConflictError):
                await waiting
        second.commit()
        assert second.scalar(COUNTS[metadata_only]) == 1


@pytest.mark.every_server
async def test_after_the_first_of_two_concurrent_creates_rolls_back_the_second_is_stored(
    postgres: Database,
) -> None:
    with Session(postgres.engine()) as first, Session(postgres.engine()) as second:
        ProviderTraceRepository(first, organization_id=ORG).create(a_trace(0, source="first"))
        waiting = asyncio.create_task(
            asyncio.to_thread(ProviderTraceRepository(second, organization_id=ORG).create, a_trace(0))
        )
        await until_a_session_waits_for_a_lock(first)
        first.rollback()
        assert await waiting == a_trace(0)
        second.commit()
        assert ProviderTraceRepository(first, organization_id=ORG).get(ID) == a_trace(0)


@pytest.mark.every_server
@both_modes
@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
async def test_a_trace_stored_after_the_transactions_snapshot_asks_for_a_retry(
    postgres: Database, metadata_only: bool, level: str
) -> None:
    trace = a_trace(0)
    with Session(postgres.engine(isolation_level=level)) as late, Session(postgres.engine()) as early:
        late.execute(COUNTS[metadata_only])
        ProviderTraceRepository(early, organization_id=ORG, metadata_only=metadata_only).create(trace)
        early.commit()
        repository = ProviderTraceRepository(late, organization_id=ORG, metadata_only=metadata_only)
        with pytest.raises(ProviderTraceUnavailableError) as caught:
            repository.create(trace)
        assert caught.value.trace_id == ID
        late.execute(text("SELECT 1"))
        late.rollback()
        assert repository.create(trace).id == ID


# How it is made


@pytest.mark.parametrize("repository", [ProviderTraceRepository, AsyncProviderTraceRepository])
@pytest.mark.parametrize(
    ("identifiers", "name", "reason"),
    [
        ({"organization_id": ""}, "organization_id", "empty"),
        ({"organization_id": None}, "organization_id", "text"),
        ({"organization_id": "a\0b"}, "organization_id", "NUL"),
        ({"organization_id": "\udc00"}, "organization_id", "surrogate"),
        ({"organization_id": "ü" * 512 + "a"}, "organization_id", "1025 bytes"),
        ({"organization_id": ORG, "actor_id": ""}, "actor_id", "empty"),
        ({"organization_id": ORG, "actor_id": "a\0"}, "actor_id", "NUL"),
        ({"organization_id": ORG, "actor_id": "\ud800"}, "actor_id", "surrogate"),
    ],
)
async def test_an_identifier_that_no_column_can_hold_is_refused(
    database: Database, repository: Any, identifiers: dict[str, Any], name: str, reason: str
) -> None:
    asynchronous = repository is AsyncProviderTraceRepository
    client_session = _session_of(database, asynchronous=asynchronous)
    with pytest.raises(InvalidIdentifierError, match=reason) as caught:
        repository(client_session, **identifiers)
    assert caught.value.name == name


async def test_the_longest_identifiers_can_be_stored_and_found(client: Client) -> None:
    organization_id = "ü" * 512
    trace = a_trace(0, id=ID + "x" * (1024 - len(ID)), step_id="€" * 341)
    for flag in (False, True):
        repository = client.repository(organization_id=organization_id, metadata_only=flag)
        await repository.create(trace)
    await client.commit()
    assert await repository.get_by_step_id("€" * 341) == trace
    assert await repository.get_metadata(trace.id) == the_metadata_of(trace)


def test_both_forms_have_the_same_methods_and_signatures() -> None:
    def signatures(repository: type) -> dict[str, Any]:
        found = {
            name: inspect.signature(function, eval_str=False)
            for name, function in inspect.getmembers(repository, inspect.isfunction)
            if not name.startswith("_")
        }
        # Annotations are text, in which a module may have another one's name before its class's.
        return {
            name: (list(it.parameters.values()), str(it.return_annotation).removeprefix("bulk."))
            for name, it in found.items()
        }

    synchronous, asynchronous = map(signatures, (ProviderTraceRepository, AsyncProviderTraceRepository))
    parameters, returned = synchronous.pop("iter_metadata")
    assert asynchronous.pop("iter_metadata") == (parameters, f"Async{returned}")
    # No coroutine function: it is not awaited, and refuses wrong arguments at the call.
    assert not inspect.iscoroutinefunction(AsyncProviderTraceRepository.iter_metadata)
    assert not inspect.isasyncgenfunction(AsyncProviderTraceRepository.iter_metadata)
    assert synchronous == asynchronous
    assert set(synchronous) == {
        "create",
        "create_many",
        "delete",
        "restore",
        "get",
        "get_by_step_id",
        "list_by_step_id",
        "list_by_run_id",
        "get_metadata",
        "list_metadata",
        "count_by",
        "count_by_day",
    }
    for name in asynchronous:
        assert inspect.iscoroutinefunction(getattr(AsyncProviderTraceRepository, name))

    def constructor(repository: type) -> list[tuple[str, object, object]]:
        parameters = inspect.signature(repository).parameters.values()
        return [(item.name, item.kind, item.default) for item in parameters]

    assert constructor(ProviderTraceRepository) == constructor(AsyncProviderTraceRepository)


async def test_the_repository_reads_no_environment(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    for prefix in ("PROVIDER_TRACE_STORE_", "LETTA_TELEMETRY_"):
        for name in ("METADATA_ONLY", "PROVIDER_TRACE_PG_METADATA_ONLY", "SOURCE", "DATABASE_URL"):
            monkeypatch.setenv(prefix + name, "true")
    repository = client.repository(organization_id=ORG)
    await repository.create(a_trace(0))
    await client.commit()
    assert await repository.get(ID) == a_trace(0)
    assert await client.scalar(COUNTS[True]) == 0


def _session_of(database: Database, *, asynchronous: bool) -> Any:
    from sqlalchemy.ext.asyncio import AsyncSession  # noqa: PLC0415

    return AsyncSession(database.async_engine()) if asynchronous else Session(database.engine())
