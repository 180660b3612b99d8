"""What memory a million traces from a generator take: each figure in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

from benchmarks.figures import Figure, Peak
from benchmarks.measure import BenchmarkError

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.bench import Bench


def figures() -> list[Figure]:
    """Return the figures of memory."""
    metadata = _peak(5_000, 1_000_000, metadata=True)
    return [
        Figure("memory-metadata", "peak memory, 1,000,000 metadata rows", metadata, 100, 40),
        Figure("memory-42kb", "peak memory, 20,000 traces of 42 KB", _peak(42_000, 20_000, metadata=False)),
    ]


def _peak(size: int, count: int, *, metadata: bool) -> Callable[[Bench], Peak]:
    def measure(bench: Bench) -> Peak:
        bench.empty()
        task = {
            # By its input, as a command line is everyone's to read.
            "url": bench.url.render_as_string(hide_password=False),
            "size": size,
            "count": bench.effort.of(count),
            "metadata": metadata,
        }
        process = subprocess.run(
            [sys.executable, "-m", "benchmarks.memory_process"],
            input=json.dumps(task),
            capture_output=True,
            check=False,
            text=True,
        )
        if process.returncode:
            raise BenchmarkError((process.stderr.strip().splitlines() or ["no output"])[-1])
        bench.empty()
        return Peak(**json.loads(process.stdout))

    return measure
