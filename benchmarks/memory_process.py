"""The process whose memory is measured: one `create_many` of a generator; its task comes as JSON on its input."""

from __future__ import annotations

import gc
import json
import sys
from typing import TYPE_CHECKING, Final

from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from benchmarks import conversations, process, raw
from benchmarks.measure import BenchmarkError, Stopwatch
from provider_trace_store import ProviderTraceRepository

if TYPE_CHECKING:
    from collections.abc import Iterator

    from provider_trace_store import ProviderTrace

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
        process.forget_peak()
        before = process.peak()
        with Stopwatch() as watch:
            result = repository.create_many(traces)
            session.commit()
        peak = process.peak()
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


if __name__ == "__main__":
    main()
