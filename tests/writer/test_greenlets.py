"""Greenlets that gevent kills inside of `submit`, at each point where they give way to others."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Final

import pytest

from tests.support.constants import PATIENCE
from tests.support.paths import ROOT
from tests.support.writers import ids_in

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.servers import Database

pytest.importorskip("gevent", reason="the servers are not among the lowest versions")

# Each lock gives way before it is taken, as a contended one does. Round N kills the victim when it gives way for the
# N-th time, until a victim ends before that.
SCRIPT: Final = """
from gevent import monkey
monkey.patch_all()
import gevent, gevent.thread, greenlet, sys, threading
from pathlib import Path
from sqlalchemy import create_engine, make_url
from provider_trace_store import TraceWriter
from tests.support.constants import ORG, PATIENCE
from tests.support.traces import a_trace, trace_id
from tests.support.writers import assert_accounted, ids_in

url, folder, mode, others = sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])


class Lock:
    def __init__(self):
        self.real = gevent.thread.allocate_lock()
        self.release, self.locked = self.real.release, self.real.locked

    def acquire(self, blocking=True, timeout=-1):
        if blocking:
            gevent.sleep(0)
        return self.real.acquire(blocking, timeout)

    __enter__ = acquire

    def __exit__(self, *_):
        self.release()


threading.Lock = Lock
options = {"max_retry_delay": 0.1, "handle_sigterm": False}
if mode == "memory":
    options |= {"batch_age": 3600}
elif mode == "full":
    options |= {"max_queue_traces": 1, "batch_age": 0.0, "on_full": "block", "block_timeout": PATIENCE}
elif mode == "spilling":
    options |= {"max_queue_traces": 1, "batch_age": 0.0}
killed = 0
for point in range(1000):
    if mode in {"spool", "spilling"}:
        options["spool_dir"] = folder / str(point)
    if mode == "spool":
        options["durability"] = "spool"
    writer = TraceWriter(create_engine(url), **options)
    returned = []

    def submit(number):
        writer.submit(a_trace(number), organization_id=ORG)
        returned.append(number)

    first = point * 100
    if others:
        submit(first)
    victim = gevent.Greenlet(submit, first + 1)
    left, was_killed = point, False

    def on_switch(event, arguments):
        global left, was_killed
        if arguments[0] is victim and not victim.ready() and not was_killed:
            left -= 1
            if left < 0:
                was_killed = True
                victim.kill(block=False)

    greenlet.settrace(on_switch)
    victim.start()
    rest = [gevent.spawn(submit, first + 2 + number) for number in range(others)]
    gevent.joinall([victim, *rest])
    greenlet.settrace(None)
    gevent.joinall(rest, raise_error=True)
    was_cut = first + 1 not in returned
    killed += was_cut
    assert_accounted(writer.stats)
    assert writer.flush(PATIENCE), (point, writer.stats)
    stats = writer.stats
    assert_accounted(stats)
    assert len(returned) <= stats.accepted <= len(returned) + was_cut, (point, stats, returned)
    assert stats.queued == stats.spooled == stats.dropped == 0, (point, stats)
    assert writer.close(PATIENCE), (point, writer.stats)
    stored = set(ids_in(make_url(url)))
    assert {trace_id(number) for number in returned} <= stored, (point, returned)
    if not was_killed:
        break
print("points", point, "killed", killed, flush=True)
"""


@pytest.mark.parametrize(
    ("mode", "others"),
    [
        pytest.param("memory", 0, marks=pytest.mark.once),
        pytest.param("memory", 3, marks=pytest.mark.once),
        pytest.param("spool", 0, marks=pytest.mark.once),
        pytest.param("spool", 3, marks=pytest.mark.once),
        pytest.param("spilling", 0, marks=pytest.mark.once),
        ("spilling", 3),
        pytest.param("full", 0, marks=pytest.mark.once),
        ("full", 3),
    ],
)
def test_no_kill_loses_a_trace_or_a_count(database: Database, tmp_path: Path, mode: str, others: int) -> None:
    url = database.url.render_as_string(hide_password=False)
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, url, str(tmp_path), mode, str(others)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "killed 0" not in ended.stdout
    assert ids_in(database.url)
