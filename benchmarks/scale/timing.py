"""Times: calls beside their statements, an iterator beside the driver's cursor, writes with and without an index."""

import gc
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from itertools import count, islice
from random import Random
from statistics import median
from time import perf_counter
from typing import Any, Final
from uuid import uuid4

from psycopg import Connection, sql
from psycopg.types.json import JsonLoader
from psycopg.types.string import TextLoader
from sqlalchemy import create_engine, event, text
from sqlalchemy.orm import Session

from benchmarks.core.bench import Bench
from benchmarks.core.machine import Memory
from benchmarks.core.results import BenchmarkError, Comparison, Sample, Stopwatch, alternate, rate
from benchmarks.data import rows as layouts
from benchmarks.scale import tables
from benchmarks.scale.questions import Call
from provider_trace_store import ProviderTrace, ProviderTraceRepository

# Calls that take longer than this together are repeated less often, but not less often than `_FEWEST`.
_SECONDS: Final = 60.0
_FEWEST: Final = 12
# psycopg prepares a statement at its sixth execution; after five more, PostgreSQL may choose one plan for all.
_WARM_UP: Final = 12
_ITERSIZES: Final = (1_000, 10_000)
# Writes themselves need this index to find ids.
_NEEDED: Final = f"ix_{layouts.METADATA.table}_id"
_BATCH: Final = 1_000
_LARGEST: Final = tables.organization(tables.LARGEST)
_SINGLE: Final = 20
_ROUNDS: Final = 40

# A plan for the parameters, or the plan for all parameters that a prepared statement may get.
MODES: Final = ("custom", "generic")
_PLACEHOLDER: Final = re.compile(r"%\((\w+)\)s|%(%)")
_NAME: Final = "benchmark_plan"
_SORTS: Final = ("Sort", "Incremental Sort")

Statement = tuple[str, Any]
Samples = dict[str, list[Any]]


def compare_calls(bench: Bench, draws: Sequence[Call]) -> tuple[Samples, list[list[Statement]]]:
    """Time calls, in turn with their statements sent by the driver: milliseconds, and the statements of each call.

    `first` is each call's first time, before its caches are warm; `results` are numbers of items.
    """
    times: Samples = {name: [] for name in ("first", "ours", "raw", "results")}
    connection = bench.postgres.connection
    # The package asks for text: to parse JSON would be more than the same work.
    connection.adapters.register_loader("json", TextLoader)
    with Session(bench.postgres.engine) as session, _statements(session) as sent:
        organizations = {call.organization for call in draws}
        repositories = {each: ProviderTraceRepository(session, organization_id=each) for each in organizations}
        methods = [partial(getattr(repositories[call.organization], call.method), **call.arguments) for call in draws]
        statements = []
        for method in methods:
            sent.clear()
            began = perf_counter()
            result = method()
            times["first"].append((perf_counter() - began) * 1e3)
            times["results"].append(len(result if isinstance(result, dict) else result.items))
            statements.append(list(sent))
            if sum(times["first"]) > _SECONDS * 1e3 / 3 and len(statements) >= _FEWEST:
                break
        if not all(statements):
            raise BenchmarkError("a call sent no statement")
        for each in statements[:_WARM_UP]:
            _send(connection, each)
        gc.collect()
        for number, (method, each) in enumerate(zip(methods, statements, strict=False)):
            for side in ("ours", "raw") if number % 2 else ("raw", "ours"):
                began = perf_counter()
                method() if side == "ours" else _send(connection, each)
                times[side].append((perf_counter() - began) * 1e3)
    connection.rollback()
    return times, statements


def _send(connection: Any, statements: list[Statement]) -> None:
    with connection.cursor() as cursor:
        for statement, parameters in statements:
            cursor.execute(statement.encode(), parameters).fetchall()


