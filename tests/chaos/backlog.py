"""Measures a start with many files of dead processes: python -m tests.chaos.backlog 10000."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from uuid import uuid4

from sqlalchemy import NullPool, create_engine

from provider_trace_store import TraceWriter
from provider_trace_store.migrations import upgrade
from tests.support.constants import ORG
from tests.support.spools import left_behind
from tests.support.traces import a_batch, a_trace, trace_id
from tests.support.waiting import wait_until
from tests.support.writers import ids_in

_NEW = 999_999


def main(count: int) -> None:
    """Print how long the first new trace and a close take, and how many descriptors are open at most."""
    with tempfile.TemporaryDirectory() as folder:
        spool = Path(folder) / "spool"
        [file] = left_behind(spool, a_batch(1))
        for _ in range(count - 1):
            (spool / f"{uuid4().hex}-00000001.db").write_bytes(file.read_bytes())
        engine = create_engine(f"sqlite:///{folder}/store.db", poolclass=NullPool)
        with engine.connect() as connection:
            upgrade(connection)
        began = time.monotonic()
        writer = TraceWriter(engine, spool_dir=spool, handle_sigterm=False)
        writer.submit(a_trace(_NEW), organization_id=ORG)
        wait_until(lambda: trace_id(_NEW) in ids_in(engine.url))
        first = time.monotonic() - began
        most = 0
        end = time.monotonic() + 3
        while time.monotonic() < end:
            most = max(most, len(list(Path("/proc/self/fd").iterdir())) if os.name == "posix" else 0)
            time.sleep(0.01)
        began = time.monotonic()
        writer.close(1)
        print(  # noqa: T201  # a command that prints
            f"{count:,} files: the first new trace after {first:.2f} s, at most {most} descriptors,"
            f" close(1) in {time.monotonic() - began:.2f} s"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
