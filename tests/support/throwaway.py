"""A PostgreSQL server that a test may kill and start again, and a connection to one that can be cut."""

from __future__ import annotations

import os
import pwd
import select
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psutil  # type: ignore[import-untyped]  # has no types of its own
from sqlalchemy import URL, NullPool, create_engine
from sqlalchemy.exc import OperationalError

from provider_trace_store.migrations import upgrade
from tests.support.constants import PATIENCE
from tests.support.servers import DRIVER, VERSIONS, memory, of_wheel

if TYPE_CHECKING:
    from collections.abc import Iterator


# The server is the shell's own child, so its number cannot become another process's. The input ends when the
# tests close it and also when their process is killed; then the data goes, unless a word says that it is needed.
_SUPERVISOR: Final = """
directory="$1"; shift
"$@" &
read -r word
kill -QUIT $! 2>/dev/null
wait $!
[ "$word" = keep ] || rm -rf "$directory"
"""


class Throwaway:
    """A server of the newest version that the wheel has, with the settings that PostgreSQL has by default.

    Args:
        directory: for its data and its socket.
        fsync: whether the data survives a loss of power, too. A kill loses nothing that the server has written.
    """

    def __init__(self, directory: Path, *, fsync: bool) -> None:
        maker = of_wheel(directory / "data", VERSIONS[-1])
        self.user: str | None = maker.system_user
        self.directory = directory
        self._binary = maker.bin_path / "postgres"
        self._settings = () if fsync else ("-c", "fsync=off")
        self._has_template = False
        self._process: subprocess.Popen[bytes] | None = None
        self.own(directory)
        maker.ensure_pgdata_inited()

    @property
    def url(self) -> URL:
        """The URL of a role that may do everything."""
        return URL.create(DRIVER, username="postgres", database="postgres", query={"host": str(self.directory)})

    def own(self, path: Path) -> None:
        """Let the server's user own a directory: PostgreSQL refuses root's."""
        if self.user is not None:
            entry = pwd.getpwnam(self.user)
            os.chown(path, entry.pw_uid, entry.pw_gid)

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        end = time.monotonic() + PATIENCE
        engine = create_engine(self.url, poolclass=NullPool)
        while True:
            if self._process is None or self._process.poll() is not None:
                self._process = self._launch()
            try:
                engine.connect().close()
            except OperationalError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)
            else:
                return

    def kill(self) -> None:
        """Kill the server's first process, and wait until its other processes are gone."""
        lines = (self.directory / "data" / "postmaster.pid").read_text(encoding="ascii").splitlines()
        first = psutil.Process(int(lines[0]))
        first.suspend()  # it forks no process that the next line does not see
        others = first.children(recursive=True)
        first.kill()
        self._end(b"keep\n")
        # As long as one of them lives, a new server does not start on the same data.
        assert not psutil.wait_procs(others, timeout=PATIENCE)[1]

    def stop(self) -> None:
        """End the server, and delete its data."""
        self._end(b"delete\n")

    def create_database(self, name: str) -> URL:
        """Create a migrated database: a clone of one that is migrated once."""
        if not self._has_template:
            self._admin("CREATE DATABASE migrated")
            with create_engine(self.url.set(database="migrated"), poolclass=NullPool).connect() as connection:
                upgrade(connection)
            self._has_template = True
        self._admin(f"CREATE DATABASE {name} TEMPLATE migrated")
        return self.url.set(database=name)

    def drop_database(self, name: str, tablespace: str | None = None) -> None:
        """Drop a database, and the tablespace that only it used, if it had one."""
        self._admin(f"DROP DATABASE {name} WITH (FORCE)")
        if tablespace is not None:
            self._admin(f"DROP TABLESPACE {tablespace}")

    def _admin(self, statement: str) -> None:
        engine = create_engine(self.url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
        with engine.connect() as connection:
            connection.exec_driver_sql(statement)

    def _launch(self) -> subprocess.Popen[bytes]:
        options = ["-D", self.directory / "data", "-k", self.directory, "-h", "", *self._settings]
        server: list[str | Path] = [self._binary, *options]
        return subprocess.Popen(
            ["sh", "-c", _SUPERVISOR, "supervisor", self.directory, *server],
            cwd=self.directory,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # out of reach of the terminal's Ctrl-C
            user=self.user,
            group=None,
            extra_groups=None if self.user is None else [],
        )

    def _end(self, word: bytes) -> None:
        if self._process is not None:
            self._process.communicate(word)
            self._process = None


@contextmanager
def throwaway(*, fsync: bool = False) -> Iterator[Throwaway]:
    """Run a throwaway server.

    Args:
        fsync: True for a measurement: the data is on the disk, and survives a loss of power.
    """
    directory = Path(tempfile.mkdtemp(prefix="throwaway-", dir=None if fsync else memory()))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        server = Throwaway(directory, fsync=fsync)
        stack.callback(server.stop)
        server.start()
        yield server


class Wire:
    """A TCP connection to a server that the test cuts at a chosen point.

    Args:
        target: the server's URL.
    """

    def __init__(self, target: URL) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._marker: bytes | None = None
        self._forward = False
        self._vanished = 0
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._connections: list[threading.Thread] = []
        self._thread.start()

    @property
    def url(self) -> URL:
        """The URL that leads through the wire."""
        port = self._listener.getsockname()[1]
        query = {"sslmode": "disable", "gssencmode": "disable"}
        return self._target.set(host="127.0.0.1", port=port, query=query)

    def cut_at(self, marker: bytes, *, forward: bool) -> None:
        """Cut the connection that next sends some bytes.

        Args:
            marker: the bytes.
            forward: whether the server still gets the bytes, so that only its answer is lost.
        """
        self._marker = marker
        self._forward = forward

    def vanish(self) -> None:
        """Drop every packet of the connections that are open now, in both directions, without an end of any."""
        self._vanished += 1

    def close(self) -> None:
        """Refuse new connections."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for thread in self._connections:
            thread.join()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._carry, args=(client,), daemon=True)
            self._connections.append(thread)
            thread.start()

    def _carry(self, client: socket.socket) -> None:
        with client, _connected(self._target) as server:
            seen = b""
            vanished = self._vanished
            while True:
                for ready in select.select([client, server], [], [])[0]:
                    try:
                        data = ready.recv(65536)
                        if not data:
                            return
                        if vanished != self._vanished:
                            continue
                        if ready is server:
                            client.sendall(data)
                            continue
                        seen = seen[-100:] + data
                        if self._marker is not None and self._marker in seen:
                            self._marker = None
                            if self._forward:
                                server.sendall(data)
                                select.select([server], [], [], PATIENCE)
                            return
                        server.sendall(data)
                    except ConnectionError:
                        return


def _connected(url: URL) -> socket.socket:
    host = url.host or url.query.get("host")
    port = url.port or int(str(url.query.get("port", 5432)))
    if isinstance(host, str) and not host.startswith("/"):
        return socket.create_connection((host, port))
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(f"{host}/.s.PGSQL.{port}")
    return connection
