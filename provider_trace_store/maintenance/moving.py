"""The transaction that moves traces from the table into a pack: it changes exactly the traces that were read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

from sqlalchemy import delete, func, literal, or_, select, text, type_coerce
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.types import NullType, Uuid

from provider_trace_store.database.transactions import begin_on_sqlite
from provider_trace_store.maintenance.bodies import read, stamp_of_row
from provider_trace_store.packs.format import digest
from provider_trace_store.packs.store import insert_pack, is_stored, new_pack_id
from provider_trace_store.tables.ids import is_among, lookup_for
from provider_trace_store.tables.kinds import FULL, METADATA

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from sqlalchemy import ColumnElement, Connection, Select

    from provider_trace_store.packs.format import Pack

# Why a trace stays in the table.
Reason = Literal["changed", "locked", "undated", "unreadable", "refused"]

# A client that waits for one of the rows waits this long at most. The first counts for each lock; the second for each
# statement, of which INSERT of 8 MB takes longest.
_LIMITS: Final = (text("SET LOCAL lock_timeout = '500ms'"), text("SET LOCAL statement_timeout = '60s'"))


# What a row of metadata has in common with the row that takes its place.
_KEY: Final = frozenset({"created_at", "id", "organization_id"})


class LeftError(Exception):
    """Some traces cannot be moved; nothing was changed.

    Args:
        reasons: why, by the ids of these traces.
        message: what is wrong, for an operator; None for a change by another session.
    """

    def __init__(self, reasons: Mapping[str, Reason], message: str | None = None) -> None:
        super().__init__(message)
        self.reasons = reasons
        self.message = message


def move(  # noqa: PLR0913  (one argument for each value of the pack)
    connection: Connection,
    pack: Pack,
    stamps: Mapping[str, str | bytes],
    *,
    organization_id: str,
    agent_id: str | None,
    first_created_at: datetime,
    last_created_at: datetime,
) -> None:
    """Insert a pack and the metadata of its traces, and delete the traces.

    Args:
        connection: in a transaction that has run no statement; the caller rolls it back after an error.
        pack: the pack, whose documents were compared with those that were read.
        stamps: the traces of the pack by their ids, as `Body.stamp`.
        organization_id: the organization of all of them.
        agent_id: their agent.
        first_created_at: the oldest date.
        last_created_at: the newest date.

    Raises:
        LeftError: some traces are not as they were read, or the database did not do what the statements say.
    """
    trace_ids = list(stamps)
    begin_on_sqlite(connection, "BEGIN IMMEDIATE")
    has_row_locks = connection.dialect.name != "sqlite"
    if has_row_locks:
        for limit in _LIMITS:
            connection.execute(limit)
        _check_stamps(connection, stamps, organization_id)
    else:
        _check_documents(connection, stamps, organization_id)
    _check_twins(connection, trace_ids, organization_id)
    pack_id = new_pack_id()
    if _insert_metadata(connection, trace_ids, organization_id, pack_id) != len(trace_ids):
        raise _all_refused(trace_ids, "the database did not store each row of metadata: see triggers and policies")
    insert_pack(
        connection,
        pack_id,
        pack,
        organization_id=organization_id,
        agent_id=agent_id,
        first_created_at=first_created_at,
        last_created_at=last_created_at,
    )
    if not is_stored(connection, pack_id, pack):
        raise _all_refused(trace_ids, "the pack reads back different: see triggers of provider_trace_packs")
    if has_row_locks:
        # A client that changes one of the rows waits from here on. What was copied is of the version that is locked.
        _lock(connection, stamps, organization_id)
    lookup, parameters = lookup_for(trace_ids, connection.dialect.name)
    deleted = delete(FULL.table).where(is_among(FULL, lookup), FULL.columns["organization_id"] == organization_id)
    if connection.execute(deleted, parameters).rowcount != len(trace_ids):
        raise _all_refused(trace_ids, "the database did not delete each row: see triggers and policies")


def _check_documents(connection: Connection, stamps: Mapping[str, str | bytes], organization_id: str) -> None:
    found = {
        trace_id
        for trace_id, (documents, _) in read(connection, list(stamps), organization_id)
        if documents is not None and digest(documents) == stamps[trace_id]
    }
    if changed := stamps.keys() - found:
        raise LeftError(dict.fromkeys(changed, "changed"))


def _check_stamps(connection: Connection, stamps: Mapping[str, str | bytes], organization_id: str) -> None:
    """Refuse traces that have changed, before anything is written."""
    if changed := stamps.keys() - _unchanged(connection, stamps, organization_id):
        raise LeftError(dict.fromkeys(changed, "changed"))


def _lock(connection: Connection, stamps: Mapping[str, str | bytes], organization_id: str) -> None:
    if others := stamps.keys() - _unchanged(connection, stamps, organization_id, lock=True):
        # Of those that another session has locked, the version that was read is still there.
        unchanged = _unchanged(connection, stamps, organization_id)
        raise LeftError({trace_id: "locked" if trace_id in unchanged else "changed" for trace_id in others})


def _unchanged(
    connection: Connection, stamps: Mapping[str, str | bytes], organization_id: str, *, lock: bool = False
) -> set[str]:
    """Return the traces that are as they were read; with `lock` only those that could be locked at once."""
    lookup, parameters = lookup_for(list(stamps), connection.dialect.name)
    rows = (
        select(FULL.columns["id"], stamp_of_row())
        .select_from(FULL.table)
        .where(is_among(FULL, lookup), FULL.columns["organization_id"] == organization_id)
    )
    rows = rows.with_for_update(skip_locked=True, of=FULL.table) if lock else rows
    return {row.id for row in connection.execute(rows, parameters) if row.stamp == stamps[row.id]}


def _check_twins(connection: Connection, trace_ids: Sequence[str], organization_id: str) -> None:
    """Refuse traces whose id has another row of metadata than one that is replaced by the trace's."""
    lookup, parameters = lookup_for(trace_ids, connection.dialect.name)
    twin, full = METADATA.table.c, FULL.table.c
    others = (
        select(twin.id)
        .join(FULL.table, full.id == twin.id)
        .where(
            is_among(METADATA, lookup),
            or_(twin.organization_id != organization_id, twin.created_at != full.created_at, twin.pack_id.is_not(None)),
        )
    )
    if found := set(connection.scalars(others, parameters)):
        message = "a row of metadata has the same id, and another organization, date or pack"
        raise LeftError(dict.fromkeys(found, "refused"), message)


