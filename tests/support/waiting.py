"""Waits for events of other threads, processes and sessions: each ends with the event, not after a time."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from sqlalchemy import text

from tests.support.constants import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.orm import Session


def wait_until(condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Wait until a condition holds that another thread or process makes true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


async def until_a_session_waits_for_a_lock(session: Session) -> None:
    """Wait until another session of the same database waits for a lock."""
    # Of this database only: on a server that a URL names, another run of the tests may hold locks, too.
    blocked = text(
        "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)"
        " WHERE NOT granted AND datname = current_database()"
    )
    async with asyncio.timeout(PATIENCE):
        while not session.scalar(blocked):  # noqa: ASYNC110  (the event is in the server)
            await asyncio.sleep(0.01)
