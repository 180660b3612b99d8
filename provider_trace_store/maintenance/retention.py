"""Retention: drops the bodies of packed traces that are too old; their metadata stays."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import update

from provider_trace_store.maintenance.durations import checked_duration
from provider_trace_store.maintenance.progress import Meter, Stop, Throttle, one_at_a_time
from provider_trace_store.maintenance.reports import Report
from provider_trace_store.maintenance.stored_packs import (
    PackFailure,
    attempted,
    contents,
    dates_of,
    delete_pack,
    listed,
    point_to,
    replace,
    stored_pack,
)
from provider_trace_store.maintenance.transactions import begin, connected
from provider_trace_store.packs.format import DamagedPackError, Directory, without
from provider_trace_store.packs.store import PACKS
from provider_trace_store.tables.kinds import METADATA
from provider_trace_store.tables.moments import moment_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta
    from uuid import UUID

    from sqlalchemy import Connection, Engine, Row

    from provider_trace_store.maintenance.progress import Progress
    from provider_trace_store.maintenance.stored_packs import StoredPack


@dataclass(frozen=True)
class PruneReport(Report):
    """What `prune_packs` did; for a dry run, what it would do.

    Args:
        traces: the traces whose bodies were dropped; they are metadata now.
        packs_dropped: the packs whose traces were all too old.
        packs_rewritten: the packs that were written anew without the traces that were too old.
        failures: the packs that stay as they are, with the reason.
        seconds: how long it took.
        is_dry_run: whether nothing was changed.
    """

    traces: int
    packs_dropped: int
    packs_rewritten: int
    failures: tuple[PackFailure, ...]
    seconds: float
    is_dry_run: bool


def prune_packs(  # noqa: PLR0913  (each will be an option of the command)
    engine: Engine,
    *,
    older_than: timedelta,
    organization_id: str | None = None,
    rate: float | None = None,
    pause: float = 0.0,
    dry_run: bool = False,
    on_progress: Callable[[Progress], object] | None = None,
) -> PruneReport:
    """Drop the bodies of packed traces that are too old. Their rows of metadata stay, and are `stored_as` metadata.

    A pack whose traces are all too old is dropped, also a damaged one. A pack with younger traces, too, is written
    anew if traces that are too old have at least half of its raw bytes; otherwise it waits for a later call.

    Args:
        engine: synchronous; its pool must allow two connections. `schema_translate_map` decides the schema.
        older_than: bodies of traces that are older than this are dropped.
        organization_id: only this organization; None for all.
        rate: the most MB (a million bytes) of documents a second; None for no limit.
        pause: a pause after each transaction, in seconds.
        dry_run: whether to change nothing, and to report what it would do.
        on_progress: called after each pack.

    Raises:
        InvalidArgumentError: an argument is out of its range.
        MaintenanceError: another command of maintenance runs.
    """
    cutoff = datetime.now(UTC) - checked_duration(older_than, "older_than")
    throttle = Throttle(rate, pause)
    traces = dropped = rewritten = 0
    failures: list[PackFailure] = []
    meter = Meter("prune", on_progress, None)
    with Stop() as stop, one_at_a_time(engine), connected(engine) as connection:
        for row in listed(connection, organization_id, PACKS.c.first_created_at < cutoff):
            action = partial(_prune_one, connection, row, cutoff, dry_run=dry_run)
            result = attempted(connection, row.id, action, "the change")
            if isinstance(result, PackFailure):
                failures.append(result)
            else:
                count, is_dropped = result
                traces += count
                dropped += is_dropped
                rewritten += bool(count) and not is_dropped
            meter.add(row.traces, row.raw_bytes)
            stop.check()
            if not dry_run:
                throttle.wait(row.raw_bytes, stop)
    return PruneReport(traces, dropped, rewritten, tuple(failures), round(meter.seconds, 3), dry_run)


def _prune_one(connection: Connection, row: Row[Any], cutoff: datetime, *, dry_run: bool) -> tuple[int, bool]:
    """Drop or rewrite a pack; return how many bodies went, and whether the pack was dropped."""
    if not dry_run:
        begin(connection)
    stored = stored_pack(connection, row.id, lock=not dry_run)
    if stored is None:
        return 0, False
    if row.last_created_at < cutoff:
        return _drop(connection, stored, dry_run=dry_run), True
    return _rewrite(connection, stored, cutoff, dry_run=dry_run), False


def _drop(connection: Connection, stored: StoredPack, *, dry_run: bool) -> int:
    try:
        ids = Directory(stored.pack.directory).trace_ids
    except DamagedPackError:
        return stored.pack.traces if dry_run else _drop_unread(connection, stored.pack_id)
    dates = dates_of(connection, stored.pack_id, ids, lock=not dry_run)
    if not dry_run:
        point_to(connection, stored.pack_id, list(dates), None)
        delete_pack(connection, stored.pack_id)
    return len(dates)


def _drop_unread(connection: Connection, pack_id: UUID) -> int:
    # Without its directory, the rows are found by a scan of the table.
    rows = update(METADATA.table).where(METADATA.table.c.pack_id == pack_id).values(pack_id=None)
    changed = connection.execute(rows).rowcount
    delete_pack(connection, pack_id)
    return changed


def _rewrite(connection: Connection, stored: StoredPack, cutoff: datetime, *, dry_run: bool) -> int:
    directory = Directory(stored.pack.directory)
    ids = directory.trace_ids
    dates = dates_of(connection, stored.pack_id, ids, lock=not dry_run)
    left = {trace_id: date for trace_id, date in dates.items() if moment_of(date) >= cutoff}
    old = [trace_id for trace_id in ids if trace_id not in left]
    old_bytes = 0
    for _, documents in contents(stored, directory, old):
        if isinstance(documents, DamagedPackError):
            raise documents
        old_bytes += sum(len(document or b"") for document in documents)
    if not old or old_bytes * 2 < stored.pack.raw_bytes:
        return 0
    expired = [trace_id for trace_id in old if trace_id in dates]
    if not dry_run:
        point_to(connection, stored.pack_id, expired, None)
        smaller = without(stored.pack, old)
        if smaller is not None:
            replace(connection, stored, smaller, left)
        delete_pack(connection, stored.pack_id)
    return len(expired)
