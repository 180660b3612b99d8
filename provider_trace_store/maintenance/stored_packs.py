"""Stored packs: list them, lock one with its rows of metadata, and put another in its place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from sqlalchemy import delete, select, update
from sqlalchemy.exc import DBAPIError

from provider_trace_store.database.drivers import sqlstate_of
from provider_trace_store.maintenance.reports import Report
from provider_trace_store.maintenance.transactions import UnexpectedCountError
from provider_trace_store.packs.format import DamagedPackError, Directory, Pack
from provider_trace_store.packs.store import PACKS, insert_pack, is_stored, new_pack_id
from provider_trace_store.tables.ids import is_among, lookup_for
from provider_trace_store.tables.kinds import METADATA
from provider_trace_store.tables.moments import moment_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from datetime import datetime
    from uuid import UUID

    from sqlalchemy import ColumnElement, Connection, Row

_Result = TypeVar("_Result")

_LISTED: Final = 500


class DamagedTracesError(DamagedPackError):
    """Some traces of a pack are damaged.

    Args:
        trace_ids: their ids.
    """

    def __init__(self, trace_ids: Collection[str]) -> None:
        super().__init__("the documents of some traces are damaged")
        self.trace_ids = tuple(trace_ids)


@dataclass(frozen=True)
class PackFailure(Report):
    """A pack that a command left as it was.

    Args:
        pack_id: the pack.
        trace_ids: the damaged traces; none if the pack as a whole is damaged or refused.
        problem: what is wrong, without content.
    """

    pack_id: UUID
    trace_ids: tuple[str, ...]
    problem: str


class StoredPack(NamedTuple):
    """A pack that was read.

    Args:
        pack_id: its id.
        organization_id: the organization that has it.
        agent_id: the agent; None for traces without one.
        pack: its content, not checked.
    """

    pack_id: UUID
    organization_id: str
    agent_id: str | None
    pack: Pack


def listed(connection: Connection, organization_id: str | None, *conditions: ColumnElement[bool]) -> Iterator[Row[Any]]:
    """Yield id, organization, dates, traces and raw bytes of the packs, by id; each page in a transaction of its own.

    Args:
        connection: without a transaction.
        organization_id: only this organization; None for all.
        conditions: only packs that meet all of these.
    """
    if organization_id is not None:
        conditions = (*conditions, PACKS.c.organization_id == organization_id)
    names = ("id", "organization_id", "first_created_at", "last_created_at", "traces", "raw_bytes")
    query = select(*(PACKS.c[name] for name in names)).where(*conditions).order_by(PACKS.c.id).limit(_LISTED)
    page = query
    while True:
        with connection.begin():
            rows = connection.execute(page).all()
        yield from rows
        if len(rows) < _LISTED:
            return
        page = query.where(PACKS.c.id > rows[-1].id)


def contents(stored: StoredPack, directory: Directory, trace_ids: Collection[str]) -> Iterator[Any]:
    """Yield the id and the documents, or the error, of each of some traces of a pack.

    Args:
        stored: the pack.
        directory: its directory.
        trace_ids: the traces, in the order of the directory.
    """
    data = memoryview(stored.pack.data)
    parts = {part: bytes(data[part.start : part.start + part.length]) for part in directory.parts_of(trace_ids)}
    yield from directory.documents_of(trace_ids, parts)


def attempted(
    connection: Connection, pack_id: UUID, action: Callable[[], _Result], refused: str
) -> _Result | PackFailure:
    """Run an action on a pack in a transaction; return its result, or why the pack stays as it is.

    Args:
        connection: without a transaction.
        pack_id: the pack.
        action: runs the statements.
        refused: what the database refuses if it does, as the problem says it.

    Raises:
        DBAPIError: the connection was lost.
    """
    try:
        with connection.begin():
            return action()
    except DamagedTracesError as error:
        return PackFailure(pack_id, error.trace_ids, str(error))
    except (DamagedPackError, UnexpectedCountError) as error:
        return PackFailure(pack_id, (), str(error))
    except DBAPIError as error:
        if error.connection_invalidated:
            raise
        # The driver's message can have content.
        code = sqlstate_of(error) or type(error.orig).__name__
        return PackFailure(pack_id, (), f"the database refused {refused}: {code}")


def stored_pack(connection: Connection, pack_id: UUID, *, lock: bool) -> StoredPack | None:
    """Return a pack; None if it is gone.

    Args:
        connection: in a transaction.
        pack_id: the pack.
        lock: whether to lock its row until the end of the transaction.
    """
    query = select(PACKS).where(PACKS.c.id == pack_id)
    row = connection.execute(query.with_for_update() if lock else query).first()
    if row is None:
        return None
    pack = Pack(bytes(row.directory), bytes(row.data), row.traces, row.raw_bytes)
    return StoredPack(row.id, row.organization_id, row.agent_id, pack)


def dates_of(connection: Connection, pack_id: UUID, trace_ids: Collection[str], *, lock: bool) -> dict[str, Any]:
    """Return the stored dates of those traces whose row of metadata names the pack, by their ids.

    Args:
        connection: in a transaction.
        pack_id: the pack.
        trace_ids: the traces of the pack.
        lock: whether to lock the rows until the end of the transaction.

    Raises:
        UnexpectedCountError: two rows of one id name the pack.
    """
    if not trace_ids:
        return {}
    lookup, parameters = lookup_for(trace_ids, connection.dialect.name)
    columns = METADATA.table.c
    query = select(columns.id, columns.created_at).where(is_among(METADATA, lookup), columns.pack_id == pack_id)
    rows = connection.execute(query.with_for_update(of=METADATA.table) if lock else query, parameters).all()
    found = {row.id: row.created_at for row in rows}
    if len(found) != len(rows):
        raise UnexpectedCountError("rows of metadata of a packed trace", len(found), len(rows))
    return found


def delete_pack(connection: Connection, pack_id: UUID) -> None:
    """Delete a pack that no row of metadata names any more."""
    deleted = connection.execute(delete(PACKS).where(PACKS.c.id == pack_id)).rowcount
    if deleted != 1:
        raise UnexpectedCountError("deleting a pack", 1, deleted)


def point_to(connection: Connection, old: UUID, trace_ids: Collection[str], new: UUID | None) -> None:
    """Make the rows of metadata of some traces of a pack name another pack, or none.

    Args:
        connection: in a transaction that has locked the rows.
        old: the pack that they name.
        trace_ids: the traces.
        new: the pack that they name afterwards; None for none.
    """
    if not trace_ids:
        return
    lookup, parameters = lookup_for(trace_ids, connection.dialect.name)
    change = update(METADATA.table).where(is_among(METADATA, lookup), METADATA.table.c.pack_id == old)
    changed = connection.execute(change.values(pack_id=new), parameters).rowcount
    if changed != len(trace_ids):
        raise UnexpectedCountError("changing rows of metadata", len(trace_ids), changed)


def replace(connection: Connection, stored: StoredPack, smaller: Pack, dates: Mapping[str, datetime]) -> None:
    """Put a pack in the place of another; the rows of metadata of its traces name it afterwards.

    Args:
        connection: in a transaction that has locked the old pack and the rows of metadata of its traces.
        stored: the old pack; the caller deletes it when no row names it any more.
        smaller: the new pack.
        dates: the dates of its traces by their ids, as `dates_of` returns them.
    """
    moments = [moment_of(date) for date in dates.values()]
    new = new_pack_id()
    insert_pack(
        connection,
        new,
        smaller,
        organization_id=stored.organization_id,
        agent_id=stored.agent_id,
        first_created_at=min(moments),
        last_created_at=max(moments),
    )
    if not is_stored(connection, new, smaller) or set(Directory(smaller.directory).trace_ids) != set(dates):
        raise UnexpectedCountError("storing a pack", 1, 0)
    point_to(connection, stored.pack_id, list(dates), new)
