"""Erasure of all traces of an organization, a user, an agent or a run, in short transactions that can be stopped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import DateTime, String, Text, and_, bindparam, cast, delete, select, tuple_

from provider_trace_store.errors import InvalidArgumentError
from provider_trace_store.maintenance.erasing import Eraser
from provider_trace_store.maintenance.progress import Meter, Stop, Throttle, one_at_a_time
from provider_trace_store.maintenance.reports import Report
from provider_trace_store.maintenance.stored_packs import dates_of, delete_pack, listed, stored_pack
from provider_trace_store.maintenance.transactions import connected, retried
from provider_trace_store.packs.format import DamagedPackError, Directory
from provider_trace_store.packs.store import PACKS
from provider_trace_store.schemas import text_problem
from provider_trace_store.tables.ids import is_among, lookup_for
from provider_trace_store.tables.kinds import FULL, METADATA
from provider_trace_store.tables.moments import raw_date

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from uuid import UUID

    from sqlalchemy import ColumnElement, Connection, Engine, Row

    from provider_trace_store.maintenance.progress import Progress
    from provider_trace_store.tables.kinds import Kind

# The rows that one statement looks at, and those that one transaction deletes.
_PAGE: Final = 2_000
_BATCH: Final = 200


@dataclass(frozen=True)
class ErasureReport(Report):
    """What `erase_matching` did; for a dry run, what it would do. It has counts, and no content.

    Args:
        full_rows: the rows of `provider_traces` that are gone.
        metadata_rows: the rows of `provider_trace_metadata` that are gone, those of packed traces among them.
        packs_rewritten: the packs that were written anew without the traces; 0 for a dry run.
        packs_dropped: the packs that are gone; 0 for a dry run.
        packs_touched: the packs that have some of the traces.
        damaged: the ids of the traces that stay, because their pack is damaged and cannot be rewritten.
        seconds: how long it took.
        is_dry_run: whether nothing was changed.
    """

    full_rows: int
    metadata_rows: int
    packs_rewritten: int
    packs_dropped: int
    packs_touched: int
    damaged: tuple[str, ...]
    seconds: float
    is_dry_run: bool


def erase_matching(  # noqa: PLR0913  (each is an option of the command)
    engine: Engine,
    *,
    organization_id: str,
    user_id: str | None = None,
    agent_id: str | None = None,
    run_id: str | None = None,
    trace_id: str | None = None,
    pause: float = 0.0,
    dry_run: bool = False,
    on_progress: Callable[[Progress], object] | None = None,
) -> ErasureReport:
    """Remove all traces of an organization, or those of one user, agent, run or id, for good: full, packed, metadata.

    Soft-deleted traces go, too. Each batch is one transaction: another call goes on after a kill. A trace that is
    written during the call may stay. No index has `user_id`, so that selection reads all rows of the organization.

    Args:
        engine: synchronous; its pool must allow two connections. `schema_translate_map` decides the schema.
        organization_id: the organization that owns the traces.
        user_id: only the traces of this user.
        agent_id: only the traces of this agent.
        run_id: only the traces of this run.
        trace_id: only this trace.
        pause: a pause after each transaction, in seconds.
        dry_run: whether to change nothing, and to count.
        on_progress: called after each transaction.

    Raises:
        InvalidArgumentError: an argument is out of its range, or several of the selections are given.
        MaintenanceError: another command of maintenance runs, or the database refused a transaction; the earlier ones
            stay.
    """
    chosen = {"user_id": user_id, "agent_id": agent_id, "run_id": run_id, "id": trace_id}
    given = {name: value for name, value in chosen.items() if value is not None}
    if len(given) > 1:
        raise InvalidArgumentError("selection", "must be one of user_id, agent_id, run_id and trace_id")
    for name, value in {"organization_id": organization_id, **given}.items():
        if not value or text_problem(value):
            argument = "trace_id" if name == "id" else name
            raise InvalidArgumentError(argument, "must be text that is not empty and that a column can hold")
    throttle = Throttle(None, pause)
    with Stop() as stop, one_at_a_time(engine), connected(engine) as connection:
        meter = Meter("erase", on_progress, None)
        return _Erasure(connection, {"organization_id": organization_id, **given}, throttle, stop, meter).run(
            dry_run=dry_run
        )


class _Erasure:
    def __init__(
        self, connection: Connection, selection: dict[str, str], throttle: Throttle, stop: Stop, meter: Meter
    ) -> None:
        self._connection = connection
        self._dialect = connection.dialect.name
        self._selection = selection
        self._organization_id = selection["organization_id"]
        self._throttle = throttle
        self._stop = stop
        self._meter = meter
        self._full_rows = self._metadata_rows = self._rewritten = self._dropped = 0
        self._packs: set[UUID] = set()
        self._damaged: set[str] = set()

    def run(self, *, dry_run: bool) -> ErasureReport:
        for kind in (METADATA, FULL):
            for page in self._pages(kind):
                if dry_run:
                    self._count(kind, page)
                else:
                    self._erase(kind, page)
                self._stop.check()
        if not dry_run and len(self._selection) == 1:
            self._drop_packs()
        return ErasureReport(
            self._full_rows,
            self._metadata_rows,
            self._rewritten,
            self._dropped,
            len(self._packs),
            tuple(sorted(self._damaged)),
            round(self._meter.seconds, 3),
            dry_run,
        )

    def _pages(self, kind: Kind) -> Iterator[list[Row[Any]]]:
        """Yield the matching rows of each page of the table; a page is read in a transaction of its own.

        The rows are in the order of the index of the organization. A column without an index is compared outside of
        the page, so that each statement looks at a bounded number of rows.
        """
        columns = kind.table.c
        moment = raw_date(columns.created_at, self._dialect)
        # As text: a driver does not read "-infinity".
        shown = moment if self._dialect == "sqlite" else cast(columns.created_at, Text)
        after: ColumnElement[Any] = bindparam("after", type_=String)
        if self._dialect != "sqlite":
            after = cast(cast(after, Text), DateTime(timezone=True))
        pack_id = [METADATA.table.c.pack_id] if kind is METADATA else []
        seen = select(columns.id, shown.label("date"), columns.user_id, *pack_id).where(
            *(columns[name] == value for name, value in self._selection.items() if name != "user_id")
        )
        position = tuple_(moment, columns.id) > tuple_(after, bindparam("after_id", type_=String))
        dated = seen.where(columns.created_at.is_not(None)).order_by(moment, columns.id).limit(_PAGE)
        undated = seen.where(columns.created_at.is_(None)).order_by(columns.id).limit(_PAGE)
        yield from self._walk(dated, dated.where(position))
        yield from self._walk(undated, undated.where(columns.id > bindparam("after_id", type_=String)))

    def _walk(self, first: Any, later: Any) -> Iterator[list[Row[Any]]]:  # noqa: ANN401  (Select of any columns)
        user_id = self._selection.get("user_id")
        rows = self._all(first, {})
        while rows:
            yield [row for row in rows if user_id is None or row.user_id == user_id]
            if len(rows) < _PAGE:
                return
            rows = self._all(later, {"after": rows[-1].date, "after_id": rows[-1].id})

    def _all(self, statement: Any, values: dict[str, Any]) -> Sequence[Row[Any]]:  # noqa: ANN401  (as above)
        with self._connection.begin():
            return self._connection.execute(statement, values).all()

    def _count(self, kind: Kind, page: list[Row[Any]]) -> None:
        if kind is METADATA:
            self._metadata_rows += len(page)
            self._packs.update(row.pack_id for row in page if row.pack_id is not None)
        else:
            self._full_rows += len(page)
        self._meter.add(len(page), 0)

    def _erase(self, kind: Kind, page: list[Row[Any]]) -> None:
        packed = {} if kind is FULL else {row.id: row.pack_id for row in page if row.pack_id is not None}
        plain = [row.id for row in page if row.id not in packed]
        for start in range(0, len(plain), _BATCH):
            self._erase_ids(plain[start : start + _BATCH])
        for pack_id in dict.fromkeys(packed.values()):
            # All matching traces of the pack at once, so that it is written anew once. A later page has some of them
            # only if the pack is damaged.
            wanted = [trace_id for trace_id, of in packed.items() if of == pack_id]
            self._packs.add(pack_id)
            self._erase_ids(sorted({*wanted, *self._others_of(pack_id)}))

    def _others_of(self, pack_id: UUID) -> list[str]:
        found = self._all(select(PACKS.c.directory).where(PACKS.c.id == pack_id), {})
        try:
            ids = Directory(bytes(found[0].directory)).trace_ids if found else ()
        except DamagedPackError:
            return []
        if not ids:
            return []
        lookup, parameters = lookup_for(ids, self._dialect)
        columns = METADATA.table.c
        matching = and_(*(columns[name] == value for name, value in self._selection.items()))
        query = select(columns.id).where(is_among(METADATA, lookup), columns.pack_id == pack_id, matching)
        return [row.id for row in self._all(query, parameters)]

    def _erase_ids(self, trace_ids: list[str]) -> None:
        def action() -> tuple[Any, int, int]:
            eraser = Eraser(self._connection, trace_ids, self._organization_id)
            return eraser.run(), eraser.full_rows, eraser.metadata_rows

        report, full_rows, metadata_rows = retried(self._connection, self._stop, action)
        self._full_rows += full_rows
        self._metadata_rows += metadata_rows
        self._rewritten += report.packs_rewritten
        self._dropped += report.packs_dropped
        self._damaged.update(report.damaged)
        self._after(len(report.erased))

    def _drop_packs(self) -> None:
        """Drop the packs of the organization that have no trace any more, or that are damaged."""
        for row in listed(self._connection, self._organization_id):
            dropped, deleted = retried(self._connection, self._stop, lambda pack_id=row.id: self._drop_pack(pack_id))  # type: ignore[misc]
            self._dropped += dropped
            self._metadata_rows += deleted
            self._after(deleted)
        # Damaged packs of the organization are gone with the others.
        self._damaged.clear()

    def _drop_pack(self, pack_id: UUID) -> tuple[int, int]:
        stored = stored_pack(self._connection, pack_id, lock=True)
        if stored is None:
            return 0, 0
        deleted = 0
        try:
            ids = Directory(stored.pack.directory).trace_ids
        except DamagedPackError:
            ids = ()
        if ids and pack_id not in self._packs and dates_of(self._connection, pack_id, ids, lock=False):
            return 0, 0  # It was packed during the erasure.
        if not ids or pack_id in self._packs:
            # Without a directory, the rows are found by a scan of the table.
            columns = METADATA.table.c
            rows = delete(METADATA.table).where(
                columns.pack_id == pack_id, columns.organization_id == self._organization_id
            )
            deleted = self._connection.execute(rows).rowcount
        delete_pack(self._connection, pack_id)
        return 1, deleted

    def _after(self, traces: int) -> None:
        self._meter.add(traces, 0)
        self._stop.check()
        self._throttle.wait(0, self._stop)
