"""What a writer counts, and how it is told: numbers, and log lines that come once in a while."""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import logging

# How often a line of one kind is written at most, in seconds.
LOG_INTERVAL: Final = 30.0


@dataclass(frozen=True, slots=True)
class WriterStats:
    """What became of all traces that a writer has accepted, in this process, at one moment.

    At any moment `accepted == stored + unchanged + rejected + spooled + queued + dropped`.

    Args:
        accepted: submitted, or taken over from a dead process.
        stored: written to the database.
        unchanged: in the database already, with the same content, such as after a commit whose answer was lost.
        rejected: refused for good: by the database, or because they cannot be stored exactly.
        spooled: waiting in the spool.
        queued: waiting in memory, what is just being written included.
        dropped: given up: when there was no room, when the writer was closed, or in a damaged file of the spool.
        adopted: of those accepted, how many a dead process had left in the spool.
        queued_bytes: what those in memory take.
        spooled_bytes: about what those in the spool take.
        retries: how often a batch was sent again.
    """

    accepted: int = 0
    stored: int = 0
    unchanged: int = 0
    rejected: int = 0
    spooled: int = 0
    queued: int = 0
    dropped: int = 0
    adopted: int = 0
    queued_bytes: int = 0
    spooled_bytes: int = 0
    retries: int = 0


class Occasionally:
    """Logs a message when it is new, and at most once in `LOG_INTERVAL` seconds as long as it goes on.

    Args:
        logger: where.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._next: dict[str, float] = {}

    def log(self, level: int, message: str, *arguments: object) -> None:
        """Log a message, unless it was logged lately.

        Args:
            level: of `logging`.
            message: which of the messages it is, and how `arguments` are put into it.
            arguments: counts, ids and names of classes, never content.
        """
        now = monotonic()
        if now >= self._next.get(message, 0.0):
            self._next[message] = now + LOG_INTERVAL
            self._logger.log(level, message, *arguments)

    def over(self, message: str) -> bool:
        """Say whether a message was logged since the last call, and let its next one be logged at once."""
        return self._next.pop(message, None) is not None
