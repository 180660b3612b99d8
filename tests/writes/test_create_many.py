"""`create_many` in both forms: what is stored, reported and rolled back."""

from __future__ import annotations

import copy
import pickle
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from provider_trace_store import (
    AsyncProviderTraceRepository,
    ProviderTrace,
    ProviderTraceConflictError,
    ProviderTraceMetadata,
    ProviderTraceRejectedError,
    ProviderTraceRepository,
    ProviderTraceStoreError,
    ProviderTraceUnavailableError,
    TraceEncodingError,
    TraceTooLargeError,
)
from provider_trace_store.writes import chunks
from tests.support.batches import (
    POISON,
    assert_keeps_the_secret,
    assert_result_keeps_the_secret,
    assert_stored,
    both_modes,
    count,
    counts,
    refusals,
    refuse_poison,
    run_script,
)
from tests.support.constants import MOMENT, ORG, SECRET, TABLES
from tests.support.hosts import HostRow
from tests.support.traces import a_batch, a_trace, odd_traces, trace_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tests.support.clients import Client


class HostsError(Exception):
    """What the host's own code raises while it makes traces."""


# What is stored, and what a retry says


@pytest.mark.every_server
@pytest.mark.pgbouncer
@both_modes
async def test_created_traces_read_back_equal_and_a_retry_is_unchanged(client: Client, metadata_only: bool) -> None:
    repository = client.repository(organization_id=ORG, metadata_only=metadata_only)
    traces = odd_traces()
    assert counts(await repository.create_many(traces)) == (len(traces), 0, 0)
    await client.commit()
    await assert_stored(repository, traces, metadata_only=metadata_only)
    assert counts(await repository.create_many(odd_traces())) == (0, len(traces), 0)
    assert counts(await repository.create_many(iter(reversed(odd_traces())))) == (0, len(traces), 0)
    await client.commit()
    assert await count(client, metadata_only=metadata_only) == len(traces)
    for trace in traces:
        await repository.create(trace)


@both_modes
async def test_traces_that_create_stored_are_unchanged(client: Client, metadata_only: bool) -> None:
    repository = client.repository(organization_id=ORG, metadata_only=metadata_only)
    traces = odd_traces()
    for trace in traces[::2]:
        await repository.create(trace)
    result = await repository.create_many(traces)
    assert counts(result) == (len(traces[1::2]), len(traces[::2]), 0)
    await assert_stored(repository, traces, metadata_only=metadata_only)


@both_modes
@pytest.mark.usefixtures("small_chunks")
async def test_more_than_one_chunk_from_every_kind_of_iterable(client: Client, metadata_only: bool) -> None:
    repository = client.repository(organization_id=ORG, metadata_only=metadata_only)
    kinds: list[Callable[[list[ProviderTrace]], Iterable[ProviderTrace]]] = [
        list,
        tuple,
        iter,
        lambda traces: {trace.id: trace for trace in traces}.values(),
    ]
    for first, kind in enumerate(kinds):
        traces = a_batch(25, first * 100)
        assert counts(await repository.create_many(kind(traces))) == (25, 0, 0)
        await assert_stored(repository, traces, metadata_only=metadata_only)
    await client.commit()
    assert await count(client, metadata_only=metadata_only) == 100


@both_modes
async def test_the_actor_is_the_writer_of_the_row_and_not_content(client: Client, metadata_only: bool) -> None:
    first, second = (
        client.repository(organization_id=ORG, actor_id=actor, metadata_only=metadata_only)
        for actor in ("actor-1", "actor-2")
    )
    traces = [a_trace(1), a_trace(2, created_by_id="user-2"), a_trace(3, last_updated_by_id="user-3")]
    assert counts(await first.create_many(traces)) == (3, 0, 0)
    await client.commit()
    others = [a_trace(n, created_by_id="other", last_updated_by_id="other", updated_at=MOMENT) for n in (1, 2, 3)]
    assert counts(await second.create_many(traces)) == (0, 3, 0)
    assert counts(await second.create_many(others)) == (0, 3, 0)
    signatures = []
    for trace in traces:
        found: Any = await (first.get_metadata(trace.id) if metadata_only else first.get(trace.id))
        signatures.append((found.created_by_id, found.last_updated_by_id, found.updated_at))
    assert signatures == [("actor-1", "actor-1", None), ("user-2", "actor-1", None), ("actor-1", "user-3", None)]


