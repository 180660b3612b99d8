"""One bad trace among 100 good ones: the good ones are stored, the bad one is kept whole with its reason.

`python -m tests.chaos.isolation` draws faults, databases and ways to write, and prints one line for each fault.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from sqlalchemy import URL, NullPool, create_engine, event, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from provider_trace_store import (
    AsyncProviderTraceRepository,
    ProviderTraceRepository,
    ProviderTraceStoreError,
    TraceWriter,
    UnstorableTraceError,
)
from provider_trace_store.migrations import upgrade
from provider_trace_store.tables.kinds import kind_for
from provider_trace_store.tables.moments import sqlite_text
from provider_trace_store.tables.rows import DEFAULT_MAX_BODY_BYTES, RowMaker
from tests.chaos.faults import FAULTS
from tests.support.constants import OUR_TABLES, PATIENCE, TABLES
from tests.support.throwaway import throwaway
from tests.support.traces import a_trace

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlalchemy import Engine

    from tests.chaos.faults import Fault
    from tests.support.throwaway import Throwaway

GOOD: Final = 100
_TENANTS: Final = 10
_MAX_BODY_BYTES: Final = 100_000
_BAD_TENANT: Final = "org-of-the-bad-trace"
# How a round writes. The last two are writers; each keeps rejected traces in a spool.
_BULK: Final = ("create_many", "create_many_async", "create", "create_async")
_WRITERS: Final = ("writer_memory", "writer_spool")
_ASYNC_DRIVERS: Final = {"postgresql": ("psycopg", "asyncpg"), "sqlite": ("aiosqlite",)}


@dataclass
class Tally:
    """What the rounds of a fault left behind.

    Args:
        rounds: how many rounds ran.
        missing: good traces that are not stored.
        kept: bad traces that were kept whole, with their reason.
        problems: what each round did wrong.
    """

    rounds: int = 0
    missing: int = 0
    kept: int = 0
    problems: Counter[str] = field(default_factory=Counter)

    def __iadd__(self, other: Tally) -> Self:
        """Add what other rounds left behind."""
        self.rounds += other.rounds
        self.missing += other.missing
        self.kept += other.kept
        self.problems.update(other.problems)
        return self


@dataclass(frozen=True)
class Place:
    """A migrated database with the rules of one fault.

    Args:
        url: for the role that writes.
        owner: for the role that may see everything.
    """

    url: URL
    owner: URL

    @property
    def backend(self) -> str:
        """`postgresql` or `sqlite`."""
        return self.url.get_backend_name()


class Round:
    """One bad trace among good ones, written in one way.

    Args:
        place: the database.
        fault: what is wrong with the bad trace.
        way: how the traces are written.
        first: the number of the first trace.
        chance: draws the position of the bad trace and the table.
    """

    def __init__(self, place: Place, fault: Fault, way: str, first: int, chance: random.Random) -> None:
        self._place = place
        self.way = way
        self._fault = fault
        self._chance = chance
        self.metadata_only = not fault.only_full and chance.random() < 0.3
        position = chance.randrange(GOOD + 1)
        self.bad = a_trace(first + position, **fault.fields)
        self.good = [a_trace(first + at, source="good") for at in range(GOOD + 1) if at != position]
        self.traces = [*self.good[:position], self.bad, *self.good[position:]]

    def run(self) -> tuple[int, list[str]]:
        """Write the traces; return how many good ones are missing, and what is wrong with what is said of the bad one.

        Every problem is a text without ids, so that equal problems can be counted.
        """
        if self._fault.earlier is not None:
            self._store_earlier(self._fault.earlier)
        problems = self._write_through_writer() if self.way in _WRITERS else self._judge(asyncio.run(self._write()))
        stored = self._stored()
        if self.bad.id in stored and not self._fault.same_id:
            problems.append("the bad trace is stored")
        return sum(trace.id not in stored for trace in self.good), problems

    def _store_earlier(self, fields: Any) -> None:
        earlier = a_trace(int(self.bad.id.split("-")[1], 16), **fields)
        if not self._fault.same_id:
            earlier = a_trace(_FIRST_OF_EARLIER, **fields)
        with Session(_engine(self._place.owner)) as session, session.begin():
            repository = ProviderTraceRepository(
                session, organization_id="org-of-the-earlier", metadata_only=self.metadata_only
            )
            repository.create_many([earlier])

    async def _write(self) -> list[tuple[str, ProviderTraceStoreError]]:
        if not self.way.endswith("async"):
            with Session(_engine(self._place.url)) as session:
                return self._write_sync(session)
        driver = self._chance.choice(_ASYNC_DRIVERS[self._place.backend])
        engine = create_async_engine(
            self._place.url.set(drivername=f"{self._place.backend}+{driver}"), poolclass=NullPool
        )
        _enforce_foreign_keys(engine.sync_engine)
        refused = []
        async with AsyncSession(engine) as session:
            repository = AsyncProviderTraceRepository(
                session, organization_id="org-1", metadata_only=self.metadata_only, max_body_bytes=_MAX_BODY_BYTES
            )
            if self.way == "create_many_async":
                result = await repository.create_many(self.traces)
                refused = [(one.trace_id, one.error) for one in result.rejected]
            for trace in self.traces if self.way == "create_async" else ():
                try:
                    await repository.create(trace)
                except ProviderTraceStoreError as error:
                    refused.append((trace.id, error))
            await session.commit()
        await engine.dispose()
        return refused

    def _write_sync(self, session: Session) -> list[tuple[str, ProviderTraceStoreError]]:
        repository = ProviderTraceRepository(
            session, organization_id="org-1", metadata_only=self.metadata_only, max_body_bytes=_MAX_BODY_BYTES
        )
        refused = []
        if self.way == "create_many":
            result = repository.create_many(self.traces)
            refused = [(one.trace_id, one.error) for one in result.rejected]
        for trace in self.traces if self.way == "create" else ():
            try:
                repository.create(trace)
            except ProviderTraceStoreError as error:
                refused.append((trace.id, error))
        session.commit()
        return refused

    def _judge(self, refused: Sequence[tuple[str, ProviderTraceStoreError]]) -> list[str]:
        """Return what is wrong with the errors: one for the bad trace, which names it."""
        problems = [
            f"refused a good trace: {type(error).__name__}" for trace_id, error in refused if trace_id != self.bad.id
        ]
        errors = [error for trace_id, error in refused if trace_id == self.bad.id]
        if len(errors) != 1:
            problems.append(f"{len(errors)} errors for the bad trace")
        for error in errors:
            # A single `create` has no other rows to compare with: it may call a state of the server what is one.
            if not isinstance(error, UnstorableTraceError) and not self.way.startswith("create_many"):
                continue
            if not isinstance(error, UnstorableTraceError):
                problems.append(f"not a fault of the trace: {type(error).__name__}")
            if self.bad.id not in str(error):
                problems.append(f"does not name the trace: {type(error).__name__}")
            if self._fault.sqlstate not in {None, getattr(error, "sqlstate", None)}:
                problems.append(f"does not tell the SQLSTATE: {type(error).__name__}")
        return problems

    def _write_through_writer(self) -> list[str]:
        refused: list[tuple[str, ProviderTraceStoreError]] = []
        with tempfile.TemporaryDirectory() as directory:
            writer = TraceWriter(
                _engine(self._place.url),
                metadata_only=self.metadata_only,
                spool_dir=directory,
                durability="spool" if self.way == "writer_spool" else "memory",
                max_body_bytes=_MAX_BODY_BYTES,
                max_retry_delay=0.1,
                batch_age=0.05,
                handle_sigterm=False,
                on_rejected=lambda trace_id, error: refused.append((trace_id, error)),
            )
            for number, trace in enumerate(self.traces):
                tenant = _BAD_TENANT if trace is self.bad else f"org-{number % _TENANTS}"
                writer.submit(trace, organization_id=tenant)
            problems = [] if writer.flush(PATIENCE / 5) else ["flush did not end"]
            writer.close(1)
            problems += self._judge(refused)
            return problems + self._judge_rejects(Path(directory) / "rejected.db")

    def _judge_rejects(self, path: Path) -> list[str]:
        """Return what is missing in the spool's row of the bad trace."""
        if not path.exists():
            return ["no rejected.db"]
        with closing(sqlite3.connect(path)) as connection:
            connection.row_factory = sqlite3.Row
            rows = connection.execute("SELECT * FROM rejected_traces WHERE id = ?", (self.bad.id,)).fetchall()
        if len(rows) != 1:
            return [f"{len(rows)} rows in rejected.db"]
        kept, whole = dict(rows[0]), self._whole()
        return [f"{name} is not kept" for name, value in whole.items() if _as_text(kept[name]) != _as_text(value)]

    def _whole(self) -> dict[str, Any]:
        """Return the values that the spool must keep of the bad trace, by column."""
        kind = kind_for(metadata_only=self.metadata_only)
        if self._fault.is_unencodable:
            return {"organization_id": _BAD_TENANT, "run_id": self.bad.run_id, "source": self.bad.source}
        row = RowMaker(kind.layout, _BAD_TENANT, None, DEFAULT_MAX_BODY_BYTES).make(self.bad)
        return dict(zip(kind.row_columns, row.values, strict=True))

    def _stored(self) -> set[str]:
        with _engine(self._place.owner).connect() as connection:
            statement = text(f"SELECT id FROM {TABLES[self.metadata_only]}")  # noqa: S608  (our own names)
            return set(connection.scalars(statement))


