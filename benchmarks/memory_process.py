"""The process whose memory is measured: one `create_many` of a generator; its task comes as JSON on its input."""

from __future__ import annotations

import gc
import json
import re
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from benchmarks import conversations, raw
from benchmarks.measure import BenchmarkError, Stopwatch
from provider_trace_store import ProviderTraceRepository

if TYPE_CHECKING:
    from collections.abc import Iterator

    from provider_trace_store import ProviderTrace

_STATUS: Final = Path("/proc/self/status")
_CLEAR: Final = Path("/proc/self/clear_refs")
_DOCUMENTS: Final = 100


def main() -> None:
    """Write the traces and print what memory that took, as JSON."""
    task = json.load(sys.stdin)
    traces = _traces(task["size"], task["count"], metadata=task["metadata"])
    engine = create_engine(task["url"])
    with Session(engine) as session:
        repository = ProviderTraceRepository(session, organization_id=raw.ORGANIZATION, metadata_only=task["metadata"])
        session.connection()
        gc.collect()
        _forget_peak()
        before = _peak()
        with Stopwatch() as watch:
            result = repository.create_many(traces)
            session.commit()
        peak = _peak()
    engine.dispose()
    if result.created != task["count"]:
        raise BenchmarkError(f"{result.created} created, not {task['count']}")
    print(
        json.dumps({"megabytes": peak - before, "before": before, "traces": result.created, "seconds": watch.seconds})
    )


def _traces(size: int, count: int, *, metadata: bool) -> Iterator[ProviderTrace]:
    exchanges = conversations.exchanges(size, _DOCUMENTS)
    if metadata:
        # What writes no bodies need not be given new ones each time.
        return conversations.repeated(conversations.parsed(exchanges), count)
    return conversations.generated(exchanges, count)


def _forget_peak() -> None:
    """Let the peak begin anew at what is in use now, where the system can: imports have their own."""
    if _CLEAR.exists():
        _CLEAR.write_text("5", encoding="ascii")


def _peak() -> float:
    """Return the most memory that this process has held, in MB."""
    if _STATUS.exists():
        # Of this program alone, where the other one begins with what its parent took.
        found = re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text(encoding="ascii"))
        if found:
            return int(found[1]) * 1024 / 1e6
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / 1e6 if sys.platform == "darwin" else used * 1024 / 1e6


if __name__ == "__main__":
    main()
