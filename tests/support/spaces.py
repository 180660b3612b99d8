"""A database that a whole module shares, and an organization for each test."""

from __future__ import annotations

import asyncio
import traceback
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal
from uuid import uuid4

import pytest
from sqlalchemy import bindparam, text

from provider_trace_store import ProviderTrace, ProviderTraceMetadata, ProviderTraceStoreError
from tests.support.batches import run_script
from tests.support.constants import MOMENT, TABLES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence

    from tests.support.clients import Client, RepositoryClient
    from tests.support.databases import Databases
    from tests.support.servers import Database

Place = Literal["full", "metadata", "both"]

NO_DATE: Final = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND: Final = timedelta(microseconds=1)


@pytest.fixture(scope="module", name="database")
def shared_database(request: pytest.FixtureRequest, databases: Databases) -> Iterator[Database]:
    """Return a migrated database that all tests of a module share: a new one for each would take most of the time."""
    made = databases.make(request.param, migrated=True)
    with asyncio.Runner() as runner:
        yield runner.run(made.__aenter__())
        runner.run(made.__aexit__(None, None, None))


@pytest.fixture
def space(client: Client) -> Space:
    """Return an organization that no other test has."""
    return Space(client)


def allow_undated(database: Database) -> None:
    """Let `created_at` be nullable, as in the tables of existing deployments."""
    if database.backend == "postgresql":
        run_script(database, "ALTER TABLE provider_traces ALTER COLUMN created_at DROP NOT NULL")
        return
    # Each release of SQLAlchemy writes the default in its own way.
    declared = "created_at DATETIME DEFAULT {} NOT NULL"
    run_script(
        database,
        "PRAGMA writable_schema = ON",
        *(
            f"UPDATE sqlite_schema SET sql = replace(sql, '{declared.format(default)}', 'created_at DATETIME')"  # noqa: S608  (constants)
            " WHERE name = 'provider_traces'"
            for default in ("CURRENT_TIMESTAMP", "(CURRENT_TIMESTAMP)")
        ),
    )


async def error_of(call: Awaitable[Any]) -> BaseException:
    """Return the error of the package that a call raises."""
    with pytest.raises(ProviderTraceStoreError) as caught:
        await call
    return caught.value


async def _walked(a_page: Callable[..., Awaitable[Any]], limit: int) -> list[Any]:
    found: list[Any] = []
    cursor = None
    while True:
        page = await a_page(limit=limit, cursor=cursor)
        found += page.items
        cursor = page.next_cursor
        if cursor is None:
            assert len(page.items) <= limit
            return found
        assert len(page.items) == limit
        assert len(found) < 10_000, "the pages do not end"


class Space:
    """An organization of one test, on a database that other tests use, too.

    Args:
        client: the client whose session the repositories use.
    """

    def __init__(self, client: Client) -> None:
        self.client = client
        self.organization_id = f"org-{uuid4().hex}"
        self._mark = uuid4().hex[:8]

    @property
    def repository(self) -> RepositoryClient:
        """A repository of the organization, which writes whole traces."""
        return self.repository_of(metadata_only=False)

    def repository_of(self, **options: Any) -> RepositoryClient:
        """Return a repository of the organization."""
        return self.client.repository(organization_id=self.organization_id, **options)

    def id(self, number: int) -> str:
        """Return an id that only this test has; they sort as their numbers do."""
        return f"provider_trace-{self._mark}-0000-7000-8000-{number:012x}"

    def numbers(self, traces: Iterable[ProviderTrace | ProviderTraceMetadata]) -> list[int]:
        """Return the numbers of the ids."""
        return [int(trace.id[-12:], 16) for trace in traces]

    def trace(self, number: int, **fields: Any) -> ProviderTrace:
        """Return a trace created at `MOMENT`; two numbers give two different traces."""
        defaults: dict[str, Any] = {
            "id": self.id(number),
            "request_json": {"model": "m-1", "number": number},
            "response_json": {"text": "hello"},
            "created_at": MOMENT,
        }
        return ProviderTrace(**(defaults | fields))

    async def add(self, *traces: ProviderTrace, place: Place = "full", commit: bool = True) -> None:
        """Store traces."""
        for metadata_only in (False, True):
            if place != ("full" if metadata_only else "metadata"):
                result = await self.repository_of(metadata_only=metadata_only).create_many(list(traces))
                assert result.created == len(traces)
        if commit:
            await self.client.commit()

    async def set_column(self, trace: ProviderTrace, column: str, value: str | None) -> None:
        """Write a column as another program may; `value` is the text form of the database."""
        kind = {"agent_tags": "json", "created_at": "timestamptz"}.get(column, "varchar")
        shown = f"CAST(:value AS {kind})" if self.client.database.backend == "postgresql" else ":value"
        for table in TABLES.values():
            if value is None and column == "created_at" and table == TABLES[True]:
                continue
            statement = text(f"UPDATE {table} SET {column} = {shown} WHERE id = :id")  # noqa: S608  (our own names)
            await self.client.execute(
                statement.bindparams(bindparam("value", value), bindparam("id", trace.id)),
            )
        await self.client.commit()

    async def walk(self, limit: int, **arguments: Any) -> list[ProviderTraceMetadata]:
        """Return the items of all pages; every page but the last must be full."""
        return await _walked(partial(self.repository.list_metadata, **arguments), limit)

    async def walk_run(self, run_id: str, limit: int) -> list[ProviderTrace]:
        """Return the items of all pages of a run; every page but the last must be full."""
        return await _walked(partial(self.repository.list_by_run_id, run_id), limit)

    async def iterate(self, **arguments: Any) -> list[ProviderTraceMetadata]:
        """Return the items of `iter_metadata`."""
        return [trace async for trace in self.repository.iter_metadata(**arguments)]

    async def assert_listed(self, expected: Sequence[int], **filters: Any) -> None:
        """Assert that every way to list finds exactly these, newest first in this order."""
        newest, oldest = list(expected), list(expected)[::-1]
        for limit in (1, 3):
            assert self.numbers(await self.walk(limit, **filters)) == newest, (filters, limit)
            assert self.numbers(await self.walk(limit, order="oldest", **filters)) == oldest, (filters, limit)
        assert self.numbers(await self.iterate(**filters)) == newest, filters
        assert self.numbers(await self.iterate(order="oldest", **filters)) == oldest, filters
        counted = await self.repository.count_by("call_type", **filters)
        assert sum(counted.values()) == len(newest), filters
        days = await self.repository.count_by_day(**filters)
        assert sum(days.values()) == len(newest), filters


def shown(error: BaseException) -> str:
    """Return everything that a logger or an error tracker prints."""
    assert error.__cause__ is None
    assert error.__context__ is None
    return "".join(traceback.format_exception(error)) + repr(error) + repr(vars(error))
