"""Tables that are partitioned by day: a page with a range reads the partitions of its range only."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest
from sqlalchemy import event, text
from sqlalchemy.orm import Session

from provider_trace_store import ProviderTraceRepository
from provider_trace_store.maintenance import pack, unpack
from tests.support.batches import counts, run_script
from tests.support.constants import MOMENT, ORG
from tests.support.traces import a_trace, trace_id

if TYPE_CHECKING:
    from tests.support.servers import Database

DAYS: Final = 60
START: Final = MOMENT.replace(hour=0, minute=0, second=0, microsecond=0)
LOCKED: Final = text(
    "SELECT count(*) FROM pg_locks JOIN pg_inherits ON inhrelid = relation WHERE pid = pg_backend_pid()"
    " AND inhparent = 'provider_trace_metadata'::regclass"
)


def partition(database: Database) -> None:
    run_script(
        database,
        "CREATE TABLE parted (LIKE provider_trace_metadata INCLUDING DEFAULTS INCLUDING CONSTRAINTS)"
        " PARTITION BY RANGE (created_at)",
        "DROP TABLE provider_trace_metadata",
        "ALTER TABLE parted RENAME TO provider_trace_metadata",
        "ALTER TABLE provider_trace_metadata ADD PRIMARY KEY (created_at, id)",
        "CREATE INDEX ON provider_trace_metadata (organization_id, created_at, id)",
        "CREATE INDEX ON provider_trace_metadata (run_id)",
        *(
            f"CREATE TABLE day_{day} PARTITION OF provider_trace_metadata FOR VALUES FROM"
            f" ('{START + timedelta(days=day)}') TO ('{START + timedelta(days=day + 1)}')"
            for day in range(DAYS)
        ),
    )


@pytest.mark.every_server
def test_a_page_touches_the_partitions_of_its_range_only(postgres: Database) -> None:
    partition(postgres)
    traces = [
        a_trace(number, created_at=START + timedelta(days=number // 4, hours=number % 4), run_id=f"run-{number % 3}")
        for number in range(4 * DAYS)
    ]
    engine = postgres.engine()
    with Session(engine) as session:
        repository = ProviderTraceRepository(session, organization_id=ORG, metadata_only=True)
        assert counts(repository.create_many(traces)) == (len(traces), 0, 0)
        session.commit()
        run_script(postgres, "ANALYZE")
        since, until = START + timedelta(days=20), START + timedelta(days=23)
        expected = [trace_id(number) for number in range(80, 92)]
        for order in ("newest", "oldest"):
            for filters in ({}, {"run_id": "run-1"}, {"agent_tag": "x"}):
                found: list[str] = []
                cursor = None
                while True:
                    arguments: dict[str, Any] = {"order": order, "limit": 3, "cursor": cursor, **filters}
                    page = repository.list_metadata(since=since, until=until, **arguments)
                    found += [trace.id for trace in page.items]
                    assert (session.scalar(LOCKED) or 0) <= 3
                    session.commit()
                    if (cursor := page.next_cursor) is None:
                        break
                wanted = {"run_id": [one for one in expected if int(one[15:23], 16) % 3 == 1], "agent_tag": []}
                right = wanted[next(iter(filters))] if filters else expected
                assert found == (right[::-1] if order == "newest" else right)
        repository.count_by("source", since=since, until=until)
        assert (session.scalar(LOCKED) or 0) <= 3
        session.commit()
        # A statement that psycopg prepared, and for which the server considers a generic plan.
        for _ in range(12):
            repository.list_metadata(since=since, until=until)
            repository.list_metadata(since=since, until=until, run_id="run-1")
            repository.count_by_day(since=since, until=until)
            assert (session.scalar(LOCKED) or 0) <= 3
            session.commit()
        # Without a range, a cursor bounds one side.
        newest = repository.list_metadata(limit=4)
        session.commit()
        second = repository.list_metadata(limit=4, order="newest", cursor=newest.next_cursor)
        assert [trace.id for trace in second.items] == [trace_id(number) for number in range(235, 231, -1)]
        session.commit()
        assert [trace.id for trace in repository.iter_metadata(order="oldest")] == [trace.id for trace in traces]
        assert repository.get_metadata(trace_id(7)) is not None


def test_each_connection_asks_once_whether_the_tables_are_partitioned(postgres: Database) -> None:
    engine = postgres.engine()
    sent: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *arguments: sent.append(arguments[2]))
    with Session(engine) as session:
        repository = ProviderTraceRepository(session, organization_id=ORG)
        for _ in range(3):
            repository.list_metadata()
            repository.count_by("source")
    assert sum("pg_class" in statement for statement in sent) == 1
    assert len(sent) == 7


@pytest.mark.every_server
def test_packed_traces_have_their_metadata_in_partitions(postgres: Database) -> None:
    partition(postgres)
    engine = postgres.engine()
    traces = [a_trace(number, created_at=START + timedelta(days=number % DAYS), run_id="run") for number in range(90)]
    outside = a_trace(1000, created_at=START - timedelta(days=1), run_id="another")
    with Session(engine) as session, session.begin():
        ProviderTraceRepository(session, organization_id=ORG).create_many([*traces, outside])
    report = pack(engine, older_than=timedelta(0), idle=timedelta(0))
    # A trace whose day has no partition stays where it is.
    assert (report.traces, report.skipped["refused"]) == (90, 1)
    with Session(engine) as session:
        repository = ProviderTraceRepository(session, organization_id=ORG)
        assert repository.get(traces[0].id) == traces[0]
        assert repository.get(outside.id) == outside
        assert len(repository.list_by_run_id("run", limit=100).items) == 90
        assert counts(repository.create_many([*traces, outside])) == (0, 91, 0)
        assert repository.delete(traces[1].id)
        session.commit()
    assert unpack(engine).traces == 90
    with Session(engine) as session:
        repository = ProviderTraceRepository(session, organization_id=ORG)
        assert repository.get(traces[0].id) == traces[0]
        assert repository.get(traces[1].id) is None
