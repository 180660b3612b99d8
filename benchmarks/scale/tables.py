"""The tables that are read: whose traces they hold, and how they are filled inside the server.

What grows with the table and what stays the same decides what the growth of a figure means:

- The period is always 90 days. A larger table is a busier one, not an older one: a week is a week.
- Two tenants make 40 % and 20 % of the traffic, 1,000 others the rest, the first of them 3 % of it and the last 0.05 %.
  The number of tenants is constant, so every tenant grows with the table: with ten times as many tenants of the same
  size, no page would have anything to grow by.
- An agent of a large tenant has about 1,000 traces. The number of agents grows, as a deployment adds agents. One agent
  of the largest tenant makes 5 % of its traffic and grows.
- A run has 10, 20 or 40 traces, a step 1 to 3. 50 runs are active at a time, so their traces are not stored together.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from hashlib import md5
from time import perf_counter
from typing import Any, Final
from uuid import UUID

import orjson

from benchmarks.core.bench import Bench
from benchmarks.data import rows as layouts

BEGIN: Final = datetime(2026, 1, 1, tzinfo=UTC)
PERIOD: Final = timedelta(days=90)
END: Final = BEGIN + PERIOD

LARGEST: Final = 0
SECOND: Final = 1
# These small tenants have more than a page even at 100,000 rows: with less, their pages would grow.
SMALL_WITH_A_PAGE: Final = range(2, 12)
TRACES_OF_AN_AGENT: Final = 1_000
TRACES_OF_A_SLOT: Final = 20
TAGS: Final = 10

_SHARES: Final = {LARGEST: 0.4, SECOND: 0.2}
_SMALL_TENANTS: Final = 1_000
_BUSY_SHARE: Final = 0.05
# A slot holds one active run at a time. The number of all slots, of the largest tenant's and of the second's.
_SLOTS, _SLOTS_OF_LARGEST, _SLOTS_OF_SECOND = 50, 20, 10
# The traces of a slot's 20 that begin a step.
_STEPS: Final = (1, 2, 4, 7, 9, 10, 13, 15, 17, 18)
_BODY_BYTES: Final = 20_000
_BATCH: Final = 250_000
# Rows whose columns are measured.
_SAMPLED: Final = 200_000

_COLUMNS: Final = (
    "id, step_id, agent_id, agent_tags, call_type, run_id, source, org_id, user_id, created_at, updated_at, is_deleted,"
    " _created_by_id, _last_updated_by_id, organization_id"
)


def identifier(prefix: str, key: str) -> str:
    """Return the id of a kind (`org`, `agent`, …) and a key; `_identifier` makes the same one in SQL."""
    return f"{prefix}-{UUID(md5(f'{prefix}{key}'.encode(), usedforsecurity=False).hexdigest())}"


def organization(tenant: int) -> str:
    """Return the organization of a tenant, by its number."""
    return identifier("org", str(tenant))


# The agent that makes 5 % of the largest tenant's traffic.
BUSY_AGENT: Final = identifier("agent", f"{LARGEST}-busy")


def tags(number: int) -> list[str]:
    """Return the tags of an agent that has some."""
    return ["production", f"team-{number}"]


def traces_of(tenant: int, rows: int) -> float:
    """Return about how many of the table's rows a large tenant has."""
    return _SHARES[tenant] * rows


def agents_of(tenant: int, rows: int) -> int:
    """Return how many agents a large tenant has."""
    return max(1, round(traces_of(tenant, rows) / TRACES_OF_AN_AGENT))


def fill(bench: Bench, rows: int, tell: Callable[[str], None]) -> float:
    """Fill the metadata table in the order of time, with all indexes, and the other table with a few whole traces.

    Every size starts with empty tables, as each covers the whole period. Returns the seconds.
    """
    bench.postgres.empty()
    began, execute = perf_counter(), bench.postgres.execute
    metadata, full = layouts.METADATA.table, layouts.FULL.table
    for first in range(0, rows, _BATCH):
        last = min(first + _BATCH, rows)
        execute(f"INSERT INTO {metadata} ({_COLUMNS}) {_metadata(first, last, rows)}")
        tell(f"{last:,} of {rows:,} rows, {last / (perf_counter() - began):,.0f}/s")
    # The number of whole traces is the same for all but tiny tables.
    execute(f"INSERT INTO {full} ({_COLUMNS}, request_json, response_json) {_full(min(10_000, rows // 10))}")
    for table in (metadata, full):
        execute(f"VACUUM (ANALYZE) {table}")
    # Otherwise the checkpoint's writes could fall into a measurement.
    execute("CHECKPOINT")
    return perf_counter() - began


def space(bench: Bench, rows: int) -> dict[str, Any]:
    """Return the bytes of a metadata row: in the table (`heap`), in each column's values, in each index, and in all.

    The row's header and the alignment of its values make up the rest of `heap`.
    """
    table, names = layouts.METADATA.table, layouts.METADATA.names
    [[heap]] = bench.postgres.execute(f"SELECT pg_relation_size('{table}')")
    indexes = bench.postgres.execute(
        "SELECT indexrelid::regclass::text, pg_relation_size(indexrelid) FROM pg_index"
        f" WHERE indrelid = '{table}'::regclass ORDER BY 1"
    )
    sizes = ", ".join(f"avg(coalesce(pg_column_size({name}), 0))::float" for name in names)
    sample = f" TABLESAMPLE SYSTEM ({100 * _SAMPLED / rows})" if rows > _SAMPLED else ""
    [columns] = bench.postgres.execute(f"SELECT {sizes} FROM {table}{sample}")
    return {
        "heap": heap / rows,
        "columns": dict(zip(names, columns, strict=True)),
        "indexes": {name: size / rows for name, size in indexes},
        "total": (heap + sum(size for _, size in indexes)) / rows,
    }


