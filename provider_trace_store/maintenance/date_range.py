"""The oldest and the newest date of a table, read from indexes or statistics, never by a scan."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Final

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from provider_trace_store.database.drivers import sqlstate_of
from provider_trace_store.database.names import quoted_table
from provider_trace_store.maintenance.status_report import DateRange
from provider_trace_store.tables.moments import UtcDateTime

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection, Table

# With more organizations, the index by organization takes too long.
_MOST_ORGANIZATIONS: Final = 1000
# An index whose entries were just deleted, and not vacuumed, can take long to read at its end.
_LONGEST: Final = "300ms"
_QUERY_CANCELED: Final = "57014"

_BY_DATE: Final = (
    "SELECT (SELECT min(created_at) FROM {table}) AS oldest, (SELECT max(created_at) FROM {table}) AS newest, 0 AS n"
)
# One probe for each organization, and two for its dates. The organizations are found one after the other: each is the
# first one behind the one before it.
_BY_ORGANIZATION: Final = """
    WITH RECURSIVE organizations (id, n) AS (
        SELECT (SELECT organization_id FROM {table} ORDER BY organization_id LIMIT 1), 1
        UNION ALL
        SELECT (SELECT t.organization_id FROM {table} AS t WHERE t.organization_id > organizations.id
            ORDER BY t.organization_id LIMIT 1), n + 1
        FROM organizations WHERE id IS NOT NULL AND n <= {most}
    )
    SELECT min(oldest) AS oldest, max(newest) AS newest, max(n) AS n FROM (
        SELECT n, (SELECT min(t.created_at) FROM {table} AS t WHERE t.organization_id = organizations.id) AS oldest,
            (SELECT max(t.created_at) FROM {table} AS t WHERE t.organization_id = organizations.id) AS newest
        FROM organizations WHERE id IS NOT NULL
    ) AS found
"""
_HISTOGRAMS: Final = text(
    """
    SELECT min(bounds[1]) AS oldest, max(bounds[array_length(bounds, 1)]) AS newest
    FROM (
        SELECT CAST(CAST(histogram_bounds AS text) AS timestamptz[]) AS bounds
        FROM pg_stats JOIN pg_namespace ON nspname = schemaname
        JOIN pg_class ON relnamespace = pg_namespace.oid AND relname = tablename
        WHERE attname = 'created_at' AND pg_class.oid IN (
            SELECT CAST(CAST(:name AS text) AS regclass)
            UNION SELECT relid FROM pg_partition_tree(CAST(CAST(:name AS text) AS regclass)))
    ) AS bounds
    """
)


def date_range(connection: Connection, table: Table, indexed: Sequence[Sequence[str | None]]) -> DateRange:
    """Return the dates of the oldest and the newest row, deleted ones among them.

    Args:
        connection: in a transaction.
        table: an existing table with a column `created_at`.
        indexed: the columns of each of its usable indexes.
    """
    name = quoted_table(connection, table)
    if any(columns[0] == "created_at" for columns in indexed):
        query = _BY_DATE.format(table=name)
    elif any(list(columns[:2]) == ["organization_id", "created_at"] for columns in indexed):
        query = _BY_ORGANIZATION.format(table=name, most=_MOST_ORGANIZATIONS)
    else:
        return _of_statistics(connection, name)
    found = _probed(connection, query)
    return found or _of_statistics(connection, name)


def _probed(connection: Connection, query: str) -> DateRange | None:
    """Return the dates that a query of index probes finds; None if it takes too long."""
    statement = text(query.replace(":", "\\:")).columns(oldest=UtcDateTime(), newest=UtcDateTime())
    # Rolled back, because the limit of a savepoint that is released stays.
    savepoint = connection.begin_nested()
    try:
        if connection.dialect.name == "postgresql":
            connection.execute(text(f"SET LOCAL statement_timeout = '{_LONGEST}'"))
        row = connection.execute(statement).one()
    except DBAPIError as error:
        if sqlstate_of(error) != _QUERY_CANCELED:
            raise
        return None
    finally:
        savepoint.rollback()
    return None if (row.n or 0) > _MOST_ORGANIZATIONS else DateRange(row.oldest, row.newest, "index")


def _of_statistics(connection: Connection, name: str) -> DateRange:
    if connection.dialect.name == "postgresql":
        row = connection.execute(_HISTOGRAMS, {"name": name}).one()
        if isinstance(row.oldest, datetime):
            return DateRange(row.oldest, row.newest, "statistics")
    return DateRange(None, None, "unknown")
