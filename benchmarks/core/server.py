"""Finds the PostgreSQL to measure on, with lz4 if possible, and makes a database there."""

import os
import pwd
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from sqlalchemy import URL

from tests.support import servers
from tests.support.servers import Server, ServerError

VARIABLE: Final = "PROVIDER_TRACE_STORE_BENCH_DATABASE_URL"

_DEBIAN: Final = "/usr/lib/postgresql"
_OLDEST: Final = 15
# Without waits for the disk and without background work, the package's own cost is the largest share of a time.
_SETTINGS: Final = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "shared_buffers": "256MB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "1h",
}


@contextmanager
def running(url: str | None, settings: Mapping[str, str] | None = None) -> Iterator[Server]:
    """Yield a server, and stop it in the end if it was started here; a new one gets further settings.

    It is that of a URL, else an installed PostgreSQL with lz4, else one of the tests' servers.
    """
    server = _find(url, settings or {})
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def database(url: str | None, settings: Mapping[str, str] | None = None) -> Iterator[tuple[URL, str]]:
    """Yield the URL of an empty database, and where its server comes from; drop it in the end."""
    name = f"provider_trace_store_bench_{uuid4().hex[:8]}"
    with running(url, settings) as server:
        created = server.create_database(name)
        try:
            yield created, server.way
        finally:
            server.drop_database(name)


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
    found: list[tuple[int, str, Path]] = []
    for program in {*map(str, Path(_DEBIAN).glob("*/bin/pg_config")), shutil.which("pg_config")} - {None}:
        binaries, options = Path(_output(program, "--bindir")), _output(program, "--configure")
        number = re.search(r"(\d+)\S*", _output(program, "--version"))
        complete = all((binaries / name).exists() for name in ("initdb", "pg_ctl"))
        if number and complete and int(number[1]) >= _OLDEST and "--with-lz4" in options:
            found.append((int(number[1]), number[0], binaries))
    if not found:
        return None
    major, version, binaries = max(found)
    way = f"a new cluster of {binaries}"
    return Server(f"pg{major}", version, way, lambda stack: _start(stack, binaries, settings))


def _output(*command: str | None) -> str:
    return subprocess.run([*map(str, command)], check=True, capture_output=True, text=True).stdout.strip()


def _start(stack: ExitStack, binaries: Path, settings: Mapping[str, str]) -> URL:
    directory = Path(tempfile.mkdtemp(prefix="bench-"))
    stack.callback(shutil.rmtree, directory, ignore_errors=True)
    data = directory / "data"
    # There is no port, and only the owner can open the directory of the socket.
    values = {**_SETTINGS, **settings, "listen_addresses": "", "unix_socket_directories": str(directory)}
    how = {"stdout": subprocess.DEVNULL, "cwd": directory, **_unprivileged(directory)}
    options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]
    subprocess.run([binaries / "initdb", "--pgdata", data, *options], check=True, **how)
    # The server ignores the terminal's Ctrl-C, which pg_ctl gives it a session for: the guard ends it.
    given = " ".join(f"--{name}='{value}'" for name, value in values.items())
    subprocess.run(
        [binaries / "pg_ctl", "start", "-w", "-s", "-D", data, "-l", directory / "log", "-o", given], check=True, **how
    )
    pid_file = data / "postmaster.pid"
    servers.guard(stack, int(pid_file.read_text(encoding="ascii").split()[0]), pid_file, directory)
    return URL.create(servers.DRIVER, username="postgres", database="postgres", query={"host": str(directory)})


def _unprivileged(directory: Path) -> dict[str, Any]:
    """Return the arguments that run a process as another user if this one is root, whom PostgreSQL refuses."""
    if os.geteuid():
        return {}
    names = {user.pw_name: user for user in pwd.getpwall()}
    user = names.get("postgres") or names["nobody"]
    os.chown(directory, user.pw_uid, user.pw_gid)
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
