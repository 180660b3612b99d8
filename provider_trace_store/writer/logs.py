"""The writer's logger, and log lines that are written only now and then."""

from __future__ import annotations

import logging
import re
from time import monotonic
from typing import TYPE_CHECKING, Final

from provider_trace_store.errors import ProviderTraceRejectedError, TraceEncodingError, TraceTooLargeError

if TYPE_CHECKING:
    from provider_trace_store.errors import ProviderTraceStoreError

from provider_trace_store.errors import shown

# How often a line of one kind is written at most, in seconds.
LOG_INTERVAL: Final = 30.0
# A list of ids is longer than one id: a thousand ids fit.
_MOST_SHOWN: Final = 100_000

logger: Final = logging.getLogger("provider_trace_store.writer")


# A key in a path: `.name`, or `["any text"]`; both may be cut.
_KEY: Final = re.compile(r"""\.[A-Za-z_]\w*…?|\["(?:[^"\\]|\\.)*"\]""")


def why(error: ProviderTraceStoreError) -> str:
    """Return the reason of a rejection for the log, without the names of keys, which may be content."""
    if isinstance(error, TraceEncodingError):
        return f"{_KEY.sub('.*', error.path)}: {error.reason}"
    if isinstance(error, TraceTooLargeError):
        return f"{error.path}: {error.size} bytes, {error.limit} are allowed"
    if isinstance(error, ProviderTraceRejectedError):
        facts = (f"SQLSTATE {error.sqlstate}", f"constraint {error.constraint}", error.reason)
        return ", ".join(fact for fact in facts if fact and not fact.endswith(" None")) or "the database's rule"
    return "the id is that of a stored trace with other content"


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
