"""Retention of all tables: deletes full traces, packed bodies and metadata that are too old, in batches by date."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Literal, get_args

from sqlalchemy import delete

from provider_trace_store.errors import InvalidArgumentError
from provider_trace_store.maintenance.durations import checked_duration
from provider_trace_store.maintenance.partitions import Partitions, PrunedPartition
from provider_trace_store.maintenance.progress import Meter, Stop, Throttle, one_at_a_time
from provider_trace_store.maintenance.reports import Report
from provider_trace_store.maintenance.retention import prune_packs
from provider_trace_store.maintenance.transactions import connected, retried
from provider_trace_store.maintenance.vacuum import vacuum_table
from provider_trace_store.maintenance.walk import FIRST, Walk, by_index, check_walk
from provider_trace_store.migrations import DEFAULT_LOCK_TIMEOUT, DEFAULT_TRIES
from provider_trace_store.migrations.locking import Patience
from provider_trace_store.packs.store import PACKS
from provider_trace_store.tables.kinds import FULL, METADATA
from provider_trace_store.tables.moments import day_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta

    from sqlalchemy import ColumnElement, Connection, Engine

    from provider_trace_store.maintenance.progress import Progress
    from provider_trace_store.maintenance.retention import PruneReport
    from provider_trace_store.maintenance.walk import Batch
    from provider_trace_store.tables.kinds import Kind

Prunable = Literal["full", "packs", "metadata", "all"]

# Rows of the first batch. A client that writes one of them waits for its end.
_BATCH: Final = 2_000


@dataclass(frozen=True)
class PrunedTable:
    """What was deleted from one table; for a dry run, what would be deleted.

    Args:
        rows: the rows that were deleted, those of partitions among them.
        packed: the rows of metadata that stay because they are of packed traces.
        undated: the rows without a date, or with one that is not readable; they stay. Those of all ages.
        days: the rows of each day, in UTC; only for a dry run.
        partitions: the partitions that went as a whole.
    """

    rows: int
    packed: int
    undated: int
    days: dict[str, int]
    partitions: tuple[PrunedPartition, ...] = ()


@dataclass(frozen=True)
class RetentionReport(Report):
    """What `prune` did; for a dry run, what it would do.

    Args:
        full: the full traces; None if they were not to be pruned.
        packs: the packs; None if they were not to be pruned.
        metadata: the rows of metadata; None if they were not to be pruned.
        is_dry_run: whether nothing was changed.
    """

    full: PrunedTable | None
    packs: PruneReport | None
    metadata: PrunedTable | None
    is_dry_run: bool


def prune(  # noqa: PLR0913  (each is an option of the command)
    engine: Engine,
    *,
    older_than: timedelta,
    table: Prunable = "full",
    organization_id: str | None = None,
    rate: float | None = None,
    pause: float = 0.0,
    vacuum: bool = False,
    detach: bool = False,
    dry_run: bool = False,
    on_progress: Callable[[Progress], object] | None = None,
) -> RetentionReport:
    """Delete what is too old from the tables, in batches by date, each a short transaction.

    `full` deletes rows of `provider_traces`; a row of metadata of such a trace stays. `packs` drops packed bodies, as
    `prune_packs` does. `metadata` deletes rows of `provider_trace_metadata`; the row of a packed trace stays as long as
    its body, so no trace is half deleted. `all` does the three in this order. Rows without a date stay.

    Of a table of PostgreSQL that is partitioned by ranges of `created_at`, a partition with nothing but such rows is
    detached, with CONCURRENTLY where there is no default partition, and dropped. This is so only for all organizations,
    for the owner of the table, and without triggers and foreign keys that must see each row. Other rows are deleted.

    Args:
        engine: synchronous; its pool must allow two connections, for a partitioned table three. `schema_translate_map`
            decides the schema.
        older_than: traces that are older than this are deleted.
        table: what to prune.
        organization_id: only this organization; None for all.
        rate: the most rows a second; None for no limit. Packs are not rows: only the pause slows them.
        pause: a pause after each transaction, in seconds.
        vacuum: whether to run VACUUM of the tables afterwards.
        detach: whether the tables of detached partitions stay, with their rows.
        dry_run: whether to change nothing, and to report what it would do, for each day and each partition.
        on_progress: called after each batch.

    Raises:
        InvalidArgumentError: an argument is out of its range.
        MaintenanceError: another command of maintenance runs, an index is missing, the database refused a batch, or a
            partition's lock was not free in any try.
        TableMissingError: one of the tables does not exist.
    """
    cutoff = datetime.now(UTC) - checked_duration(older_than, "older_than")
    if table not in get_args(Prunable):
        raise InvalidArgumentError("table", f"must be one of {', '.join(get_args(Prunable))}")
    throttle = Throttle(rate, pause, unit="rows")
    scope = _Scope(cutoff, organization_id, throttle, detach, dry_run, on_progress)

    def rows_of(kind: Kind) -> PrunedTable | None:
        return _prune_table(engine, kind, scope) if table in {kind.name, "all"} else None

    full = rows_of(FULL)
    packs = None
    if table in {"packs", "all"}:
        packs = prune_packs(
            engine,
            older_than=older_than,
            organization_id=organization_id,
            pause=pause,
            dry_run=dry_run,
            on_progress=on_progress,
        )
    metadata = rows_of(METADATA)
    if vacuum and not dry_run:
        done = ((FULL.table, full), (PACKS, packs), (METADATA.table, metadata))
        for pruned in [each for each, report in done if report is not None]:
            vacuum_table(engine, pruned)
            if engine.dialect.name == "sqlite":
                break  # the first one was of the whole file
    return RetentionReport(full, packs, metadata, dry_run)


@dataclass(frozen=True)
class _Scope:
    cutoff: datetime
    organization_id: str | None
    throttle: Throttle
    detach: bool
    dry_run: bool
    on_progress: Callable[[Progress], object] | None


def _prune_table(engine: Engine, kind: Kind, scope: _Scope) -> PrunedTable:
    with Stop() as stop, one_at_a_time(engine), connected(engine) as connection:
        walk = _walk(connection, kind, scope.cutoff, scope.organization_id)
        undated = walk.undated()
        partitions = None
        if engine.dialect.name == "postgresql" and scope.organization_id is None:
            partitions = Partitions(engine, connection, kind, scope.cutoff, keep=scope.detach)
        if scope.dry_run:
            days = walk.per_day(day_of(kind.table.c.created_at, connection.dialect.name), *_unpacked(kind))
            going = tuple(partitions.going()) if partitions else ()
            return PrunedTable(sum(days.values()), walk.count() - sum(days.values()), undated, days, going)
        meter, gone = Meter("prune", scope.on_progress, None, unit="rows"), []
        patience = Patience(None, DEFAULT_LOCK_TIMEOUT, DEFAULT_TRIES)
        for partition in partitions.prune(patience, stop) if partitions else ():
            gone.append(partition)
            meter.add(partition.rows or 0, 0)
            stop.check()
            scope.throttle.wait(0, stop)
        deleted = meter.done
        for batch in walk.batches():
            began = time.monotonic()
            deleted += _delete(connection, kind, batch, stop)
            walk.took(time.monotonic() - began)
            meter.add(batch.rows, 0)
            stop.check()
            scope.throttle.wait(batch.rows, stop)
    kept = meter.done - deleted if kind is METADATA else 0
    return PrunedTable(deleted, kept, undated, {}, tuple(gone))


def _walk(connection: Connection, kind: Kind, cutoff: datetime, organization_id: str | None) -> Walk:
    with connection.begin():
        check_walk(connection, kind)
    return Walk(connection, kind, since=FIRST, until=cutoff, organization_id=organization_id, size=_BATCH)


def _unpacked(kind: Kind) -> list[ColumnElement[bool]]:
    return [METADATA.table.c.pack_id.is_(None)] if kind is METADATA else []


def _delete(connection: Connection, kind: Kind, batch: Batch, stop: Stop) -> int:
    rows = delete(kind.table).where(batch.condition, *_unpacked(kind))

    def run() -> int:
        by_index(connection)
        return connection.execute(rows, batch.values).rowcount

    return retried(connection, stop, run)
