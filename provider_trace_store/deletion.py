"""Soft deletion: a row is marked, and is then in no result."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sqlalchemy import update

from provider_trace_store.drivers import errors_of, savepoint, write_error
from provider_trace_store.models import ProviderTraceRecord
from provider_trace_store.queries import STORED_AS, column_of, table_of
from provider_trace_store.row_store import connect
from provider_trace_store.schemas import text_problem

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


def mark(session: Session, trace_id: str, *, organization_id: str, actor_id: str | None, is_deleted: bool) -> bool:
    """Mark a trace as deleted, or as not deleted any more, wherever it is stored.

    Args:
        session: the host's.
        trace_id: any text.
        organization_id: whose trace it must be.
        actor_id: who does it; None leaves who changed the row last.
        is_deleted: which of the two.

    Returns:
        Whether there was such a trace, and it was not marked so.

    Raises:
        ProviderTraceRejectedError: the database refused the change, such as by a host's trigger.
        ProviderTraceUnavailableError: the database could not do it now.
        TableMissingError: the database has not been migrated.
    """
    if text_problem(trace_id):
        return False
    changes = {"is_deleted": is_deleted, "updated_at": datetime.now(UTC)}
    if actor_id is not None:
        changes |= {"_last_updated_by_id": actor_id}
    count = 0
    connection = connect(session, ProviderTraceRecord, trace_id)
    try:
        with savepoint(connection):
            for record in STORED_AS:
                statement = (
                    update(table_of(record))
                    .values(changes)
                    .where(
                        column_of(record, "id") == trace_id,
                        column_of(record, "organization_id") == organization_id,
                        column_of(record, "is_deleted") != is_deleted,
                    )
                )
                count += connection.execute(statement).rowcount
    except errors_of(connection) as error:
        failure = write_error(error, trace_id, connection, table_of(ProviderTraceRecord))
    else:
        return count > 0
    # Outside of the handler, so that the driver's error is not chained.
    raise failure
