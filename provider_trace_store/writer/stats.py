"""The counters of a writer, as a host reads them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WriterStats:
    """What became of all traces that a writer has accepted in this process, at one moment.

    At any moment `accepted == stored + unchanged + rejected + spooled + queued + dropped`.

    Args:
        accepted: traces that were submitted, or taken over from a dead process.
        stored: traces that were written to the database.
        unchanged: traces that the database had already, with the same content, such as after a commit whose answer was
            lost.
        rejected: traces that were refused for good: by the database, or because they cannot be stored exactly.
        spooled: traces that wait in the spool.
        queued: traces that wait in memory, those that are being written included.
        dropped: traces that were given up: because there was no room, because the writer was closed, or in a damaged
            file of the spool.
        adopted: the part of `accepted` that a dead process left in the spool.
        queued_bytes: what the traces in memory take, in bytes.
        spooled_bytes: what the spool's files take on the disk, in bytes: those of this writer, and of rejected traces.
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