@both_modes
async def test_it_leaves_the_callers_traces_as_they_were(client: Client, metadata_only: bool) -> None:
    traces = a_batch(3)
    repository = client.repository(organization_id=ORG, actor_id="actor-1", metadata_only=metadata_only)
    await repository.create_many([*traces, *traces])
    assert traces == a_batch(3)


async def test_metadata_does_not_care_whether_the_bodies_can_be_stored(client: Client) -> None:
    repository = client.repository(organization_id=ORG, metadata_only=True, max_body_bytes=100)
    traces = [
        a_trace(1, request_json={"tools": {SECRET}}),
        a_trace(2, llm_config={"at": object()}),
        a_trace(3, response_json={"text": "x" * 1000}),
    ]
    assert counts(await repository.create_many(traces)) == (3, 0, 0)
    assert counts(await repository.create_many([a_trace(n, request_json={}) for n in (1, 2, 3)])) == (0, 3, 0)
    await client.commit()
    assert await count(client, metadata_only=True) == 3
    assert await count(client, metadata_only=False) == 0


@both_modes
async def test_an_empty_batch_sends_no_statement(client: Client, statements: list[str], metadata_only: bool) -> None:
    repository = client.repository(organization_id=ORG, metadata_only=metadata_only)
    nothing: list[ProviderTrace] = []
    for given in (nothing, (), iter(nothing), (trace for trace in nothing)):
        assert counts(await repository.create_many(given)) == (0, 0, 0)
    assert statements == []
    assert not client.session.in_transaction()


# Conflicts

CHANGES: dict[str, Any] = {
    "step_id": "other",
    "agent_tags": [],
    "call_type": "summarization",
    "run_id": None,
    "source": "",
    "created_at": MOMENT + timedelta(seconds=1, microseconds=1),
}
BODY_CHANGES: dict[str, Any] = {
    "request_json": {"model": "m-2"},
    "response_json": {},
    "compaction_settings": {},
    "llm_config": {"temperature": 0.1},
}


@both_modes
async def test_other_content_under_a_stored_id_is_a_conflict_and_the_stored_row_stands(
    client: Client, metadata_only: bool
) -> None:
    repository = client.repository(organization_id=ORG, metadata_only=metadata_only)
    changes = CHANGES if metadata_only else CHANGES | BODY_CHANGES
    stored = a_batch(len(changes), 1)
    assert counts(await repository.create_many(stored)) == (len(stored), 0, 0)
    await client.commit()
    changed = [
        trace.model_copy(update={name: value}) for trace, (name, value) in zip(stored, changes.items(), strict=True)
    ]
    result = await repository.create_many([a_trace(100), *changed, a_trace(101)])
    await client.commit()
    assert counts(result) == (2, 0, len(changed))
    assert refusals(result) == [(trace.id, ProviderTraceConflictError) for trace in stored]
    assert_result_keeps_the_secret(result)
    await assert_stored(repository, [*stored, a_trace(100), a_trace(101)], metadata_only=metadata_only)
    assert await count(client, metadata_only=metadata_only) == len(stored) + 2


async def test_metadata_under_another_date_is_a_conflict_and_not_a_second_row(client: Client) -> None:
    repository = client.repository(organization_id=ORG, metadata_only=True)
    await repository.create_many([a_trace(1)])
    other_date = {"created_at": MOMENT - timedelta(days=1)}
    result = await repository.create_many([a_trace(1, **other_date), a_trace(2), a_trace(2, **other_date)])
    assert counts(result) == (1, 0, 2)
    assert refusals(result) == [(trace_id(n), ProviderTraceConflictError) for n in (1, 2)]
    assert await count(client, metadata_only=True) == 2


