"""What `create_many` returns: how many traces were written, and those that were not, each with the reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from provider_trace_store.errors import ProviderTraceStoreError


@dataclass(frozen=True, slots=True)
class RejectedTrace:
    """A trace that was not stored, and the reason.

    Args:
        trace_id: the trace's id.
        error: `ProviderTraceConflictError`, `TraceEncodingError`, `TraceTooLargeError` or
            `ProviderTraceRejectedError`.
    """

    trace_id: str
    error: ProviderTraceStoreError


@dataclass(frozen=True, slots=True)
class BulkResult:
    """The result of one `create_many`; each trace counts once, in one of the three fields.

    Args:
        created: number of traces that were written.
        unchanged: number of traces that were already stored with the same content.
        rejected: one entry for each trace that was not stored.
    """

    created: int = 0
    unchanged: int = 0
    rejected: tuple[RejectedTrace, ...] = ()
