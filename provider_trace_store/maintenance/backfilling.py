"""Backfill: copies the metadata of full traces into the table of metadata; no body is read."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sqlalchemy import exists, func, select, text

from provider_trace_store.errors import InvalidArgumentError
from provider_trace_store.maintenance.durations import check_zone
from provider_trace_store.maintenance.moving import copied_metadata, insert_metadata
from provider_trace_store.maintenance.progress import Meter, Stop, Throttle, one_at_a_time
from provider_trace_store.maintenance.replicas import Replicas
from provider_trace_store.maintenance.reports import Report
from provider_trace_store.maintenance.transactions import connected, retried
from provider_trace_store.maintenance.walk import END, FIRST, Walk, by_index, check_walk, position_of
from provider_trace_store.tables.kinds import FULL, METADATA

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from sqlalchemy import Connection, Engine

    from provider_trace_store.maintenance.progress import Progress
    from provider_trace_store.maintenance.walk import Batch

# Rows of the first batch. Its share locks hold back an update of one of its rows, such as a deletion, until its end.
_BATCH: Final = 1_000


@dataclass(frozen=True)
class BackfillReport(Report):
    """What `backfill` did; for a dry run, what it would do.

    Args:
        traces: the traces of the range, from the resume point on.
        copied: the rows of metadata that were inserted; 0 for a dry run.
        already: the traces whose id had a row of metadata before.
        undated: the traces without a date, which have no place in the table of metadata; those of all dates.
        seconds: how long it took.
        is_dry_run: whether nothing was changed.
    """

    traces: int
    copied: int
    already: int
    undated: int
    seconds: float
    is_dry_run: bool


def backfill(  # noqa: PLR0913  (each is an option of the command)
    engine: Engine,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    organization_id: str | None = None,
    rate: float | None = None,
    pause: float = 0.0,
    max_lag: float | None = None,
    resume_at: str | None = None,
    dry_run: bool = False,
    on_progress: Callable[[Progress], object] | None = None,
) -> BackfillReport:
    """Copy the metadata of `provider_traces` into `provider_trace_metadata`, in batches; the traces stay.

    A trace whose id has a row of metadata, under any date, is left out, so the function can run again at any time.
    Traces that are stored meanwhile with a date in a range that was copied already are not copied. Soft-deleted traces
    are copied with their mark.

    Args:
        engine: synchronous; its pool must allow two connections. `schema_translate_map` decides the schema.
        since: only traces of this moment and later, with a time zone; None for all.
        until: only traces from before this moment, with a time zone; None for all.
        organization_id: only this organization; None for all.
        rate: the most rows a second; None for no limit.
        pause: a pause after each transaction, in seconds.
        max_lag: wait while a replica is further behind than this, in seconds; None for no limit.
        resume_at: begin after this position, the `resume_at` of an earlier run's progress.
        dry_run: whether to change nothing, and to count the traces of the range.
        on_progress: called after each batch.

    Raises:
        InvalidArgumentError: an argument is out of its range.
        MaintenanceError: another command of maintenance runs, an index is missing, or the database refused a batch.
        TableMissingError: one of the tables does not exist.
    """
    check_zone(since, "since")
    check_zone(until, "until")
    if max_lag is not None and not max_lag >= 0:
        raise InvalidArgumentError("max_lag", "must be a number of seconds, 0 or more")
    start = None if resume_at is None else position_of(resume_at)
    throttle = Throttle(rate, pause, unit="rows")
    meter = Meter("backfill", on_progress, None, unit="rows")
    copied = 0
    with Stop() as stop, one_at_a_time(engine), connected(engine) as connection:
        with connection.begin():
            check_walk(connection, FULL)
        walk = Walk(
            connection, FULL, since=since or FIRST, until=until or END, organization_id=organization_id, size=_BATCH
        )
        replicas = Replicas(connection, max_lag)
        undated = walk.undated()
        if dry_run:
            return BackfillReport(walk.count(), 0, 0, undated, round(meter.seconds, 3), is_dry_run=True)
        for batch in walk.batches(start):
            began = time.monotonic()
            copied += _copy(connection, batch, stop)
            walk.took(time.monotonic() - began)
            meter.add(batch.rows, 0, resume_at=batch.end.to_text() if batch.end else None)
            stop.check()
            throttle.wait(batch.rows, stop)
            replicas.wait(stop)
    return BackfillReport(meter.done, copied, meter.done - copied, undated, round(meter.seconds, 3), is_dry_run=False)


def _copy(connection: Connection, batch: Batch, stop: Stop) -> int:
    """Copy a batch; return how many rows were inserted."""
    full, twin = FULL.table, METADATA.table
    rows = copied_metadata().where(batch.condition, ~exists().where(twin.c.id == full.c.id))
    is_sqlite = connection.dialect.name == "sqlite"
    if not is_sqlite:
        # A deletion marks the full row first: it waits for the batch, and then it finds the copy.
        rows = rows.with_for_update(read=True, of=full)
    counted = insert_metadata(connection, rows).on_conflict_do_nothing()
    if not is_sqlite:
        inserted = counted.returning(twin.c.id).cte("inserted")
        counted = select(func.count()).select_from(inserted)

    def run() -> int:
        by_index(connection)
        result = connection.execute(counted, batch.values)
        return int(connection.scalar(text("SELECT changes()")) if is_sqlite else result.scalar_one())

    return retried(connection, stop, run)
