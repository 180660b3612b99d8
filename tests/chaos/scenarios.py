"""Scenarios: a fault is done to real processes and a real server, and the rows are counted at the end."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import NullPool, create_engine, text

from tests.chaos.client import A_THREAD, ORGANIZATION, numbered_id
from tests.support.constants import PATIENCE
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import URL

    from tests.support.throwaway import Throwaway

THREADS: Final = 2
NOWHERE: Final = "postgresql+psycopg://127.0.0.1:1/nothing?connect_timeout=2"
NUMBERS: Final = count(1)
# How far apart the traces of two processes are.
A_PROCESS: Final = A_THREAD * 100


@dataclass
class Outcome:
    """The result of a scenario.

    Args:
        fault: what was done.
        times: how often.
        accepted: the number of traces whose `submit` returned.
        stored: the number of rows at the end.
        missing: the number of accepted traces without a row.
        twice: the number of rows that are stored more than once.
        wrong: how many rows have other content than the submitted trace.
        unfinished: how many rows are stored although their `submit` was killed before it returned.
        dropped: how many the writers have counted as dropped.
        seconds: how long it took.
        notes: what else was counted.
    """

    fault: str
    times: str
    accepted: int = 0
    stored: int = 0
    missing: int = 0
    twice: int = 0
    wrong: int = 0
    unfinished: int = 0
    dropped: int = 0
    seconds: float = 0.0
    notes: dict[str, int] = field(default_factory=dict)

    @property
    def is_right(self) -> bool:
        """Whether every accepted trace is stored exactly once."""
        return not (self.missing or self.twice or self.wrong or self.dropped) and (
            self.stored == self.accepted + self.unfinished
        )


class Stage:
    """A server, a spool and processes that write.

    Args:
        server: a server that may be killed.
        directory: for everything else.
    """

    def __init__(self, server: Throwaway, directory: Path) -> None:
        self.server = server
        self.directory = directory
        self.spool = directory / "spool"
        self.url: URL = server.create_database(f"chaos_{next(NUMBERS)}_{os.getpid()}")
        self._numbers = count(0)
        self._forker = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.client"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, **task: Any) -> Process:
        """Start a process; keys that `task` lacks have the values of most scenarios."""
        number = next(self._numbers)
        name = str(self.directory / f"process-{number}")
        options = {"spool_dir": str(self.spool), "max_retry_delay": 0.5, "batch_age": 0.05, "block_timeout": 60}
        full = {
            "url": self.url.render_as_string(hide_password=False),
            "first": number * A_PROCESS,
            "threads": THREADS,
            "pause": 0.001,
            "log": f"{name}.log",
            "stats": f"{name}.stats",
            "stop": f"{name}.stop",
            "patience": PATIENCE,
            **task,
            "options": {**options, **task.get("options", {})},
        }
        assert self._forker.stdin is not None
        assert self._forker.stdout is not None
        self._forker.stdin.write(json.dumps(full) + "\n")
        self._forker.stdin.flush()
        return Process(int(self._forker.stdout.readline()), full)

    def drain(self) -> dict[str, int]:
        """Let one more process store the rows that the others left, and return its counters."""
        last = self.start(count=0)
        return last.finish()

    def outcome(self, fault: str, times: str, began: float) -> Outcome:
        """Count the accepted traces and the stored rows."""
        accepted: set[int] = set()
        for log in self.directory.glob("process-*.log*"):
            if not log.name.endswith((".messages", ".pids")):
                # The last line may have been cut by a kill, so it is left out.
                accepted.update(int(line) for line in log.read_text("ascii").split("\n")[:-1])
        engine = create_engine(self.url, poolclass=NullPool)
        with engine.connect() as connection:
            statement = text(
                "SELECT id, request_json ->> 'number', response_json ->> 'number', organization_id FROM provider_traces"
            )
            rows = connection.execute(statement).all()
        found = [row.id for row in rows]
        ids = {numbered_id(number) for number in accepted}
        wrong = sum(
            not (row[1] == row[2] and numbered_id(int(row[1])) == row.id and row.organization_id == ORGANIZATION)
            for row in rows
        )
        statistics = [json.loads(path.read_text("ascii")) for path in self.directory.glob("process-*.stats*")]
        return Outcome(
            fault,
            times,
            accepted=len(accepted),
            stored=len(found),
            missing=len(ids - set(found)),
            twice=len(found) - len(set(found)),
            wrong=wrong,
            unfinished=len(set(found) - ids),
            dropped=sum(one["dropped"] for one in statistics),
            seconds=time.monotonic() - began,
        )

    def close(self) -> None:
        """End the processes that still run."""
        assert self._forker.stdin is not None
        self._forker.stdin.close()
        self._forker.kill()
        self._forker.wait()
        if self._forker.stdout is not None:
            self._forker.stdout.close()


class Process:
    """A process that writes.

    Args:
        pid: its number.
        task: what it does.
    """

    def __init__(self, pid: int, task: dict[str, Any]) -> None:
        self.pid = pid
        self.task = task
        self.log = Path(task["log"])

    @property
    def is_alive(self) -> bool:
        """Whether the process still runs."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def wait_for_first(self) -> None:
        """Wait until the process has submitted a trace."""
        _wait(lambda: self.log.exists() and self.log.stat().st_size > 0)

    def kill(self) -> None:
        """Kill the process, and wait until it is gone."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        _wait(lambda: not self.is_alive)

    def finish(self) -> dict[str, int]:
        """Let the process end, and return its counters and those of its workers, added up."""
        Path(self.task["stop"]).touch()
        _wait(lambda: not self.is_alive)
        total: dict[str, int] = {}
        for path in Path(self.task["stats"]).parent.glob(f"{Path(self.task['stats']).name}*"):
            for name, value in json.loads(path.read_text("ascii")).items():
                total[name] = total.get(name, 0) + value
        return total


def _wait(condition: Callable[[], bool], seconds: float = PATIENCE + 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.005)


@contextmanager
def stage(server: Throwaway) -> Iterator[Stage]:
    """Make a stage, and clear it away."""
    directory = Path(tempfile.mkdtemp(prefix="chaos-"))
    made = Stage(server, directory)
    try:
        yield made
    finally:
        made.close()
        shutil.rmtree(directory, ignore_errors=True)


def kill_the_writer(server: Throwaway, rounds: int) -> Outcome:
    """Kill the process that writes at random moments, again and again on one spool."""
    began = time.monotonic()
    with stage(server) as here:
        for _ in range(rounds):
            process = here.start(threads=THREADS)
            process.wait_for_first()
            time.sleep(random.uniform(0, 0.6))  # noqa: S311  # a moment, no secret
            process.kill()
        here.drain()
        outcome = here.outcome("`kill -9` of the writing process, at a random moment", f"{rounds} rounds", began)
        # Each thread may be killed between what `submit` did and its return.
        assert outcome.unfinished <= rounds * THREADS
        return outcome


def kill_the_server(server: Throwaway, rounds: int) -> Outcome:
    """Kill the server's first process under load, and start it again."""
    began = time.monotonic()
    with stage(server) as here:
        process = here.start(pause=0.002)
        process.wait_for_first()
        for _ in range(rounds):
            time.sleep(random.uniform(0, 0.5))  # noqa: S311  # as above
            server.kill()
            server.start()
        process.finish()
        return here.outcome("`SIGKILL` of the postmaster under load, and a restart", f"{rounds} rounds", began)


