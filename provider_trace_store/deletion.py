"""Soft deletion: a row is marked, and is then in no result."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import literal, select, update

from provider_trace_store.drivers import errors_of, one_transaction, savepoint, write_error
from provider_trace_store.errors import ProviderTraceRejectedError
from provider_trace_store.models import ProviderTraceRecord
from provider_trace_store.queries import RECORDS, column_of, table_of
from provider_trace_store.row_store import connect
from provider_trace_store.schemas import text_problem

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from provider_trace_store.queries import Record


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
    changes: dict[str, Any] = {"is_deleted": is_deleted, "updated_at": datetime.now(UTC)}
    if actor_id is not None:
        changes["_last_updated_by_id"] = actor_id
    connection = connect(session, ProviderTraceRecord, trace_id)
    record: Record = ProviderTraceRecord
    try:
        with savepoint(connection), one_transaction(connection):
            count = 0
            for record in RECORDS:
                its_rows = (
                    column_of(record, "id") == trace_id,
                    column_of(record, "organization_id") == organization_id,
                    column_of(record, "is_deleted") != is_deleted,
                )
                change = update(table_of(record)).where(*its_rows).values(changes)
                look = select(literal(1)).where(*its_rows).limit(1)
                changed = connection.execute(change).rowcount
                if not changed and connection.execute(look).first():
                    # It was committed in between, or a trigger of the host's skips it.
                    changed = connection.execute(change).rowcount
                    if not changed:
                        raise ProviderTraceRejectedError(trace_id)
                count += changed
    except errors_of(connection) as error:
        failure = write_error(error, trace_id, connection, table_of(record))
    else:
        return count > 0
    # Outside of the handler, so that the driver's error is not chained.
    raise failure