@contextmanager
def _statements(session: Session) -> Iterator[list[Statement]]:
    """Yield a list that collects the statements of a session."""
    sent: list[Statement] = []

    def note(_connection: object, _cursor: object, statement: str, parameters: object, *_: object) -> None:
        sent.append((statement, parameters))

    session.connection()
    engine = session.get_bind()
    event.listen(engine, "before_cursor_execute", note)
    yield sent
    event.remove(engine, "before_cursor_execute", note)


def explain(connection: Connection, statements: Iterable[Statement], mode: str) -> dict[str, Any]:
    """Execute statements, and return the plans' nodes, whether a table was read in full, and the largest numbers.

    `buffers` are pages that were read, `sorted_in` and `sorted_out` the rows that a sort received and returned.
    """
    nodes: dict[str, None] = {}
    found = {"buffers": 0, "sorted_in": 0, "sorted_out": 0}
    for statement in statements:
        top = _executed(connection, statement, mode)
        found["buffers"] = max(found["buffers"], top["Shared Hit Blocks"] + top["Shared Read Blocks"])
        for node in _walk(top):
            kind, read = node["Node Type"], node.get("Index Name") or node.get("Relation Name")
            nodes[f"{kind} ({read})" if read and kind != "Bitmap Heap Scan" else kind] = None
            if kind in _SORTS:
                found["sorted_in"] = max(found["sorted_in"], *(_rows(child) for child in node["Plans"]))
                found["sorted_out"] = max(found["sorted_out"], _rows(node))
    return {"nodes": list(nodes), **found, "sequential": any("Seq Scan" in node for node in nodes)}


def _executed(connection: Connection, statement: Statement, mode: str) -> dict[str, Any]:
    text, parameters = statement
    names = list(dict.fromkeys(match[1] for match in _PLACEHOLDER.finditer(text) if match[1]))
    numbered = _PLACEHOLDER.sub(lambda match: f"${names.index(match[1]) + 1}" if match[1] else "%", text)
    connection.execute(f"SET LOCAL plan_cache_mode = force_{mode}_plan".encode())
    connection.execute(f"PREPARE {_NAME} AS {numbered}".encode())
    values = sql.SQL(", ").join(sql.Literal(parameters[name]) for name in names)
    execute = sql.SQL("EXECUTE {} ({})" if names else "EXECUTE {}").format(sql.SQL(_NAME), values)
    with connection.cursor() as cursor:
        cursor.adapters.register_loader("json", JsonLoader)
        query = sql.SQL("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {}").format(execute)
        [[[found]]] = cursor.execute(query).fetchall()
    connection.execute(f"DEALLOCATE {_NAME}")
    plan: dict[str, Any] = found["Plan"]
    return plan


