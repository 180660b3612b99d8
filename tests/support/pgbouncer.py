"""Starts Debian's PgBouncer in transaction mode in front of a server, where it is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import URL, NullPool, create_engine
from sqlalchemy.exc import OperationalError

from tests.support.constants import PATIENCE
from tests.support.servers import DRIVER, Database, guard

if TYPE_CHECKING:
    from contextlib import ExitStack

    from tests.support.servers import Server

NAME: Final = "pgbouncer"
PORT: Final = 6432  # part of the socket's name only: it listens on no network

# In transaction mode PgBouncer resets nothing by default, and alone on it a client gets the same server
# connection time and again: state that it wrongly relies on would be there by luck. With a lifetime of 0 every
# transaction gets a new one. (DISCARD ALL each time does the same, but the connections that then stay open
# cost 0.1 s when a test's database is dropped.)
_CONFIGURATION: Final = """\
[databases]
* = {target}

[pgbouncer]
listen_addr =
listen_port = {port}
unix_socket_dir = {directory}
unix_socket_mode = 0777
auth_type = any
pool_mode = {mode}
default_pool_size = 4
max_client_conn = 500
server_lifetime = 0
logfile = {directory}/log
pidfile = {directory}/pid
"""


@dataclass
class PgBouncer:
    """PgBouncer in front of a server; every database of the server can be reached through it.

    Args:
        binary: the program.
        version: what it says of itself.
        server: where it forwards to.
        mode: `transaction`, or `statement`, which allows no transaction of several statements.
    """

    binary: str
    version: str
    server: Server
    mode: str = "transaction"
    _directory: Path | None = field(default=None, repr=False)

    def database(self, url: URL, stack: ExitStack) -> Database:
        """Return a database of the server as it is seen through PgBouncer; the first use starts it.

        Args:
            url: the database's own URL.
            stack: closing it ends PgBouncer.
        """
        if self._directory is None:
            self._directory = _start(self.binary, self.server.url, self.mode, stack)
        # Older PgBouncers know no prepared statements: psycopg's must be off, as in an application.
        return Database(NAME, _through(self._directory, url.database), {"prepare_threshold": None})

    def header(self) -> str:
        """Return the line of the report's header."""
        return f"pgbouncer: {self.version}, {self.mode} mode, in front of {self.server.name}"


def find(server: Server) -> PgBouncer | None:
    """Return PgBouncer for a server, not yet started, or None where it is not installed."""
    # Debian puts it where only root's search path leads.
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"))
    binary = shutil.which(NAME, path=path)
    if binary is None:
        return None
    answer = subprocess.run([binary, "--version"], check=True, capture_output=True, text=True).stdout
    return PgBouncer(binary, answer.split()[1], server)


def _start(binary: str, target: URL, mode: str, stack: ExitStack) -> Path:
    directory = Path(tempfile.mkdtemp(prefix="pgbouncer-"))
    stack.callback(shutil.rmtree, directory, ignore_errors=True)
    user = _user(target)
    configuration = directory / "pgbouncer.ini"
    configuration.touch(mode=0o600)  # before the password is in it
    configuration.write_text(
        _CONFIGURATION.format(target=_target(target), port=PORT, directory=directory, mode=mode), encoding="utf-8"
    )
    directory.chmod(0o755)
    if user is not None:
        for path in (directory, configuration):
            shutil.chown(path, user)
    process = subprocess.Popen(
        [binary, "-q", configuration],
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # out of reach of the terminal's Ctrl-C
        user=user,
        group=None,
        extra_groups=None if user is None else [],
    )
    guard(stack, process.pid, directory / "pid", directory)
    stack.callback(_stop, process)
    engine = create_engine(
        _through(directory, target.database),
        poolclass=NullPool,
        isolation_level="AUTOCOMMIT",
        use_native_hstore=False,
    )
    end = time.monotonic() + PATIENCE
    while True:
        try:
            engine.connect().close()
        except OperationalError as error:
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"PgBouncer does not answer: {error.orig}") from None
            time.sleep(0.02)
        else:
            return directory


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()  # newer ones wait for their clients, and a failed test may have left one
        process.wait()


def _user(target: URL) -> str | None:
    """Return the user to run PgBouncer as: it refuses root, and must reach the server's socket."""
    if os.geteuid() != 0:
        return None
    directory = target.query.get("host")
    owner = Path(directory).owner() if isinstance(directory, str) and directory.startswith("/") else "root"
    return "nobody" if owner == "root" else owner


def _target(url: URL) -> str:
    """Return the server's address in the syntax of PgBouncer's configuration."""
    parts = {
        "host": url.host or url.query.get("host"),
        "port": url.port or url.query.get("port"),
        "user": url.username,
        "password": url.password,
    }
    return " ".join(f"{key}='{str(part).replace(chr(39), chr(39) * 2)}'" for key, part in parts.items() if part)


def _through(directory: Path, database: str | None) -> URL:
    query = {"host": str(directory), "port": str(PORT)}
    return URL.create(DRIVER, username="anyone", database=database, query=query)
