"""The writer at a fork, at an exit and at SIGTERM, with real processes and real signals."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from typing import TYPE_CHECKING, Final

import pytest

from tests.support.constants import ORG, PATIENCE
from tests.support.paths import ROOT
from tests.support.traces import a_trace, trace_id
from tests.support.waiting import wait_until
from tests.support.writers import NOWHERE, a_writer, files_in, ids_in

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import URL

    from tests.support.servers import Database

BEGIN: Final = """
import os, signal, sys, threading, time, logging
logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(message)s")
from sqlalchemy import create_engine
from provider_trace_store import TraceWriter
from tests.support.constants import ORG, PATIENCE
from tests.support.traces import a_trace
url, spool, close_timeout = sys.argv[1:]
engine = create_engine(url)
options = {"max_retry_delay": 0.2, "batch_age": 3600, "close_timeout": float(close_timeout)}
if spool:
    options["spool_dir"] = spool

def say(*what):
    print(*what, flush=True)
"""


def start(
    script: str, url: URL | str, spool: Path | None = None, *, is_patched_first: bool = False
) -> subprocess.Popen[str]:
    """Start a process that runs a script, patched by gevent before its first import or not."""
    patch = "from gevent import monkey; monkey.patch_all()\n" if is_patched_first else ""
    shown = url if isinstance(url, str) else url.render_as_string(hide_password=False)
    # A database that takes traces gets the time that it needs; where there is none, the exit must not wait for long.
    close_timeout = 2.0 if isinstance(url, str) else PATIENCE
    return subprocess.Popen(
        [
            sys.executable,
            "-W",
            "error",
            "-c",
            patch + BEGIN + textwrap.dedent(script),
            shown,
            str(spool or ""),
            str(close_timeout),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(
    script: str, url: URL | str, spool: Path | None = None, status: int = 0, *, is_patched_first: bool = False
) -> str:
    """Run a script, and return what it printed."""
    process = start(script, url, spool, is_patched_first=is_patched_first)
    output, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == status, output + errors
    # What an extension module says of forks and threads is the script's own doing.
    assert "Error" not in errors, errors
    return output


def test_an_exit_stores_what_was_submitted(database: Database) -> None:
    run(
        """
        writer = TraceWriter(engine, **options)
        writer.submit(a_trace(1), organization_id=ORG)
        """,
        database.url,
    )
    assert ids_in(database.url) == [trace_id(1)]


def test_an_exit_by_an_error_stores_it_too(database: Database) -> None:
    process = start(
        """
        writer = TraceWriter(engine, **options)
        writer.submit(a_trace(1), organization_id=ORG)
        raise SystemExit(3)
        """,
        database.url,
    )
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 3
    assert ids_in(database.url) == [trace_id(1)]


def test_an_exit_waits_no_longer_than_it_may_and_says_what_is_lost() -> None:
    began = time.monotonic()
    output = run(
        """
        writer = TraceWriter(engine, **options)
        for number in range(3):
            writer.submit(a_trace(number), organization_id=ORG)
        """,
        NOWHERE,
    )
    assert time.monotonic() - began < PATIENCE
    assert "closed, and 3 traces were dropped" in output
    assert "hunter2" not in output


def test_an_exit_while_the_database_hangs_is_not_held_up(tmp_path: Path) -> None:
    script = """
        import socket
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        engine = create_engine(f"postgresql+psycopg://nobody@127.0.0.1:{port}/nothing?connect_timeout=100")
        writer = TraceWriter(engine, **(options | {"durability": "memory"} if spool else options))
        for number in range(3):
            writer.submit(a_trace(number), organization_id=ORG)
        threading.Thread(target=writer.flush, args=(100,), daemon=True).start()
        listener.accept()
        """
    began = time.monotonic()
    output = run(script, "sqlite://")
    assert "closed, and 3 traces were dropped" in output
    output = run(script, "sqlite://", tmp_path)
    assert "closed with 3 traces in the spool" in output
    assert time.monotonic() - began < PATIENCE


@pytest.mark.parametrize("durability", ["memory", "spool"])
def test_traces_that_an_exit_leaves_in_the_spool_are_stored_by_the_next_start(
    database: Database, tmp_path: Path, durability: str
) -> None:
    output = run(
        f"""
        writer = TraceWriter(engine, durability={durability!r}, **options)
        for number in range(3):
            writer.submit(a_trace(number), organization_id=ORG)
        """,
        NOWHERE,
        tmp_path,
    )
    assert "closed with 3 traces in the spool" in output
    assert len(files_in(tmp_path)) > 1
    run(
        "writer = TraceWriter(engine, **options)\nwhile writer.stats.stored < 3: time.sleep(0.01)",
        database.url,
        tmp_path,
    )
    assert ids_in(database.url) == [trace_id(number) for number in range(3)]
    assert files_in(tmp_path) == []


SIGTERM: Final = """
writer = TraceWriter(engine, **options)
for number in range(3):
    writer.submit(a_trace(number), organization_id=ORG)
