"""Kills `export` and `import`, goes on each time, and counts the rows that are missing, doubled or different.

python -m tests.chaos.transfer --rounds 20
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import NullPool, create_engine, text
from sqlalchemy.orm import Session

from provider_trace_store import ProviderTraceRepository
from provider_trace_store.maintenance import pack
from tests.chaos.kills import kill_and_go_on
from tests.chaos.packing import call_of
from tests.support.constants import ORG
from tests.support.throwaway import throwaway

if TYPE_CHECKING:
    from sqlalchemy import URL, Engine

_BATCH: Final = 1_000
_DIGEST: Final = text(
    """
    SELECT id, organization_id, md5(row_to_json(full_row)::text) FROM provider_traces AS full_row
    UNION ALL
    SELECT id, organization_id, md5((to_jsonb(row) - 'pack_id')::text) FROM provider_trace_metadata AS row
    """
)
# Makes the file durable, and begins a frame, after each MB: otherwise a kill throws most of the work away.
_CODE: Final = """
from provider_trace_store.maintenance.transfer import sinks
from provider_trace_store.__main__ import main
sinks._DURABLE_AFTER = 1_000_000
main()
"""
_ENTRY: Final = ("-c", _CODE)


def fill(engine: Engine, traces: int) -> None:
    """Store traces of two organizations: full ones, packed ones and metadata."""
    for first in range(0, traces, _BATCH):
        calls = [call_of(number, number // 20) for number in range(first, min(first + _BATCH, traces))]
        with Session(engine) as session:
            ProviderTraceRepository(session, organization_id=ORG).create_many(calls[::2])
            ProviderTraceRepository(session, organization_id="org-x").create_many(calls[1::4])
            ProviderTraceRepository(session, organization_id="org-x", metadata_only=True).create_many(calls[3::4])
            session.commit()


def run_rounds(source: URL, target: URL, rounds: int, traces: int, seed: int) -> tuple[int, int, int]:
    """Return the number of rows, of missing and different ones, and of doubled ones.

    Args:
        source: of a migrated database that is filled here.
        target: of a migrated database without rows.
        rounds: how often each command is killed.
        traces: how many traces are transferred.
        seed: of the source of chance.
    """
    chance = random.Random(seed)  # noqa: S311  (a draw that can be repeated)
    engine, other = (create_engine(url, poolclass=NullPool) for url in (source, target))
    fill(engine, traces)
    before = _digests(engine)
    # Reading packed traces must give the same rows: the target gets them as full traces.
    pack(engine, organization_id="org-x", older_than=timedelta(), idle=timedelta())
    missing = doubled = 0
    with tempfile.TemporaryDirectory() as folder:
        file, complete = Path(folder) / "all.jsonl.zst", Path(folder) / "complete.jsonl.zst"

        def exported() -> None:
            file.replace(complete)

        def imported() -> None:
            nonlocal missing, doubled
            after = _digests(other)
            missing += len(set(before) ^ set(after))
            doubled += len(after) - len(set(after))
            with other.begin() as connection:
                connection.execute(text("TRUNCATE provider_traces, provider_trace_metadata, provider_trace_packs"))

        kill_and_go_on(
            ("export", str(file)), source, rounds, chance=chance, ended=exported, is_done=file.exists, entry=_ENTRY
        )
        kill_and_go_on(("import", str(complete)), target, rounds, chance=chance, ended=imported, entry=_ENTRY)
    return len(before), missing, doubled


def _digests(engine: Engine) -> list[tuple[str, str, str]]:
    with engine.connect() as connection:
        return [(row[0], row[1], row[2]) for row in connection.execute(_DIGEST)]


def main() -> int:
    """Run the command; 1 if a row is missing, different or doubled."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.transfer", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="how often each command is killed")
    parser.add_argument("--traces", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    began = time.monotonic()
    with throwaway() as server:
        databases = server.create_database("source"), server.create_database("target")
        rows, missing, doubled = run_rounds(*databases, options.rounds, options.traces, options.seed)
    line = f"{rows} rows, export and import killed {options.rounds} times each, {time.monotonic() - began:.0f} s"
    print(f"{line}: missing or different {missing}, doubled {doubled}", flush=True)  # noqa: T201  # a command that prints
    return int(bool(missing or doubled))


if __name__ == "__main__":
    sys.exit(main())
