"""Iterators over all metadata, while the host and others write."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from tests.support.constants import MOMENT
from tests.support.spaces import Space, shared_database, space

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from provider_trace_store import (
        ProviderTraceMetadata,
    )


__all__ = ["shared_database", "space"]


@pytest.fixture(scope="module")
def many() -> int:
    """Return more than two reads' worth of rows."""
    return 2_100


@pytest.mark.pgbouncer
async def test_an_iterator_gives_everything_once_while_the_host_commits_and_rolls_back(space: Space, many: int) -> None:
    await space.add(*map(space.trace, range(0, many, 2)), place="both")
    await space.add(*map(space.trace, range(1, many, 2)), place="metadata")
    for order in ("newest", "oldest"):
        found = []
        async for trace in space.repository.iter_metadata(order=order):
            found += space.numbers([trace])
            if len(found) % 500 == 1:
                await (space.client.commit() if len(found) % 1000 == 1 else space.client.rollback())
        assert found == ([*range(many)] if order == "oldest" else [*range(many - 1, -1, -1)])
        await space.client.rollback()


async def test_an_iterator_goes_on_where_it_was_while_traces_come_and_go(space: Space, many: int) -> None:
    await space.add(*map(space.trace, range(10, 10 + many)), place="metadata")
    deleted = {10, 11, 500, 1_700, many + 9}
    found: list[int] = []
    async for trace in space.repository.iter_metadata():
        found += space.numbers([trace])
        if len(found) == 1:
            # Traces of the page that was read already, and of later pages.
            for number in deleted:
                assert await space.repository.delete(space.id(number))
            await space.add(
                space.trace(5_000, created_at=MOMENT + timedelta(days=1)),
                space.trace(1, created_at=MOMENT - timedelta(days=1)),
            )
    assert len(found) == len(set(found))
    # The first page is in memory: later writes do not change it.
    read_already = set(range(many + 10 - 1000, many + 10))
    assert set(found) == (set(range(10, many + 10)) - (deleted - read_already)) | {1}
    assert found == sorted(found, reverse=True)


@pytest.mark.pgbouncer
async def test_an_iterator_that_is_left_leaves_nothing_open(space: Space) -> None:
    await space.add(*map(space.trace, range(5)))
    iterator: AsyncIterator[ProviderTraceMetadata] = space.repository.iter_metadata()
    assert space.numbers([await anext(iterator)]) == [4]
    await space.client.commit()
    assert not space.client.session.in_transaction()
    two = space.repository.iter_metadata(), space.repository.iter_metadata(order="oldest")
    pairs = [(space.numbers([await anext(two[0])])[0], space.numbers([await anext(two[1])])[0]) for _ in range(5)]
    assert pairs == [(4, 0), (3, 1), (2, 2), (1, 3), (0, 4)]
    for one in two:
        with pytest.raises(StopAsyncIteration):
            await anext(one)
        with pytest.raises(StopAsyncIteration):
            await anext(one)


async def test_an_iterator_over_nothing_ends_at_once(space: Space) -> None:
    assert await space.iterate() == []
    assert await space.iterate(since=MOMENT, until=MOMENT) == []
