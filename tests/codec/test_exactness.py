"""Exactness on real databases: what `create` accepts reads back equal, with every driver and in both forms."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from provider_trace_store import (
    AsyncProviderTraceRepository,
    ProviderTrace,
    ProviderTraceMetadata,
    ProviderTraceRepository,
)
from tests.support.constants import PATIENCE
from tests.support.documents import documents, same, texts
from tests.support.examples import examples

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from tests.support.servers import Database

A_BATCH = 20

traces = st.builds(
    ProviderTrace,
    request_json=documents(),
    response_json=documents(),
    llm_config=st.none() | documents(),
    compaction_settings=st.none() | documents(),
    agent_tags=st.none() | st.lists(texts(), max_size=3),
    created_at=st.datetimes(timezones=st.timezones(), allow_imaginary=False).filter(
        lambda moment: 1 < moment.year < 9999
    ),
)
batches = st.lists(traces, min_size=A_BATCH, max_size=A_BATCH)
# Two documents a trace at least, A_BATCH traces an example: 800 documents in the usual run. The other form and the
# other mode share the code that this proves, and get a part of the examples. To draw an example takes several times as
# long as to store it: each is stored in every database.
EXAMPLES = examples(20)
A_PART = examples(5)
most = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
a_part = settings(most, max_examples=A_PART)


def assert_same(stored: ProviderTrace | None, trace: ProviderTrace, where: str = "") -> None:
    assert stored is not None, where
    assert same(dict(stored), dict(trace)), where


def test_whole_traces_read_back_equal(every_database: list[Database]) -> None:
    engines = {database.name: database.engine() for database in every_database}
    count = 0

    @most
    @given(batches)
    def check(batch: list[ProviderTrace]) -> None:
        nonlocal count
        for name, engine in engines.items():
            with Session(engine) as session:
                repository = ProviderTraceRepository(session, organization_id="org-1")
                for trace in batch:
                    repository.create(trace)
                session.commit()
                for place, trace in enumerate(batch):
                    assert_same(repository.get(trace.id), trace, name)
                    again = repository.create(trace) if (count + 2 * place) % 100 == 0 else trace
                    assert_same(again, trace, name)  # type: ignore[arg-type]
        count += 2 * len(batch)

    check()
    assert count >= EXAMPLES * 2 * A_BATCH


def test_whole_traces_read_back_equal_asynchronously(every_database: list[Database]) -> None:
    count = 0

    async def run(batch: list[ProviderTrace], engines: dict[str, AsyncEngine]) -> None:
        nonlocal count
        for name, engine in engines.items():
            async with AsyncSession(engine) as session:
                repository = AsyncProviderTraceRepository(session, organization_id="org-1")
                for trace in batch:
                    await repository.create(trace)
                await session.commit()
                for trace in batch:
                    assert_same(await repository.get(trace.id), trace, name)
        count += 2 * len(batch)

    with asyncio.Runner() as runner:
        # Hypothesis calls synchronously: one loop for all examples keeps the engines' connections alive.
        engines = {
            database.name: create_async_engine(database.async_url, connect_args=connect_arguments(database))
            for database in every_database
        }

        @a_part
        @given(batches)
        def check(batch: list[ProviderTrace]) -> None:
            runner.run(run(batch, engines))

        check()
        for engine in engines.values():
            runner.run(engine.dispose())
    assert count >= A_PART * 2 * A_BATCH


def connect_arguments(database: Database) -> dict[str, Any]:
    return {"prepare_threshold": None} if database.backend == "postgresql" else {}


def test_metadata_reads_back_equal(every_database: list[Database]) -> None:
    engines = {database.name: database.engine() for database in every_database}

    @a_part
    @given(batches)
    def check(batch: list[ProviderTrace]) -> None:
        for name, engine in engines.items():
            with Session(engine) as session:
                repository = ProviderTraceRepository(session, organization_id="org-1", metadata_only=True)
                for trace in batch:
                    repository.create(trace)
                session.commit()
                for trace in batch:
                    stored = repository.get_metadata(trace.id)
                    assert stored is not None, name
                    assert same(dict(stored), dict(ProviderTraceMetadata.from_trace(trace))), name

    check()


ODD = ProviderTrace(
    request_json={"nan": float("nan"), "\ud800": "\0", "pair": "\ud83d\ude00", "big": 10**700, "zero": -0.0},
    response_json={"bytes": b"\x00\xff", "$pts:bytes": {"$pts:bytes": "AA=="}, "nested": [(), {}, [], {"": None}]},
    agent_tags=["\0", "\udfff", "😀"],
)


@pytest.mark.every_server
def test_json_settings_of_the_host_have_no_part_in_it(database: Database) -> None:
    engine = database.engine(
        json_serializer=lambda _: json.dumps("changed by the host"), json_deserializer=lambda _: "changed by the host"
    )
    with Session(engine) as session:
        repository = ProviderTraceRepository(session, organization_id="org-1")
        repository.create(ODD)
        session.commit()
        assert_same(repository.get(ODD.id), ODD)


@pytest.mark.every_server
async def test_asyncpg_reads_back_equal(postgres: Database) -> None:
    server = dict(postgres.url.query)
    engine = create_async_engine(postgres.url.set(drivername="postgresql+asyncpg", query=server))
    try:
        async with AsyncSession(engine) as session:
            repository = AsyncProviderTraceRepository(session, organization_id="org-1")
            await repository.create(ODD)
            await session.commit()
            assert_same(await repository.get(ODD.id), ODD)
            assert_same(await repository.create(ODD), ODD)  # type: ignore[arg-type]
    finally:
        await engine.dispose()


@pytest.mark.parametrize("implementation", ["python", "binary"])
def test_both_implementations_of_psycopg_read_back_equal(postgres: Database, implementation: str) -> None:
    """Psycopg chooses when it is imported, so each has a process of its own."""
    environment = os.environ | {
        "PSYCOPG_IMPL": implementation,
        "TRACE_TEST_URL": postgres.url.render_as_string(hide_password=False),
    }
    script = (
        "import psycopg, os; from tests.codec.test_exactness import round_trip\n"
        f"assert psycopg.pq.__impl__ == {implementation!r}; round_trip(os.environ['TRACE_TEST_URL'])"
    )
    subprocess.run([sys.executable, "-c", script], env=environment, check=True, timeout=PATIENCE)


def round_trip(url: str) -> None:
    """Store the odd trace and read it back, for the processes of the test above."""
    engine = create_engine(url)
    with Session(engine) as session:
        repository = ProviderTraceRepository(session, organization_id="org-1")
        repository.create(ODD)
        session.commit()
        assert_same(repository.get(ODD.id), ODD)
    engine.dispose()
