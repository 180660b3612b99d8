"""Faults of a real server during `create_many`: each trace is stored once or reported, and a retry completes."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import subprocess
import threading
import time
from contextlib import AsyncExitStack, contextmanager
from itertools import count as numbers
from typing import TYPE_CHECKING, Any, Final

import pytest
from sqlalchemy import NullPool, create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from provider_trace_store import (
    AsyncProviderTraceRepository,
    BulkResult,
    ProviderTrace,
    ProviderTraceRepository,
    ProviderTraceUnavailableError,
)
from tests.support.batches import assert_keeps_the_secret, both_modes, count, counts
from tests.support.clients import Client
from tests.support.constants import ORG, PATIENCE, TABLES
from tests.support.servers import Database
from tests.support.throwaway import Throwaway, Wire, throwaway
from tests.support.traces import a_batch, a_trace, trace_id

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from sqlalchemy import URL

    from tests.support.clients import Form


A_BATCH: Final = 200
BATCHES: Final = 50
NAMES: Final = numbers(1)


@pytest.fixture(scope="module")
def server() -> Iterator[Throwaway]:
    """Return a server that a test may kill, if it starts it again."""
    with throwaway() as started:
        yield started


@pytest.fixture
async def thrown(server: Throwaway) -> AsyncIterator[Database]:
    """Return a new, migrated database on it."""
    database = Database("throwaway", server.create_database(f"faults_{next(NAMES)}"))
    yield database
    await database.dispose()


# The server is killed


class Writer:
    """Writes batches, a transaction each, and sends again what it does not know the end of.

    Args:
        url: of the database.
        form: of the repository.
        metadata_only: the flag.
    """

    def __init__(self, url: URL, form: Form, *, metadata_only: bool) -> None:
        self.results: list[BulkResult] = []
        self.failures = 0
        self._url = url
        self._form = form
        self._options: dict[str, Any] = {"organization_id": ORG, "metadata_only": metadata_only}
        self._end = time.monotonic() + PATIENCE

    def run(self) -> None:
        """Write all batches; retry while the database is away, and stop at any other error."""
        if self._form == "async":
            asyncio.run(self._run_async())
            return
        engine = create_engine(self._url, poolclass=NullPool)
        for number in range(BATCHES):
            while True:
                try:
                    with Session(engine) as session:
                        result = ProviderTraceRepository(session, **self._options).create_many(batch_of(number))
                        session.commit()
                except (ProviderTraceUnavailableError, DBAPIError):
                    self._fail()
                    time.sleep(0.05)
                else:
                    self.results.append(result)
                    break

    async def _run_async(self) -> None:
        engine = create_async_engine(self._url, poolclass=NullPool)
        for number in range(BATCHES):
            while True:
                try:
                    async with AsyncSession(engine) as session:
                        repository = AsyncProviderTraceRepository(session, **self._options)
                        result = await repository.create_many(batch_of(number))
                        await session.commit()
                except (ProviderTraceUnavailableError, DBAPIError):
                    self._fail()
                    await asyncio.sleep(0.05)
                else:
                    self.results.append(result)
                    break

    def _fail(self) -> None:
        self.failures += 1
        if time.monotonic() > self._end:
            raise TimeoutError("the server did not come back")


def batch_of(number: int) -> list[ProviderTrace]:
    return [a_trace(n, llm_config={"text": "x" * 1000}) for n in range(number * A_BATCH, (number + 1) * A_BATCH)]


@pytest.mark.parametrize(("form", "metadata_only"), [("sync", False), ("async", True), ("async", False)])
def test_a_server_that_is_killed_again_and_again_has_each_trace_once(
    server: Throwaway, form: Form, metadata_only: bool
) -> None:
    url = server.create_database(f"killed_{next(NAMES)}")
    writer = Writer(url, form, metadata_only=metadata_only)
    thread = threading.Thread(target=writer.run)
    thread.start()
    try:
        for after, moment in ((5, 0.0), (20, 0.007), (35, 0.013)):
            while len(writer.results) < after and thread.is_alive():
                time.sleep(0.001)
            before = writer.failures
            time.sleep(moment)
            server.kill()
            while writer.failures == before and thread.is_alive():
                time.sleep(0.001)
            server.start()
    finally:
        thread.join()
    assert writer.failures >= 3
    assert [result.created + result.unchanged for result in writer.results] == [A_BATCH] * BATCHES
    assert not any(result.rejected for result in writer.results)
    # What was sent again was either not there at all or there as a whole.
    assert {result.created for result in writer.results} <= {0, A_BATCH}
    with create_engine(url, poolclass=NullPool).connect() as connection:
        ids = connection.scalars(text(f"SELECT id FROM {TABLES[metadata_only]}")).all()  # noqa: S608  (our own names)
    assert sorted(ids) == [trace_id(number) for number in range(A_BATCH * BATCHES)]


# The connection is cut


@pytest.fixture
async def wire(postgres: Database) -> AsyncIterator[Wire]:
    """Return a connection to each PostgreSQL that can be cut."""
    made = Wire(postgres.url)
    yield made
    made.close()


@both_modes
@pytest.mark.parametrize("arrives", [True, False], ids=["the answer is lost", "the commit is lost"])
async def test_a_commit_of_unknown_end_is_settled_by_a_retry(
    wire: Wire, form: Form, metadata_only: bool, arrives: bool
) -> None:
    batch = a_batch(30)
    far = Database("wire", wire.url)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(far.dispose)
        client = Client(far, form, stack)
        repository = client.repository(organization_id=ORG, metadata_only=metadata_only)
        assert counts(await repository.create_many(batch)) == (30, 0, 0)
        wire.cut_at(b"COMMIT", forward=arrives)
        with pytest.raises(DBAPIError):
            await client.commit()
        await client.rollback()
        assert counts(await repository.create_many(batch)) == ((0, 30, 0) if arrives else (30, 0, 0))
        await client.commit()
        assert counts(await repository.create_many(batch)) == (0, 30, 0)
        assert await count(client, metadata_only=metadata_only) == 30


@both_modes
@pytest.mark.parametrize("place", ["COPY", "RELEASE"])
async def test_a_connection_cut_within_the_call_leaves_nothing(
    wire: Wire, form: Form, metadata_only: bool, place: str
) -> None:
    batch = a_batch(2000)
    far = Database("wire", wire.url)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(far.dispose)
        client = Client(far, form, stack)
        repository = client.repository(organization_id=ORG, metadata_only=metadata_only)
        marker = {"COPY": trace_id(1500).encode(), "RELEASE": b"RELEASE"}[place]
        # The server answers to a RELEASE, and to nothing in the middle of a COPY.
        wire.cut_at(marker, forward=place == "RELEASE")
        with pytest.raises(ProviderTraceUnavailableError) as caught:
            await repository.create_many(batch)
        assert_keeps_the_secret(caught.value)
        await client.rollback()
        assert await count(client, metadata_only=metadata_only) == 0
        assert counts(await repository.create_many(batch)) == (2000, 0, 0)
        await client.commit()
        assert await count(client, metadata_only=metadata_only) == 2000


def end_connection(client: Client, pid: int) -> None:
    with client.database.engine().begin() as other:
        other.execute(text("SELECT pg_terminate_backend(:pid, 10000)"), {"pid": pid})


@both_modes
async def test_a_connection_ended_between_the_batch_and_the_commit(
    postgres_client: Client, metadata_only: bool
) -> None:
    repository = postgres_client.repository(organization_id=ORG, metadata_only=metadata_only)
    pid = await postgres_client.scalar(text("SELECT pg_backend_pid()"))
    assert counts(await repository.create_many(a_batch(30))) == (30, 0, 0)
    end_connection(postgres_client, pid)
    with pytest.raises(DBAPIError):
        await postgres_client.commit()
    await postgres_client.rollback()
    assert counts(await repository.create_many(a_batch(30))) == (30, 0, 0)
    await postgres_client.commit()
    assert await count(postgres_client, metadata_only=metadata_only) == 30


@both_modes
@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("at", [0, 15])
async def test_a_connection_ended_within_the_call(postgres_client: Client, metadata_only: bool, at: int) -> None:
    repository = postgres_client.repository(organization_id=ORG, metadata_only=metadata_only)
    pid = await postgres_client.scalar(text("SELECT pg_backend_pid()"))

    def traces() -> Iterator[ProviderTrace]:
        for number in range(30):
            if number == at:
                end_connection(postgres_client, pid)
            yield a_trace(number)

    with pytest.raises(ProviderTraceUnavailableError) as caught:
        await repository.create_many(traces())
    assert_keeps_the_secret(caught.value)
    await postgres_client.rollback()
    assert await count(postgres_client, metadata_only=metadata_only) == 0
    assert counts(await repository.create_many(a_batch(30))) == (30, 0, 0)


# The server cannot, now


@both_modes
async def test_a_statement_timeout_within_a_copy(postgres_client: Client, metadata_only: bool) -> None:
    repository = postgres_client.repository(organization_id=ORG, metadata_only=metadata_only)
    with postgres_client.database.engine().connect() as busy:
        busy.execute(text(f"LOCK TABLE {TABLES[metadata_only]} IN SHARE MODE"))
        await postgres_client.execute(text("SET LOCAL statement_timeout = '500ms'"))
        with pytest.raises(ProviderTraceUnavailableError, match="57014") as caught:
            await repository.create_many(a_batch(30))
    assert caught.value.sqlstate == "57014"
    assert_keeps_the_secret(caught.value)
    assert counts(await repository.create_many(a_batch(30))) == (30, 0, 0)
    await postgres_client.commit()
    assert await count(postgres_client, metadata_only=metadata_only) == 30


@both_modes
@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize(
    ("setting", "kind"),
    [("statement_timeout", list), ("lock_timeout", iter)],
    ids=["statement_timeout-list", "lock_timeout-generator"],
)
async def test_a_timeout_of_one_chunk_takes_back_that_chunk_and_nothing_before_it(
    postgres_client: Client, metadata_only: bool, kind: Any, setting: str
) -> None:
    repository = postgres_client.repository(organization_id=ORG, metadata_only=metadata_only)
    await repository.create_many(a_batch(3, 100))
    with Session(postgres_client.database.engine()) as busy:
        # The third of five chunks waits for the end of this transaction.
        ProviderTraceRepository(busy, organization_id=ORG, metadata_only=metadata_only).create(a_trace(25))
        # For a lock only the third chunk waits; every statement must be done within its own limit.
        limit = {"statement_timeout": "2s", "lock_timeout": "500ms"}[setting]
        await postgres_client.execute(text(f"SET LOCAL {setting} = '{limit}'"))
        with pytest.raises(ProviderTraceUnavailableError) as caught:
            await repository.create_many(kind(a_batch(50)))
        assert caught.value.sqlstate == {"statement_timeout": "57014", "lock_timeout": "55P03"}[setting]
        assert_keeps_the_secret(caught.value)
        assert await count(postgres_client, metadata_only=metadata_only) == 23
        busy.commit()
    assert counts(await repository.create_many(kind(a_batch(50)))) == (29, 21, 0)
    await postgres_client.commit()
    assert await count(postgres_client, metadata_only=metadata_only) == 53


@both_modes
async def test_of_two_calls_that_wait_for_each_other_one_is_asked_to_retry(
    postgres: Database, form: Form, metadata_only: bool
) -> None:
    async with AsyncExitStack() as stack:
        clients = [Client(postgres, form, stack) for _ in range(2)]
        repositories = [client.repository(organization_id=ORG, metadata_only=metadata_only) for client in clients]
        batches = [a_batch(10), a_batch(10, 10)]
        for repository, batch in zip(repositories, batches, strict=True):
            assert counts(await repository.create_many(batch)) == (10, 0, 0)

        async def write(number: int) -> BulkResult | ProviderTraceUnavailableError:
            try:
                outcome: Any = await repositories[number].create_many(batches[1 - number])
            except ProviderTraceUnavailableError as error:
                outcome = error
            # The call that failed took nothing with it of what the transaction had written before.
            await clients[number].commit()
            return outcome  # type: ignore[no-any-return]

        outcomes = await asyncio.gather(*(_beside(form, write, number) for number in range(2)))
        (loser,) = [number for number, outcome in enumerate(outcomes) if not isinstance(outcome, BulkResult)]
        error, result = outcomes[loser], outcomes[1 - loser]
        assert error.sqlstate == "40P01"
        assert_keeps_the_secret(error)
        assert counts(result) == (0, 10, 0)
        for repository in repositories:
            assert counts(await repository.create_many([*batches[0], *batches[1]])) == (0, 20, 0)
        assert await count(clients[0], metadata_only=metadata_only) == 20


async def _beside(form: Form, write: Callable[[int], Any], number: int) -> Any:
    """Run a call of either form beside another; the synchronous form blocks a thread of its own."""
    if form == "async":
        return await write(number)
    return await asyncio.to_thread(lambda: asyncio.run(write(number)))


# The disk is full


def bulky(size: int, first: int = 0) -> list[ProviderTrace]:
    """Return traces of which each takes 10 KB on the disk in both modes, as they cannot be compressed."""
    return [a_trace(number, user_id=secrets.token_hex(5_000)) for number in range(first, first + size)]


async def fill_up(
    database: Database, form: Form, make_space: Callable[[], None], *, metadata_only: bool, full: Callable[[int], None]
) -> str | None:
    """Write until the disk is full, then make space and go on; return the SQLSTATE on the way."""
    few, many = bulky(20), bulky(3000, 100)
    async with AsyncExitStack() as stack:
        client = Client(database, form, stack)
        repository = client.repository(organization_id=ORG, metadata_only=metadata_only)
        assert counts(await repository.create_many(few)) == (20, 0, 0)
        full(await client.scalar(text("SELECT pg_backend_pid()")))
        with pytest.raises(ProviderTraceUnavailableError) as caught:
            await repository.create_many(many)
        assert_keeps_the_secret(caught.value)
        # First, as even a read may have to write pages out before it finds room in memory.
        make_space()
        written = await count(client, metadata_only=metadata_only)
        assert 20 <= written < 3020
        assert counts(await repository.create_many([*few, *many])) == (3020 - written, written, 0)
        await client.commit()
        assert counts(await repository.create_many([*few, *many])) == (0, 3020, 0)
        assert await count(client, metadata_only=metadata_only) == 3020
        return caught.value.sqlstate


@contextmanager
def small_disk(server: Throwaway) -> Iterator[Path]:
    """Mount a file system of 8 MB where the server may write."""
    directory = server.directory / f"disk_{next(NAMES)}"
    directory.mkdir()
    server.own(directory)
    owner = directory.stat()
    options = f"size=8m,uid={owner.st_uid},gid={owner.st_gid},mode=700"
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", directory], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no file system can be mounted here; the test with a limited file runs everywhere")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)


@both_modes
async def test_a_full_disk(server: Throwaway, thrown: Database, form: Form, metadata_only: bool) -> None:
    with small_disk(server) as directory:
        tablespace = directory.name
        with thrown.engine(isolation_level="AUTOCOMMIT").connect() as connection:
            connection.exec_driver_sql(f"CREATE TABLESPACE {tablespace} LOCATION '{directory}'")
            connection.exec_driver_sql(f"ALTER TABLE {TABLES[metadata_only]} SET TABLESPACE {tablespace}")

        def make_space() -> None:
            subprocess.run(["mount", "-o", "remount,size=200m", directory], check=True)

        try:
            state = await fill_up(thrown, form, make_space, metadata_only=metadata_only, full=lambda _: None)
            assert state == "53100"
        finally:
            await thrown.dispose()
            server.drop_database(str(thrown.url.database), tablespace)


@pytest.mark.skipif(shutil.which("prlimit") is None, reason="limits a running process with Linux' prlimit")
@pytest.mark.parametrize(("form", "metadata_only"), [("sync", False), ("async", True)])
async def test_a_file_that_cannot_grow(server: Throwaway, thrown: Database, form: Form, metadata_only: bool) -> None:
    limited: list[int] = []

    def limit(pid: int) -> None:
        limited.append(pid)
        # A segment of the write-ahead log must still fit.
        limit_files(str(17 * 2**20))

    def limit_files(size: str) -> None:
        # As the server's user: of another one's processes not even root may change limits everywhere.
        subprocess.run(["prlimit", "--pid", str(limited[0]), f"--fsize={size}:"], check=True, user=server.user, cwd="/")

    state = await fill_up(thrown, form, lambda: limit_files("unlimited"), metadata_only=metadata_only, full=limit)
    # PostgreSQL has a code of its own for a full disk, and none for a file that is too large.
    assert state == "XX000"
