"""Fills the tables inside the server: batches in the order of time, with all indexes in place."""

# ruff: noqa: S608  (all names and numbers in these statements are our own)

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Final

from benchmarks import raw
from benchmarks.scale import population
from provider_trace_store.codec import encode

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.bench import Bench

_BATCH: Final = 250_000
# Which of a slot's 20 traces begin a step.
_STEPS: Final = (1, 2, 4, 7, 9, 10, 13, 15, 17, 18)

_COLUMNS: Final = (
    "id, step_id, agent_id, agent_tags, call_type, run_id, source, org_id, user_id, created_at, updated_at, is_deleted,"
    " _created_by_id, _last_updated_by_id, organization_id"
)


def fill(bench: Bench, rows: int, tell: Callable[[str], None]) -> float:
    """Fill the metadata table anew, and the other one with a few whole traces.

    Anew for each size: the rows of a smaller one are not among those of a larger one, as both cover the whole period.

    Args:
        bench: where.
        rows: of metadata.
        tell: is told what has been done.

    Returns:
        How long it took, in seconds.
    """
    bench.empty()
    began = perf_counter()
    for first in range(0, rows, _BATCH):
        last = min(first + _BATCH, rows)
        bench.execute(f"INSERT INTO {raw.METADATA.table} ({_COLUMNS}) {_metadata(first, last, rows)}")
        tell(f"{last:,} of {rows:,} rows, {last / (perf_counter() - began):,.0f}/s")
    bench.execute(
        f"INSERT INTO {raw.FULL.table} ({_COLUMNS}, request_json, response_json) {_full(population.full_traces(rows))}"
    )
    for table in (raw.METADATA.table, raw.FULL.table):
        bench.execute(f"VACUUM (ANALYZE) {table}")
    # What it has to write is not to be written while something is measured.
    bench.execute("CHECKPOINT")
    return perf_counter() - began


def _metadata(first: int, last: int, rows: int) -> str:
    """Return the SELECT of rows by their numbers.

    Of 1,000 rows, each 50th is of the same slot. Of three slots, one holds two runs after each other, one holds one,
    and one continues its run in the next 1,000.
    """
    per_slot, slots = population.TRACES_OF_A_SLOT, population.SLOTS
    block = per_slot * slots
    small_from = population.SLOTS_OF_LARGEST + population.SLOTS_OF_SECOND
    spacing = round(population.PERIOD.total_seconds() * 1e6 / rows)
    step = " + ".join(f"(rank >= {rank})::int" for rank in _STEPS)
    agents = [max(1, round(population.traces_of(tenant, rows) / population.TRACES_OF_AN_AGENT)) for tenant in (0, 1)]
    small_agents = max(1, round(0.4 * rows / population.SMALL_TENANTS / population.TRACES_OF_AN_AGENT))
    busy_slots = round(population.BUSY_SHARE * population.SLOTS_OF_LARGEST)
    numbered = (
        f"SELECT g, g % {slots} AS slot, (g % {block}) / {slots} AS rank, g / {block} AS block,"
        f" {_at(spacing)} AS created_at, md5(g::text) AS random"
        f" FROM generate_series({first}, {last - 1}) AS g"
    )
    in_runs = (
        "SELECT *, slot || '-' || CASE slot % 3"
        f" WHEN 0 THEN block * 2 + (rank >= {per_slot // 2})::int WHEN 1 THEN block ELSE block / 2 END AS run"
        f" FROM ({numbered}) AS numbered"
    )
    drawn = f"SELECT *, hashtext(run)::bigint & 1048575 AS lot FROM ({in_runs}) AS in_runs"
    # The square of the lot: the first of the small tenants has 60 times the runs of the last.
    of_tenants = (
        f"SELECT *, CASE WHEN slot < {population.SLOTS_OF_LARGEST} THEN {population.LARGEST}"
        f" WHEN slot < {small_from} THEN {population.SECOND}"
        f" ELSE 2 + floor({population.SMALL_TENANTS} * power(lot / 1048576.0, 2))::int END AS tenant"
        f" FROM ({drawn}) AS drawn"
    )
    of_agents = (
        f"SELECT *, tenant || '-' || CASE WHEN slot < {busy_slots} THEN 'busy' ELSE (lot % CASE tenant"
        f" WHEN {population.LARGEST} THEN {agents[0]} WHEN {population.SECOND} THEN {agents[1]}"
        f" ELSE {small_agents} END)::text END AS agent FROM ({of_tenants}) AS of_tenants"
    )
    return _rows(f"SELECT *, run || '-' || block || '-' || {step} AS step FROM ({of_agents}) AS of_agents", "")


def _full(count: int) -> str:
    """Return the SELECT of whole traces: of the largest tenant, and of all its time."""
    spacing = round(population.PERIOD.total_seconds() * 1e6 / count)
    of_runs = (
        f"SELECT g, {_at(spacing)} AS created_at, md5('full' || g) AS random, g / 20 AS lot,"
        f" {population.LARGEST} AS tenant, '{population.LARGEST}-full-' || g / 200 AS agent,"
        " 'full-' || g / 20 AS run, 'full-' || g / 2 AS step"
        f" FROM generate_series(0, {count - 1}) AS g"
    )
    # No two alike, and no compression to speak of.
    body = (
        "json_build_object('content', (SELECT string_agg(md5(g || '-' || part), '')"
        f" FROM generate_series(1, {population.BODY_BYTES // 2 // 32}) AS part))"
    )
    return _rows(of_runs, f", {body}, {body}")


def _rows(source: str, more: str) -> str:
    """Return the SELECT of rows, of the columns that say what they belong to."""
    user = _identifier("user", "tenant || '-' || lot % 50")
    tags = ", ".join(f"'{encode(population.tags(number))}'" for number in range(population.TAGS))
    return (
        "SELECT 'provider_trace-' || substr(moment, 1, 8) || '-' || substr(moment, 9, 4) || '-7'"
        " || substr(random, 1, 3) || '-8' || substr(random, 4, 3) || '-' || substr(random, 7, 12),"
        f" {_identifier('step', 'step')}, {_identifier('agent', 'agent')},"
        f" CASE lot % 3 WHEN 0 THEN (ARRAY[{tags}])[lot % {population.TAGS} + 1]::json END,"
        " CASE g % 20 WHEN 7 THEN 'summarization' ELSE 'agent_step' END,"
        f" {_identifier('run', 'run')}, 'agent-server', {_identifier('org', 'tenant')},"
        f" {user}, created_at, NULL::timestamptz, false, NULL, NULL, {_identifier('org', 'tenant')}{more}"
        " FROM (SELECT *, lpad(to_hex((extract(epoch FROM created_at) * 1000)::bigint), 12, '0') AS moment"
        f" FROM ({source}) AS source) AS rows ORDER BY g"
    )


def _at(spacing: int) -> str:
    return f"'{population.BEGIN.isoformat()}'::timestamptz + g * interval '{spacing} microseconds'"


def _identifier(prefix: str, key: str) -> str:
    return f"'{prefix}-' || md5('{prefix}' || ({key}))::uuid"
