"""What memory a million traces from a generator take: each figure in a process of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks import process
from benchmarks.figures import Figure, Peak

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
            "url": bench.url.render_as_string(hide_password=False),
            "size": size,
            "count": bench.effort.of(count),
            "metadata": metadata,
        }
        found = process.run("benchmarks.memory_process", task)
        bench.empty()
        return Peak(**found)

    return measure
