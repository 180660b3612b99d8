"""The plans of PostgreSQL for a page: its index, how many rows it reads and sorts, and that no body is read."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from operator import methodcaller
from typing import TYPE_CHECKING, Any, Final

import pytest
from psycopg import sql
from sqlalchemy import event, text
from sqlalchemy.orm import Session

from provider_trace_store import ProviderTraceRepository
from tests.support.batches import run_script
from tests.support.constants import ORG, OUR_TABLES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Connection

    from tests.support.databases import Databases
    from tests.support.servers import Database


# An organization that wrote only in the first eighth of the period.
GONE: Final = "org-gone"
ROWS: Final = 20_000
# As many whole traces, and these with bodies that are kept outside of their rows.
LARGE: Final = 200
START: Final = datetime(2025, 1, 1, tzinfo=UTC)
STEP: Final = timedelta(minutes=30)
MIDDLE: Final = START + STEP * (ROWS // 2)
LIMIT: Final = 100

# Each half hour a row; half of them a large tenant's, three tenths ours, the rest small tenants'.
LOAD: Final = f"""
INSERT INTO {{table}} (id, organization_id, created_at, step_id, run_id, agent_id, call_type, source,
    agent_tags{{bodies}})
SELECT 'provider_trace-' || lpad(to_hex({{first}} + n), 8, '0') || '-0000-7000-8000-000000000000',
    CASE WHEN n % 10 < 5 THEN 'org-busy' WHEN n % 10 < 8 THEN '{ORG}'
        WHEN n % 10 = 8 AND at < {ROWS} / 8 THEN '{GONE}' ELSE 'org-small-' || n % 97 END,
    timestamptz '{START}' + at * interval '30 minutes',
    'step-' || at / 4, 'run-' || at / 40, 'agent-' || n % 7, 'agent_step', 'source-' || n % 3, '["a", "b"]'{{values}}
FROM (SELECT n, n * {ROWS} / {{rows}} AS at FROM generate_series(0, {{rows}} - 1) n) numbered
"""  # noqa: S608  (constants)
# Hexadecimal digits of random numbers, which no compression makes small enough for a row.
BODY: Final = (
    "(SELECT json_build_object('text', string_agg(md5(random()::text || piece || n), ''))"
    " FROM generate_series(1, 1600) piece)"
)


@dataclass
class Loaded:
    """A database with rows, and what the methods send to it.

    Args:
        database: where.
    """

    database: Database
    statements: list[tuple[str, Any]] = field(default_factory=list)

    def sent_by(self, call: Callable[[ProviderTraceRepository], object], organization: str = ORG) -> tuple[str, Any]:
        """Return the statement and the parameters that pick the rows of a call."""
        engine = self.database.engine()

        def collect(_connection: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
            self.statements.append((statement, parameters))

        event.listen(engine, "before_cursor_execute", collect)
        self.statements.clear()
        with Session(engine) as session:
            call(ProviderTraceRepository(session, organization_id=organization))
        # A connection first asks once whether the tables are partitioned.
        return next(sent for sent in self.statements if "pg_class" not in sent[0])

    def plan(
        self, call: Callable[[ProviderTraceRepository], object], way: str, organization: str = ORG
    ) -> dict[str, Any]:
        """Return the plan of a call, as it was executed.

        Args:
            call: the call.
            way: `custom`, made for the parameters, or `generic`, as a prepared statement gets after a while.
            organization: whose call.
        """
        statement, parameters = self.sent_by(call, organization)
        explain = "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) "
        with self.database.engine().connect() as connection:
            if way == "custom":
                found = connection.exec_driver_sql(explain + statement, parameters).scalar_one()
            else:
                found = connection.exec_driver_sql(explain + _prepared(connection, statement, parameters)).scalar_one()
        plan: dict[str, Any] = found[0]["Plan"]
        return plan


def _prepared(connection: Connection, statement: str, parameters: dict[str, Any]) -> str:
    names = sorted(parameters)
    numbered = re.sub(r"%\((\w+)\)s", lambda match: f"${names.index(match[1]) + 1}", statement).replace("%%", "%")
    connection.exec_driver_sql("SET plan_cache_mode = force_generic_plan")
    connection.exec_driver_sql("PREPARE of_the_test AS " + numbered.replace("%", "%%"))
    driver_connection: Any = connection.connection.driver_connection
    values = ", ".join(sql.Literal(parameters[name]).as_string(driver_connection) for name in names)
    return "EXECUTE of_the_test" + (f"({values})" if values else "").replace("%", "%%")


@pytest.fixture(scope="module", params=["analyzed", "never analyzed"])
def statistics(request: pytest.FixtureRequest) -> str:
    """Return whether the tables are analyzed: a table that grows fast is without current statistics for a while."""
    return str(request.param)


@pytest.fixture(scope="module")
def postgres(request: pytest.FixtureRequest, databases: Databases, statistics: str) -> Iterator[Loaded]:
    """Return a database with many rows."""
    made = databases.make(request.param, migrated=True)
    with asyncio.Runner() as runner:
        database = runner.run(made.__aenter__())
        bodies = ", request_json, response_json"
        run_script(
            database,
            *(f"ALTER TABLE {table} SET (autovacuum_enabled = false)" for table in OUR_TABLES),
            LOAD.format(table="provider_trace_metadata", bodies="", values="", first=0, rows=ROWS),
            LOAD.format(table="provider_traces", bodies=bodies, values=", '{}', '{}'", first=10**6, rows=ROWS),
            LOAD.format(table="provider_traces", bodies=bodies, values=f", {BODY}, '{{}}'", first=10**7, rows=LARGE),
            *(["ANALYZE"] if statistics == "analyzed" else []),
        )
        yield Loaded(database)
        runner.run(made.__aexit__(None, None, None))


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from nodes(below)


def rows_read(node: dict[str, Any]) -> float:
    """Return how many rows a scan took from its table or index, those that it threw away included."""
    removed = (
        value for name, value in node.items() if name.startswith("Rows Removed by") and isinstance(value, int | float)
    )
    return float((node["Actual Rows"] + sum(removed)) * node["Actual Loops"])


def scans(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what reads the two tables, and was not skipped."""
    return [
        node
        for node in nodes(plan)
        if ("Index Name" in node or node.get("Relation Name") in OUR_TABLES) and node["Actual Loops"]
    ]