def _insert_metadata(connection: Connection, trace_ids: Sequence[str], organization_id: str, pack_id: Any) -> int:  # noqa: ANN401  (a UUID)
    """Copy the metadata of traces as it is stored; return the number of rows."""
    lookup, parameters = lookup_for(trace_ids, connection.dialect.name)
    rows = copied_metadata(literal(pack_id, Uuid).label("pack_id")).where(
        is_among(FULL, lookup), FULL.columns["organization_id"] == organization_id
    )
    insert = insert_metadata(connection, rows)
    names = [column.name for column in rows.selected_columns]
    replaced = {name: insert.excluded[name] for name in names if name not in _KEY}
    statement = insert.on_conflict_do_update(
        index_elements=["created_at", "id"],
        set_=replaced,
        where=METADATA.columns["organization_id"] == insert.excluded.organization_id,
    )
    connection.execute(statement, parameters)
    # Counted in the table: the driver's number is not known for each version of SQLAlchemy, and a trigger may lie.
    twin = METADATA.table.c
    stored = select(func.count()).where(
        is_among(METADATA, lookup), twin.organization_id == organization_id, twin.pack_id == pack_id
    )
    return connection.scalar(stored, parameters) or 0


def copied_metadata(*others: ColumnElement[Any]) -> Select[Any]:
    """Return the statement that selects what a row of metadata has of a full trace, each column as it is stored.

    Args:
        others: further columns, labelled with their names.
    """
    names = [column.name for column in METADATA.table.columns if column.name in FULL.table.columns]
    # Without the type, so that no column is read as text, or as a date, on its way.
    columns: list[ColumnElement[Any]] = [type_coerce(FULL.table.c[name], NullType()).label(name) for name in names]
    return select(*columns, *others)


def insert_metadata(connection: Connection, rows: Select[Any]) -> Any:  # noqa: ANN401  (the insert of one of two databases)
    """Return the statement that inserts rows of metadata, to which the caller adds what happens with a row that exists.

    Args:
        connection: its database.
        rows: as `copied_metadata`.
    """
    make = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    return make(METADATA.table).from_select(rows.selected_columns.keys(), rows)


def _all_refused(trace_ids: Sequence[str], message: str) -> LeftError:
    return LeftError(dict.fromkeys(trace_ids, "refused"), message)