def cut_connections(server: Throwaway, seconds: float) -> Outcome:
    """End the server's connections every 100 ms."""
    began = time.monotonic()
    with stage(server) as here:
        process = here.start(pause=0.002)
        process.wait_for_first()
        cut = 0
        engine = create_engine(here.url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
        statement = text(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        end = time.monotonic() + seconds
        with engine.connect() as connection:
            while time.monotonic() < end:
                cut += connection.scalar(statement) or 0
                time.sleep(0.1)
        process.finish()
        fault = "`pg_terminate_backend` of all connections every 100 ms"
        outcome = here.outcome(fault, f"{seconds:g} s", began)
        outcome.notes["connections cut"] = cut
        return outcome


def take_the_database_away(server: Throwaway, seconds: float) -> Outcome:
    """Stop the server for some time, under load."""
    began = time.monotonic()
    with stage(server) as here:
        process = here.start(pause=0.002)
        process.wait_for_first()
        server.kill()
        time.sleep(seconds)
        waiting = sum(1 for _ in here.spool.glob("*.db"))
        server.start()
        process.finish()
        outcome = here.outcome("the database away under load", f"{seconds:g} s", began)
        outcome.notes["files in the spool"] = waiting
        return outcome


def fill_the_disk(server: Throwaway, megabytes: int) -> Outcome:
    """Let the database be away until the spool's file system is full, and writes wait; needs the right to mount."""
    began = time.monotonic()
    with stage(server) as here:
        here.spool.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", here.spool], check=True)
        try:
            # So little memory that submits wait for room, too.
            process = here.start(pause=0.0, options={"max_queue_bytes": 500_000})
            process.wait_for_first()
            server.kill()
            _wait(lambda: shutil.disk_usage(here.spool).free < 2**16)
            # Waits are in the middle of it.
            time.sleep(1)
            server.start()
            time.sleep(1)
            process.finish()
            left = [path.name for path in here.spool.iterdir()]
        finally:
            subprocess.run(["umount", here.spool], check=True)
        messages = Path(f"{process.log}.messages").read_text("utf-8")
        outcome = here.outcome("the spool's disk full, the database away", f"{megabytes} MB", began)
        outcome.notes["times the spool was full"] = len(re.findall("the spool takes no more", messages))
        outcome.notes["files left"] = len(left)
        return outcome


def start_two_after_a_third(server: Throwaway, rounds: int) -> Outcome:
    """Start two processes at once on the spool of one that was killed while the database was away."""
    began = time.monotonic()
    both = 0
    with stage(server) as here:
        for _ in range(rounds):
            third = here.start(url=NOWHERE)
            third.wait_for_first()
            time.sleep(random.uniform(0, 0.3))  # noqa: S311  # as above
            third.kill()
            counters = [process.finish() for process in (here.start(count=5), here.start(count=5))]
            both += all(one["adopted"] for one in counters)
        here.drain()
        fault = "two processes start on the spool of a killed third"
        outcome = here.outcome(fault, f"{rounds} rounds", began)
        outcome.notes["rounds in which both took over"] = both
        return outcome


def kill_forked_workers(server: Throwaway, rounds: int) -> Outcome:
    """Kill the workers of a server that forks four of them from a process with a writer, each in turn."""
    began = time.monotonic()
    killed = 0
    with stage(server) as here:
        master = here.start(workers=4, threads=1, pause=0.002)
        pids = Path(f"{master.log}.pids")
        for _ in range(rounds):
            _wait(lambda: pids.exists() and len(pids.read_text("ascii").split()) == 4)  # as above
            for pid in pids.read_text("ascii").split():
                time.sleep(random.uniform(0, 0.4))  # noqa: S311  # as above
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
                    killed += 1
        master.finish()
        here.drain()
        fault = "four forked workers, each killed in turn"
        outcome = here.outcome(fault, f"{killed} kills", began)
        assert outcome.unfinished <= killed
        return outcome