def buffers(plan: dict[str, Any]) -> int:
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


def largest_sort(plan: dict[str, Any]) -> float:
    """Return how many rows the largest sort is given."""
    return max(
        (
            below["Actual Rows"] * below["Actual Loops"]
            for node in nodes(plan)
            if "Sort" in node["Node Type"]
            for below in node["Plans"]
        ),
        default=0.0,
    )


def assert_walks_the_tenants_index(plan: dict[str, Any], most: float) -> None:
    """Assert that a plan scans only the tenant's index, and reads at most `most` rows."""
    assert scans(plan)
    for node in scans(plan):
        # With few rows, a bitmap scan of the index is as good as an index scan.
        assert node["Node Type"] in {"Index Scan", "Index Only Scan", "Bitmap Heap Scan", "Bitmap Index Scan"}, node
        assert node.get("Index Name", "organization_id_created_at_id").endswith("organization_id_created_at_id"), node
        assert rows_read(node) <= most, node
    assert largest_sort(plan) <= 2 * (LIMIT + 1)


PAGES: Final[dict[str, dict[str, Any]]] = {
    "newest": {},
    "oldest": {"order": "oldest"},
    "deep": {"until": MIDDLE},
    "deep, oldest first": {"since": MIDDLE, "order": "oldest"},
    "a range": {"since": MIDDLE - timedelta(days=30), "until": MIDDLE},
}
ways = pytest.mark.parametrize("way", ["custom", "generic"])


@ways
@pytest.mark.parametrize("organization", [ORG, GONE, "org-small-9", "org-unknown"])
def test_a_page_walks_the_tenants_index_and_reads_no_more_than_the_page(
    postgres: Loaded, organization: str, way: str
) -> None:
    for name, arguments in PAGES.items():
        plan = postgres.plan(methodcaller("list_metadata", limit=LIMIT, **arguments), way, organization)
        assert_walks_the_tenants_index(plan, LIMIT + 1)
        # A row costs its own page of the table at most, and the walk down the index a few.
        assert buffers(plan) <= 3 * (LIMIT + 1) + 50, name


@ways
def test_a_page_behind_a_cursor_costs_what_the_first_one_does(postgres: Loaded, way: str) -> None:
    with Session(postgres.database.engine()) as session:
        repository = ProviderTraceRepository(session, organization_id=ORG)
        cursors: dict[str, str | None] = {}
        for order in ("newest", "oldest"):
            page = repository.list_metadata(order=order, limit=1000)
            for _ in range(3):
                page = repository.list_metadata(order=order, limit=1000, cursor=page.next_cursor)
            cursors[order] = page.next_cursor
    for order, cursor in cursors.items():
        assert cursor is not None
        first = postgres.plan(methodcaller("list_metadata", order=order, limit=LIMIT), way)
        deep = postgres.plan(methodcaller("list_metadata", order=order, limit=LIMIT, cursor=cursor), way)
        assert_walks_the_tenants_index(deep, LIMIT + 1)
        assert buffers(deep) <= buffers(first) + 50


