"""How many statements a `create_many` sends, how large each is, and how much the comparison with stored rows reads."""

from __future__ import annotations

import tracemalloc
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Final

import pytest
from sqlalchemy import event, text
from sqlalchemy.orm import Session

from provider_trace_store import (
    ProviderTraceConflictError,
    ProviderTraceRepository,
)
from provider_trace_store.tables.ids import lookup_for
from provider_trace_store.tables.kinds import kind_for
from provider_trace_store.writes import statements
from tests.support.batches import (
    POISON,
    both_modes,
    count_statements,
    counts,
    refusals,
    refuse_poison,
    run_script,
    statements_sent,
)
from tests.support.clients import Client
from tests.support.constants import ORG
from tests.support.traces import a_batch, a_trace, trace_id

if TYPE_CHECKING:
    from tests.support.clients import Form
    from tests.support.servers import Database

# A batch of 1,000 with one bad row is halved ten times: two statements a level, and the first one.
FAR_BELOW_ROW_BY_ROW: Final = 50


@pytest.mark.every_server
@both_modes
async def test_a_clean_batch_is_one_copy_and_a_bad_row_costs_few_more(
    postgres_client: Client, metadata_only: bool
) -> None:
    database = postgres_client.database
    refuse_poison(database)
    count_statements(database)
    repository = postgres_client.repository(organization_id=ORG, metadata_only=metadata_only)
    assert counts(await repository.create_many(a_batch(1000))) == (1000, 0, 0)
    assert statements_sent(database) == (1, 0)
    before = 1
    for first, position in enumerate([0, 500, 999], 1):
        batch = a_batch(1000, first * 1000)
        batch[position] = a_trace(first * 1000 + position, **POISON)
        assert counts(await repository.create_many(batch)) == (999, 0, 1)
        sent = sum(statements_sent(database))
        assert sent - before < FAR_BELOW_ROW_BY_ROW
        before = sent
    conflicts = [*a_batch(999, 5000), a_trace(1, user_id="other")]
    assert counts(await repository.create_many(conflicts)) == (999, 0, 1)
    assert sum(statements_sent(database)) - before < FAR_BELOW_ROW_BY_ROW


@both_modes
async def test_on_sqlite_a_bad_row_costs_few_statements(databases: Any, form: Form, metadata_only: bool) -> None:
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(databases.make("sqlite", migrated=True))
        refuse_poison(database)
        client = Client(database, form, stack)
        sent: list[str] = []
        engine: Any = client.sync_session.get_bind()
        event.listen(engine, "before_cursor_execute", lambda *arguments: sent.append(arguments[2]))
        repository = client.repository(organization_id=ORG, metadata_only=metadata_only)
        assert counts(await repository.create_many(a_batch(1000))) == (1000, 0, 0)
        assert len([statement for statement in sent if statement.startswith("INSERT")]) == 1
        sent.clear()
        batch = a_batch(1000, 1000)
        batch[700] = a_trace(1700, **POISON)
        assert counts(await repository.create_many(batch)) == (999, 0, 1)
        assert len([statement for statement in sent if statement.startswith("INSERT")]) < FAR_BELOW_ROW_BY_ROW


@both_modes
async def test_a_retry_of_a_stored_batch_inserts_no_row_by_row(postgres_client: Client, metadata_only: bool) -> None:
    repository = postgres_client.repository(organization_id=ORG, metadata_only=metadata_only)
    await repository.create_many(a_batch(1000))
    await postgres_client.commit()
    count_statements(postgres_client.database)
    assert counts(await repository.create_many(a_batch(1000))) == (0, 1000, 0)
    assert sum(statements_sent(postgres_client.database)) < FAR_BELOW_ROW_BY_ROW


