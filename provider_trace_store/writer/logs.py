"""The writer's logger, and log lines that are written only now and then."""

from __future__ import annotations

import logging
from time import monotonic
from typing import Final

from provider_trace_store.errors import shown

# How often a line of one kind is written at most, in seconds.
LOG_INTERVAL: Final = 30.0
# A list of ids is longer than one id: a thousand ids fit.
_MOST_SHOWN: Final = 100_000

logger: Final = logging.getLogger("provider_trace_store.writer")


class ThrottledLog:
    """Logs a message when it is new, and at most once in `LOG_INTERVAL` seconds while it is repeated."""

    def __init__(self) -> None:
        self._next: dict[str, float] = {}

    def log(self, level: int, message: str, *arguments: object) -> None:
        """Log a message, unless it was logged less than `LOG_INTERVAL` seconds ago.

        Args:
            level: a level of `logging`.
            message: the text, with `%s` for each argument; the same text is the same message.
            arguments: counts, ids and names of classes, never content. Ids come from anywhere: texts are escaped.
        """
        now = monotonic()
        if now >= self._next.get(message, 0.0):
            self._next[message] = now + LOG_INTERVAL
            lines = [shown(one, _MOST_SHOWN) if isinstance(one, str) else one for one in arguments]
            logger.log(level, message, *lines)

    def forget(self, message: str) -> bool:
        """Let a message be logged at once the next time; say whether it was logged since the last call."""
        return self._next.pop(message, None) is not None
