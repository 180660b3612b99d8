"""The process whose memory is measured: one `iter_metadata`; its task comes as JSON on its input."""

from __future__ import annotations

import gc
import json
import sys
from itertools import islice

from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from benchmarks import process
from benchmarks.measure import Stopwatch
from provider_trace_store import ProviderTraceRepository


def main() -> None:
    """Read the metadata and print what memory that took, as JSON."""
    task = json.load(sys.stdin)
    engine = create_engine(task["url"])
    with Session(engine) as session:
        repository = ProviderTraceRepository(session, organization_id=task["organization"])
        session.connection()
        gc.collect()
        process.forget_peak()
        before = process.peak()
        with Stopwatch() as watch:
            found = sum(1 for _ in islice(repository.iter_metadata(), task["count"]))
        peak = process.peak()
    engine.dispose()
    print(json.dumps({"megabytes": peak - before, "before": before, "traces": found, "seconds": watch.seconds}))


if __name__ == "__main__":
    main()
