"""The process whose memory is measured: it submits while the database is away; its task comes as JSON on its input."""

from __future__ import annotations

import gc
import json
import socket
import sys
from contextlib import closing
from time import perf_counter, sleep
from typing import TYPE_CHECKING, Final

from sqlalchemy import URL, create_engine

from benchmarks import conversations, process
from benchmarks.measure import BenchmarkError
from benchmarks.writer_setup import spool_directory, submit
from provider_trace_store import TraceWriter

if TYPE_CHECKING:
    from provider_trace_store import WriterStats

_DOCUMENTS: Final = 100


def main() -> None:
    """Submit the traces and print what memory that took, as JSON."""
    task = json.load(sys.stdin)
    calls = conversations.parsed(conversations.exchanges(task["size"], _DOCUMENTS))
    with spool_directory() as directory, closing(socket.socket()) as nobody:
        # Its port is taken, and nothing listens there: each try to connect is refused at once.
        nobody.bind(("127.0.0.1", 0))
        url = URL.create("postgresql+psycopg", "nobody", host="127.0.0.1", port=nobody.getsockname()[1])
        engine = create_engine(url)
        gc.collect()
        process.forget_peak()
        before = process.peak()
        with TraceWriter(engine, spool_dir=directory, durability="memory") as writer:
            began = perf_counter()
            for number, trace in enumerate(conversations.repeated(calls, task["count"])):
                if (early := began + number / task["pace"] - perf_counter()) > 0:
                    sleep(early)
                submit(writer, trace)
            seconds = perf_counter() - began
            peak = process.peak()
            stats = writer.stats
        engine.dispose()
    _check(stats, task["count"])
    print(json.dumps({"megabytes": peak - before, "before": before, "traces": stats.accepted, "seconds": seconds}))


def _check(stats: WriterStats, count: int) -> None:
    if not stats.accepted == stats.queued + stats.spooled == count:
        raise BenchmarkError(f"not all of {count} wait: {stats}")


if __name__ == "__main__":
    main()
