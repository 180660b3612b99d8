"""The indexes of the tables: find the missing ones, build them, drop them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from sqlalchemy import inspect, text

from provider_trace_store.database.names import quoted_table, without_parameters
from provider_trace_store.migrations.index_statements import statements_for
from provider_trace_store.migrations.operations import op

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import Connection, Index, Table

logger: Final = logging.getLogger("provider_trace_store.migrations")


def add_indexes(table: Table) -> None:
    """Build the missing indexes of an empty table; for a table with rows, log the statements that build them.

    Args:
        table: an existing table, in the schema of the running migration, with the indexes that it must have.
    """
    context = op.get_context()
    if context.as_sql:
        for index in _by_name(table.indexes):
            context.impl.create_index(index)
        return
    report, level = build_indexes(op.get_bind(), table)
    if report:
        logger.log(level, "%s: %s", table.fullname, report)


def drop_indexes(table: Table) -> None:
    """Drop the indexes of a table that have the package's names, whether a migration or an operator built them.

    Args:
        table: as for `add_indexes`.
    """
    for index in _by_name(table.indexes):
        op.drop_index(str(index.name), table.name, schema=table.schema, if_exists=True)


def missing_indexes(connection: Connection, table: Table) -> list[Index]:
    """Return the indexes of a table that are missing in the database, sorted by name.

    An index of the database counts under any name, and also if it has further columns behind the ones that matter.

    Args:
        connection: the database to look at.
        table: the table with the indexes that it must have.
    """
    present = _indexed_columns(connection, table)
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
    if connection.dialect.name != "sqlite" and has_rows(connection, quoted_table(connection, table)):
        report = f"has rows, so its missing indexes were not built: {_to_run(connection, table, indexes)}"
        return report, logging.WARNING
    for index in indexes:
        op.get_context().impl.create_index(index)
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


def _by_name(indexes: Iterable[Index]) -> list[Index]:
    return sorted(indexes, key=lambda index: str(index.name))


def _columns_of(index: Index) -> list[str | None]:
    return [column.name for column in index.columns]


def _indexed_columns(connection: Connection, table: Table) -> list[Sequence[str | None]]:
    """Return the columns of the primary key and of each valid index that has all rows, in ascending order."""
    inspector = inspect(connection)
    invalid = _invalid_indexes(connection, table)
    return [
        inspector.get_pk_constraint(table.name, schema=table.schema)["constrained_columns"],
        *(
            index["column_names"]
            for index in inspector.get_indexes(table.name, schema=table.schema)
            if index["name"] not in invalid
            and not index.get("dialect_options", {}).get("postgresql_where")
            and not index.get("column_sorting")
        ),
    ]


def _invalid_indexes(connection: Connection, table: Table) -> set[str]:
    """Return the names of indexes that no query uses, because a CREATE INDEX CONCURRENTLY was interrupted."""
    if connection.dialect.name != "postgresql":
        return set()
    statement = text(
        "SELECT relname FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid "
        "WHERE NOT indisvalid AND indrelid = CAST(:name AS regclass)"
    )
    return set(connection.scalars(statement, {"name": quoted_table(connection, table)}))


def _is_served(columns: Sequence[str | None], present: list[Sequence[str | None]]) -> bool:
    return any(list(other[: len(columns)]) == list(columns) for other in present)


def _to_run(connection: Connection, table: Table, indexes: Iterable[Index]) -> str:
    statements = [statement for index in indexes for statement in statements_for(connection, table, index)]
    return "\n".join(["outside of a transaction, run", *(f"{statement};" for statement in statements)])


def has_rows(connection: Connection, table_name: str) -> bool:
    """Return whether a table has at least one row.

    Args:
        connection: the connection to use.
        table_name: the table's name as SQL, as `names.quoted` returns it.
    """
    statement = f"SELECT 1 FROM {table_name} LIMIT 1"  # noqa: S608  # the name is quoted
    return connection.execute(without_parameters(statement)).first() is not None
