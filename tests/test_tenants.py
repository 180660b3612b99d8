"""Tenants are separate: every public method, found by reflection, with ids and cursors of another organization."""

from __future__ import annotations

import asyncio
import inspect
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import pytest
from sqlalchemy import text

from provider_trace_store import (
    AsyncProviderTraceRepository,
    BulkResult,
    MetadataPage,
    ProviderTrace,
    ProviderTraceConflictError,
    ProviderTraceMetadata,
    ProviderTraceRepository,
    ProviderTraceStoreError,
    TracePage,
)
from tests.support.batches import both_modes
from tests.support.clients import Client
from tests.support.constants import MOMENT, TABLES
from tests.support.packs import pack_now
from tests.support.spaces import NO_DATE, allow_undated, shared_database, shown

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from tests.support.clients import RepositoryClient
    from tests.support.servers import Database

    Calls = Iterator[Callable[[], Awaitable[Any]]]

__all__ = ["shared_database"]


FILTERS: Final = ("step_id", "run_id", "agent_id", "call_type", "source", "user_id", "org_id", "agent_tag")
COUNTED: Final = ("agent_id", "call_type", "org_id", "source", "user_id")
# A page is bounded by comparing rows. An organization with one of these at its end sorts next to the tenant's.
NEIGHBOURS: Final = ("0", "\x01", " ", "-", ".", "é", "\uffff", "\U0010ffff", "a", "Z", "~", "\t")


@dataclass
class Another:
    """What a caller may have got hold of that belongs to another organization.

    Args:
        traces: stored by it, of whatever form.
        texts: what its columns hold, and its tags.
        cursors: of its pages.
        packed: its packed traces.
    """

    traces: list[ProviderTrace] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    cursors: list[str] = field(default_factory=list)
    packed: list[ProviderTrace] = field(default_factory=list)

    @property
    def ids(self) -> list[str]:
        """The ids of its traces."""
        return [trace.id for trace in (*self.traces, *self.packed)]


def by_id(name: str) -> Callable[[RepositoryClient, Another], Calls]:
    def calls(repository: RepositoryClient, another: Another) -> Calls:
        for trace_id in (*another.ids, *another.texts):
            yield partial(getattr(repository, name), trace_id)

    return calls


def by_text(name: str) -> Callable[[RepositoryClient, Another], Calls]:
    def calls(repository: RepositoryClient, another: Another) -> Calls:
        for searched in (*another.texts, *another.ids[:2]):
            yield partial(getattr(repository, name), searched)

    return calls


def by_run(repository: RepositoryClient, another: Another) -> Calls:
    for searched in another.texts:
        for limit in (1, 20):
            yield partial(repository.list_by_run_id, searched, limit=limit)
        for cursor in another.cursors:
            yield partial(repository.list_by_run_id, searched, cursor=cursor)


def filters_of(another: Another) -> Iterator[dict[str, Any]]:
    yield {}
    for name in FILTERS:
        for searched in another.texts:
            yield {name: searched}
    yield {"since": NO_DATE, "until": NO_DATE + timedelta(days=1)}
    yield {"since": MOMENT, "agent_tag": another.texts[0]}


def pages(repository: RepositoryClient, another: Another) -> Calls:
    for order in ("newest", "oldest"):
        for filters in filters_of(another):
            yield partial(all_pages, repository, order=order, limit=2, **filters)
        for limit in (1, 3, 1000):
            yield partial(all_pages, repository, order=order, limit=limit)
        for cursor in another.cursors:
            yield partial(repository.list_metadata, order=order, cursor=cursor)
            for name in FILTERS[:2]:
                filters = {name: another.texts[0]}
                yield partial(repository.list_metadata, order=order, cursor=cursor, **filters)


async def all_pages(repository: RepositoryClient, **arguments: Any) -> list[MetadataPage]:
    found = [await repository.list_metadata(**arguments)]
    while (cursor := found[-1].next_cursor) is not None:
        found.append(await repository.list_metadata(cursor=cursor, **arguments))
    return found


def iterations(repository: RepositoryClient, another: Another) -> Calls:
    async def everything(**arguments: Any) -> list[ProviderTraceMetadata]:
        return [trace async for trace in repository.iter_metadata(**arguments)]

    for order in ("newest", "oldest"):
        for filters in filters_of(another):
            yield partial(everything, order=order, **filters)


