"""The indexes of the tables: find the missing ones, build them, drop them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from sqlalchemy import inspect, text

from provider_trace_store.database.names import quoted, quoted_table
from provider_trace_store.migrations.index_statements import statements_for
from provider_trace_store.migrations.operations import op
from provider_trace_store.migrations.origin import create_index, drop_index_if_created, is_created_index
from provider_trace_store.migrations.rows import lock, why_not_empty

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import Connection, Index, Table

logger: Final = logging.getLogger("provider_trace_store.migrations")

# The columns of each index that serves a query which compares and sorts as the columns do. An index that an interrupted
# CREATE INDEX CONCURRENTLY left behind is not valid, and no query uses it.
_POSTGRESQL_INDEXES: Final = text(
    """
    SELECT array_agg(CAST(attname AS text) ORDER BY place)
    FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid JOIN pg_am ON pg_am.oid = relam
    CROSS JOIN unnest(CAST(indkey AS smallint[]), CAST(indoption AS smallint[]), CAST(indcollation AS oid[]),
        CAST(indclass AS oid[])) WITH ORDINALITY AS part (number, options, collation_of, class, place)
    LEFT JOIN pg_attribute ON attrelid = indrelid AND attnum = number AND number > 0
    LEFT JOIN pg_opclass ON pg_opclass.oid = class
    WHERE indrelid = CAST(:name AS regclass) AND indisvalid AND indpred IS NULL AND amname = 'btree'
    AND place <= indnkeyatts
    GROUP BY indexrelid
    HAVING bool_and(options = 0 AND collation_of IS NOT DISTINCT FROM coalesce(attcollation, collation_of)
        AND opcdefault)
    """
)


def add_indexes(table: Table) -> None:
    """Build the missing indexes of an empty table; for a table with rows, log the statements that build them.

    Args:
        table: an existing table, in the schema of the running migration, with the indexes that it must have.
    """
    context = op.get_context()
    if context.as_sql:
        for index in _by_name(table.indexes):
            create_index(index)
        return
    report, level = build_indexes(op.get_bind(), table)
    if report:
        logger.log(level, "%s: %s", table.fullname, report)


def drop_indexes(table: Table) -> None:
    """Drop the indexes of a table that a migration created; a log line names each one that stays.

    An index of the same name that a host or an operator built stays, and so does one that an earlier release built:
    nothing tells these apart.

    Args:
        table: as for `add_indexes`.
    """
    context = op.get_context()
    for index in _by_name(table.indexes):
        if context.as_sql and context.dialect.name == "postgresql":
            drop_index_if_created(index)
        elif context.as_sql or (created := is_created_index(op.get_bind(), index)):
            op.drop_index(str(index.name), table.name, schema=table.schema, if_exists=True)
        elif created is False:
            logger.warning(
                "%s: its index %s stays, because no migration is recorded as its creator; if it may go, run DROP INDEX "
                "%s",
                table.fullname,
                index.name,
                quoted(context.dialect, table.schema, str(index.name)),
            )


def missing_indexes(connection: Connection, table: Table) -> list[Index]:
    """Return the indexes of a table that are missing in the database, sorted by name.

    An index of the database counts under any name, and also if it has further columns behind the ones that matter.

    Args:
        connection: the database to look at.
        table: the table with the indexes that it must have.
    """
    present = indexed_columns(connection, table)
    return _by_name(index for index in table.indexes if not _is_served(_columns_of(index), present))


def build_indexes(connection: Connection, table: Table) -> tuple[str, int]:
    """Build the missing indexes, unless the table has rows and the build would block writes to it.

    Args:
        connection: the connection of the running migration.
        table: as for `add_indexes`.

    Returns:
        What was done, or what the operator must run, for the log; empty if no index is missing. And the log's level.
    """
    indexes = missing_indexes(connection, table)
    if not indexes:
        return "", logging.INFO
    # A SQLite file has few users whom the build could block, and usually no operator who reads the log.
    if connection.dialect.name != "sqlite" and (obstacle := _obstacle(connection, table)):
        report = f"{obstacle}, so its missing indexes were not built: {_to_run(connection, table, indexes)}"
        return report, logging.WARNING
    for index in indexes:
        create_index(index)
    return f"added {', '.join(str(index.name) for index in indexes)}", logging.INFO


def report_missing_indexes(connection: Connection, tables: Iterable[Table]) -> None:
    """Log the indexes that are missing, with the statements that build them, and the tables that do not exist.

    Args:
        connection: a database at the newest revision.
        tables: the tables, in their schema, with the indexes that they must have.
    """
    for table in tables:
        if not inspect(connection).has_table(table.name, schema=table.schema):
            logger.warning(
                "%s: does not exist, although the version table says that it was created: if it was dropped by hand, "
                "delete the row of the version table and run the upgrade again",
                table.fullname,
            )
        elif indexes := missing_indexes(connection, table):
            names = ", ".join(str(index.name) for index in indexes)
            report = _to_run(connection, table, indexes)
            logger.warning("%s: its indexes %s are still missing: %s", table.fullname, names, report)


def _obstacle(connection: Connection, table: Table) -> str | None:
    """Return why the table's indexes cannot be built at once; without a reason, the table is locked and empty."""
    # The first look needs no lock: a table with rows has writers, who would wait.
    if obstacle := why_not_empty(connection, table):
        return obstacle
    lock(connection, table, "SHARE")
    return why_not_empty(connection, table)


def _by_name(indexes: Iterable[Index]) -> list[Index]:
    return sorted(indexes, key=lambda index: str(index.name))


def _columns_of(index: Index) -> list[str | None]:
    return [column.name for column in index.columns]


def indexed_columns(connection: Connection, table: Table) -> list[Sequence[str | None]]:
    """Return the columns of each B-tree that has all rows and compares as the columns do, in ascending order.

    Args:
        connection: the database to look at.
        table: an existing table.
    """
    if connection.dialect.name == "postgresql":
        columns = connection.scalars(_POSTGRESQL_INDEXES, {"name": quoted_table(connection, table)})
        return list(columns)
    inspector = inspect(connection)
    other = _differently_compared(connection, table)
    return [
        inspector.get_pk_constraint(table.name, schema=table.schema)["constrained_columns"],
        *(
            index["column_names"]
            for index in inspector.get_indexes(table.name, schema=table.schema)
            if index["name"] not in other
            and not index.get("dialect_options", {}).get("sqlite_where")
            and not index.get("column_sorting")
        ),
    ]


def _differently_compared(connection: Connection, table: Table) -> set[str]:
    """Return the names of SQLite's indexes with a column of a descending order or of another collation than BINARY."""
    statement = text(
        "SELECT DISTINCT list.name FROM pragma_index_list(:table, :schema) AS list "
        "JOIN pragma_index_xinfo(list.name, :schema) AS part "
        'WHERE part."key" AND (part."desc" OR upper(part.coll) <> \'BINARY\')'
    )
    return set(connection.scalars(statement, {"table": table.name, "schema": table.schema or "main"}))


def _is_served(columns: Sequence[str | None], present: list[Sequence[str | None]]) -> bool:
    return any(list(other[: len(columns)]) == list(columns) for other in present)


def _to_run(connection: Connection, table: Table, indexes: Iterable[Index]) -> str:
    statements = [statement for index in indexes for statement in statements_for(connection, table, index)]
    return "\n".join(["outside of a transaction, run", *(f"{statement};" for statement in statements)])
