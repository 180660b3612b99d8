"""What the figures of the writer have in common: a writer that has begun, and a directory for its spool."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks import raw
from benchmarks.bench import Load
from benchmarks.measure import BenchmarkError
from provider_trace_store import TraceWriter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.bench import Bench
    from provider_trace_store import ProviderTrace

# /tmp is memory on many systems, where a spool would be faster than it is, and not outlive what it is there for.
_DISK: Final = Path("/var/tmp")  # noqa: S108  (a directory of its own is made there)
_PATIENCE: Final = 120.0
_FIRST: Final = 20


@contextmanager
def spool_directory() -> Iterator[Path]:
    """Make a directory on a disk, and delete it with all that is in it."""
    parent = _DISK if _DISK.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="bench-spool-", dir=parent) as directory:
        yield Path(directory)


@contextmanager
def begun(bench: Bench, load: Load, *, durable: bool = False) -> Iterator[TraceWriter]:
    """Make a writer that waits for room, and close it.

    Args:
        bench: where it writes, into empty tables.
        load: what it is to write.
        durable: whether through the spool, else through memory.

    Yields:
        The writer, whose thread, connection and file are there: it has stored traces before.

    Raises:
        BenchmarkError: afterwards not all of the load is in the database.
    """
    with ExitStack() as stack:
        how: dict[str, Any] = {"durability": "memory", "on_full": "block", "block_timeout": _PATIENCE}
        if durable:
            how = {"durability": "spool", "spool_dir": stack.enter_context(spool_directory())}
        writer = stack.enter_context(TraceWriter(bench.engine, metadata_only=load.metadata, **how))
        [first] = bench.traces(Load(load.size, _FIRST, 1, load.metadata))
        for trace in first:
            submit(writer, trace)
        finish(writer)
        bench.empty()
        yield writer
        finish(writer)
        bench.expect(load, load.count)


def submit(writer: TraceWriter, trace: ProviderTrace) -> None:
    """Submit a trace of the benchmark's organization."""
    writer.submit(trace, organization_id=raw.ORGANIZATION)


def finish(writer: TraceWriter) -> None:
    """Wait until all that was submitted is stored.

    Raises:
        BenchmarkError: it is not.
    """
    if not writer.flush(_PATIENCE):
        raise BenchmarkError(f"not all was stored in {_PATIENCE:.0f} s: {writer.stats}")