async def test_statements_are_cut_by_rows_and_by_bytes_and_a_large_trace_goes_alone(postgres_client: Client) -> None:
    run_script(
        postgres_client.database,
        "CREATE TABLE cuts (number serial, of_rows bigint, bytes bigint)",
        "CREATE FUNCTION log_statement() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "INSERT INTO cuts (of_rows, bytes) SELECT count(*), sum(octet_length(request_json::text) + "
        "octet_length(response_json::text)) FROM new_rows; RETURN NULL; END $$",
        "CREATE TRIGGER logged AFTER INSERT ON provider_traces REFERENCING NEW TABLE AS new_rows "
        "FOR EACH STATEMENT EXECUTE FUNCTION log_statement()",
    )
    cuts = text("WITH gone AS (DELETE FROM cuts RETURNING *) SELECT of_rows, bytes FROM gone ORDER BY number")
    repository = postgres_client.repository(organization_id=ORG)
    kinds: tuple[Any, ...] = (list, iter)
    for first, kind in enumerate(kinds):
        await repository.create_many(kind(a_batch(2500, 10_000 * first)))
        rows = [row.of_rows for row in await postgres_client.execute(cuts)]
        assert sum(rows) == 2500
        assert max(rows) <= 1000
        assert len(rows) <= 4
        large = [a_trace(10_000 * first + 3000 + n, response_json={"text": "x" * 400_000}) for n in range(30)]
        await repository.create_many(kind(large))
        found = (await postgres_client.execute(cuts)).all()
        assert sum(row.of_rows for row in found) == 30
        assert all(row.bytes <= 4 * 2**20 for row in found)
        assert len(found) <= 5
        alone = a_trace(10_000 * first + 4000, response_json={"text": "x" * (5 * 2**20)})
        batch = [*a_batch(5, 10_000 * first + 5000), alone, *a_batch(5, 10_000 * first + 6000)]
        await repository.create_many(kind(batch))
        found = (await postgres_client.execute(cuts)).all()
        assert sum(row.of_rows for row in found) == 11
        assert [row.of_rows for row in found if row.bytes > 4 * 2**20] == [1]


async def test_an_id_under_another_date_is_found_in_any_collation(postgres: Database) -> None:
    """ICU can be told to take runs of digits for numbers: 1a… then stands before 10…."""
    with Session(postgres.engine()) as session:
        has_icu = session.scalar(text("SELECT count(*) > 0 FROM pg_collation WHERE collname = 'en-x-icu'"))
        if has_icu:
            session.execute(text("CREATE COLLATION hosts (provider = icu, locale = 'und-u-kn-true')"))
            session.execute(text("ALTER TABLE provider_trace_metadata ALTER COLUMN id TYPE varchar COLLATE hosts"))
        repository = ProviderTraceRepository(session, organization_id=ORG, metadata_only=True)
        ids = [f"provider_trace-{head}000000-0000-7000-8000-000000000000" for head in ("10", "1a", "2f", "f2")]
        for head in range(len(ids)):
            for tail in range(head + 1, len(ids) + 1):
                some = ids[head:tail]
                repository.create_many([a_trace(1, id=one) for one in some])
                again = repository.create_many([a_trace(2, id=one) for one in some])
                assert refusals(again) == [(one, ProviderTraceConflictError) for one in some]
        assert session.scalar(text("SELECT count(*) FROM provider_trace_metadata")) == len(ids)


@both_modes
async def test_a_retry_compares_no_row_with_each_of_its_ids_on_a_table_without_statistics(
    postgres: Database, metadata_only: bool
) -> None:
    kind = kind_for(metadata_only=metadata_only)
    with Session(postgres.engine()) as session:
        repository = ProviderTraceRepository(session, organization_id=ORG, metadata_only=metadata_only)
        repository.create_many(a_batch(3_000))
        connection = session.connection()
        lookup, parameters = lookup_for([trace_id(number) for number in range(1_000)], "postgresql")
        for statement in (
            statements.heads_under(kind, lookup),
            statements.documents_under(kind, lookup),
            statements.any_stored_under(kind, lookup),
        ):
            compiled = statement.compile(dialect=connection.dialect)
            plan = connection.exec_driver_sql(f"EXPLAIN {compiled}", compiled.params | parameters).scalars().all()
            assert not any("= ANY" in line for line in plan), plan


@both_modes
@pytest.mark.parametrize("owner", ["org-2", ORG])
async def test_a_comparison_reads_no_more_bodies_than_it_holds_rows_of_its_own(
    client: Client, metadata_only: bool, owner: str
) -> None:
    large = {"agent_tags": ["x" * 500_000]} if metadata_only else {"request_json": {"text": "x" * 500_000}}
    stored = [a_trace(number, **large) for number in range(60)]
    repository = client.repository(organization_id=owner, metadata_only=metadata_only)
    assert counts(await repository.create_many(stored)) == (60, 0, 0)
    small = client.repository(organization_id=ORG, metadata_only=metadata_only)
    tracemalloc.start()
    try:
        result = await small.create_many(a_batch(60))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert counts(result) == (0, 0, 60)
    assert peak < 20_000_000
