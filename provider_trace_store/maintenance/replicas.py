"""How far replicas are behind: the time since they had all that the primary had written."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Final

from sqlalchemy import text

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from provider_trace_store.maintenance.progress import Stop

_PLACES: Final = text(
    "SELECT pg_current_wal_lsn() - '0/0'::pg_lsn AS written, "
    "(SELECT min(replay_lsn) - '0/0'::pg_lsn FROM pg_stat_replication) AS replayed"
)
_BETWEEN_LOOKS: Final = 0.5  # seconds


class Replicas:
    """Waits for the slowest replica.

    `replay_lag` of `pg_stat_replication` does not grow while a replica replays nothing. So the places that the primary
    had written are noted with their times, and a replica is as far behind as the oldest of them that it lacks.

    Args:
        connection: without a transaction; each look has one of its own.
        max_lag: the seconds that a replica may be behind; None for no limit.
    """

    def __init__(self, connection: Connection, max_lag: float | None) -> None:
        self._connection = connection
        self._max_lag = max_lag if connection.dialect.name == "postgresql" else None
        self._written: deque[tuple[int, float]] = deque()

    def wait(self, stop: Stop) -> None:
        """Wait until no replica is too far behind; at once if the server has none, or shows none to the role.

        Args:
            stop: ends the wait.
        """
        while self._max_lag is not None and self._lag() > self._max_lag:
            stop.wait(_BETWEEN_LOOKS)

    def _lag(self) -> float:
        with self._connection.begin():
            places = self._connection.execute(_PLACES).one()
        now = time.monotonic()
        if places.replayed is None:
            self._written.clear()
            return 0.0
        if not self._written or places.written > self._written[-1][0]:
            self._written.append((places.written, now))
        while self._written and self._written[0][0] <= places.replayed:
            self._written.popleft()
        return now - self._written[0][1] if self._written else 0.0