def _walk(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from _walk(child)


def _rows(node: dict[str, Any]) -> int:
    return int(node["Actual Rows"] * node["Actual Loops"])


def compare_iteration(bench: Bench, wanted: int) -> dict[str, Any]:
    """Read traces of a tenant that has only metadata, newest first, by `iter_metadata` and by cursors in the server."""
    organization = tables.organization(tables.SECOND)

    def consumed(items: Iterable[object]) -> Sample:
        with Stopwatch() as watch:
            found = sum(1 for _ in islice(items, wanted))
        if found != wanted:
            raise BenchmarkError(f"{found} rows, not {wanted}")
        return rate(watch.seconds, wanted)

    def ours(_: int) -> Sample:
        with Session(bench.postgres.engine) as session:
            session.connection()
            return consumed(ProviderTraceRepository(session, organization_id=organization).iter_metadata())

    def raw(_: int, *, itersize: int) -> Sample:
        connection = bench.postgres.connection
        with connection.transaction(), connection.cursor("benchmark") as cursor:
            cursor.itersize = itersize

            def items() -> Iterator[object]:
                cursor.execute(
                    f"SELECT {layouts.METADATA.selected(as_text=True)} FROM {layouts.METADATA.table}"
                    " WHERE organization_id = %s AND NOT is_deleted ORDER BY created_at DESC, id DESC",
                    (organization,),
                )
                yield from cursor

            return consumed(items())

    others = {f"server-side cursor, {size:,} rows at a time": partial(raw, itersize=size) for size in _ITERSIZES}
    series = alternate({"iter_metadata": ours, **others}, bench.effort.rounds)
    found = Comparison(series)
    rates = {"ours": found.rates[found.ours], "limit": found.rates[found.limit]}
    return {"traces": wanted, "name": found.limit, "ratio": found.ratio, **rates, "series": series}


def iterate(url: str, wanted: int) -> Sample:
    """Return the memory of `iter_metadata`, in a process of its own."""
    engine = create_engine(url)
    with Session(engine) as session:
        repository = ProviderTraceRepository(session, organization_id=tables.organization(tables.SECOND))
        session.connection()
        memory = Memory()
        if sum(1 for _ in islice(repository.iter_metadata(), wanted)) != wanted:
            raise BenchmarkError(f"not {wanted} traces")
        peak = memory.peak()
    engine.dispose()
    return peak


def costs_of_indexes(bench: Bench, rows: int) -> list[dict[str, Any]]:
    """Return the microseconds of a trace with and without each index that only reads need: medians of the rounds.

    `batch` is `create_many`, `single` is `create`. A noisy machine changes the median of each round's ratio less.
    """
    indexes = bench.postgres.execute(
        "SELECT indexrelid::regclass::text FROM pg_index"
        f" WHERE indrelid = '{layouts.METADATA.table}'::regclass AND NOT indisprimary ORDER BY 1"
    )
    return [_cost(bench, rows, index) for (index,) in indexes if index != _NEEDED]


def _cost(bench: Bench, rows: int, index: str) -> dict[str, Any]:
    traces = _traces(rows)
    times: dict[tuple[str, bool], list[float]] = defaultdict(list)
    for number in range(bench.effort.of(_ROUNDS, at_least=2)):
        for has_index in (True, False) if number % 2 else (False, True):
            with Session(bench.postgres.engine) as session:
                # Rolled back, so the index stays as it has grown.
                session.execute(text(f"DROP INDEX {index}" if not has_index else "SELECT 1"))
                repository = ProviderTraceRepository(session, organization_id=_LARGEST, metadata_only=True)
                # Statements that were prepared for the table with the index are prepared again.
                repository.create_many(list(islice(traces, 10)))
                repository.create(next(traces))
                batch, single = list(islice(traces, _BATCH)), list(islice(traces, _SINGLE))
                began = perf_counter()
                repository.create_many(batch)
                between = perf_counter()
                for trace in single:
                    repository.create(trace)
                times["single", has_index].append((perf_counter() - between) / _SINGLE * 1e6)
                times["batch", has_index].append((between - began) / _BATCH * 1e6)
                session.rollback()
    found: dict[str, Any] = {"index": index}
    for kind in ("batch", "single"):
        having, without = times[kind, True], times[kind, False]
        found |= {f"{kind}_with": median(having), f"{kind}_without": median(without)}
        found[f"{kind}_cost"] = median(one / other for one, other in zip(having, without, strict=True))
    return found


def _traces(rows: int) -> Iterator[ProviderTrace]:
    """Yield new traces of the largest tenant's agents, with as many in a run and a step as the table has."""
    random, tenant = Random(rows), tables.LARGEST
    run = step = agent = ""
    for number in count():
        if number % tables.TRACES_OF_A_SLOT == 0:
            run = f"run-{uuid4()}"
            agent = tables.identifier("agent", f"{tenant}-{random.randrange(tables.agents_of(tenant, rows))}")
        if number % 2 == 0:
            step = f"step-{uuid4()}"
        fixed = {"request_json": {}, "response_json": {}, "call_type": "agent_step", "source": "agent-server"}
        ids = {"run_id": run, "step_id": step, "agent_id": agent, "org_id": _LARGEST}
        user, tags = tables.identifier("user", f"{tenant}-{number % 50}"), None if number % 3 else tables.tags(0)
        moment = tables.END + timedelta(milliseconds=number)
        yield ProviderTrace(**fixed, **ids, user_id=user, agent_tags=tags, created_at=moment)