def counts(repository: RepositoryClient, another: Another) -> Calls:
    for counted in COUNTED:
        yield partial(repository.count_by, counted)
    for filters in filters_of(another):
        yield partial(repository.count_by, "source", **filters)
    for value in (*another.texts, *another.ids[:1]):
        yield partial(repository.count_by, value)


def days(repository: RepositoryClient, another: Another) -> Calls:
    for filters in filters_of(another):
        yield partial(repository.count_by_day, **filters)


def creations(repository: RepositoryClient, another: Another) -> Calls:
    for trace in another.traces:
        for given in (trace, trace.model_copy(update={"source": "other content", "request_json": {}})):
            yield partial(repository.create, given)


def bulk_creations(repository: RepositoryClient, another: Another) -> Calls:
    for given in (another.traces, another.traces[:1], another.traces[::-1]):
        yield partial(repository.create_many, given)


# What each public method is called with.
CASES: Final[dict[str, Callable[[RepositoryClient, Another], Any]]] = {
    "create": creations,
    "create_many": bulk_creations,
    "delete": by_id("delete"),
    "restore": by_id("restore"),
    "get": by_id("get"),
    "get_metadata": by_id("get_metadata"),
    "get_by_step_id": by_text("get_by_step_id"),
    "list_by_step_id": by_text("list_by_step_id"),
    "list_by_run_id": by_run,
    "list_metadata": pages,
    "iter_metadata": iterations,
    "count_by": counts,
    "count_by_day": days,
}
# An id is unique over all organizations. These methods reveal only that it is taken, as for a deleted row of one's own.
TAKES_IDS: Final = frozenset({"create", "create_many"})


def without_case(repository: type) -> set[str]:
    """Return the public methods that have no case, and all other public attributes."""
    return {name for name, _ in inspect.getmembers(repository) if not name.startswith("_")} - set(CASES)


@pytest.mark.parametrize("repository", [ProviderTraceRepository, AsyncProviderTraceRepository])
def test_every_public_method_has_a_case(repository: type) -> None:
    assert without_case(repository) == set()
    assert {name for name, _ in inspect.getmembers(repository, inspect.isfunction)} >= set(CASES)

    class Extended(repository):  # type: ignore[misc]  # of each in turn
        def find_by_user(self) -> None: ...

    assert without_case(Extended) == {"find_by_user"}


@pytest.mark.parametrize("repository", [ProviderTraceRepository, AsyncProviderTraceRepository])
def test_no_method_takes_an_organization(repository: type) -> None:
    for name in CASES:
        assert "organization_id" not in inspect.signature(getattr(repository, name)).parameters, name