_FIRST_OF_EARLIER: Final = 2**31


def run_faults(place: Place, faults: Sequence[Fault], numbers: Iterator[int], chance: random.Random) -> Tally:
    """Run a round of each fault in the database that they share."""
    tally = Tally()
    for fault in faults:
        ways = _WRITERS if fault.at_commit else _BULK + _WRITERS
        one = Round(place, fault, chance.choice(ways), next(numbers), chance)
        tally.rounds += 1
        try:
            missing, problems = one.run()
        except Exception as error:  # noqa: BLE001  # every error is a finding
            missing, problems = GOOD, [type(error).__name__]
        tally.missing += missing
        tally.kept += not problems
        tally.problems.update(f"{one.way}: {problem}" for problem in problems)
    return tally


@contextmanager
def a_place(server: Throwaway | None, fault: Fault, name: str) -> Iterator[Place]:
    """Make a database with the rules of a fault; None for the server: of SQLite."""
    if server is None:
        with tempfile.TemporaryDirectory() as directory:
            url = URL.create("sqlite", database=str(Path(directory) / "traces.db"))
            with _engine(url).connect() as connection:
                upgrade(connection)
            _install(url, fault)
            yield Place(url, url)
        return
    owner = server.create_database(name)
    _install(owner, fault)
    try:
        yield Place(owner.set(username="app"), owner)
    finally:
        server.drop_database(name)