@both_modes
async def test_an_id_of_another_organization_or_a_deleted_row_is_a_conflict_like_any_other(
    client: Client, metadata_only: bool
) -> None:
    ours, others = (
        client.repository(organization_id=organization, metadata_only=metadata_only)
        for organization in (ORG, "org-other")
    )
    await others.create_many([a_trace(1), a_trace(2)])
    await ours.create_many([a_trace(3), a_trace(4)])
    table = TABLES[metadata_only]
    await client.execute(text(f"UPDATE {table} SET is_deleted = true WHERE id = :id"), {"id": trace_id(3)})  # noqa: S608  (our own names)
    await client.commit()
    result = await ours.create_many(
        [a_trace(0), a_trace(1), a_trace(2, user_id="other"), a_trace(3), a_trace(4, user_id="other"), a_trace(5)]
    )
    await client.commit()
    assert counts(result) == (2, 0, 4)
    assert refusals(result) == [(trace_id(n), ProviderTraceConflictError) for n in (1, 2, 3, 4)]
    assert {str(item.error).replace(item.trace_id, "ID") for item in result.rejected} == {
        "ID is the id of a stored trace with other content, which stays unchanged: give this call an id of its own"
    }
    assert all(vars(item.error) == {"trace_id": item.trace_id} for item in result.rejected)
    assert await count(client, metadata_only=metadata_only) == 6
    assert await others.get_metadata(trace_id(1)) is not None
    assert await ours.get_metadata(trace_id(1)) is None


@both_modes
@pytest.mark.parametrize("rows", [1000, 2], ids=["one chunk", "several chunks"])
async def test_a_trace_twice_in_one_call_is_one_created_and_one_unchanged_or_a_conflict(
    client: Client, metadata_only: bool, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "MAX_ROWS", rows)
    refuse_poison(client.database)
    repository = client.repository(organization_id=ORG, metadata_only=metadata_only)
    encoding = a_trace(7).model_copy(update={"source": f"{SECRET}\0"})
    stored = a_trace(8)
    await repository.create(stored)
    given = [
        *(a_trace(1), a_trace(1)),  # created, unchanged
        *(a_trace(2), a_trace(2, user_id="other"), a_trace(2)),  # created, conflict, unchanged
        *(a_trace(3, user_id="first"), a_trace(3)),  # created, conflict
        *(a_trace(4), a_trace(4), a_trace(4)),  # created, unchanged, unchanged
        *(a_trace(5, **POISON), a_trace(5)),  # rejected, created
        *(a_trace(6, **POISON), a_trace(6, **POISON)),  # rejected, rejected
        *(encoding, a_trace(7), encoding),  # encoding, created, encoding
        *(a_trace(8, user_id="other"), a_trace(8)),  # conflict, unchanged
        *(a_trace(9), a_trace(9, **POISON)),  # created, conflict: the id is taken
    ]
    result = await repository.create_many(given)
    await client.commit()
    assert counts(result) == (7, 5, 9)
    assert refusals(result) == [
        (trace_id(2), ProviderTraceConflictError),
        (trace_id(3), ProviderTraceConflictError),
        (trace_id(5), ProviderTraceRejectedError),
        (trace_id(6), ProviderTraceRejectedError),
        (trace_id(6), ProviderTraceRejectedError),
        (trace_id(7), TraceEncodingError),
        (trace_id(7), TraceEncodingError),
        (trace_id(8), ProviderTraceConflictError),
        (trace_id(9), ProviderTraceConflictError),
    ]
    assert_result_keeps_the_secret(result)
    expected = [*(a_trace(n) for n in (1, 2, 4, 5, 7, 8, 9)), a_trace(3, user_id="first")]
    await assert_stored(repository, expected, metadata_only=metadata_only)
    assert await count(client, metadata_only=metadata_only) == len(expected)


@both_modes
async def test_a_batch_that_is_the_same_trace_a_hundred_times_is_one_row(client: Client, metadata_only: bool) -> None:
    repository = client.repository(organization_id=ORG, metadata_only=metadata_only)
    assert counts(await repository.create_many([a_trace(1)] * 100)) == (1, 99, 0)
    assert await count(client, metadata_only=metadata_only) == 1


# One bad row


def a_bad_trace(kind: str, number: int) -> ProviderTrace:
    if kind == "encoding":
        return a_trace(number, request_json={"messages": [{}, {"content": {SECRET}}]})
    if kind == "around the schema":
        return a_trace(number).model_copy(update={"step_id": f"{SECRET}\0"})
    if kind == "too large":
        return a_trace(number, response_json={"text": SECRET * 200})
    if kind == "conflict":
        return a_trace(number, user_id="other")
    return a_trace(number, **POISON)


