"""The indexes of the tables: which are missing, and how a migration builds or drops them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from alembic import op
from sqlalchemy import inspect, select, text
from sqlalchemy.schema import CreateIndex

from provider_trace_store.database.names import quoted_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection, Index, Table

logger: Final = logging.getLogger("provider_trace_store.migrations")


def add_indexes(table: Table) -> None:
    """Build the indexes of a table that are missing where it is empty; elsewhere log the statements to run.

    Args:
        table: one that is there, in the schema that the migration works in, with the indexes that it is to have.
    """
    context = op.get_context()
    if context.as_sql:
        for index in sorted(table.indexes, key=lambda index: str(index.name)):
            context.impl.create_index(index)
        return
    found, level = build_or_log(op.get_bind(), table)
    if found:
        logger.log(level, "%s: %s", table.fullname, found)


def drop_indexes(table: Table) -> None:
    """Drop the indexes of a table that `add_indexes` or an operator built under their names.

    Args:
        table: as for `add_indexes`.
    """
    for index in sorted(table.indexes, key=lambda index: str(index.name)):
        op.drop_index(str(index.name), table.name, schema=table.schema, if_exists=True)


def missing_indexes(connection: Connection, table: Table) -> list[Index]:
    """Return the indexes of a table that the database has not, under whatever name, in order of their names."""
    present = _indexed_columns(connection, table)
    return sorted(
        (index for index in table.indexes if not _is_served(_columns_of(index), present)),
        key=lambda index: str(index.name),
    )


def build_or_log(connection: Connection, table: Table) -> tuple[str, int]:
    """Return what was done about the missing indexes, and at which level the log says so."""
    indexes = missing_indexes(connection, table)
    if not indexes:
        return "", logging.INFO
    # SQLite has nobody to wait for it, and nobody who reads its log.
    if connection.dialect.name != "sqlite" and has_rows(connection, quoted_table(connection, table)):
        statements = "; ".join(_concurrently(connection, index) for index in indexes)
        return f"has rows, so it got no index: run {statements}", logging.WARNING
    for index in indexes:
        op.get_context().impl.create_index(index)
    return f"added {', '.join(str(index.name) for index in indexes)}", logging.INFO


def _columns_of(index: Index) -> list[str | None]:
    return [column.name for column in index.columns]


def _indexed_columns(connection: Connection, table: Table) -> list[Sequence[str | None]]:
    """Return the columns of each index that is there and has all rows, in one direction; the primary key's first."""
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
    """Return the indexes that a CREATE INDEX CONCURRENTLY left unfinished, which no query uses."""
    if connection.dialect.name != "postgresql":
        return set()
    statement = text(
        "SELECT relname FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid "
        "WHERE NOT indisvalid AND indrelid = CAST(:name AS regclass)"
    )
    return set(connection.scalars(statement, {"name": quoted_table(connection, table)}))


def _is_served(columns: Sequence[str | None], present: list[Sequence[str | None]]) -> bool:
    return any(list(other[: len(columns)]) == list(columns) for other in present)


def _concurrently(connection: Connection, index: Index) -> str:
    statement = str(CreateIndex(index).compile(dialect=connection.dialect))
    if connection.dialect.name == "postgresql":
        statement = statement.replace("CREATE INDEX", "CREATE INDEX CONCURRENTLY", 1)
    return " ".join(statement.replace("%%", "%").split())


def has_rows(connection: Connection, full_name: str) -> bool:
    """Say whether a table has any row; its name is given as `names.quoted` returns it."""
    statement = select(text("1 FROM " + full_name.replace(":", "\\:"))).limit(1)
    return connection.execute(statement).first() is not None
