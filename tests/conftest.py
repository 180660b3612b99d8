"""Fixtures: a test of a database runs on SQLite and on the newest PostgreSQL; its marks add the other servers."""

from __future__ import annotations

import shutil
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from itertools import count
from typing import TYPE_CHECKING, Final, cast
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings
from sqlalchemy import URL, Engine, NullPool, create_engine, event

from tests.support import pgbouncer
from tests.support.clients import Client, Form
from tests.support.servers import Database, Server, ServerError, Servers, discover, url_from_environment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

SERVERS: Final = pytest.StashKey[Servers]()
PGBOUNCER: Final = pytest.StashKey[pgbouncer.PgBouncer | None]()
SQLITE: Final = "sqlite"

# How long an example takes says more about what else the cores do than about the example.
settings.register_profile(
    "shared cores", parent=settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("shared cores")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option for runs that vary something else than the server, such as the libraries or Python."""
    parser.addoption(
        "--newest-server",
        action="store_true",
        help="run on SQLite and on the newest PostgreSQL only, whatever the marks",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Find the servers, as the parameters of tests are named after them; none is started yet."""
    try:
        servers = discover(url_from_environment())
    except ServerError as error:
        raise pytest.UsageError(str(error)) from None
    config.stash[SERVERS] = servers
    config.stash[PGBOUNCER] = pgbouncer.find(servers.found[-1])
    config.add_cleanup(servers.stop)


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Say which servers the tests run on."""
    bouncer = config.stash[PGBOUNCER]
    line = bouncer.header() if bouncer else "pgbouncer: not installed, nothing runs behind it"
    return [config.stash[SERVERS].header(), line]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test on each database of its fixture: which ones, the test's marks say."""
    marks = {mark.name for mark in metafunc.definition.iter_markers()}
    if metafunc.config.getoption("--newest-server"):
        marks -= {"every_server", "pgbouncer"}
    postgres = [server.name for server in metafunc.config.stash[SERVERS]]
    if "every_server" not in marks:
        postgres = postgres[-1:]
    everything = [SQLITE, *postgres]
    if "pgbouncer" in marks and metafunc.config.stash[PGBOUNCER]:
        everything.append(pgbouncer.NAME)
    chosen = {mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")}
    for fixture, names in (
        ("database", everything),
        ("empty_database", everything),
        ("postgres", postgres),
        ("empty_postgres", postgres),
    ):
        if fixture in metafunc.fixturenames and fixture not in chosen:
            metafunc.parametrize(fixture, names, indirect=True)


class Databases:
    """Makes databases, each for one test: clones of one migrated template per server.

    Args:
        servers: where those of PostgreSQL are created.
        bouncer: PgBouncer in front of one of the servers.
        directory: for the files of SQLite.
    """

    def __init__(self, servers: Servers, bouncer: pgbouncer.PgBouncer | None, directory: Path) -> None:
        self._servers = {server.name: server for server in servers}
        self._bouncer = bouncer
        self._directory = directory
        # A server that a URL names may serve several sessions of tests at the same time.
        self._prefix = f"provider_trace_store_{uuid4().hex[:8]}"
        self._numbers = count(1)
        self._templates: dict[str, str] = {}
        self._stack = ExitStack()

    @asynccontextmanager
    async def make(self, name: str, *, migrated: bool) -> AsyncIterator[Database]:
        """Make a database for a test's parameter, and remove it afterwards.

        Args:
            name: `sqlite`, a server's name or `pgbouncer`.
            migrated: whether the tables are there.
        """
        new = f"{self._prefix}_{next(self._numbers)}"
        if name == SQLITE:
            path = self._directory / f"{new}.db"
            if migrated:
                shutil.copyfile(self._sqlite_template(), path)
            database = Database(name, _sqlite(path))
            try:
                yield database
            finally:
                await database.dispose()
                for file in self._directory.glob(f"{new}.db*"):
                    file.unlink()
            return
        bouncer = self._bouncer if name == pgbouncer.NAME else None
        server = bouncer.server if bouncer else self._servers[name]
        url = server.create_database(new, self._template(server) if migrated else None)
        try:
            database = bouncer.database(url, self._stack) if bouncer else Database(name, url)
            try:
                yield database
            finally:
                await database.dispose()
        finally:
            server.drop_database(new)

    def close(self) -> None:
        """Drop the templates."""
        self._stack.close()

    def _template(self, server: Server) -> str:
        if server.name not in self._templates:
            name = f"{self._prefix}_template_{server.name}"
            self._stack.callback(server.drop_database, name)
            _migrate(server.create_database(name))
            self._templates[server.name] = name
        return self._templates[server.name]

    def _sqlite_template(self) -> Path:
        path = self._directory / "template.db"
        if not path.exists():
            _migrate(_sqlite(path))
        return path


def _sqlite(path: Path) -> URL:
    return URL.create("sqlite", database=str(path))


def _migrate(url: URL) -> None:
    # Imported here, so that a test without a database runs while a migration is broken.
    from provider_trace_store.migrations import upgrade  # noqa: PLC0415  # see above

    with create_engine(url, poolclass=NullPool).connect() as connection:
        upgrade(connection)


@pytest.fixture(scope="session")
def databases(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Databases]:
    """Make databases for the fixtures below."""
    factory = Databases(pytestconfig.stash[SERVERS], pytestconfig.stash[PGBOUNCER], tmp_path_factory.mktemp("sqlite"))
    yield factory
    factory.close()


@pytest.fixture
async def database(request: pytest.FixtureRequest, databases: Databases) -> AsyncIterator[Database]:
    """Return a new, migrated database: SQLite or PostgreSQL."""
    async with databases.make(request.param, migrated=True) as made:
        yield made


@pytest.fixture
async def empty_database(request: pytest.FixtureRequest, databases: Databases) -> AsyncIterator[Database]:
    """Return a new database without tables: SQLite or PostgreSQL."""
    async with databases.make(request.param, migrated=False) as made:
        yield made


@pytest.fixture
async def postgres(request: pytest.FixtureRequest, databases: Databases) -> AsyncIterator[Database]:
    """Return a new, migrated database on PostgreSQL."""
    async with databases.make(request.param, migrated=True) as made:
        yield made


@pytest.fixture
async def empty_postgres(request: pytest.FixtureRequest, databases: Databases) -> AsyncIterator[Database]:
    """Return a new database without tables on PostgreSQL."""
    async with databases.make(request.param, migrated=False) as made:
        yield made


@pytest.fixture(params=["sync", "async"])
def form(request: pytest.FixtureRequest) -> Form:
    """Return which form of the repository the test runs with."""
    return cast("Form", request.param)


@pytest.fixture
async def client(database: Database, form: Form) -> AsyncIterator[Client]:
    """Return a client of either form on a new, migrated database."""
    async with AsyncExitStack() as stack:
        yield Client(database, form, stack)


@pytest.fixture
def statements() -> Iterator[list[str]]:
    """Collect what any engine sends to its database while the test runs, COPY apart."""
    sent: list[str] = []

    def collect(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        sent.append(statement)

    event.listen(Engine, "before_cursor_execute", collect)
    yield sent
    event.remove(Engine, "before_cursor_execute", collect)
