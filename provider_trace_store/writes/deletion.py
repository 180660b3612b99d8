"""Soft deletion: a row is marked as deleted, and no read returns it any more."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import literal, select, update

from provider_trace_store.database.transactions import guarded, one_transaction
from provider_trace_store.errors import ProviderTraceRejectedError
from provider_trace_store.schemas import text_problem
from provider_trace_store.tables.kinds import FULL, KINDS, METADATA
from provider_trace_store.writes.single import connect

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.orm import Session

    from provider_trace_store.tables.kinds import Kind


def mark(session: Session, trace_id: str, *, organization_id: str, actor_id: str | None, is_deleted: bool) -> bool:
    """Mark a trace as deleted or as not deleted, in each table that has it.

    Args:
        session: the host's session.
        trace_id: any text.
        organization_id: the tenant that owns the trace.
        actor_id: the actor of the change; None keeps the row's `last_updated_by_id`.
        is_deleted: the new mark.

    Returns:
        Whether the trace exists and had the other mark.

    Raises:
        ProviderTraceRejectedError: the database refused the change, such as by a host's trigger.
        ProviderTraceUnavailableError: the database could not do it now.
        TableMissingError: the database has not been migrated.
        TransactionEndedError: SQLite rolled the host's transaction back.
    """
    if text_problem(trace_id):
        return False
    changes: dict[str, Any] = {"is_deleted": is_deleted, "updated_at": datetime.now(UTC)}
    if actor_id is not None:
        changes[FULL.table_column("last_updated_by_id")] = actor_id
    connection = connect(session, FULL, trace_id)

    def mark_all() -> bool:
        with one_transaction(connection):
            # A trace may be in both tables: each is changed, also after one that had the trace. A trace that is being
            # packed or unpacked moves to the other table while a statement waits for it: of the two tables, the full
            # one is looked at before and after the other.
            marked = [_mark(connection, kind, trace_id, organization_id, changes) for kind in (FULL, METADATA)]
            return any(marked) or _mark(connection, FULL, trace_id, organization_id, changes)

    return guarded(mark_all, connection, trace_id, *(kind.table for kind in KINDS))


def _mark(connection: Connection, kind: Kind, trace_id: str, organization_id: str, changes: dict[str, Any]) -> bool:
    rows_to_change = (
        kind.columns["id"] == trace_id,
        kind.columns["organization_id"] == organization_id,
        kind.columns["is_deleted"] != changes["is_deleted"],
    )
    change = update(kind.table).where(*rows_to_change).values(changes)
    changed = connection.execute(change).rowcount
    if not changed and connection.execute(select(literal(1)).where(*rows_to_change).limit(1)).first():
        # The row was committed between the two statements, or a trigger of the host's skips the change.
        changed = connection.execute(change).rowcount
        if not changed:
            raise ProviderTraceRejectedError(trace_id)
    return bool(changed)
