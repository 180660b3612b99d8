"""Fixtures of the tests of writes."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from provider_trace_store.writes import chunks
from tests.support.clients import Client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.clients import Form
    from tests.support.servers import Database


@pytest.fixture
async def postgres_client(postgres: Database, form: Form) -> AsyncIterator[Client]:
    """Return a client of either form on PostgreSQL."""
    async with AsyncExitStack() as stack:
        yield Client(postgres, form, stack)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut after ten rows, so that small batches have several chunks."""
    monkeypatch.setattr(chunks, "MAX_ROWS", 10)
