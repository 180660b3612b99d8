"""The end of a real application server by a signal: the traces of an application that never closes its writer."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from itertools import product
from typing import TYPE_CHECKING, Final

import psutil  # type: ignore[import-untyped]  # has no types of its own
import pytest
from sqlalchemy import NullPool, create_engine

from provider_trace_store import migrations
from tests.support.constants import PATIENCE
from tests.support.paths import ROOT
from tests.support.traces import trace_id
from tests.support.waiting import wait_until
from tests.support.writers import files_in, ids_in

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytest.importorskip("gunicorn", reason="the servers are not among the lowest versions")

ASGI: Final = "tests.support.served_app:asgi"
THREAD: Final = "tests.support.served_app:asgi_in_a_thread"
WSGI: Final = "tests.support.served_app:wsgi"
GUNICORN: Final = ("gunicorn", "--bind", "127.0.0.1:PORT", "--no-control-socket")
PRELOAD: Final = "--preload"
UVICORN: Final = ("uvicorn", "--port", "PORT")
# The arguments of each server; PORT stands for a free port.
SERVERS: Final[dict[str, tuple[str, ...]]] = {
    "uvicorn": (*UVICORN, ASGI),
    "uvicorn-thread": (*UVICORN, THREAD),
    "uvicorn-workers": (*UVICORN, "--workers", "2", ASGI),
    "gunicorn-sync": (*GUNICORN, WSGI),
    "gunicorn-sync-preload": (*GUNICORN, PRELOAD, WSGI),
    "gunicorn-threads": (*GUNICORN, "--threads", "2", WSGI),
    "gunicorn-gevent": (*GUNICORN, "-k", "gevent", WSGI),
    "gunicorn-gevent-preload": (*GUNICORN, "-k", "gevent", PRELOAD, WSGI),
    "gunicorn-uvicorn": (*GUNICORN, "-k", "uvicorn_worker.UvicornWorker", ASGI),
    "gunicorn-uvicorn-preload": (*GUNICORN, "-k", "uvicorn_worker.UvicornWorker", PRELOAD, ASGI),
    "hypercorn": ("hypercorn", "--bind", "127.0.0.1:PORT", ASGI),
    "hypercorn-in-process": ("hypercorn", "--workers", "0", "--bind", "127.0.0.1:PORT", ASGI),
    "granian": ("granian", "--interface", "asgi", "--port", "PORT", ASGI),
    "granian-wsgi": ("granian", "--interface", "wsgi", "--port", "PORT", WSGI),
    "celery-prefork": ("celery", "-A", "tests.support.celery_app", "worker", "--pool", "prefork", "-c", "1"),
    "celery-solo": ("celery", "-A", "tests.support.celery_app", "worker", "--pool", "solo"),
}
SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
# One server of each way to end: other versions of Python run these, by SIGTERM.
OF_EACH_WAY: Final = frozenset(
    {"uvicorn", "uvicorn-thread", "gunicorn-sync-preload", "gunicorn-gevent", "hypercorn", "granian", "celery-prefork"}
)
COUNT: Final = 20


def _cases() -> Iterator[tuple[str, str, signal.Signals, bool, bool]]:
    """Return server, where the writer is made, signal, whether it has a spool, whether the whole group is signalled."""
    for name, number in product(SERVERS, SIGNALS):
        places = ["import", "request"]
        if SERVERS[name][-1] in {ASGI, THREAD} and not name.endswith("-preload"):
            places.append("lifespan")
        for place, spools, is_group in product(places, (False, True), (False, True)):
            # Two SIGINTs at once make these servers hang now and then, also with an application that has no writer.
            if name in {"granian-wsgi", "gunicorn-threads"} and number == signal.SIGINT and is_group:
                continue
            # Gunicorn waits for its `graceful_timeout`, and kills the worker by SIGKILL: only a spool keeps the traces.
            if name.startswith("gunicorn-uvicorn") and number == signal.SIGINT and not (is_group or spools):
                continue
            yield name, place, number, spools, is_group


def _is_short(case: tuple[str, str, signal.Signals, bool, bool]) -> bool:
    """Say whether a case runs in each run of the tests; `--every-app-server` runs all."""
    name, place, number, spools, is_group = case
    made = {"uvicorn-thread": "request", "gunicorn-sync": "request"}.get(
        name, "import" if WSGI in SERVERS[name] else ""
    )
    places = {made} if made else {"import", "lifespan"} if name == "uvicorn" else {"lifespan"}
    if name.endswith("preload") or name.startswith("celery"):
        places = {"import"}
    return place in places and not spools and is_group == (number == signal.SIGINT)


def _is_for_each_python(case: tuple[str, str, signal.Signals, bool, bool]) -> bool:
    """Say whether a case runs with each Python: one place and one signal for each way to end."""
    name, place, number, *_ = case
    return name in OF_EACH_WAY and number == signal.SIGTERM and (name, place) != ("uvicorn", "import")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        every = metafunc.config.getoption("--every-app-server")
        cases = [case for case in _cases() if every or _is_short(case)]
        names = [
            "-".join((n, p, s.name, "spool" if f else "memory", "group" if g else "one")) for n, p, s, f, g in cases
        ]
        marked = [case if _is_for_each_python(case) else pytest.param(case, marks=pytest.mark.once) for case in cases]
        metafunc.parametrize("case", marked, ids=names)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _answers(port: int, path: str) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def _submit(process: subprocess.Popen[bytes], port: int, broker: Path) -> None:
    """Let the server submit the traces in two requests."""
    halves = ((0, COUNT // 2), (COUNT // 2, COUNT))
    if "celery" in str(process.args):
        from celery import Celery  # noqa: PLC0415  (slow to import)

        app = Celery(broker="filesystem://")
        app.conf.broker_transport_options = {"data_folder_in": str(broker), "data_folder_out": str(broker)}
        for half in halves:
            app.send_task("submit", args=half)
        wait_until(lambda: all((broker / f"done-{first}").exists() for first, _ in halves))
        return
    wait_until(lambda: process.poll() is not None or _answers(port, "/"))
    for first, last in halves:
        assert _answers(port, f"/{first}/{last}")


def test_every_trace_is_kept_when_a_server_ends(
    case: tuple[str, str, signal.Signals, bool, bool], tmp_path: Path
) -> None:
    name, place, number, spools, is_group = case
    engine = create_engine(f"sqlite:///{tmp_path / 'traces.db'}", poolclass=NullPool)
    with engine.begin() as connection:
        migrations.upgrade(connection)
    spool, broker, log, port = tmp_path / "spool", tmp_path / "broker", tmp_path / "log", _free_port()
    broker.mkdir()
    settings = {"TRACES_MADE": place, "TRACES_DATABASE": str(engine.url), "TRACES_BROKER": str(broker)}
    settings |= {"TRACES_SPOOL": str(spool)} if spools else {}
    program, *arguments = [argument.replace("PORT", str(port)) for argument in SERVERS[name]]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", program, *arguments],
            cwd=ROOT,
            env=os.environ | settings,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        _submit(process, port, broker)
        os.killpg(process.pid, number) if is_group else process.send_signal(number)
        process.wait(PATIENCE)
        wait_until(lambda: not _is_alive(process.pid))
    finally:
        # The processes that this test has started, should the server have left any.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    text = log.read_text()
    kept = ids_in(engine.url)
    if spools:
        for file in files_in(spool):
            if file.endswith(".db"):
                kept += ids_in(create_engine(f"sqlite:///{spool / file}").url)
    assert sorted(set(kept)) == [trace_id(number) for number in range(COUNT)], text


def _is_alive(group: int) -> bool:
    """Say whether a process of a group is left; one that only its parent has not waited for is not."""
    for process in psutil.process_iter(["status"]):
        with suppress(ProcessLookupError):
            if os.getpgid(process.pid) == group and process.info["status"] != psutil.STATUS_ZOMBIE:
                return True
    return False