ERRORS: dict[str, type[ProviderTraceStoreError]] = {
    "encoding": TraceEncodingError,
    "around the schema": TraceEncodingError,
    "too large": TraceTooLargeError,
    "conflict": ProviderTraceConflictError,
    "rule of the host": ProviderTraceRejectedError,
}


@pytest.mark.every_server
@both_modes
@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("kind", ERRORS)
async def test_one_bad_row_costs_only_itself_wherever_it_stands(client: Client, metadata_only: bool, kind: str) -> None:
    if metadata_only and kind in {"encoding", "too large"}:
        kind = "conflict under another date"
    refuse_poison(client.database)
    repository = client.repository(organization_id=ORG, metadata_only=metadata_only, max_body_bytes=1000)
    already: list[int] = []
    for first, position in enumerate([0, 12, 24]):
        batch = a_batch(25, first * 100)
        bad_id = batch[position].id
        stored = []
        if kind.startswith("conflict"):
            stored = [batch[position]]
            await repository.create(batch[position])
        bad = a_bad_trace(kind, first * 100 + position)
        if kind == "conflict under another date":
            bad = bad.model_copy(update={"user_id": None, "created_at": MOMENT - timedelta(days=1)})
        batch[position] = bad
        result = await repository.create_many(batch)
        await client.commit()
        assert counts(result) == (24, 0, 1)
        assert refusals(result) == [(bad_id, ERRORS.get(kind, ProviderTraceConflictError))]
        assert result.rejected[0].error.trace_id == bad_id  # type: ignore[attr-defined]  # all of these have one
        assert_result_keeps_the_secret(result)
        good = [trace for trace in batch if trace.id != bad_id]
        await assert_stored(repository, [*good, *stored], metadata_only=metadata_only)
        already.append(24 + len(stored))
        assert await count(client, metadata_only=metadata_only) == sum(already)


@pytest.mark.pgbouncer
@both_modes
async def test_a_few_bad_rows_among_thousands_cost_only_themselves(client: Client, metadata_only: bool) -> None:
    refuse_poison(client.database)
    repository = client.repository(organization_id=ORG, metadata_only=metadata_only)
    await repository.create(a_trace(700))
    batch = a_batch(2500)
    for number in (0, 999, 2400):
        batch[number] = a_trace(number, **POISON)
    batch[700] = a_trace(700, user_id="other")
    batch[1500] = a_trace(1500).model_copy(update={"run_id": "\0"})
    result = await repository.create_many(iter(batch))
    await client.commit()
    assert counts(result) == (2495, 0, 5)
    assert refusals(result) == [
        (trace_id(0), ProviderTraceRejectedError),
        (trace_id(700), ProviderTraceConflictError),
        (trace_id(999), ProviderTraceRejectedError),
        (trace_id(1500), TraceEncodingError),
        (trace_id(2400), ProviderTraceRejectedError),
    ]
    assert await count(client, metadata_only=metadata_only) == 2496
    again = await repository.create_many(batch)
    assert counts(again) == (0, 2495, 5)
    assert refusals(again) == refusals(result)


@both_modes
async def test_nothing_but_bad_rows_stores_nothing_and_reports_each(client: Client, metadata_only: bool) -> None:
    refuse_poison(client.database)
    repository = client.repository(organization_id=ORG, metadata_only=metadata_only)
    await repository.create(a_trace(1000))
    result = await repository.create_many([a_trace(number, **POISON) for number in range(40)])
    assert counts(result) == (0, 0, 40)
    assert refusals(result) == [(trace_id(number), ProviderTraceRejectedError) for number in range(40)]
    await client.commit()
    assert await count(client, metadata_only=metadata_only) == 1


