"""Kills `backfill` and `prune`, goes on each time, and counts the rows that are missing, left or doubled.

python -m tests.chaos.walks --rounds 20
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import NullPool, create_engine, text

from tests.chaos.kills import kill_and_go_on
from tests.support.throwaway import throwaway

if TYPE_CHECKING:
    from sqlalchemy import URL

# Old and young traces of three organizations take turns.
_FILL: Final = """
    INSERT INTO provider_traces (id, organization_id, created_at, run_id, step_id, agent_tags, request_json,
        response_json, is_deleted)
    SELECT 'provider_trace-' || md5(CAST(n AS text)), 'org-' || n % 3,
        now() - CASE WHEN n % 2 = 0 THEN interval '60 days' ELSE interval '2 days' END + n % 1000 * interval '1 second',
        'run-' || n / 20, 'step-' || n, '["a"]', '{}', '{}', n % 50 = 0
    FROM generate_series(1, :traces) AS n
"""
_COLUMNS: Final = "id, organization_id, created_at, run_id, step_id, CAST(agent_tags AS text), is_deleted"
# A tenth of the traces has a row of metadata before.
_COPIED: Final = f"""
    TRUNCATE provider_trace_metadata;
    INSERT INTO provider_trace_metadata ({_COLUMNS.replace("CAST(agent_tags AS text)", "agent_tags")})
    SELECT {_COLUMNS.replace("CAST(agent_tags AS text)", "agent_tags")} FROM provider_traces
    WHERE right(step_id, 1) = '7';
    ANALYZE
"""  # noqa: S608  (constants)
_NOT_COPIED: Final = f"""
    SELECT count(*) FROM (SELECT {_COLUMNS} FROM provider_traces EXCEPT SELECT {_COLUMNS} FROM provider_trace_metadata)
    AS missing
"""  # noqa: S608  (constants)
_TOO_MANY: Final = (
    "SELECT (SELECT count(*) FROM provider_trace_metadata) - (SELECT count(DISTINCT id) FROM provider_traces)"
)
_OLD: Final = "SELECT count(*) FROM provider_traces WHERE created_at < now() - interval '30 days'"
_YOUNG: Final = "SELECT count(*) FROM provider_traces WHERE created_at >= now() - interval '30 days'"


def run_rounds(url: URL, rounds: int, traces: int, seed: int) -> tuple[int, int]:
    """Return how many rows are missing, and how many there are that should not be.

    Args:
        url: of a migrated database without rows.
        rounds: how often each command is killed.
        traces: how many traces are stored; an even number.
        seed: of the source of chance.
    """
    chance = random.Random(seed)  # noqa: S311  (a draw that can be repeated)
    engine = create_engine(url, poolclass=NullPool)
    missing = too_many = 0

    def run(statement: str, **values: Any) -> None:
        with engine.begin() as connection:
            connection.execute(text(statement), values)

    def count(statement: str) -> int:
        with engine.connect() as connection:
            return int(connection.scalar(text(statement)) or 0)

    def copied() -> None:
        nonlocal missing, too_many
        missing += count(_NOT_COPIED)
        too_many += abs(count(_TOO_MANY))
        run(_COPIED)

    def pruned() -> None:
        nonlocal missing, too_many
        missing += traces // 2 - count(_YOUNG)
        too_many += count(_OLD)
        run("TRUNCATE provider_traces")
        run(_FILL, traces=traces)

    run(_FILL, traces=traces)
    run(_COPIED)
    kill_and_go_on(("backfill",), url, rounds, chance=chance, ended=copied)
    kill_and_go_on(("prune", "--older-than", "30d"), url, rounds, chance=chance, ended=pruned)
    return missing, too_many


def main() -> int:
    """Run the command; 1 if a row is missing, or is there that should not be."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.walks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="how often each command is killed")
    parser.add_argument("--traces", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    began = time.monotonic()
    with throwaway() as server:
        missing, too_many = run_rounds(server.create_database("walks"), options.rounds, options.traces, options.seed)
    line = f"{options.traces} traces, backfill and prune killed {options.rounds} times each"
    line += f", {time.monotonic() - began:.0f} s: missing {missing}, doubled or left {too_many}"
    print(line, flush=True)  # noqa: T201  # a command that prints
    return int(bool(missing or too_many))


if __name__ == "__main__":
    sys.exit(main())
