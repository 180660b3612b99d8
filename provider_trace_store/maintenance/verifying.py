"""Verification: reads every pack, and reports what is damaged, by ids and never by content."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sqlalchemy import func, select

from provider_trace_store.maintenance.progress import Meter, Stop
from provider_trace_store.maintenance.reports import Report
from provider_trace_store.maintenance.stored_packs import contents, listed, stored_pack
from provider_trace_store.packs.format import DamagedPackError, Directory
from provider_trace_store.packs.store import PACKS
from provider_trace_store.tables.ids import is_among, lookup_for
from provider_trace_store.tables.kinds import METADATA

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from sqlalchemy import Connection, Engine

    from provider_trace_store.maintenance.progress import Progress

# The findings that a report has; the others are only counted.
_MOST_FINDINGS: Final = 10_000
_ROWS: Final = METADATA.table.c


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with a pack.

    Args:
        pack_id: the pack.
        trace_id: the trace; None if it is the pack as a whole.
        problem: what is wrong, without content.
    """

    pack_id: UUID
    trace_id: str | None
    problem: str


@dataclass(frozen=True)
class VerifyReport(Report):
    """What `verify_packs` found.

    Args:
        packs: the packs that were read.
        traces: the traces that were read and are as they were written.
        raw_bytes: the bytes of the documents of the packs.
        pruned: traces of packs without a row of metadata, which no read returns.
        problems: the number of findings, those beyond the first 10,000 among them.
        findings: what is wrong.
        seconds: how long it took.
    """

    packs: int
    traces: int
    raw_bytes: int
    pruned: int
    problems: int
    findings: tuple[Finding, ...]
    seconds: float


def verify_packs(
    engine: Engine,
    *,
    organization_id: str | None = None,
    on_progress: Callable[[Progress], object] | None = None,
) -> VerifyReport:
    """Read all packs, and compare them with the rows of metadata; nothing is changed or locked.

    Args:
        engine: synchronous. `schema_translate_map` decides the schema.
        organization_id: only this organization; None for all.
        on_progress: called after each pack.
    """
    with Stop() as stop, engine.connect() as connection:
        if connection.dialect.name == "postgresql":
            # A pack and its rows of metadata are read in one snapshot.
            connection = connection.execution_options(isolation_level="REPEATABLE READ")  # noqa: PLW2901  (the same one)
        verifier = _Verifier(connection, organization_id, Meter("verify", on_progress, None))
        verifier.run(stop)
    return verifier.report()


class _Verifier:
    def __init__(self, connection: Connection, organization_id: str | None, meter: Meter) -> None:
        self._connection = connection
        self._organization_id = organization_id
        self._meter = meter
        self._packs = self._traces = self._raw_bytes = self._pruned = self._problems = 0
        self._findings: list[Finding] = []

    def run(self, stop: Stop) -> None:
        with self._connection.begin():
            named = self._count_named()
        for row in listed(self._connection, self._organization_id):
            with self._connection.begin():
                self._check(row.id, named.get(row.id, 0))
            self._meter.add(row.traces, row.raw_bytes)
            stop.check()
        with self._connection.begin():
            self._check_missing()

    def report(self) -> VerifyReport:
        return VerifyReport(
            self._packs,
            self._traces,
            self._raw_bytes,
            self._pruned,
            self._problems,
            tuple(self._findings),
            round(self._meter.seconds, 3),
        )

    def _count_named(self) -> dict[UUID, int]:
        """Return how many rows of metadata name each pack: there is no index to look them up by."""
        query = select(_ROWS.pack_id, func.count()).where(_ROWS.pack_id.is_not(None)).group_by(_ROWS.pack_id)
        return {row[0]: row[1] for row in self._connection.execute(query)}

    def _check(self, pack_id: UUID, named: int) -> None:
        stored = stored_pack(self._connection, pack_id, lock=False)
        if stored is None:
            return
        self._packs += 1
        self._raw_bytes += stored.pack.raw_bytes
        try:
            directory = Directory(stored.pack.directory)
        except DamagedPackError as error:
            self._find(pack_id, None, str(error))
            return
        ids = directory.trace_ids
        seen = set()
        for trace_id, documents in contents(stored, directory, ids):
            seen.add(trace_id)
            if isinstance(documents, DamagedPackError):
                self._find(pack_id, trace_id, str(documents))
            else:
                self._traces += 1
        for trace_id in ids:
            if trace_id not in seen:
                self._find(pack_id, trace_id, "its part of the pack is missing")
        if len(ids) != stored.pack.traces:
            self._find(pack_id, None, "it has another number of traces than its row says")
        self._check_rows(pack_id, stored.organization_id, ids, named)

    def _check_rows(self, pack_id: UUID, organization_id: str, ids: tuple[str, ...], named: int) -> None:
        organizations = {}
        if ids:
            lookup, parameters = lookup_for(ids, self._connection.dialect.name)
            query = select(_ROWS.id, _ROWS.organization_id)
            rows = self._connection.execute(
                query.where(is_among(METADATA, lookup), _ROWS.pack_id == pack_id), parameters
            )
            organizations = {row.id: row.organization_id for row in rows}
        self._pruned += len(ids) - len(organizations)
        if not organizations:
            self._find(pack_id, None, "no row of metadata names it")
        for trace_id, owner in organizations.items():
            if owner != organization_id:
                self._find(pack_id, trace_id, "its row of metadata has another organization than the pack")
        if named > len(organizations):
            everything = set(self._connection.scalars(select(_ROWS.id).where(_ROWS.pack_id == pack_id)))
            for trace_id in sorted(everything.difference(ids)):
                self._find(pack_id, trace_id, "its row of metadata names a pack that does not have it")

    def _check_missing(self) -> None:
        query = (
            select(_ROWS.pack_id, _ROWS.id)
            .outerjoin(PACKS, PACKS.c.id == _ROWS.pack_id)
            .where(_ROWS.pack_id.is_not(None), PACKS.c.id.is_(None))
        )
        if self._organization_id is not None:
            query = query.where(_ROWS.organization_id == self._organization_id)
        for pack_id, trace_id in self._connection.execution_options(yield_per=1000).execute(query):
            self._find(pack_id, trace_id, "its row of metadata names a pack that is missing")

    def _find(self, pack_id: UUID, trace_id: str | None, problem: str) -> None:
        self._problems += 1
        if len(self._findings) < _MOST_FINDINGS:
            self._findings.append(Finding(pack_id, trace_id, problem))