class Tenants:
    """Two organizations and their neighbours in one database.

    Args:
        client: on whose session.
    """

    def __init__(self, client: Client) -> None:
        self.client = client
        self.ours = f"t{uuid4().hex[:8]}-org-1"
        self.others = [
            f"{self.ours}-other",
            *(f"{self.ours}{end}" for end in NEIGHBOURS),
            f"{self.ours[:-1]}0",
            f"{self.ours[:-1]}2",
            f"{self.ours[:-1]}",
            f"{self.ours[:-2]}",
            f" {self.ours}",
            self.ours.upper(),
            self.ours.title(),
        ]
        self.another = Another()
        self.ids: dict[str, list[str]] = {}

    async def fill(self) -> None:
        """Give all organizations traces of the same moments, steps, runs, texts and tags, and of their own."""
        for organization in (*self.others[1:], self.ours, self.others[0]):
            is_other = organization == self.others[0]
            secret = f"only-{uuid4().hex}" if is_other else "everybody's"
            texts = dict.fromkeys(FILTERS[:-1], "everybody's")
            own = dict.fromkeys(FILTERS[:-1], secret)
            stored = []
            for number in range(4):
                trace = ProviderTrace(
                    request_json={"secret": secret},
                    response_json={"number": number},
                    created_at=MOMENT + timedelta(days=number // 2),
                    agent_tags=["everybody's", secret],
                    **(own if number % 2 else texts),
                )
                await self._store(organization, trace, metadata_only=number in {0, 1})
                stored.append(trace)
                # Each table has its own ids: what is ours as metadata may be another's in full.
                if organization == self.ours:
                    taken = trace.model_copy(update={"request_json": {"secret": "of another"}})
                    await self._store(self.others[1], taken, metadata_only=number not in {0, 1})
            undated = ProviderTrace(
                request_json={}, response_json={}, step_id="everybody's", run_id="everybody's", source=secret
            )
            await self._store(organization, undated, metadata_only=False)
            await self.client.execute(
                text("UPDATE provider_traces SET created_at = NULL WHERE id = :id"), {"id": undated.id}
            )
            deleted = undated.model_copy(update={"id": undated.id + "-deleted", "created_at": MOMENT})
            await self._store(organization, deleted, metadata_only=False)
            await self.client.execute(
                text("UPDATE provider_traces SET is_deleted = true WHERE id = :id"), {"id": deleted.id}
            )
            if is_other:
                undated.created_at = NO_DATE
                self.another = Another([*stored, undated, deleted], ["everybody's", secret, organization])
                self.another.cursors = await self._cursors(self.client.repository(organization_id=organization))
        await self.client.commit()
        for organization in (self.ours, self.others[0]):
            await self._add_packed(organization)

    async def _add_packed(self, organization: str) -> None:
        """Give an organization packed traces; cursors were made before they were packed, and one after."""
        secret = self.another.texts[1] if organization == self.others[0] else "everybody's"
        packed = [
            ProviderTrace(
                request_json={"secret": secret},
                response_json={"number": number},
                created_at=MOMENT + timedelta(days=number),
                agent_tags=["everybody's", secret],
                **dict.fromkeys(FILTERS[:-1], secret if number else "everybody's"),
            )
            for number in range(2)
        ]
        for trace in packed:
            await self._store(organization, trace, metadata_only=False)
        repository = self.client.repository(organization_id=organization)
        before = await self._cursors(repository)
        await self.client.commit()
        with self.client.database.engine().begin() as connection:
            pack_now(connection, [trace.id for trace in packed])
        if organization == self.others[0]:
            self.another.packed = packed
            self.another.cursors += before + await self._cursors(repository)
        await self.client.commit()

    async def _cursors(self, repository: RepositoryClient) -> list[str]:
        found = [
            (await repository.list_metadata(limit=1)).next_cursor,
            (await repository.list_metadata(limit=2, order="oldest")).next_cursor,
            (await repository.list_metadata(limit=1, run_id="everybody's")).next_cursor,
            (await repository.list_by_run_id("everybody's", limit=1)).next_cursor,
        ]
        assert None not in found
        return [cursor for cursor in found if cursor is not None]

    async def _store(self, organization: str, trace: ProviderTrace, *, metadata_only: bool) -> None:
        await self.client.repository(organization_id=organization, metadata_only=metadata_only).create(trace)
        self.ids.setdefault(organization, []).append(trace.id)

    async def remove_the_others(self) -> None:
        """Delete the rows of all others, and not only mark them."""
        for organization in self.others:
            for table in TABLES.values():
                await self.client.execute(
                    text(f"DELETE FROM {table} WHERE organization_id = :organization"),  # noqa: S608  (our own names)
                    {"organization": organization},
                )

    async def take_over_as_deleted(self) -> None:
        """Let the rows of the other organization be our own deleted ones."""
        for table in TABLES.values():
            await self.client.execute(
                text(
                    f"UPDATE {table} SET organization_id = :ours, is_deleted = true"  # noqa: S608  (our own names)
                    " WHERE organization_id = :other"
                ),
                {"ours": self.ours, "other": self.others[0]},
            )

    async def rows(self, *organizations: str) -> list[str]:
        """Return all that is stored of some organizations, every column."""
        return sorted(
            [
                repr((table, *row))
                for table in TABLES.values()
                for row in await self.client.execute(text(f"SELECT * FROM {table}"))  # noqa: S608  (our own names)
                if row._mapping["organization_id"] in organizations
            ]
        )


@pytest.fixture(scope="module")
def filled(database: Database) -> Tenants:
    """Return organizations with traces, for all tests of a database: each takes back what it does."""
    allow_undated(database)

    async def fill() -> Tenants:
        async with AsyncExitStack() as stack:
            tenants = Tenants(Client(database, "sync", stack))
            await tenants.fill()
            return tenants

    return asyncio.run(fill())


@pytest.fixture
def tenants(filled: Tenants, client: Client) -> Tenants:
    """Return the organizations, on a session of the test's own form."""
    filled.client = client
    return filled


async def outcome(call: Callable[[], Awaitable[Any]]) -> Any:
    """Return what a call gave, or the error's class, words and attributes, so that all of it can be compared."""
    try:
        value = await call()
    except ProviderTraceStoreError as error:
        shown(error)
        return type(error), str(error), vars(error)
    return comparable(value)


def comparable(value: Any) -> Any:
    if isinstance(value, MetadataPage | TracePage):
        return comparable(value.items), value.next_cursor
    if isinstance(value, BulkResult):
        errors = sorted((rejected.trace_id, repr(rejected.error)) for rejected in value.rejected)
        return value.created, value.unchanged, errors
    if isinstance(value, list | tuple):
        return [comparable(one) for one in value]
    if isinstance(value, ProviderTraceMetadata):
        return value.model_dump(), value.stored_as
    if isinstance(value, dict):
        return list(value.items())
    return value


@both_modes
@pytest.mark.parametrize("method", sorted(CASES))
async def test_nothing_of_another_organization_appears_changes_or_is_hinted_at(
    tenants: Tenants, method: str, metadata_only: bool, statements: list[str]
) -> None:
    client = tenants.client

    def repository() -> RepositoryClient:
        # A new one each time: what one has read decides which statement it sends next.
        return client.repository(organization_id=tenants.ours, metadata_only=metadata_only, actor_id="actor")

    async def outcomes(prepare: Callable[[], Awaitable[None]] | None = None) -> list[Any]:
        found = []
        # In each case in a transaction that wrote, so that the statements are the same.
        await client.execute(text("DELETE FROM provider_traces WHERE id = 'none'"))
        if prepare:
            await prepare()
        before = await tenants.rows(*tenants.others)
        for call in CASES[method](repository(), tenants.another):
            statements.clear()
            result = await outcome(call)
            found.append((result, [] if method in TAKES_IDS else list(statements)))
        assert await tenants.rows(*tenants.others) == before
        await client.rollback()
        return found

    await outcomes()  # later reads of the same packs send less: a reader keeps what it has of them
    with_them = await outcomes()
    assert with_them
    if method in TAKES_IDS:
        assert with_them == await outcomes(tenants.take_over_as_deleted)
        taken = tenants.another.traces[:2] if metadata_only else tenants.another.traces[2:]
        await assert_only_conflicts(repository(), Another(taken), method)
    else:
        assert with_them == await outcomes(tenants.remove_the_others)
    secret = tenants.another.texts[1]
    if method not in TAKES_IDS:
        assert secret not in repr([result for result, _ in with_them])


async def assert_only_conflicts(repository: RepositoryClient, another: Another, method: str) -> None:
    for call in CASES[method](repository, another):
        if method == "create_many":
            result = await call()
            assert (result.created, result.unchanged) == (0, 0)
            errors = [rejected.error for rejected in result.rejected]
        else:
            with pytest.raises(ProviderTraceConflictError) as caught:
                await call()
            errors = [caught.value]
        for error in errors:
            assert isinstance(error, ProviderTraceConflictError)
            assert vars(error) == {"trace_id": error.trace_id}


async def test_neighbours_in_the_order_of_names_see_their_own_and_only_that(tenants: Tenants) -> None:
    for organization in (tenants.ours, *tenants.others):
        repository = tenants.client.repository(organization_id=organization)
        expected = sorted(trace_id for trace_id in tenants.ids[organization] if not trace_id.endswith("-deleted"))
        for order in ("newest", "oldest"):
            for limit in (1, 1000):
                found = [page.items for page in await all_pages(repository, order=order, limit=limit)]
                assert sorted(trace.id for items in found for trace in items) == expected, (organization, limit)
        assert sum((await repository.count_by("source")).values()) == len(expected), organization
        assert sum((await repository.count_by_day()).values()) == len(expected), organization


async def test_what_is_known_of_another_organization_finds_it_there(tenants: Tenants) -> None:
    """So that the test above would notice."""
    repository = tenants.client.repository(organization_id=tenants.others[0])
    another = tenants.another
    secret = another.texts[1]
    is_found = [await repository.get_metadata(trace_id) is not None for trace_id in another.ids]
    assert is_found == [True] * 5 + [False] + [True] * 2
    assert [await repository.get(trace.id) for trace in another.packed] == another.packed
    for name in FILTERS:
        assert (await repository.list_metadata(**{name: secret})).items, name
    assert (await repository.list_by_run_id("everybody's")).items
    assert len((await repository.list_metadata(cursor=another.cursors[0])).items) == 5
    assert await repository.delete(another.ids[0])
    assert await repository.restore(another.ids[5])
