"""Packs made by hand, through the public tables: traces are packed without `maintenance`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import Text, cast, delete, insert, select, type_coerce
from sqlalchemy.types import NullType

from provider_trace_store.packs.format import PACKED_DOCUMENTS, PackBuilder
from provider_trace_store.packs.store import insert_pack, new_pack_id
from provider_trace_store.tables.kinds import FULL, METADATA

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from sqlalchemy import Connection


def pack_now(connection: Connection, trace_ids: Sequence[str]) -> UUID:
    """Move full traces into one pack, in the caller's transaction, and return the pack's id.

    Args:
        connection: a connection to the database.
        trace_ids: traces of one organization, all of them in `provider_traces`.
    """
    full, metadata = FULL.table, METADATA.table
    texts = [cast(full.c[name], Text).label(name) for name in PACKED_DOCUMENTS]
    query = select(full.c.id, full.c.organization_id, full.c.created_at, full.c.agent_id, *texts)
    rows = connection.execute(
        query.where(full.c.id.in_(trace_ids)).order_by(full.c.created_at.desc(), full.c.id.desc())
    )
    stored = rows.all()
    assert sorted(row.id for row in stored) == sorted(trace_ids)
    builder = PackBuilder()
    for row in stored:
        documents: Any = tuple(None if text is None else text.encode() for text in row[-len(PACKED_DOCUMENTS) :])
        builder.add(row.id, documents)
    builder.end_run()
    pack_id = new_pack_id()
    insert_pack(
        connection,
        pack_id,
        builder.finish(),
        organization_id=stored[0].organization_id,
        agent_id=stored[0].agent_id,
        first_created_at=stored[-1].created_at,
        last_created_at=stored[0].created_at,
    )
    names = [METADATA.table_column(name) for name in (*METADATA.fields, "organization_id", "is_deleted")]
    # As the columns are stored: SQLAlchemy does not read them.
    kept = [type_coerce(full.c[name], NullType()) for name in names]
    moved = select(*kept, type_coerce(pack_id, metadata.c.pack_id.type)).where(full.c.id.in_(trace_ids))
    connection.execute(insert(metadata).from_select([*names, "pack_id"], moved))
    assert connection.execute(delete(full).where(full.c.id.in_(trace_ids))).rowcount == len(trace_ids)
    return pack_id
