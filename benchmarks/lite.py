"""SQLite: the same calls beside `sqlite3` with ready-made rows, on a file of its own."""

from __future__ import annotations

import json
import sqlite3
import tempfile
from contextlib import closing, contextmanager
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.orm import Session

from benchmarks import raw
from benchmarks.bench import Bench, Load
from benchmarks.bulk import METADATA, MIDDLE, expect, scaled
from benchmarks.figures import Figure
from benchmarks.measure import BenchmarkError, Comparison, Contender, Sample, Stopwatch, alternate
from provider_trace_store import ProviderTraceRepository
from provider_trace_store.migrations import upgrade

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from provider_trace_store import ProviderTrace

    Batches = list[list[ProviderTrace]]

_CALLS: Final = 300
# As on the server: no waiting for the disk on either side.
_PRAGMAS: Final = ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = OFF")


class _File:
    """A migrated file, and both sides' way to it."""

    def __init__(self, path: Path, engine: Engine, connection: sqlite3.Connection) -> None:
        self.path = path
        self.engine = engine
        self.connection = connection

    def empty(self) -> None:
        for layout in (raw.FULL, raw.METADATA):
            self.connection.execute(f"DELETE FROM {layout.table}")  # noqa: S608  (a name of our own)
        self.connection.commit()
        self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def expect(self, load: Load) -> None:
        [found] = self.connection.execute(f"SELECT count(*) FROM {load.layout.table}").fetchone()  # noqa: S608  (as above)
        if found != load.count:
            raise BenchmarkError(f"{load.layout.table} has {found} rows, not {load.count}")


def figures() -> list[Figure]:
    """Return the figures of SQLite."""
    bulk = "SQLite create_many, {}, of raw executemany"
    return [
        Figure("sqlite-bulk-metadata", bulk.format("metadata"), _bulk(METADATA)),
        Figure("sqlite-bulk-42kb", bulk.format("42 KB"), _bulk(MIDDLE)),
        Figure("sqlite-create-42kb", "SQLite create + commit, 42 KB, of raw INSERT + COMMIT", _create),
        Figure("sqlite-get-42kb", "SQLite get, 42 KB, of raw SELECT + json.loads", _get),
    ]


@contextmanager
def _file() -> Iterator[_File]:
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        path = Path(directory) / "bench.db"
        engine = create_engine(f"sqlite:///{path}")
        event.listen(engine, "connect", lambda connection, _: _set_up(connection))
        try:
            with engine.connect() as connection:
                upgrade(connection)
            with closing(sqlite3.connect(path)) as ready:
                _set_up(ready)
                yield _File(path, engine, ready)
        finally:
            engine.dispose()


def _set_up(connection: Any) -> None:  # noqa: ANN401  (SQLAlchemy's is a wrapper)
    for pragma in _PRAGMAS:
        connection.execute(pragma)


def _bulk(load: Load) -> Callable[[Bench], Comparison]:
    def measure(bench: Bench) -> Comparison:
        part = scaled(bench, load)
        with _file() as file:

            def ours(_: int) -> Sample:
                file.empty()
                batches = bench.traces(part)
                with Session(file.engine) as session:
                    repository = _repository(session, part)
                    results = []
                    with Stopwatch() as watch:
                        for batch in batches:
                            with session.begin():
                                results.append(repository.create_many(batch))
                expect(results, created=part.count)
                file.expect(part)
                return bench.sample(part, watch.seconds)

            def rows(_: int) -> Sample:
                file.empty()
                batches = [[raw.for_sqlite(row) for row in batch] for batch in bench.ready(part).rows()]
                with Stopwatch() as watch:
                    for batch in batches:
                        file.connection.executemany(part.layout.insert_sqlite, batch)
                        file.connection.commit()
                file.expect(part)
                return bench.sample(part, watch.seconds)

            others = [Contender("raw executemany", rows)]
            return alternate(Contender("create_many", ours), others, bench.effort.rounds)

    return measure


def _create(bench: Bench) -> Comparison:
    load = _load(bench)
    with _file() as file:

        def ours(_: int) -> Sample:
            file.empty()
            [traces] = bench.traces(load)
            with Session(file.engine) as session:
                repository = _repository(session, load)
                with Stopwatch() as watch:
                    for trace in traces:
                        with session.begin():
                            repository.create(trace)
            file.expect(load)
            return bench.sample(load, watch.seconds)

        def ready(_: int) -> Sample:
            file.empty()
            [rows] = [[raw.for_sqlite(row) for row in batch] for batch in bench.ready(load).rows()]
            with Stopwatch() as watch:
                for row in rows:
                    file.connection.execute(load.layout.insert_sqlite, row)
                    file.connection.commit()
            file.expect(load)
            return bench.sample(load, watch.seconds)

        others = [Contender("raw INSERT, ready-made JSON", ready)]
        return alternate(Contender("create", ours), others, bench.effort.rounds)


def _get(bench: Bench) -> Comparison:
    load = _load(bench)
    statement = load.layout.select_sqlite
    request, response = (load.layout.place(name) for name in raw.BODIES)
    with _file() as file:
        [rows] = [[raw.for_sqlite(row) for row in batch] for batch in bench.ready(load).rows()]
        file.connection.executemany(load.layout.insert_sqlite, rows)
        file.connection.commit()
        place = load.layout.names.index("id")
        ids = [row[place] for row in rows]

        def ours(number: int) -> Sample:
            wanted = Random(number).sample(ids, len(ids))
            with Session(file.engine) as session:
                repository = _repository(session, load)
                with Stopwatch() as watch:
                    found = [repository.get(trace_id) is not None for trace_id in wanted]
            return _read(watch.seconds, found)

        def text(number: int) -> Sample:
            wanted = Random(number).sample(ids, len(ids))
            found = []
            with Stopwatch() as watch:
                for trace_id in wanted:
                    row = file.connection.execute(statement, (trace_id, raw.ORGANIZATION)).fetchone()
                    found.append(bool(json.loads(row[request])) and bool(json.loads(row[response])))
            return _read(watch.seconds, found)

        def _read(seconds: float, found: list[bool]) -> Sample:
            if not all(found):
                raise BenchmarkError("a stored trace was not found")
            return bench.sample(load, seconds)

        others = [Contender("raw SELECT + json.loads", text)]
        return alternate(Contender("get", ours), others, bench.effort.rounds)


def _load(bench: Bench) -> Load:
    return Load(MIDDLE.size, bench.effort.of(_CALLS, at_least=10), 1)


def _repository(session: Session, load: Load) -> ProviderTraceRepository:
    return ProviderTraceRepository(session, organization_id=raw.ORGANIZATION, metadata_only=load.metadata)
