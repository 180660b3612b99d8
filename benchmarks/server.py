"""Finds the PostgreSQL to measure on, one with lz4 where there is one, and makes a database of its own there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from sqlalchemy import URL

from tests.support import servers
from tests.support.servers import Server, ServerError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

VARIABLE: Final = "PROVIDER_TRACE_STORE_BENCH_DATABASE_URL"

_DEBIAN: Final = "/usr/lib/postgresql"
_OLDEST: Final = 15
# Nothing but the work itself: no waiting for the disk, and nothing that runs beside it. The overhead that is
# measured weighs the more.
_SETTINGS: Final = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "shared_buffers": "256MB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "1h",
}
_PATIENCE: Final = 30.0


@contextmanager
def database(url: str | None, settings: Mapping[str, str] | None = None) -> Iterator[tuple[URL, str]]:
    """Make an empty database, and drop it at the end, with its server where that was started here.

    Args:
        url: of a role that may create databases; None for an installed PostgreSQL with lz4, else Docker's, else
            the one of the tests' wheel.
        settings: of a cluster that is made for this, besides those that all have.

    Yields:
        Its URL, and where the server comes from.

    Raises:
        ServerError: there is no server to be had.
    """
    server = _find(url, settings or {})
    name = f"provider_trace_store_bench_{uuid4().hex[:8]}"
    try:
        created = server.create_database(name)
        try:
            yield created, server.way
        finally:
            server.drop_database(name)
    finally:
        server.stop()


def _find(url: str | None, settings: Mapping[str, str]) -> Server:
    if url:
        try:
            server = servers.discover(url).found[0]
        except ServerError as error:
            raise ServerError(str(error).replace(servers.VARIABLE, VARIABLE)) from None
        server.way = f"{VARIABLE} or --url"
        return server
    return _installed(settings) or servers.discover(None).found[-1]


def _installed(settings: Mapping[str, str]) -> Server | None:
    """Return the newest PostgreSQL of this machine that is built with lz4."""
    programs = {*map(str, Path(_DEBIAN).glob("*/bin/pg_config"))}
    if program := shutil.which("pg_config"):
        programs.add(program)
    found: list[tuple[int, str, Path]] = []
    for program in programs:
        binaries = Path(_output(program, "--bindir"))
        number = re.search(r"(\d+)\S*", _output(program, "--version"))
        complete = all((binaries / name).exists() for name in ("initdb", "postgres", "pg_isready"))
        if number and complete and int(number[1]) >= _OLDEST and "--with-lz4" in _output(program, "--configure"):
            found.append((int(number[1]), number[0], binaries))
    if not found:
        return None
    major, version, binaries = max(found)
    return Server(
        f"pg{major}", version, f"a new cluster of {binaries}", lambda stack: _start(stack, binaries, settings)
    )


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _start(stack: ExitStack, binaries: Path, settings: Mapping[str, str]) -> URL:
    directory = Path(tempfile.mkdtemp(prefix="bench-"))
    stack.callback(shutil.rmtree, directory, ignore_errors=True)
    owner = _unprivileged(directory)
    data = directory / "data"
    options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]
    subprocess.run(
        [binaries / "initdb", "--pgdata", data, *options], check=True, stdout=subprocess.DEVNULL, cwd=directory, **owner
    )
    # No port: the directory of the socket is its owner's alone.
    values = {**_SETTINGS, **settings, "listen_addresses": "", "unix_socket_directories": str(directory)}
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [binaries / "postgres", "-D", data, *(f"--{name}={value}" for name, value in values.items())],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=directory,
            start_new_session=True,  # out of reach of the terminal's Ctrl-C: the guard ends it
            **owner,
        )
    stack.callback(process.wait)
    servers.guard(stack, process.pid, data / "postmaster.pid", directory)
    deadline = time.monotonic() + _PATIENCE
    while subprocess.run([binaries / "pg_isready", "--quiet", "--host", directory], check=False).returncode:
        if process.poll() is not None or time.monotonic() > deadline:
            raise ServerError(f"the server of {binaries} does not start")
        time.sleep(0.05)
    return URL.create(servers.DRIVER, username="postgres", database="postgres", query={"host": str(directory)})


def _unprivileged(directory: Path) -> dict[str, Any]:
    """Return what makes a process run as another user where this one is root, whom PostgreSQL refuses."""
    if os.geteuid():
        return {}
    import pwd  # noqa: PLC0415  # there is none on Windows

    try:
        user = pwd.getpwnam("postgres")
    except KeyError:
        user = pwd.getpwnam("nobody")
    os.chown(directory, user.pw_uid, user.pw_gid)
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
