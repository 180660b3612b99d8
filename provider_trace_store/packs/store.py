"""Packs in the database: the parts of one that some traces are read from, and new packs."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final, cast
from uuid import UUID

from sqlalchemy import bindparam, func, insert, select
from uuid_utils import uuid7

from provider_trace_store.packs.format import DamagedPackError, Directory, Part
from provider_trace_store.tables.models import ProviderTracePackRecord

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from datetime import datetime

    from sqlalchemy import Connection, Select, Table

    from provider_trace_store.packs.format import Documents, Pack

PACKS: Final = cast("Table", ProviderTracePackRecord.__table__)


def new_pack_id() -> UUID:
    """Return a new id of a pack; ids that are made later sort later."""
    return UUID(bytes=uuid7().bytes)


def documents_of(
    connection: Connection, wanted: Mapping[UUID, Collection[str]]
) -> dict[str, Documents | DamagedPackError]:
    """Return the documents of packed traces by their ids, or the error for one whose part of a pack is damaged.

    A trace that its pack does not have, and one whose pack is gone, is left out: the pack was replaced after the row
    of metadata was read.

    Args:
        connection: the connection to the database that has the packs.
        wanted: the ids of the wanted traces of each pack.
    """
    found: dict[str, Documents | DamagedPackError] = {}
    for pack_id, trace_ids in wanted.items():
        stored = connection.scalar(select(PACKS.c.directory).where(PACKS.c.id == pack_id))
        if stored is None:
            continue
        try:
            directory = Directory(stored)
        except DamagedPackError as error:
            found |= dict.fromkeys(trace_ids, error)
            continue
        parts = directory.parts_of(trace_ids)
        found.update(directory.documents_of(trace_ids, _read(connection, pack_id, parts)))
    return found


def insert_pack(  # noqa: PLR0913  (one argument for each column)
    connection: Connection,
    pack_id: UUID,
    pack: Pack,
    *,
    organization_id: str,
    agent_id: str | None,
    first_created_at: datetime,
    last_created_at: datetime,
) -> None:
    """Insert a pack; arguments as the columns of `ProviderTracePackRecord`."""
    values = {
        "id": pack_id,
        "organization_id": organization_id,
        "agent_id": agent_id,
        "first_created_at": first_created_at,
        "last_created_at": last_created_at,
        "traces": pack.traces,
        "raw_bytes": pack.raw_bytes,
        "directory": pack.directory,
        "data": pack.data,
    }
    connection.execute(insert(PACKS), values)


def _read(connection: Connection, pack_id: UUID, parts: list[Part]) -> dict[Part, bytes]:
    if not parts:
        return {}
    parameters: dict[str, Any] = {"pack_id": pack_id}
    for number, part in enumerate(parts):
        parameters |= {f"start_{number}": part.start + 1, f"length_{number}": part.length}
    row = connection.execute(_parts_statement(len(parts)), parameters).first()
    return {} if row is None else dict(zip(parts, row, strict=True))


@cache
def _parts_statement(count: int) -> Select[Any]:
    columns = (func.substr(PACKS.c.data, bindparam(f"start_{n}"), bindparam(f"length_{n}")) for n in range(count))
    return select(*columns).where(PACKS.c.id == bindparam("pack_id"))
