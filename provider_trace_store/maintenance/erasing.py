"""Erasure, for privacy: removes traces for good from both tables and from their packs."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, Engine, delete, select

from provider_trace_store.errors import MaintenanceError
from provider_trace_store.maintenance.reports import Report
from provider_trace_store.maintenance.stored_packs import dates_of, delete_pack, point_to, replace, stored_pack
from provider_trace_store.maintenance.transactions import UnexpectedCountError, begin, connected
from provider_trace_store.packs.format import DamagedPackError, Directory, without
from provider_trace_store.schemas import text_problem
from provider_trace_store.tables.ids import is_among, lookup_for
from provider_trace_store.tables.kinds import FULL, METADATA

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from uuid import UUID

    from provider_trace_store.tables.kinds import Kind

_PASSES: Final = 10


@dataclass(frozen=True)
class EraseReport(Report):
    """What `erase` did.

    Args:
        erased: the ids of the traces that existed and are gone.
        packs_rewritten: the packs that were written anew without them.
        packs_dropped: the packs that had no other trace.
        damaged: the ids of the traces that stay, because their pack is damaged and cannot be rewritten.
    """

    erased: tuple[str, ...]
    packs_rewritten: int
    packs_dropped: int
    damaged: tuple[str, ...]


def erase(
    connection_or_engine: Connection | Engine, trace_ids: Collection[str], *, organization_id: str
) -> EraseReport:
    """Remove traces for good: full, packed and metadata. Ids of other organizations and unknown ids have no effect.

    PostgreSQL keeps the bytes in dead rows until VACUUM, and SQLite in free pages unless `secure_delete` is on.

    Args:
        connection_or_engine: an engine, and the erasure is one transaction; or a connection in the caller's
            transaction, which the caller rolls back after an error.
        trace_ids: the ids of the traces.
        organization_id: the organization that owns them.

    Raises:
        MaintenanceError: the database did not change what the statements say, or packing moved the traces again and
            again; an engine's transaction is rolled back.
    """
    wanted = sorted({trace_id for trace_id in trace_ids if not text_problem(trace_id)})
    if not wanted:
        return EraseReport((), 0, 0, ())
    if isinstance(connection_or_engine, Engine):
        with connected(connection_or_engine) as connection, connection.begin():
            return _erase(connection, wanted, organization_id)
    return _erase(connection_or_engine, wanted, organization_id)


def _erase(connection: Connection, wanted: list[str], organization_id: str) -> EraseReport:
    begin(connection)
    try:
        return Eraser(connection, wanted, organization_id).run()
    except UnexpectedCountError as error:
        raise MaintenanceError(f"erase changed nothing: {error}") from None


class Eraser:
    """Deletes some traces of an organization in one transaction, from both tables and from their packs.

    Args:
        connection: in a transaction, which the caller rolls back after an error.
        wanted: the ids of the traces, each once; text that a column can hold.
        organization_id: the organization that owns them.
    """

    def __init__(self, connection: Connection, wanted: list[str], organization_id: str) -> None:
        self._connection = connection
        self._wanted = wanted
        self._organization_id = organization_id
        self._erased: set[str] = set()
        self._damaged: set[str] = set()
        self._rewritten = self._dropped = 0
        self.full_rows = self.metadata_rows = 0

    def run(self) -> EraseReport:
        """Delete the traces, and return what was deleted."""
        for _ in range(_PASSES):
            # First the full traces: this waits for a pack that is being made of them, whose rows are seen below.
            self._delete(FULL, self._wanted)
            plain, packed = self._located()
            if not plain and not packed and not self._located_full():
                return EraseReport(
                    tuple(sorted(self._erased)), self._rewritten, self._dropped, tuple(sorted(self._damaged))
                )
            for pack_id in sorted(packed):
                self._erase_from(pack_id, packed[pack_id])
            self._delete(METADATA, plain)
        raise MaintenanceError("erase changed nothing: another session moves the traces; run it again")

    def _located(self) -> tuple[list[str], dict[UUID, list[str]]]:
        """Return the ids of rows of metadata without a pack, and those of each pack."""
        columns = METADATA.table.c
        lookup, parameters = lookup_for(self._wanted, self._connection.dialect.name)
        query = select(columns.id, columns.pack_id)
        owned = columns.organization_id == self._organization_id
        plain: list[str] = []
        packed: defaultdict[UUID, list[str]] = defaultdict(list)
        for row in self._connection.execute(query.where(is_among(METADATA, lookup), owned), parameters):
            if row.pack_id is None:
                plain.append(row.id)
            elif row.id not in self._damaged:
                packed[row.pack_id].append(row.id)
        return plain, packed

    def _located_full(self) -> bool:
        lookup, parameters = lookup_for(self._wanted, self._connection.dialect.name)
        owned = FULL.columns["organization_id"] == self._organization_id
        query = select(FULL.columns["id"]).where(is_among(FULL, lookup), owned).limit(1)
        return self._connection.execute(query, parameters).first() is not None

    def _delete(self, kind: Kind, trace_ids: Sequence[str], pack_id: UUID | None = None) -> int:
        if not trace_ids:
            return 0
        lookup, parameters = lookup_for(trace_ids, self._connection.dialect.name)
        rows = delete(kind.table).where(
            is_among(kind, lookup), kind.columns["organization_id"] == self._organization_id
        )
        if kind is METADATA:
            column = METADATA.table.c.pack_id
            rows = rows.where(column.is_(None) if pack_id is None else column == pack_id)
        deleted = self._connection.scalars(rows.returning(kind.columns["id"]), parameters).all()
        self._erased.update(deleted)
        if kind is FULL:
            self.full_rows += len(deleted)
        else:
            self.metadata_rows += len(deleted)
        return len(deleted)

    def _erase_from(self, pack_id: UUID, trace_ids: list[str]) -> None:
        connection = self._connection
        stored = stored_pack(connection, pack_id, lock=True)
        if stored is None:
            # It was replaced or unpacked: the next pass finds the traces where they are now. A pack that is missing
            # for good has nothing to erase: its rows of metadata go.
            self._delete_orphans(pack_id, trace_ids)
            return
        try:
            ids = Directory(stored.pack.directory).trace_ids
            dates = dates_of(connection, pack_id, ids, lock=True)
            gone = set(trace_ids)
            # Traces without a row of metadata were deleted for good before.
            smaller = without(stored.pack, [each for each in ids if each in gone or each not in dates])
        except DamagedPackError:
            self._damaged.update(trace_ids)
            return
        deleted = self._delete(METADATA, trace_ids, pack_id)
        if deleted != len(trace_ids):
            raise UnexpectedCountError("deleting rows of metadata", len(trace_ids), deleted)
        left = {trace_id: date for trace_id, date in dates.items() if trace_id not in gone}
        if smaller is None:
            point_to(connection, pack_id, list(left), None)
            self._dropped += 1
        else:
            replace(connection, stored, smaller, left)
            self._rewritten += 1
        delete_pack(connection, pack_id)

    def _delete_orphans(self, pack_id: UUID, trace_ids: list[str]) -> None:
        _, packed = self._located()
        still = set(packed.get(pack_id, ())).intersection(trace_ids)
        self._delete(METADATA, sorted(still), pack_id)
