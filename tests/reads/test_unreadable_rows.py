"""Rows that another program wrote and that cannot be read: an error with the id, and the other rows are listed."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest
from sqlalchemy import bindparam, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from provider_trace_store import AsyncProviderTraceRepository, ProviderTraceRepository, TraceDecodingError
from tests.support.batches import assert_keeps_the_secret
from tests.support.constants import MOMENT, ORG, SECRET, TABLES
from tests.support.traces import a_batch, a_trace, trace_id

if TYPE_CHECKING:
    from tests.support.databases import Databases
    from tests.support.servers import Database

BAD: Final = 2
CELLS: Final = [
    ("created_at", "2026-13-45 " + SECRET),
    ("created_at", "2026-03-29T25:00"),
    ("updated_at", 5),
    ("updated_at", b"\xff\xfe"),
    ("updated_at", "0000-00-00 00:00:00"),
    ("updated_at", SECRET),
    ("agent_tags", b"\xff" + SECRET.encode()),
    ("agent_tags", "[" + SECRET),
    ("user_id", b"\xff"),
    ("source", b"5"),
    ("_created_by_id", b""),
]


def spoil(database: Database, table: str, column: str, value: object) -> None:
    shown = ":value" if database.backend == "sqlite" else "CAST(CAST(:value AS text) AS timestamptz)"
    with database.engine().begin() as connection:
        statement = text(f"UPDATE {table} SET {column} = {shown} WHERE id = :id")  # noqa: S608  (our own names)
        connection.execute(statement.bindparams(bindparam("value", value), bindparam("id", trace_id(BAD))))


@pytest.fixture
async def sqlite(databases: Databases) -> Any:
    async with databases.make("sqlite", migrated=True) as database:
        yield database


@pytest.mark.parametrize("metadata_only", [False, True])
@pytest.mark.parametrize(("column", "value"), CELLS)
def test_a_cell_of_another_type_costs_its_own_row_only(
    sqlite: Database, column: str, value: object, metadata_only: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    with Session(sqlite.engine()) as session:
        repository = ProviderTraceRepository(session, organization_id=ORG, metadata_only=metadata_only)
        repository.create_many([trace.model_copy(update={"run_id": "r", "step_id": "s"}) for trace in a_batch(5)])
        session.commit()
        spoil(sqlite, TABLES[metadata_only], column, value)
        path = {"_created_by_id": "created_by_id"}.get(column, column)
        others = {trace_id(number) for number in range(5) if number != BAD}
        for order in ("newest", "oldest"):
            for limit in (1, 2, 5):
                found: list[str] = []
                unreadable: list[str] = []
                cursor = None
                while True:
                    page = repository.list_metadata(order=order, limit=limit, cursor=cursor)
                    found += [trace.id for trace in page.items]
                    unreadable += page.unreadable
                    if (cursor := page.next_cursor) is None:
                        break
                assert (len(found), set(found), unreadable) == (4, others, [trace_id(BAD)])
        assert {trace.id for trace in repository.iter_metadata()} == others
        assert sum(repository.count_by("user_id").values()) == 5
        assert sum(repository.count_by_day().values()) in {4, 5}
        reads: list[Any] = [repository.get_metadata]
        if not metadata_only:
            reads.append(repository.get)
            assert {trace.id for trace in repository.list_by_step_id("s")} == others
            run = repository.list_by_run_id("r")
            assert {trace.id for trace in run.items} == others
            assert run.unreadable == (trace_id(BAD),)
        for read in reads:
            with pytest.raises(TraceDecodingError) as caught:
                read(trace_id(BAD))
            assert (caught.value.trace_id, caught.value.path) == (trace_id(BAD), path)
            assert_keeps_the_secret(caught.value)
    assert trace_id(BAD) in caplog.text
    assert SECRET not in caplog.text


@pytest.mark.parametrize("value", [5, 5.5, b"\xff", "0000-01-01", "never"])
def test_a_date_outside_of_all_years_is_in_no_page_and_an_error_of_its_own(sqlite: Database, value: object) -> None:
    with Session(sqlite.engine()) as session:
        repository = ProviderTraceRepository(session, organization_id=ORG)
        repository.create_many(a_batch(5))
        session.commit()
        spoil(sqlite, "provider_traces", "created_at", value)
        assert len(repository.list_metadata().items) == 4
        assert sum(repository.count_by_day().values()) == 4
        for read in (repository.get, repository.get_metadata):
            with pytest.raises(TraceDecodingError) as caught:
                read(trace_id(BAD))
            assert (caught.value.trace_id, caught.value.path) == (trace_id(BAD), "created_at")


@pytest.mark.parametrize("value", ["infinity", "-infinity", "294276-01-01", "0044-03-15 BC"])
def test_a_date_that_only_postgresql_has_is_an_error_of_its_own(postgres: Database, value: str) -> None:
    with Session(postgres.engine()) as session:
        repository = ProviderTraceRepository(session, organization_id=ORG)
        repository.create_many(a_batch(5))
        session.commit()
        spoil(postgres, "provider_traces", "created_at", value)
        assert len(repository.list_metadata().items) == 4
        for read in (repository.get, repository.get_metadata):
            with pytest.raises(TraceDecodingError) as caught:
                read(trace_id(BAD))
            assert caught.value.trace_id == trace_id(BAD)
            assert_keeps_the_secret(caught.value)
        assert repository.get(trace_id(1)) == a_trace(1)


def test_a_document_that_python_cannot_read_is_an_error_with_the_id(postgres: Database) -> None:
    with Session(postgres.engine()) as session:
        repository = ProviderTraceRepository(session, organization_id=ORG)
        traces = [trace.model_copy(update={"run_id": "r", "step_id": "s"}) for trace in a_batch(3)]
        repository.create_many(traces)
        session.commit()
        deep = text("UPDATE provider_traces SET request_json = CAST(:value AS json) WHERE id = :id")
        session.execute(deep, {"value": "[" * 5_000 + "]" * 5_000, "id": trace_id(BAD)})
        session.commit()
        with pytest.raises(TraceDecodingError) as caught:
            repository.get(trace_id(BAD))
        assert (caught.value.trace_id, caught.value.path) == (trace_id(BAD), "request_json")
        assert len(repository.list_by_step_id("s")) == 2
        assert repository.list_by_run_id("r").unreadable == (trace_id(BAD),)
        assert len(repository.list_metadata(since=MOMENT - timedelta(days=1)).items) == 3


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
@pytest.mark.parametrize("value", ["infinity", "-infinity", "294276-01-01", "0044-03-15 BC"])
async def test_an_update_at_a_date_that_only_postgresql_has_costs_its_own_row_only(
    postgres: Database, value: str, driver: str
) -> None:
    with Session(postgres.engine()) as session:
        ProviderTraceRepository(session, organization_id=ORG, metadata_only=True).create_many(a_batch(5))
        session.commit()
    spoil(postgres, "provider_trace_metadata", "updated_at", value)
    engine = create_async_engine(postgres.url.set(drivername=f"postgresql+{driver}"))
    async with AsyncSession(engine) as asynchronous:
        repository = AsyncProviderTraceRepository(asynchronous, organization_id=ORG)
        page = await repository.list_metadata()
        # asyncpg returns its largest and smallest date for the infinities.
        is_read = driver == "asyncpg" and "infinity" in value
        assert (len(page.items), page.unreadable) == ((5, ()) if is_read else (4, (trace_id(BAD),)))
        assert len([trace async for trace in repository.iter_metadata()]) == len(page.items)
    await engine.dispose()