@ways
@pytest.mark.parametrize(("key", "value", "rows"), [("run_id", "run-250", 41), ("step_id", "step-2500", 5)])
def test_a_page_of_a_run_or_a_step_takes_its_index_and_reads_its_rows_only(
    postgres: Loaded, key: str, value: str, rows: int, way: str
) -> None:
    for arguments in ({}, {"since": START, "until": START + STEP * ROWS}, {"order": "oldest"}, {"source": "source-1"}):
        filters: dict[str, Any] = {key: value, **arguments}
        plan = postgres.plan(methodcaller("list_metadata", limit=LIMIT, **filters), way)
        assert scans(plan)
        for node in scans(plan):
            assert node["Node Type"] in {"Index Scan", "Bitmap Heap Scan", "Bitmap Index Scan"}, node
            assert node.get("Index Name", key).endswith(key), node
            assert rows_read(node) <= rows, node
        assert largest_sort(plan) <= 2 * rows
        assert buffers(plan) <= 6 * rows + 50


@ways
def test_whole_traces_of_a_run_are_picked_by_its_index(postgres: Loaded, way: str) -> None:
    plan = postgres.plan(methodcaller("list_by_run_id", "run-250"), way)
    assert scans(plan)
    for node in scans(plan):
        assert node.get("Index Name", "run_id").endswith("run_id"), node
        assert "Seq Scan" not in node["Node Type"], node
        assert rows_read(node) <= 41, node


@ways
def test_an_agent_in_a_range_is_walked_along_its_index_through_the_range(
    postgres: Loaded, way: str, statistics: str
) -> None:
    filters: dict[str, Any] = {"agent_id": "agent-3", "since": MIDDLE, "until": MIDDLE + timedelta(days=10)}
    plan = postgres.plan(methodcaller("list_metadata", limit=LIMIT, **filters), way)
    assert scans(plan)
    for node in scans(plan):
        assert "Seq Scan" not in node["Node Type"], node
        assert node.get("Index Name", "_agent_id_created_at").endswith(("_agent_id_created_at", "_created_at_id")), node
        # The agent's rows in the range, of all tenants, which share it here, and a page beyond; without statistics
        # perhaps all of its rows.
        assert rows_read(node) <= (490 + LIMIT + 1 if statistics == "analyzed" else ROWS / 7), node
    # An incremental sort looks one row beyond the rows of one moment.
    assert largest_sort(plan) <= (LIMIT + 2 if statistics == "analyzed" else ROWS / 7)


@ways
def test_counts_of_a_range_read_no_further_than_the_range(postgres: Loaded, way: str) -> None:
    filters: dict[str, Any] = {"since": MIDDLE, "until": MIDDLE + timedelta(days=10)}
    for call in (methodcaller("count_by_day", **filters), methodcaller("count_by", "source", **filters)):
        plan = postgres.plan(call, way)
        for node in scans(plan):
            assert "Seq Scan" not in node["Node Type"], node
            assert rows_read(node) <= 490, node


def test_no_read_of_metadata_reads_a_body(postgres: Loaded, statistics: str) -> None:
    del statistics
    observing = postgres.database.engine(isolation_level="AUTOCOMMIT")
    with Session(postgres.database.engine()) as session, observing.connect() as observer:
        repository = ProviderTraceRepository(session, organization_id=ORG)

        def pages_of_bodies(call: Callable[[], object]) -> int:
            before = _toast_pages(session, observer)
            call()
            return _toast_pages(session, observer) - before

        trace = next(trace for trace in repository.iter_metadata() if trace.id.startswith("provider_trace-0098"))
        reads: dict[str, Callable[[], object]] = {
            "list_metadata": lambda: [repository.list_metadata(limit=1000, **given) for given in PAGES.values()],
            "by key": lambda: [
                repository.list_metadata(run_id=trace.run_id),
                repository.list_metadata(step_id=trace.step_id),
                repository.list_metadata(agent_id=trace.agent_id, limit=1000),
                repository.list_metadata(agent_tag="a", limit=1000),
            ],
            "iter_metadata": lambda: list(repository.iter_metadata(order="oldest")),
            "count_by": lambda: [repository.count_by("source"), repository.count_by("agent_id", agent_tag="a")],
            "count_by_day": repository.count_by_day,
            "get_metadata": lambda: repository.get_metadata(trace.id),
        }
        assert sum(item.id.startswith("provider_trace-0098") for item in repository.iter_metadata()) == LARGE * 3 / 10
        for name, read in reads.items():
            assert pages_of_bodies(read) == 0, name
        # A body of 50 KB fills more than twenty pages of 2 KB: the measure notices a single one.
        assert pages_of_bodies(lambda: repository.get(trace.id)) > 6
        assert pages_of_bodies(lambda: repository.list_by_run_id(trace.run_id or "")) > 6


def _toast_pages(session: Session, observer: Connection) -> int:
    session.execute(text("SELECT pg_stat_force_next_flush()"))
    session.commit()
    observer.execute(text("SELECT pg_stat_clear_snapshot()"))
    return int(
        observer.scalar(
            text("SELECT toast_blks_hit + toast_blks_read FROM pg_statio_all_tables WHERE relname = 'provider_traces'")
        )
    )