def _as_text(value: object) -> object:
    """Return a value as SQLite's text, in which it may be stored."""
    if isinstance(value, datetime):
        return sqlite_text(value)
    return value.decode() if isinstance(value, bytes) else value


def _install(url: URL, fault: Fault) -> None:
    with _engine(url).begin() as connection:
        if url.get_backend_name() == "postgresql":
            connection.exec_driver_sql(f"GRANT SELECT, INSERT, UPDATE ON {', '.join(sorted(OUR_TABLES))} TO app")
        for table in sorted(OUR_TABLES):
            for rule in fault.rules(table):
                connection.exec_driver_sql(rule.replace("%", "%%"))


def _engine(url: URL) -> Engine:
    engine = create_engine(url, poolclass=NullPool)
    _enforce_foreign_keys(engine)
    return engine


def _enforce_foreign_keys(engine: Engine) -> None:
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA foreign_keys = ON"))


def campaign(rounds: int, seed: int, only: str = "") -> Iterator[tuple[str, Tally]]:
    """Run rounds of every fault, in every database that has it, and yield a name and a tally for each."""
    chance = random.Random(seed)  # noqa: S311  (a draw that can be repeated)
    cases = [(backend, fault) for fault in FAULTS if only in fault.name for backend in fault.backends]
    drawn = [cases[number * len(cases) // rounds] for number in range(rounds)]
    places: dict[tuple[str, Any], list[Fault]] = {}
    for backend, fault in drawn if rounds >= len(cases) else chance.sample(cases, rounds):
        places.setdefault((backend, fault.rules), []).append(fault)
    numbers = count(1, GOOD + 1)
    with throwaway() as server:
        with _engine(server.url).begin() as connection:
            connection.exec_driver_sql("CREATE ROLE app LOGIN")
        for at, ((backend, _), faults) in enumerate(places.items()):
            with a_place(server if backend == "postgresql" else None, faults[0], f"fault_{at}") as place:
                for name, group in groupby(faults, lambda fault: fault.name):
                    yield f"{backend}: {name}", run_faults(place, [*group], numbers, chance)


def main() -> int:
    """Run the command; 1 if a good trace was not stored, or a bad one not kept."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.isolation", description=__doc__)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="faults whose name holds this text")
    options = parser.parse_args()
    logging.disable()
    total = Tally()
    began = time.monotonic()
    for name, tally in campaign(options.rounds, options.seed, options.only):
        is_right = tally.kept == tally.rounds and not tally.missing
        print("ok " if is_right else "BAD", name, tally.rounds, tally.missing, dict(tally.problems) or "", flush=True)  # noqa: T201  # a command that prints
        total += tally
    print(  # noqa: T201  # a command that prints
        f"{total.rounds} rounds of one bad trace among {GOOD} good ones, {time.monotonic() - began:.0f} s: "
        f"good ones not stored {total.missing}, bad ones kept whole with their reason {total.kept}"
    )
    return int(total.kept != total.rounds or total.missing > 0)


if __name__ == "__main__":
    sys.exit(main())
