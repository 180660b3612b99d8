"""Fixtures: a test of a database runs on SQLite and on the newest PostgreSQL; its marks add the other servers."""

from __future__ import annotations

import signal
from contextlib import AsyncExitStack, ExitStack
from typing import TYPE_CHECKING, Final, cast

import pytest
from hypothesis import HealthCheck, settings
from sqlalchemy import Engine, event

from tests.support import pgbouncer
from tests.support.clients import Client, Form
from tests.support.databases import SQLITE, Databases
from tests.support.examples import examples
from tests.support.servers import Database, ServerError, Servers, discover, url_from_environment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

SERVERS: Final = pytest.StashKey[Servers]()
PGBOUNCER: Final = pytest.StashKey[pgbouncer.PgBouncer | None]()

# How long an example takes says more about what else the cores do than about the example.
settings.register_profile(
    "shared cores",
    parent=settings(),
    max_examples=examples(100),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("shared cores")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option for runs that vary something else than the server, such as the libraries or Python."""
    parser.addoption(
        "--newest-server",
        action="store_true",
        help="run on SQLite and on the newest PostgreSQL only, whatever the marks",
    )
    parser.addoption(
        "--servers",
        metavar="NAMES",
        help="run on these PostgreSQL servers only, such as pg15,pg16, and not on SQLite or behind PgBouncer",
    )
    parser.addoption(
        "--every-app-server",
        action="store_true",
        help="end each application server by each signal, with and without a spool, wherever the writer is made",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Find the servers, as the parameters of tests are named after them; none is started yet."""
    # A shell starts a job in the background with this signal ignored, and every process of a test inherits that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        servers = discover(url_from_environment())
    except ServerError as error:
        raise pytest.UsageError(str(error)) from None
    config.stash[SERVERS] = servers
    names = [server.name for server in servers]
    if unknown := set(_servers(config, {"every_server"})).difference(names):
        raise pytest.UsageError(f"--servers: {', '.join(sorted(unknown))} not found, only {', '.join(names)}")
    config.stash[PGBOUNCER] = pgbouncer.find(servers.found[-1])
    config.add_cleanup(servers.stop)


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Return the lines of the report's header: the servers that the tests run on."""
    bouncer = config.stash[PGBOUNCER]
    line = bouncer.header() if bouncer else "pgbouncer: not installed, nothing runs behind it"
    return [config.stash[SERVERS].header(_servers(config, {"every_server"})), line]


def _servers(config: pytest.Config, marks: set[str]) -> list[str]:
    """Return the names of the PostgreSQL servers that a test with some marks runs on."""
    if only := config.getoption("--servers"):
        return cast("str", only).split(",")
    names = [server.name for server in config.stash[SERVERS]]
    if "every_server" not in marks or config.getoption("--newest-server"):
        return names[-1:]
    # What changed between two versions shows on one of the two ends. `make matrix` runs those between.
    return names if len(names) == 1 else [names[0], names[-1]]


def _behind_pgbouncer(config: pytest.Config, marks: set[str]) -> list[str]:
    """Return `pgbouncer`, too, if a test with some marks runs behind it."""
    wanted = "pgbouncer" in marks and not config.getoption("--newest-server") and not config.getoption("--servers")
    return [pgbouncer.NAME] if wanted and config.stash[PGBOUNCER] else []


def _sqlite(config: pytest.Config) -> list[str]:
    """Return `sqlite`, unless the run is about some servers only."""
    return [] if config.getoption("--servers") else [SQLITE]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test on each database of its fixture: which ones, the test's marks say."""
    marks = {mark.name for mark in metafunc.definition.iter_markers()}
    postgres = _servers(metafunc.config, marks)
    everything = [*_sqlite(metafunc.config), *postgres, *_behind_pgbouncer(metafunc.config, marks)]
    chosen = {mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")}
    for fixture, names in (
        ("database", everything),
        ("empty_database", everything),
        ("postgres", postgres),
        ("empty_postgres", postgres),
    ):
        if fixture in metafunc.fixturenames and fixture not in chosen:
            metafunc.parametrize(fixture, names, indirect=True)


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


@pytest.fixture
async def every_database(pytestconfig: pytest.Config, databases: Databases) -> AsyncIterator[list[Database]]:
    """Return new, migrated databases: SQLite, each PostgreSQL, and one behind PgBouncer.

    For tests whose examples take longer to draw than to store.
    """
    marks = {"every_server", "pgbouncer"}
    names = [*_sqlite(pytestconfig), *_servers(pytestconfig, marks), *_behind_pgbouncer(pytestconfig, marks)]
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(databases.make(name, migrated=True)) for name in names]


@pytest.fixture
def bouncer(request: pytest.FixtureRequest, pytestconfig: pytest.Config, postgres: Database) -> Iterator[Database]:
    """Return the database of `postgres` behind a PgBouncer of its own, in the mode that the parameter names."""
    found = pytestconfig.stash[PGBOUNCER]
    if found is None:
        pytest.skip("PgBouncer is not installed")
    with ExitStack() as stack:
        made = pgbouncer.PgBouncer(found.binary, found.version, found.server, mode=request.param)
        yield made.database(postgres.url, stack)


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
    """Collect the statements that all engines send while the test runs, except COPY."""
    sent: list[str] = []

    def collect(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        sent.append(statement)

    event.listen(Engine, "before_cursor_execute", collect)
    yield sent
    event.remove(Engine, "before_cursor_execute", collect)
