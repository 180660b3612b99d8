"""Kills `export` and `import`, goes on each time, and counts the rows that are missing, doubled or different.

python -m tests.chaos.transfer --rounds 20
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import NullPool, create_engine, text
from sqlalchemy.orm import Session

from provider_trace_store import ProviderTraceRepository
from provider_trace_store.maintenance import pack
from tests.chaos.packing import call_of
from tests.support.constants import ORG, PATIENCE
from tests.support.paths import ROOT
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
_COMMAND: Final = """
import sys
from provider_trace_store.maintenance.transfer import sinks
from provider_trace_store.__main__ import main
sinks._DURABLE_AFTER = int(sys.argv.pop(1))
main()
"""


def fill(engine: Engine, traces: int) -> None:
    """Store traces of two organizations: full ones, packed ones and metadata."""
    for first in range(0, traces, _BATCH):
        calls = [call_of(number, number // 20) for number in range(first, min(first + _BATCH, traces))]
        with Session(engine) as session:
            ProviderTraceRepository(session, organization_id=ORG).create_many(calls[::2])
            ProviderTraceRepository(session, organization_id="org-x").create_many(calls[1::4])
            ProviderTraceRepository(session, organization_id="org-x", metadata_only=True).create_many(calls[3::4])
            session.commit()


def run_rounds(source: URL, target: URL, rounds: int, traces: int, seed: int) -> tuple[int, int, int, int]:
    """Return the number of rows, of missing and different ones, of doubled ones, and of kills.

    Args:
        source: of a migrated database that is filled here.
        target: of a migrated database without rows.
        rounds: how often each command is killed, if it lasts that long.
        traces: how many traces are transferred.
        seed: of the source of chance.
    """
    chance = random.Random(seed)  # noqa: S311  (a draw that can be repeated)
    engine = create_engine(source, poolclass=NullPool)
    fill(engine, traces)
    before = _digests(engine)
    # Reading packed traces must give the same rows: the target gets them as full traces.
    pack(engine, organization_id="org-x", older_than=timedelta(), idle=timedelta())
    kills = 0
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "all.jsonl.zst"
        for command, url in (("export", source), ("import", target)):
            began = time.monotonic()
            _start(command, file, url, 1_000_000).wait()
            whole = time.monotonic() - began
            if command == "export":
                file.unlink()
            else:
                _empty(create_engine(target, poolclass=NullPool))
            for _ in range(rounds):
                process = _start(command, file, url, 1_000_000)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(chance.uniform(0.2, 1.1) * whole)
                if process.poll() is None:
                    process.kill()
                    kills += 1
                process.wait()
                if command == "export" and file.exists():
                    # Complete: the kills of the next rounds need another one.
                    file.unlink()
            if _start(command, file, url, 1_000_000).wait(PATIENCE):
                raise RuntimeError(f"{command} did not end well")
    after = _digests(create_engine(target, poolclass=NullPool))
    missing = len(set(before) - set(after)) + len(set(after) - set(before))
    return len(before), missing, len(after) - len(set(after)), kills


def _digests(engine: Engine) -> list[tuple[str, str, str]]:
    with engine.connect() as connection:
        return [(row[0], row[1], row[2]) for row in connection.execute(_DIGEST)]


def _empty(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("TRUNCATE provider_traces, provider_trace_metadata, provider_trace_packs"))


def _start(command: str, file: Path, url: URL, durable_after: int) -> subprocess.Popen[bytes]:
    variables = {"PROVIDER_TRACE_STORE_DATABASE_URL": url.render_as_string(hide_password=False)}
    return subprocess.Popen(
        [sys.executable, "-c", _COMMAND, str(durable_after), command, str(file)],
        cwd=ROOT,
        env=os.environ | variables,
        stdout=subprocess.DEVNULL,
    )


def main() -> int:
    """Run the command; 1 if a row is missing, different or doubled."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.transfer", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="how often each command is killed")
    parser.add_argument("--traces", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    began = time.monotonic()
    with throwaway() as server:
        databases = server.create_database("source"), server.create_database("target")
        rows, missing, doubled, kills = run_rounds(*databases, options.rounds, options.traces, options.seed)
    line = f"{rows} rows, {kills} kills, {time.monotonic() - began:.0f} s: missing or different {missing}"
    print(f"{line}, doubled {doubled}", flush=True)  # noqa: T201  # a command that prints
    return int(bool(missing or doubled))


if __name__ == "__main__":
    sys.exit(main())