def small_traces(first: int, last: int, rows: int) -> tuple[str, str]:
    """Return the columns and the SELECT of full rows with small bodies, by their numbers."""
    body = """, '{"content": "small"}'::json"""
    return f"{_COLUMNS}, request_json, response_json", _metadata(first, last, rows, body * 2)


def _metadata(first: int, last: int, rows: int, more: str = "") -> str:
    """Return the SELECT of rows by their numbers, with the values of more columns.

    Each 50th of 1,000 rows is of the same slot. Of three slots, the first holds two runs one after the other, the
    second holds one run, and the third continues its run in the next 1,000 rows.
    """
    per_slot, slots = TRACES_OF_A_SLOT, _SLOTS
    block, small_from = per_slot * slots, _SLOTS_OF_LARGEST + _SLOTS_OF_SECOND
    step = " + ".join(f"(rank >= {rank})::int" for rank in _STEPS)
    small_agents = max(1, round(0.4 * rows / _SMALL_TENANTS / TRACES_OF_AN_AGENT))
    busy_slots = round(_BUSY_SHARE * _SLOTS_OF_LARGEST)
    numbered = (
        f"SELECT g, g % {slots} AS slot, (g % {block}) / {slots} AS rank, g / {block} AS block,"
        f" {_at(rows)} AS created_at, md5(g::text) AS random"
        f" FROM generate_series({first}, {last - 1}) AS g"
    )
    in_runs = (
        "SELECT *, slot || '-' || CASE slot % 3"
        f" WHEN 0 THEN block * 2 + (rank >= {per_slot // 2})::int WHEN 1 THEN block ELSE block / 2 END AS run"
        f" FROM ({numbered}) AS numbered"
    )
    drawn = f"SELECT *, hashtext(run)::bigint & 1048575 AS lot FROM ({in_runs}) AS in_runs"
    # By the square of the lot, the first small tenant has 60 times the runs of the last.
    of_tenants = (
        f"SELECT *, CASE WHEN slot < {_SLOTS_OF_LARGEST} THEN {LARGEST}"
        f" WHEN slot < {small_from} THEN {SECOND}"
        f" ELSE 2 + floor({_SMALL_TENANTS} * power(lot / 1048576.0, 2))::int END AS tenant"
        f" FROM ({drawn}) AS drawn"
    )
    of_agents = (
        f"SELECT *, tenant || '-' || CASE WHEN slot < {busy_slots} THEN 'busy' ELSE (lot % CASE tenant"
        f" WHEN {LARGEST} THEN {agents_of(LARGEST, rows)} WHEN {SECOND} THEN {agents_of(SECOND, rows)}"
        f" ELSE {small_agents} END)::text END AS agent FROM ({of_tenants}) AS of_tenants"
    )
    return _rows(f"SELECT *, run || '-' || block || '-' || {step} AS step FROM ({of_agents}) AS of_agents", more)


def _full(count: int) -> str:
    """Return the SELECT of whole traces of the largest tenant, over the whole period."""
    of_runs = (
        f"SELECT g, {_at(count)} AS created_at, md5('full' || g) AS random, g / 20 AS lot,"
        f" {LARGEST} AS tenant, '{LARGEST}-full-' || g / 200 AS agent,"
        " 'full-' || g / 20 AS run, 'full-' || g / 2 AS step"
        f" FROM generate_series(0, {count - 1}) AS g"
    )
    # All bodies differ, and they hardly compress.
    body = (
        "json_build_object('content', (SELECT string_agg(md5(g || '-' || part), '')"
        f" FROM generate_series(1, {_BODY_BYTES // 2 // 32}) AS part))"
    )
    return _rows(of_runs, f", {body}, {body}")


def _rows(source: str, more: str) -> str:
    """Return the SELECT of complete rows, given the SELECT of their runs, steps and moments."""
    user = _identifier("user", "tenant || '-' || lot % 50")
    some = ", ".join(f"'{orjson.dumps(tags(number)).decode()}'" for number in range(TAGS))
    return (
        "SELECT 'provider_trace-' || substr(moment, 1, 8) || '-' || substr(moment, 9, 4) || '-7'"
        " || substr(random, 1, 3) || '-8' || substr(random, 4, 3) || '-' || substr(random, 7, 12),"
        f" {_identifier('step', 'step')}, {_identifier('agent', 'agent')},"
        f" CASE lot % 3 WHEN 0 THEN (ARRAY[{some}])[lot % {TAGS} + 1]::json END,"
        " CASE g % 20 WHEN 7 THEN 'summarization' ELSE 'agent_step' END,"
        f" {_identifier('run', 'run')}, 'agent-server', {_identifier('org', 'tenant')},"
        f" {user}, created_at, NULL::timestamptz, false, NULL, NULL, {_identifier('org', 'tenant')}{more}"
        " FROM (SELECT *, lpad(to_hex((extract(epoch FROM created_at) * 1000)::bigint), 12, '0') AS moment"
        f" FROM ({source}) AS source) AS rows ORDER BY g"
    )


def _at(count: int) -> str:
    """Return the time of row `g` of so many rows that cover the period evenly."""
    spacing = round(PERIOD.total_seconds() * 1e6 / count)
    return f"'{BEGIN.isoformat()}'::timestamptz + g * interval '{spacing} microseconds'"


def _identifier(prefix: str, key: str) -> str:
    return f"'{prefix}-' || md5('{prefix}' || ({key}))::uuid"
