"""Clients of an application, which write and read while an operator's command runs: one process with many threads.

A client waits between two rounds, so that the clients leave the machine to the command and to the server. Times are of
the system's monotonic clock, which all processes share.
"""

import json
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Self

import psycopg
from sqlalchemy import create_engine, make_url
from sqlalchemy.orm import Session

from benchmarks.core.results import BenchmarkError
from benchmarks.data import rows as layouts
from provider_trace_store import ProviderTrace, ProviderTraceRepository
from provider_trace_store.schemas import new_trace_id

_PAUSE: Final = 0.05  # seconds
_ORGANIZATION: Final = "org-clients"
_BODY: Final[dict[str, Any]] = {"content": "small"}
_TEXT: Final = json.dumps(_BODY)
_INSERT: Final = (
    f"INSERT INTO {layouts.FULL.table} (id, organization_id, created_at, is_deleted, request_json, response_json)"
    " VALUES (%s, %s, %s, false, %s, %s)"
)
_READ: Final = f"SELECT request_json::text FROM {layouts.FULL.table} WHERE organization_id = %s AND id = %s"


@dataclass
class Clients:
    """A process of clients: a context manager.

    Args:
        url: the database.
        count: the number of clients.
        repository: whether every second client uses the repository; the others use psycopg, as all do in a database
            that was not migrated.
    """

    url: str
    count: int
    repository: bool
    _process: subprocess.Popen[str] = field(init=False, repr=False)
    _writes: list[tuple[float, float]] = field(init=False, repr=False)

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.scale.clients"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        if self._process.stdin is None or self._process.stdout is None:
            raise BenchmarkError("the clients have no pipes")
        # Through standard input, as other users may read a command line.
        self._process.stdin.write(json.dumps([self.url, self.count, self.repository]) + "\n")
        self._process.stdin.flush()
        if not self._process.stdout.readline():
            raise BenchmarkError("the clients did not start")
        return self

    def __exit__(self, *_: object) -> None:
        output = self._process.communicate()[0]
        if self._process.returncode:
            raise BenchmarkError("a client failed")
        self._writes = json.loads(output)

    def longest(self, began: float, ended: float) -> float:
        """Return the seconds of the longest write that was under way in a period; after the end of the block."""
        times = [seconds for start, seconds in self._writes if start < ended and start + seconds > began]
        if not times:
            raise BenchmarkError("no client wrote")
        return max(times)


def _serve(url: str, count: int, *, repository: bool) -> list[tuple[float, float]]:
    """Write and read until standard input ends; return the beginning and the seconds of each write."""
    writes: list[tuple[float, float]] = []
    failures: list[BaseException] = []
    ended = threading.Event()
    started = threading.Barrier(count + 1)

    def client(number: int) -> None:
        work = _with_repository if repository and number % 2 else _with_psycopg
        try:
            work(url, ended, started, writes)
        except Exception as error:  # noqa: BLE001  # of any kind, reported in the main thread
            failures.append(error)
            started.abort()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    started.wait()
    print("started", flush=True)
    sys.stdin.read()
    ended.set()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return writes


def _with_psycopg(
    url: str, ended: threading.Event, started: threading.Barrier, writes: list[tuple[float, float]]
) -> None:
    conninfo = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(conninfo, autocommit=True) as connection:
        started.wait()
        while not ended.wait(_PAUSE):
            trace_id = new_trace_id()
            began = time.monotonic()
            connection.execute(_INSERT, (trace_id, _ORGANIZATION, datetime.now(UTC), _TEXT, _TEXT))
            writes.append((began, time.monotonic() - began))
            if not connection.execute(_READ, (_ORGANIZATION, trace_id)).fetchone():
                raise BenchmarkError("a row was not read")


def _with_repository(
    url: str, ended: threading.Event, started: threading.Barrier, writes: list[tuple[float, float]]
) -> None:
    engine = create_engine(url, pool_size=1)
    with Session(engine) as session:
        repository = ProviderTraceRepository(session, organization_id=_ORGANIZATION)
        session.connection()
        session.rollback()
        started.wait()
        while not ended.wait(_PAUSE):
            trace = ProviderTrace(request_json=_BODY, response_json=_BODY)
            began = time.monotonic()
            repository.create(trace)
            session.commit()
            writes.append((began, time.monotonic() - began))
            if repository.get(trace.id) is None:
                raise BenchmarkError("a trace was not read")
            session.rollback()
    engine.dispose()


if __name__ == "__main__":
    address, number, packaged = json.loads(sys.stdin.readline())
    print(json.dumps(_serve(address, number, repository=packaged)))