@pytest.mark.every_server
@both_modes
async def test_a_unique_index_of_the_host_keeps_the_first_of_a_batch_as_one_by_one(
    client: Client, metadata_only: bool
) -> None:
    run_script(client.database, f"CREATE UNIQUE INDEX hosts_index ON {TABLES[metadata_only]} (run_id)")
    repository = client.repository(organization_id=ORG, metadata_only=metadata_only)
    await repository.create(a_trace(100, run_id="run-3"))
    batch = a_batch(20)
    batch += [a_trace(20 + number, run_id=f"run-{number}") for number in range(0, 20, 5)]
    result = await repository.create_many(batch)
    await client.commit()
    assert counts(result) == (19, 0, 5)
    assert refusals(result) == [(trace_id(n), ProviderTraceRejectedError) for n in (3, 20, 25, 30, 35)]
    assert_result_keeps_the_secret(result)
    assert counts(await repository.create_many(batch)) == (0, 19, 5)


async def test_two_rejections_of_the_same_kind_are_two_errors(client: Client) -> None:
    refuse_poison(client.database)
    result = await client.repository(organization_id=ORG).create_many([a_trace(1, **POISON), a_trace(2, **POISON)])
    first, second = result.rejected
    assert first.error is not second.error
    assert {str(item.error).split()[0] for item in result.rejected} == {trace_id(1), trace_id(2)}


# The host's transaction


@both_modes
async def test_it_never_commits_and_a_rollback_takes_all_back(client: Client, metadata_only: bool) -> None:
    refuse_poison(client.database)
    repository = client.repository(organization_id=ORG, metadata_only=metadata_only)
    assert counts(await repository.create_many([*a_batch(5), a_trace(9, **POISON), a_trace(0)])) == (5, 1, 1)
    assert await count(client, metadata_only=metadata_only) == 5
    other = await client.another()
    assert await count(other, metadata_only=metadata_only) == 0
    await other.rollback()
    await client.rollback()
    assert await count(client, metadata_only=metadata_only) == 0


@pytest.mark.every_server
@pytest.mark.pgbouncer
@both_modes
async def test_a_savepoint_of_the_hosts_takes_the_batch_back_and_nothing_more(
    client: Client, metadata_only: bool
) -> None:
    refuse_poison(client.database)
    repository = client.repository(organization_id=ORG, metadata_only=metadata_only)
    await repository.create_many(a_batch(3))
    await client.execute(text("SAVEPOINT of_the_host"))
    assert counts(await repository.create_many([a_trace(9, **POISON), *a_batch(5)])) == (2, 3, 1)
    await client.execute(text("ROLLBACK TO SAVEPOINT of_the_host"))
    await repository.create_many(a_batch(3, 10))
    await client.commit()
    assert await count(client, metadata_only=metadata_only) == 6
    await assert_stored(repository, [*a_batch(3), *a_batch(3, 10)], metadata_only=metadata_only)


@both_modes
async def test_pending_objects_of_the_hosts_are_flushed_first_and_their_failure_is_the_hosts(
    client: Client, metadata_only: bool
) -> None:
    await client.execute(text("CREATE TABLE host_rows (id integer PRIMARY KEY)"))
    await client.commit()
    repository = client.repository(organization_id=ORG, metadata_only=metadata_only)
    client.session.add(HostRow(id=1))
    await repository.create_many(a_batch(3))
    assert not client.session.new
    await client.commit()
    assert await client.scalar(text("SELECT count(*) FROM host_rows")) == 1
    client.session.expunge_all()
    client.session.add(HostRow(id=1))
    with pytest.raises(IntegrityError):
        await repository.create_many(a_batch(3, 10))
    await client.rollback()
    assert await count(client, metadata_only=metadata_only) == 3


@both_modes
@pytest.mark.usefixtures("small_chunks")
async def test_a_generator_may_read_with_the_same_session_while_it_yields(client: Client, metadata_only: bool) -> None:
    refuse_poison(client.database)
    session = client.sync_session
    seen: list[int] = []

    def traces() -> Iterator[ProviderTrace]:
        for number in range(35):
            seen.append(session.scalar(text(f"SELECT count(*) FROM {TABLES[metadata_only]}")) or 0)  # noqa: S608  (our own names)
            yield a_trace(number, **(POISON if number % 10 == 5 else {}))

    repository = client.repository(organization_id=ORG, metadata_only=metadata_only)
    result = await repository.create_many(traces())
    await client.commit()
    assert counts(result) == (32, 0, 3)
    assert len(seen) == 35
    assert await count(client, metadata_only=metadata_only) == 32


