"""A process that writes traces until it is killed, and a process that forks such processes."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, NoReturn

from sqlalchemy import create_engine

from provider_trace_store import ProviderTrace, TraceWriter

ORGANIZATION: Final = "org-chaos"
# So that no two processes, and no two threads of one, make the same trace.
A_THREAD: Final = 1_000_000
# Of a body, in characters.
BODY: Final = 3_000


def numbered_id(number: int) -> str:
    """Return the id of a trace."""
    return f"provider_trace-{number:08x}-0000-7000-8000-{number:012x}"


def numbered_trace(number: int) -> ProviderTrace:
    """Return a trace whose content tells its number."""
    return ProviderTrace(
        id=numbered_id(number),
        request_json={"number": number, "text": f"{number} " * (BODY // 8)},
        response_json={"number": number},
        step_id=f"step-{number}",
    )


def run(task: dict[str, Any]) -> None:
    """Write traces as a task says.

    Args:
        task: `url`; `options` of the writer; `first`, the number of the first trace; `threads`; `pause` between two
            traces, in seconds; `log`, where the number of each trace goes when `submit` has returned; `stop`, a file
            that ends it, or `count`, how many traces each thread writes; `patience` for the flush at the end, in
            seconds; `stats`, where the counters go then; `workers`, how many forked processes do it, if any.
    """
    logging.basicConfig(filename=task["log"] + ".messages", level=logging.INFO)
    writer = TraceWriter(create_engine(task["url"]), **task["options"])
    if task.get("workers"):
        _fork_workers(writer, task)
    _write_with(writer, task)


def _write_with(writer: TraceWriter, task: dict[str, Any]) -> None:
    log = os.open(task["log"], os.O_APPEND | os.O_CREAT | os.O_WRONLY)
    stop = Path(task["stop"])

    def write(first: int) -> None:
        number = first
        while number < first + task.get("count", A_THREAD) and not stop.exists():
            writer.submit(numbered_trace(number), organization_id=ORGANIZATION)
            # One write, which a kill leaves out or does not.
            os.write(log, b"%d\n" % number)
            number += 1
            time.sleep(task["pause"])

    threads = [
        threading.Thread(target=write, args=(task["first"] + A_THREAD * number,)) for number in range(task["threads"])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    end = time.monotonic() + task["patience"]
    writer.flush(task["patience"])
    # Files of dead processes are taken over after a while; a flush does not wait for their rows.
    while writer.stats.spooled and time.monotonic() < end:
        time.sleep(0.01)
    writer.close(5)
    Path(task["stats"]).write_text(json.dumps(asdict(writer.stats)), encoding="ascii")


def _fork_workers(writer: TraceWriter, task: dict[str, Any]) -> NoReturn:
    """Fork workers as a server does, and a new one for each that dies, until the file `stop` is there."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    stop = Path(task["stop"])
    alive: set[int] = set()
    number = 0
    while alive or not stop.exists():
        while len(alive) < task["workers"] and not stop.exists():
            mine = {name: f"{task[name]}.{number}" for name in ("log", "stats")}
            first = task["first"] + number * A_THREAD * task["threads"]
            pid = os.fork()
            if not pid:
                _write_with(writer, {**task, **mine, "first": first})
                os._exit(0)
            alive.add(pid)
            number += 1
            Path(f"{task['log']}.pids").write_text(" ".join(map(str, alive)), encoding="ascii")
        pid, _ = os.waitpid(-1, os.WNOHANG) if alive else (0, 0)
        alive.discard(pid)
        if pid:
            Path(f"{task['log']}.pids").write_text(" ".join(map(str, alive)), encoding="ascii")
        time.sleep(0.01)
    writer.close(5)
    os._exit(0)


def main() -> None:
    """Fork a process for each task that comes on the input, and print its number."""
    # The processes are not waited for: a scenario that kills one checks that it is gone.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            status = 1
            try:
                run(json.loads(line))
                status = 0
            finally:
                sys.stderr.flush()
                os._exit(status)
        print(pid, flush=True)  # noqa: T201  # read by the process that wrote the task


if __name__ == "__main__":
    main()
