"""Kills `pack` and `unpack` while clients write, and counts the traces that are lost, doubled or different.

python -m tests.chaos.packing --rounds 100
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

from provider_trace_store import (
    ProviderTrace,
    ProviderTraceConflictError,
    ProviderTraceRepository,
    ProviderTraceUnavailableError,
)
from tests.chaos.client import numbered_id
from tests.chaos.kills import PACK, is_free, started
from tests.chaos.packing_stall import measure_stall
from tests.support.constants import ORG
from tests.support.throwaway import throwaway
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import URL, Connection, Engine

# So that no two writers make the same trace.
_A_WRITER: Final = 1_000_000
_WRITERS: Final = 4
_BATCH: Final = 20
# A round's new calls go to as many runs, and to the runs of the rounds before.
_RUNS: Final = 8
# One round in so many kills `unpack`, in addition to those that kill `pack`.
_UNPACK_EVERY: Final = 6
# The time in which a kill at any moment comes, and after the first write of a transaction a kill that aims at it.
_ANY_SECONDS: Final = 1.0
_AIMED_SECONDS: Final = 0.02
_IN_TRANSACTION: Final = "in a transaction that had locked or written rows"
_ARGUMENTS: Final = {"pack": PACK, "unpack": ("unpack",), "verify": ("verify",)}
_Result = TypeVar("_Result")
_START: Final = datetime.now(UTC).replace(microsecond=0) - timedelta(days=2)
_ROWS: Final = "SELECT id FROM provider_traces UNION ALL SELECT id FROM provider_trace_metadata"
# The sessions of a command, without that which holds the advisory lock.
_SESSIONS: Final = text(
    "SELECT state, backend_xid IS NOT NULL AS has_written FROM pg_stat_activity"
    " WHERE application_name = :name AND query NOT LIKE '%pg_try_advisory_xact_lock%'"
)


@dataclass
class Findings:
    """What the rounds left behind.

    Args:
        traces: the number of traces that were sent.
        lost: traces that no read returns, or that a write did not find.
        doubled: traces with more than one row, in one table or in both.
        different: traces that are read with other content than was sent, or although they are deleted.
        other: unexpected errors and results, with their number.
        kills: how many commands were killed, by the command and by what it did at that moment.
        notes: how often a client sent again, and what the last commands left.
    """

    traces: int = 0
    lost: set[str] = field(default_factory=set)
    doubled: set[str] = field(default_factory=set)
    different: set[str] = field(default_factory=set)
    other: Counter[str] = field(default_factory=Counter)
    kills: Counter[tuple[str, str]] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)

    @property
    def is_right(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.lost or self.doubled or self.different or self.other)

    def killed(self, command: str, moment: str | None = None) -> int:
        """Return how often a command was killed, in all or at one kind of moment."""
        return sum(n for (each, at), n in self.kills.items() if each == command and moment in {None, at})

    def compare(self, sent: ProviderTrace, read: ProviderTrace | None) -> None:
        """Compare a trace that is read with what was sent."""
        if read is None:
            self.lost.add(sent.id)
        elif any(getattr(read, name) != getattr(sent, name) for name in sent.model_fields_set):
            self.different.add(sent.id)


def call_of(number: int, run: int) -> ProviderTrace:
    """Return a call whose content follows from its number and its run."""
    turns = [{"role": "user", "content": f"run {run}, turn {turn}: " + f"{run * turn} " * 20} for turn in range(8)]
    return ProviderTrace(
        id=numbered_id(number),
        request_json={"messages": turns, "number": number, "odd": "\0é\ud800" if number % 7 == 0 else 0.1},
        response_json={"text": f"answer {number}", "usage": {"total_tokens": number}},
        llm_config={"model": f"m-{run % 3}"} if number % 3 else None,
        agent_id=f"agent-{run % 5}",
        agent_tags=["a", str(number % 4)],
        step_id=f"step-{number}",
        run_id=f"run-{run}",
        # Some calls have the same date, and the calls of several writers mix.
        created_at=_START + timedelta(milliseconds=number % _A_WRITER // 2),
    )


class Writer:
    """A client that adds, deletes, restores and sends again its own traces, and keeps the ledger of them."""

    def __init__(self, engine: Engine, number: int, seed: int, findings: Findings) -> None:
        self._engine = engine
        self._chance = random.Random(seed * 100 + number)  # noqa: S311  (a draw that can be repeated)
        self._next = number * _A_WRITER
        self._findings = findings
        self.runs: dict[int, int] = {}
        self.deleted: set[int] = set()

    def write(self, round_number: int, count: int) -> None:
        """Add traces to the runs of this round and of earlier ones; change and read older ones in between."""
        end = self._next + count
        try:
            while self._next < end:
                self._add(round_number, min(self._chance.choice([1, 1, 3, _BATCH]), end - self._next))
                for _ in range(self._chance.randrange(4)):
                    self._change(self._chance.choice([*self.runs][-5 * count :]))
        except Exception as error:  # noqa: BLE001  # every error is a finding
            self._findings.other[f"{type(error).__name__}: {error}"[:300]] += 1

    def _add(self, round_number: int, count: int) -> None:
        numbers = range(self._next, self._next + count)
        runs = {n: max(0, round_number - self._chance.choice([0, 0, 1, 5])) * _RUNS + n % _RUNS for n in numbers}
        traces = [call_of(number, run) for number, run in runs.items()]

        def add(repository: ProviderTraceRepository) -> int:
            if count == 1:
                repository.create(traces[0])
                return 1
            return repository.create_many(traces).created

        if self._do(add) != count:
            self._findings.other["a new trace was not created"] += 1
        self._next += count
        self.runs |= runs

    def _change(self, number: int) -> None:
        trace = call_of(number, self.runs[number])
        is_deleted = number in self.deleted
        action = self._chance.choice(["mark", "send", "send other", "get"])
        if action == "mark":
            found = self._do(lambda one: one.restore(trace.id) if is_deleted else one.delete(trace.id))
            if not found:
                self._findings.lost.add(trace.id)
            self.deleted ^= {number}
        elif action == "get":
            read = self._do(lambda one: one.get(trace.id))
            if not is_deleted:
                self._findings.compare(trace, read)
            elif read is not None:
                self._findings.different.add(trace.id)
        else:
            is_other = action == "send other"
            sent = trace.model_copy(update={"response_json": {"other": number}}) if is_other else trace
            self._send_again(sent, is_refused=is_other or is_deleted)

    def _send_again(self, trace: ProviderTrace, *, is_refused: bool) -> None:
        if self._chance.random() < 0.5:
            result = self._do(lambda one: one.create_many([trace]))
            was_refused = any(isinstance(each.error, ProviderTraceConflictError) for each in result.rejected)
            if result.created:
                self._findings.doubled.add(trace.id)
        else:
            try:
                self._do(lambda one: one.create(trace))
                was_refused = False
            except ProviderTraceConflictError:
                was_refused = True
        if was_refused != is_refused:
            self._findings.other["sent again: " + ("refused" if was_refused else "taken, though other")] += 1

    def _do(self, action: Callable[[ProviderTraceRepository], _Result]) -> _Result:
        """Do something in a transaction of its own; again if the database could not do it now."""
        while True:
            try:
                with Session(self._engine) as session:
                    done = action(ProviderTraceRepository(session, organization_id=ORG))
                    session.commit()
                    return done
            except ProviderTraceUnavailableError as error:
                self._findings.notes[f"sent again after {error.sqlstate}"] += 1


def run_rounds(  # noqa: PLR0913  (each is an option of the command)
    url: URL, *, rounds: int, traces: int, seed: int, gets: int, unpack_every: int = _UNPACK_EVERY
) -> Findings:
    """Kill a command in each round while clients write; then pack what is left, and check every trace.

    Args:
        url: of a migrated database.
        rounds: how often `pack` is killed.
        traces: how many traces are written in all, about.
        seed: of the source of chance.
        gets: how many traces are read one by one; the pages of the runs have all of them.
        unpack_every: after so many rounds, one more kills `unpack`.
    """
    chance = random.Random(seed)  # noqa: S311  (a draw that can be repeated)
    findings = Findings()
    engine = create_engine(url, pool_size=_WRITERS + 1)
    writers = [Writer(engine, number, seed, findings) for number in range(_WRITERS)]
    commands = [
        command
        for number in range(1, rounds + 1)
        for command in ("pack", *(["unpack"] if number % unpack_every == 0 else []))
    ]
    count = max(1, traces // max(1, len(commands)) // _WRITERS)
    for round_number, command in enumerate(commands):
        threads = [threading.Thread(target=writer.write, args=(round_number, count)) for writer in writers]
        for thread in threads:
            thread.start()
        # A command that ends before the kill is followed by another one.
        name = f"chaos-{command}-{round_number}"
        while not _kill_one(engine, command, name, chance=chance, findings=findings):
            pass
        for thread in threads:
            thread.join()
    for command in ("pack", "verify"):
        wait_until(partial(is_free, engine))
        with started(_ARGUMENTS[command], url, command) as process:
            said = process.communicate()[0]
        findings.notes["left in the table after the last pack"] = _rows_left(engine)
        if process.returncode:
            findings.other[f"{command}: {said[-300:]}"] += 1
    _check(engine, writers, findings, chance, gets)
    engine.dispose()
    return findings


def _kill_one(engine: Engine, command: str, name: str, *, chance: random.Random, findings: Findings) -> bool:
    """Kill a command at any moment, or soon after a transaction of it has locked or written rows."""
    wait_until(partial(is_free, engine))
    with (
        started(_ARGUMENTS[command], engine.url, name) as process,
        engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection,
    ):
        wait_until(lambda: process.poll() is not None or _moment(connection, name) is not None)
        if chance.random() < 0.5:
            time.sleep(chance.random() ** 2 * _ANY_SECONDS)  # the moment of the kill is the matter of chance
        else:
            while process.poll() is None and _moment(connection, name) != _IN_TRANSACTION:
                time.sleep(0.001)  # transactions are short
            time.sleep(chance.random() * _AIMED_SECONDS)
        # Stopped, it cannot go on between the look and the kill.
        process.send_signal(signal.SIGSTOP)
        moment = _moment(connection, name)
        process.kill()
        process.wait()
    if process.returncode != -signal.SIGKILL:
        findings.notes[f"{command} ended before the kill: {process.returncode}"] += 1
        if process.returncode:
            findings.other[f"{command} failed: {process.returncode}"] += 1
        return False
    findings.kills[command, moment or "after its last transaction"] += 1
    return True


def _moment(connection: Connection, name: str) -> str | None:
    """Return what a command is doing; None before it has a session."""
    rows = connection.execute(_SESSIONS, {"name": name}).all()
    if any(row.has_written for row in rows):
        return _IN_TRANSACTION
    if any(row.state in {"active", "idle in transaction"} for row in rows):
        return "in a transaction that had read"
    return "between transactions: compressing, or at the start" if rows else None


def _check(engine: Engine, writers: list[Writer], findings: Findings, chance: random.Random, gets: int) -> None:
    sent = {numbered_id(number): (number, run) for one in writers for number, run in one.runs.items()}
    deleted = {numbered_id(number) for one in writers for number in one.deleted}
    findings.traces = len(sent)
    with engine.connect() as connection:
        rows = Counter(connection.scalars(text(_ROWS)))
    findings.lost |= sent.keys() - rows.keys()
    findings.doubled |= {trace_id for trace_id, count in rows.items() if count > 1}
    findings.other["rows of no trace"] += len(rows.keys() - sent.keys())
    findings.other += Counter()  # without the zeros
    with Session(engine) as session:
        repository = ProviderTraceRepository(session, organization_id=ORG)
        for trace_id in deleted:
            if repository.get(trace_id) is not None:
                findings.different.add(trace_id)
            if not repository.restore(trace_id):
                findings.lost.add(trace_id)
        session.commit()
        listed: Counter[str] = Counter()
        for run in sorted({run for _, run in sent.values()}):
            cursor, is_more = None, True
            while is_more:
                page = repository.list_by_run_id(f"run-{run}", limit=200, cursor=cursor)
                for trace in page.items:
                    listed[trace.id] += 1
                    findings.compare(call_of(*sent[trace.id]), trace)
                cursor = page.next_cursor
                is_more = cursor is not None
        findings.lost |= sent.keys() - listed.keys()
        findings.doubled |= {trace_id for trace_id, count in listed.items() if count > 1}
        for trace_id in chance.sample(sorted(sent), min(gets, len(sent))):
            findings.compare(call_of(*sent[trace_id]), repository.get(trace_id))


def _rows_left(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.scalar(text("SELECT count(*) FROM provider_traces")) or 0)


def main() -> int:
    """Run the command; 1 if a trace is lost, doubled or different."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.packing", description=__doc__)
    parser.add_argument("--rounds", type=int, default=100, help="how often pack is killed; 0: only the stall")
    parser.add_argument("--traces", type=int, default=50_000, help="in all rounds")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--gets", type=int, default=10_000, help="traces that are also read one by one")
    parser.add_argument("--stall", type=float, default=5, help="seconds of each of six turns of writes; 0: none")
    options = parser.parse_args()
    began = time.monotonic()
    with throwaway(fsync=True) as server:
        url = server.create_database("rounds")
        findings = run_rounds(url, rounds=options.rounds, traces=options.traces, seed=options.seed, gets=options.gets)
        _say(
            f"{options.rounds} rounds, {findings.traces} traces, {time.monotonic() - began:.0f} s: lost"
            f" {len(findings.lost)}, doubled {len(findings.doubled)}, different {len(findings.different)}"
        )
        for (command, moment), count in sorted(findings.kills.items()):
            _say(f"{command} killed {count} times {moment}")
        _say(f"notes: {dict(findings.notes)}; other: {dict(findings.other)}")
        for name, ids in (("lost", findings.lost), ("doubled", findings.doubled), ("different", findings.different)):
            if ids:
                _say(f"{name}: {sorted(ids)[:10]}")
        if options.stall:
            _say(str(measure_stall(server.create_database("stall"), options.stall)))
    return int(not findings.is_right)


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201  # a command that prints


if __name__ == "__main__":
    sys.exit(main())