@both_modes
@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("after", [0, 5, 10, 25])
async def test_a_generator_that_raises_leaves_the_chunks_before_it_and_a_usable_transaction(
    client: Client, metadata_only: bool, after: int
) -> None:
    def traces(error: Exception) -> Iterator[ProviderTrace]:
        yield from a_batch(after, 100)
        raise error

    repository = client.repository(organization_id=ORG, metadata_only=metadata_only)
    await repository.create_many(a_batch(3))
    error = HostsError()
    with pytest.raises(HostsError) as caught:
        await repository.create_many(traces(error))
    assert caught.value is error
    written = after // 10 * 10
    assert await count(client, metadata_only=metadata_only) == 3 + written
    assert counts(await repository.create_many(a_batch(after, 100))) == (after - written, written, 0)
    await client.commit()
    assert await count(client, metadata_only=metadata_only) == 3 + after


STRANGERS: dict[str, Any] = {
    "None": None,
    "text": SECRET,
    "dict": dict(a_trace(1)),
    "metadata": ProviderTraceMetadata.from_trace(a_trace(1)),
    "pair": ("request_json", {"prompt": SECRET}),
}


@both_modes
@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("position", [0, 5, 25])
@pytest.mark.parametrize("kind", [list, iter], ids=["list", "generator"])
async def test_an_item_that_is_not_a_trace_is_a_type_error_and_its_chunk_is_not_stored(
    client: Client, metadata_only: bool, position: int, kind: Any
) -> None:
    repository = client.repository(organization_id=ORG, metadata_only=metadata_only)
    await repository.create_many(a_batch(3))
    for stranger in STRANGERS.values():
        batch: list[Any] = a_batch(26, 100)
        batch[position] = stranger
        with pytest.raises(TypeError) as caught:
            await repository.create_many(kind(batch))
        assert_keeps_the_secret(caught.value)
    written = position // 10 * 10
    assert await count(client, metadata_only=metadata_only) == 3 + written
    await repository.create_many(a_batch(2, 50))
    await client.commit()
    assert await count(client, metadata_only=metadata_only) == 5 + written


async def test_an_argument_that_is_not_an_iterable_of_traces_is_a_type_error(client: Client) -> None:
    repository = client.repository(organization_id=ORG)
    # A model iterates over pairs of name and value.
    for given in (None, 5, a_trace(1), SECRET):
        with pytest.raises(TypeError) as caught:
            await repository.create_many(given)  # type: ignore[arg-type]  # the point
        assert_keeps_the_secret(caught.value)
    assert await count(client, metadata_only=False) == 0


# The size of a body