say("ready")
time.sleep(PATIENCE)
say("never")
"""


def ended_by_another(process: subprocess.Popen[str]) -> bool:
    process.send_signal(signal.SIGTERM)
    return process.poll() is not None


def told_to_end(script: str, url: URL | str, *, again: bool = False) -> tuple[int, str]:
    process = start(script, url)
    assert process.stdout is not None
    while "ready" not in (line := process.stdout.readline()):
        assert line
    process.send_signal(signal.SIGTERM)
    # Until it ends: a signal that comes before the first one is handled is the same signal.
    if again:
        wait_until(lambda: ended_by_another(process))
    output, errors = process.communicate(timeout=PATIENCE)
    assert "Error" not in errors, errors
    return process.returncode, output


def test_sigterm_stores_what_was_submitted_and_ends_the_process_all_the_same(database: Database) -> None:
    status, output = told_to_end(SIGTERM, database.url)
    assert status == -signal.SIGTERM
    assert "never" not in output
    assert ids_in(database.url) == [trace_id(number) for number in range(3)]


def test_sigterm_waits_no_longer_than_it_may() -> None:
    began = time.monotonic()
    status, output = told_to_end(SIGTERM, NOWHERE)
    assert status == -signal.SIGTERM
    assert "closed, and 3 traces were dropped" in output
    assert time.monotonic() - began < PATIENCE


def test_a_second_sigterm_ends_it_at_once() -> None:
    began = time.monotonic()
    status, _ = told_to_end(
        SIGTERM.replace("**options", "**(options | {'close_timeout': 3600.0})"), NOWHERE, again=True
    )
    assert status == -signal.SIGTERM
    assert time.monotonic() - began < PATIENCE


def test_a_host_with_a_handler_of_its_own_keeps_it(database: Database) -> None:
    script = """
        def mine(*_):
            say("mine")
            raise SystemExit(7)

        signal.signal(signal.SIGTERM, mine)
        writer = TraceWriter(engine, **options)
        assert signal.getsignal(signal.SIGTERM) is mine
        writer.submit(a_trace(1), organization_id=ORG)
        say("ready")
        time.sleep(PATIENCE)
        """
    status, output = told_to_end(script, database.url)
    assert (status, output.strip()) == (7, "mine")
    assert ids_in(database.url) == [trace_id(1)]


def test_a_closed_writer_leaves_no_handler_behind(database: Database) -> None:
    output = run(
        """
        with TraceWriter(engine, **options) as writer:
            say(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)
        say(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)
        with TraceWriter(engine, handle_sigterm=False, **options) as writer:
            say(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)
        """,
        database.url,
    )
    assert output.split() == ["False", "True", "True"]


@pytest.mark.pgbouncer
@pytest.mark.parametrize("spools", [False, True], ids=["memory", "spool"])
def test_a_fork_gives_the_child_a_writer_of_its_own(database: Database, tmp_path: Path, *, spools: bool) -> None:
    output = run(
        """
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        options["batch_age"] = 0.01
        writer = TraceWriter(engine, **options)
        for number in range(50):
            writer.submit(a_trace(number), organization_id=ORG)
        writer.flush(PATIENCE)
        for number in range(50, 60):
            writer.submit(a_trace(number), organization_id=ORG)
        children = []
        for child in range(1, 5):
            pid = os.fork()
            if not pid:
                assert writer.stats.accepted == 0
                for number in range(child * 100, child * 100 + 50):
                    writer.submit(a_trace(number), organization_id=ORG)
                assert writer.flush(PATIENCE), writer.stats
                assert writer.stats.stored == 50, writer.stats
                # An ordinary exit, which closes whatever it can reach.
                sys.exit(0)
            children.append(pid)
            writer.submit(a_trace(60 + child), organization_id=ORG)
        for pid in children:
            assert os.waitpid(pid, 0)[1] == 0
        for number in range(70, 80):
            writer.submit(a_trace(number), organization_id=ORG)
        assert writer.flush(PATIENCE), writer.stats
        assert writer.stats.stored == 74, writer.stats
        say("done")
        """,
        database.url,
        tmp_path if spools else None,
    )
    assert "done" in output
    numbers = [*range(60), *range(61, 65), *range(70, 80), *(c * 100 + n for c in range(1, 5) for n in range(50))]
    assert ids_in(database.url) == sorted(trace_id(number) for number in numbers)
    assert files_in(tmp_path) == []


def test_forks_while_threads_submit_leave_nothing_locked(database: Database, tmp_path: Path) -> None:
    output = run(
        """
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        options["batch_age"] = 0.0
        writer = TraceWriter(engine, **options)
        ends = threading.Event()

        def submit(first):
            number = first
            while not ends.is_set():
                writer.submit(a_trace(number), organization_id=ORG)
                number += 1

        # Made before the forks: pydantic has locks of its own, which a fork can leave locked in the child.
        traces = [a_trace(child) for child in range(30)]
        threads = [threading.Thread(target=submit, args=(1_000_000 * number,)) for number in (1, 2)]
        for thread in threads:
            thread.start()
        for trace in traces:
            pid = os.fork()
            if not pid:
                signal.alarm(int(PATIENCE) + 60)
                writer.submit(trace, organization_id=ORG)
                os._exit(0 if writer.flush(PATIENCE) else 1)
            assert os.waitpid(pid, 0)[1] == 0
        ends.set()
        for thread in threads:
            thread.join()
        assert writer.flush(PATIENCE)
        stats = writer.stats
        assert stats.accepted == stats.stored, stats
        say("stored", stats.stored)
        """,
        database.url,
        tmp_path,
    )
    [stored] = re.findall(r"stored (\d+)", output)
    assert len(ids_in(database.url)) == int(stored) + 30


def test_a_parent_goes_on_with_its_spool_after_a_child_has_ended(database: Database, tmp_path: Path) -> None:
    run(
        """
        writer = TraceWriter(engine, **options)
        writer.submit(a_trace(0), organization_id=ORG)
        pid = os.fork()
        if not pid:
            sys.exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        for number in range(1, 10):
            writer.submit(a_trace(number), organization_id=ORG)
        os.kill(os.getpid(), signal.SIGKILL)
        """,
        NOWHERE,
        tmp_path,
        status=-signal.SIGKILL,
    )
    with a_writer(database, spool_dir=tmp_path) as writer:
        wait_until(lambda: writer.stats.stored == 10)
    assert ids_in(database.url) == [trace_id(number) for number in range(10)]


def test_a_child_that_multiprocessing_forks_may_write(database: Database) -> None:
    output = run(
        """
        import multiprocessing

        def work(number):
            writer.submit(a_trace(number), organization_id=ORG)
            assert writer.flush(PATIENCE)

        writer = TraceWriter(engine, **options)
        context = multiprocessing.get_context("fork")
        processes = [context.Process(target=work, args=(number,)) for number in range(3)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
            assert process.exitcode == 0
        say("done")
        """,
        database.url,
    )
    assert "done" in output
    assert ids_in(database.url) == [trace_id(number) for number in range(3)]


def test_a_closed_writer_leaves_no_thread_behind(database: Database) -> None:
    before = threading.enumerate()
    with a_writer(database) as writer:
        writer.submit(a_trace(1), organization_id=ORG)
        assert writer.flush(PATIENCE)
        assert len(threading.enumerate()) == len(before) + 1
    assert threading.enumerate() == before


@pytest.mark.parametrize("patched", ["before the import", "after the import", "after the writer", "after the fork"])
def test_a_gevent_process_stores_what_it_submits(database: Database, patched: str) -> None:
    pytest.importorskip("gevent")
    output = run(
        f"""
        import warnings
        warnings.simplefilter("ignore")
        patched = {patched!r}
        def patch(when):
            if patched == when:
                from gevent import monkey
                monkey.patch_all()
        patch("after the import")
        writer = TraceWriter(engine, **options)
        patch("after the writer")
        pid = os.fork()
        if pid:
            sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        patch("after the fork")
        import gevent
        import gevent.pool
        signal.alarm(int(PATIENCE))
        greenlets = [
            gevent.spawn(writer.submit, a_trace(number), organization_id=ORG) for number in range(20)
        ]
        gevent.joinall(greenlets, raise_error=True)
        assert writer.flush(PATIENCE), writer.stats
        writer.submit(a_trace(20), organization_id=ORG)
        """,
        database.url,
        is_patched_first=patched == "before the import",
    )
    assert "Error" not in output
    assert ids_in(database.url) == [trace_id(number) for number in range(21)]


@pytest.mark.parametrize("when", ["in a thread after the main thread", "at the exit", "at the exit, flushed"])
def test_a_first_submit_while_the_interpreter_ends_is_stored(database: Database, when: str) -> None:
    run(
        f"""
        import atexit
        writer = TraceWriter(engine, **options)

        def submit():
            writer.submit(a_trace(1), organization_id=ORG)
            if "flushed" in {when!r}:
                assert writer.flush(PATIENCE)

        def later():
            threading.main_thread().join()
            submit()

        if "thread" in {when!r}:
            threading.Thread(target=later).start()
        else:
            atexit.register(submit)
        """,
        database.url,
    )
    assert ids_in(database.url) == [trace_id(1)]
