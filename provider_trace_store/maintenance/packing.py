"""Packing: moves old traces from the table into packs, and keeps every byte of them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from provider_trace_store.database.drivers import errors_of, write_error
from provider_trace_store.errors import (
    PartitionMissingError,
    ProviderTraceRejectedError,
    ProviderTraceStoreError,
    ProviderTraceUnavailableError,
)
from provider_trace_store.maintenance.bodies import Body, bodies
from provider_trace_store.maintenance.candidates import Candidates, Group, Head
from provider_trace_store.maintenance.conditions import check_conditions
from provider_trace_store.maintenance.durations import checked_duration
from provider_trace_store.maintenance.moving import LeftError, Reason, move
from provider_trace_store.maintenance.progress import Meter, Stop, Throttle, one_at_a_time
from provider_trace_store.maintenance.reports import Report
from provider_trace_store.maintenance.transactions import connected, is_lock_failure
from provider_trace_store.maintenance.vacuum import statement_of_vacuum, vacuum_table
from provider_trace_store.packs.format import PackBuilder, without
from provider_trace_store.packs.store import PACKS
from provider_trace_store.tables.kinds import FULL, METADATA

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from sqlalchemy import Connection, Engine

    from provider_trace_store.maintenance.progress import Progress
    from provider_trace_store.packs.format import Pack

_REASONS: Final[tuple[Reason, ...]] = ("changed", "locked", "undated", "unreadable", "refused")
# How often the rest of a pack is tried after some of its traces were changed or locked.
_TRIES: Final = 3
# A dry run builds packs of so much text, and estimates the others by them.
_SAMPLE_BYTES: Final = 64_000_000


@dataclass(frozen=True)
class Refusal:
    """A refusal of the database.

    Args:
        code: the SQLSTATE; None if there is none.
        message: what is wrong, without content.
        traces: how many traces stay in the table for it.
    """

    code: str | None
    message: str
    traces: int


@dataclass(frozen=True)
class PackReport(Report):
    """What `pack` did; for a dry run an estimate of what it would do.

    Args:
        traces: the traces that were packed.
        packs: the packs that were made.
        raw_bytes: the bytes of their documents.
        stored_bytes_before: the bytes that the documents took in the table, about; on SQLite `raw_bytes`.
        stored_bytes_after: the bytes of the packs.
        skipped: how many traces stay in the table, by the reason: changed, locked, undated, unreadable, refused.
        refusals: the refusals of the database.
        seconds: how long it took; those of `phases` are parts of it.
        phases: the seconds for select, compress and transaction.
        is_dry_run: whether nothing was changed.
        space: the statement that gives the space back; None if it was run.
    """

    traces: int = 0
    packs: int = 0
    raw_bytes: int = 0
    stored_bytes_before: int = 0
    stored_bytes_after: int = 0
    skipped: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(_REASONS, 0))
    refusals: tuple[Refusal, ...] = ()
    seconds: float = 0.0
    phases: Mapping[str, float] = field(default_factory=dict)
    is_dry_run: bool = False
    space: str | None = None


def pack(  # noqa: PLR0913  (each is an option of the command)
    engine: Engine,
    *,
    older_than: timedelta = timedelta(days=7),
    idle: timedelta = timedelta(days=1),
    organization_id: str | None = None,
    rate: float | None = None,
    pause: float = 0.0,
    vacuum: bool = False,
    dry_run: bool = False,
    on_progress: Callable[[Progress], object] | None = None,
) -> PackReport:
    """Move old traces from `provider_traces` into packs.

    It can be ended at any moment, also by `kill -9`: each pack is one transaction, and another call goes on. Ctrl-C
    raises KeyboardInterrupt after the transaction that runs.

    Args:
        engine: synchronous; its pool must allow two connections. `schema_translate_map` decides the schema.
        older_than: traces that are older than this are packed.
        idle: only of runs that had no call for this time.
        organization_id: only this organization; None for all.
        rate: the most MB (a million bytes) of documents a second; None for no limit.
        pause: a pause after each transaction, in seconds.
        vacuum: whether VACUUM of the table follows, in which new rows then reuse the space.
        dry_run: whether to change nothing, and to estimate what packing would save.
        on_progress: called after each pack.

    Raises:
        InvalidArgumentError: an argument is out of its range.
        MaintenanceError: another command of maintenance runs, or the tables cannot be packed.
        ProviderTraceStoreError: the database failed; packs that were made before stay.
    """
    now = datetime.now(UTC)
    moments = {
        "older_than": now - checked_duration(older_than, "older_than"),
        "idle_since": now - checked_duration(idle, "idle"),
    }
    throttle = Throttle(rate, pause)
    with Stop() as stop, one_at_a_time(engine), connected(engine) as connection:
        with connection.begin():
            check_conditions(connection)
        candidates = Candidates(connection, organization_id=organization_id, **moments)
        total = candidates.count() if on_progress or dry_run else None
        packer = _Packer(connection, candidates, Meter("pack", on_progress, total), throttle, stop, is_dry_run=dry_run)
        packer.run()
        space: str | None = statement_of_vacuum(connection)
    if vacuum and not dry_run:
        vacuum_table(engine)
        space = None
    return packer.report(space)


class _Packer:
    def __init__(  # noqa: PLR0913  (the parts of a command)
        self,
        connection: Connection,
        candidates: Candidates,
        meter: Meter,
        throttle: Throttle,
        stop: Stop,
        *,
        is_dry_run: bool,
    ) -> None:
        self._connection = connection
        self._candidates = candidates
        self._meter = meter
        self._throttle = throttle
        self._stop = stop
        self._is_dry_run = is_dry_run
        self._traces = self._packs = self._raw = self._before = self._after = 0
        self._waiting = 0  # the candidates of a dry run, those of the sample among them
        self._skipped = dict.fromkeys(_REASONS, 0)
        self._refusals: dict[tuple[str | None, str], int] = {}
        self._phases = {"select": 0.0, "compress": 0.0, "transaction": 0.0}

    def run(self) -> None:
        groups = self._candidates.groups()
        while True:
            began = time.perf_counter()
            group = next(groups, None)
            self._phases["select"] += time.perf_counter() - began
            if group is None:
                break
            self._waiting += sum(map(len, group.runs))
            if not (self._is_dry_run and self._raw >= _SAMPLE_BYTES):
                self._pack(group)
        self._skipped["undated"] += self._candidates.undated

    def report(self, space: str | None) -> PackReport:
        scale = 1.0
        if self._is_dry_run and self._traces:
            left = sum(self._skipped[reason] for reason in ("changed", "unreadable"))
            scale = max(self._waiting - left, self._traces) / self._traces
        return PackReport(
            traces=round(self._traces * scale),
            packs=round(self._packs * scale),
            raw_bytes=round(self._raw * scale),
            stored_bytes_before=round(self._before * scale),
            stored_bytes_after=round(self._after * scale),
            skipped={str(reason): count for reason, count in self._skipped.items()},
            refusals=tuple(Refusal(code, message, traces) for (code, message), traces in self._refusals.items()),
            seconds=round(self._meter.seconds, 3),
            phases={phase: round(seconds, 3) for phase, seconds in self._phases.items()},
            is_dry_run=self._is_dry_run,
            space=space,
        )

    def _pack(self, group: Group) -> None:
        batch = _Batch(group)
        for run in group.runs:
            for body in self._bodies(run, group.organization_id):
                began = time.perf_counter()
                batch.add(body)
                self._phases["compress"] += time.perf_counter() - began
                if batch.builder.is_full:
                    self._store(batch)
                    batch = _Batch(group)
            batch.builder.end_run()
        self._store(batch)

    def _bodies(self, run: list[Head], organization_id: str) -> Iterator[Body]:
        left = {head.trace_id for head in run}
        found = bodies(self._connection, run, organization_id)
        while True:
            began = time.perf_counter()
            body = next(found, None)
            self._phases["select"] += time.perf_counter() - began
            if body is None:
                break
            left.discard(body.head.trace_id)
            if body.documents is None:
                self._leave({body.head.trace_id: "unreadable"})
            else:
                yield body
        self._leave(dict.fromkeys(left, "changed"))

    def _store(self, batch: _Batch) -> None:
        if not batch.stamps:
            return
        began = time.perf_counter()
        pack: Pack | None = batch.builder.finish()
        self._phases["compress"] += time.perf_counter() - began
        began = time.perf_counter()
        for _ in range(_TRIES):
            if pack is None:
                break
            reasons = self._attempt(pack, batch)
            if not reasons:
                self._count(pack, batch)
                break
            self._leave(reasons)
            pack = without(pack, list(reasons))
            for trace_id in reasons:
                del batch.stamps[trace_id]
        else:
            self._leave(dict.fromkeys(batch.stamps, "changed"))
        self._phases["transaction"] += time.perf_counter() - began
        self._meter.add(
            batch.traces,
            batch.builder.raw_bytes,
            saved_bytes=self._before - self._after,
            resume_at=f"{batch.last:%Y-%m-%d %H:%M}",
        )
        self._stop.check()
        if not self._is_dry_run:
            self._throttle.wait(batch.builder.raw_bytes, self._stop)

    def _attempt(self, pack: Pack, batch: _Batch) -> Mapping[str, Reason]:
        """Store a pack; return the traces that cannot be packed, for which nothing was changed."""
        if self._is_dry_run:
            return {}
        connection = self._connection
        try:
            with connection.begin():
                move(
                    connection,
                    pack,
                    batch.stamps,
                    organization_id=batch.group.organization_id,
                    agent_id=batch.group.agent_id,
                    first_created_at=min(batch.dates[trace_id] for trace_id in batch.stamps),
                    last_created_at=max(batch.dates[trace_id] for trace_id in batch.stamps),
                )
        except LeftError as error:
            if error.message:
                self._refuse(None, error.message, len(error.reasons))
            return error.reasons
        except errors_of(connection) as error:
            caught = error
        else:
            return {}
        if is_lock_failure(caught):
            return dict.fromkeys(batch.stamps, "locked")
        failure = self._failure(caught, next(iter(batch.stamps)))
        del caught  # an error tracker that shows local variables must not show it
        self._refuse(getattr(failure, "sqlstate", None), str(failure), len(batch.stamps))
        return dict.fromkeys(batch.stamps, "refused")

    def _failure(self, caught: Exception, trace_id: str) -> ProviderTraceStoreError:
        """Return the error for a refusal of these rows; raise that for anything else."""
        failure: ProviderTraceStoreError | None = None
        if not self._connection.invalidated:
            with self._connection.begin():
                failure = write_error(caught, trace_id, self._connection, METADATA.table, PACKS, FULL.table)
        failure = failure or write_error(caught, trace_id, None, METADATA.table, PACKS, FULL.table)
        if isinstance(failure, ProviderTraceRejectedError | PartitionMissingError):
            return failure
        if isinstance(failure, ProviderTraceUnavailableError) and failure.may_be_the_trace:
            return failure
        raise failure from None

    def _count(self, pack: Pack, batch: _Batch) -> None:
        self._traces += pack.traces
        self._packs += 1
        self._raw += pack.raw_bytes
        self._before += sum(batch.sizes[trace_id] for trace_id in batch.stamps) or pack.raw_bytes
        self._after += len(pack.directory) + len(pack.data)

    def _leave(self, reasons: Mapping[str, Reason]) -> None:
        for reason in reasons.values():
            self._skipped[reason] += 1
        self._candidates.left.update(reasons)

    def _refuse(self, code: str | None, message: str, traces: int) -> None:
        self._refusals[code, message] = self._refusals.get((code, message), 0) + traces


class _Batch:
    """The traces of a pack that is being made.

    Args:
        group: the group that the traces are of.
    """

    def __init__(self, group: Group) -> None:
        self.group = group
        self.builder = PackBuilder()
        self.stamps: dict[str, str | bytes] = {}
        self.dates: dict[str, datetime] = {}
        self.sizes: dict[str, int] = {}

    @property
    def traces(self) -> int:
        """The number of traces that were added."""
        return len(self.dates)

    @property
    def last(self) -> datetime:
        """The date of the newest trace."""
        return max(self.dates.values())

    def add(self, body: Body) -> None:
        """Add a trace with its documents."""
        if body.documents is None:
            raise ValueError("a trace without readable documents cannot be packed")
        head = body.head
        self.builder.add(head.trace_id, body.documents)
        self.stamps[head.trace_id] = body.stamp
        self.dates[head.trace_id] = head.created_at
        self.sizes[head.trace_id] = head.size