def of_size(size: int) -> dict[str, Any]:
    """Return a document whose stored text has so many bytes, of ASCII or of two-byte characters."""
    name = "ab" if size % 2 else "a"
    return {name: "ü" * ((size - len(f'{{"{name}":""}}')) // 2)}


BODIES = ["request_json", "response_json", "llm_config", "compaction_settings"]


async def test_a_body_at_the_limit_is_stored_and_one_byte_more_is_refused(
    client: Client, statements: list[str]
) -> None:
    repository = client.repository(organization_id=ORG, max_body_bytes=1001)
    at_limit = [a_trace(number, **{name: of_size(1001)}) for number, name in enumerate(BODIES)]
    beyond = [
        a_trace(100 + number, **{name: of_size(1002) | ({} if number else {"s": 1})})
        for number, name in enumerate(BODIES)
    ]
    sizes = [1008, 1002, 1002, 1002]
    for trace, name, size in zip(beyond, BODIES, sizes, strict=True):
        with pytest.raises(TraceTooLargeError) as caught:
            await repository.create(trace)
        error = caught.value
        assert (error.path, error.size, error.limit, error.trace_id) == (name, size, 1001, trace.id)
        assert all(part in str(error) for part in (name, trace.id, str(size), "1001"))
        assert "üü" not in str(error) + repr(error)
        assert_keeps_the_secret(error)
    assert statements == []
    result = await repository.create_many([*beyond[:2], *at_limit, *beyond[2:]])
    await client.commit()
    assert counts(result) == (4, 0, 4)
    assert refusals(result) == [(trace.id, TraceTooLargeError) for trace in beyond]
    found = {item.trace_id: item.error for item in result.rejected}
    for trace, name, size in zip(beyond, BODIES, sizes, strict=True):
        many_error = found[trace.id]
        assert isinstance(many_error, TraceTooLargeError)
        assert (many_error.path, many_error.size, many_error.limit, many_error.trace_id) == (name, size, 1001, trace.id)
    await assert_stored(repository, at_limit, metadata_only=False)
    assert await count(client, metadata_only=False) == 4
    for trace in at_limit:
        await repository.create(trace)


async def test_the_size_of_a_body_is_that_of_what_is_stored(client: Client) -> None:
    bodies: list[dict[str, Any]] = [{"a": "\0\ud800"}, {"b": b"\xff" * 9}, {"c": float("nan")}, {"d": "\\\n\t"}]
    free = client.repository(organization_id=ORG)
    await free.create_many([a_trace(number, request_json=body) for number, body in enumerate(bodies)])
    length = "octet_length" if client.database.backend == "postgresql" else "length"
    for number, body in enumerate(bodies):
        size = await client.scalar(
            text(f"SELECT {length}(CAST(request_json AS text)) FROM provider_traces WHERE id = :id"),  # noqa: S608  (a constant)
            {"id": trace_id(number)},
        )
        for limit, outcome in ((size, (1, 0, 0)), (size - 1, (0, 0, 1))):
            repository = client.repository(organization_id=ORG, max_body_bytes=limit)
            trace = a_trace(100 * (number + 1) + limit, request_json=body, response_json={})
            assert counts(await repository.create_many([trace])) == outcome


@pytest.mark.parametrize("limit", [-1, 0, 190 * 2**20 + 1])
def test_a_limit_out_of_range_is_refused(limit: int) -> None:
    for repository in (ProviderTraceRepository, AsyncProviderTraceRepository):
        make: Any = repository
        with pytest.raises(ValueError, match="max_body_bytes") as caught:
            make(_NO_SESSION[repository], organization_id=ORG, max_body_bytes=limit)
        assert isinstance(caught.value, ProviderTraceStoreError)


def test_a_limit_in_range_is_accepted() -> None:
    for limit in (1, 64 * 2**20, 190 * 2**20):
        ProviderTraceRepository(Session(), organization_id=ORG, max_body_bytes=limit)


async def test_the_default_limit_is_64_megabytes(client: Client) -> None:
    trace = a_trace(1, request_json={"a": "x" * (64 * 2**20 - 7)})
    result = await client.repository(organization_id=ORG).create_many([a_trace(0), trace, a_trace(2)])
    assert counts(result) == (2, 0, 1)
    (rejected,) = result.rejected
    assert isinstance(rejected.error, TraceTooLargeError)
    assert (rejected.error.size, rejected.error.limit) == (64 * 2**20 + 1, 64 * 2**20)


# Sessions that are never used.
_NO_SESSION: Any = {ProviderTraceRepository: Session(), AsyncProviderTraceRepository: AsyncSession()}


# Errors


@both_modes
async def test_a_trace_made_around_the_schema_without_an_id_costs_only_itself(
    client: Client, metadata_only: bool
) -> None:
    batch = a_batch(3)
    del batch[1].__dict__["id"]
    result = await client.repository(organization_id=ORG, metadata_only=metadata_only).create_many(batch)
    assert counts(result) == (2, 0, 1)
    assert refusals(result) == [("", TraceEncodingError)]


@pytest.mark.parametrize(
    "error",
    [
        ProviderTraceConflictError(trace_id(1)),
        ProviderTraceRejectedError(trace_id(1), "23514", "hosts_rule"),
        ProviderTraceUnavailableError(trace_id(1), "57014"),
        TraceEncodingError("request_json.a", "is a set", trace_id(1)),
        TraceTooLargeError("request_json", 2, 1, trace_id(1)),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_crosses_to_another_process(error: ProviderTraceStoreError) -> None:
    for other in (pickle.loads(pickle.dumps(error)), copy.deepcopy(error)):  # noqa: S301  (what was just dumped)
        assert type(other) is type(error)
        assert (str(other), vars(other)) == (str(error), vars(error))
