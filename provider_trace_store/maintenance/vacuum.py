"""Gives the space of deleted rows back, for new rows of the same table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provider_trace_store.database.names import quoted_table, without_parameters
from provider_trace_store.tables.kinds import FULL

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine, Table


def statement_of_vacuum(connection: Connection, table: Table = FULL.table) -> str:
    """Return the statement that gives space back; on SQLite it rewrites the file, and locks it for that long.

    Args:
        connection: its `schema_translate_map` decides the schema.
        table: the table whose rows were deleted.
    """
    if connection.dialect.name == "sqlite":
        return "VACUUM"
    return f"VACUUM {quoted_table(connection, table)}"


def vacuum_table(engine: Engine, table: Table = FULL.table) -> None:
    """Run that statement.

    Args:
        engine: `schema_translate_map` decides the schema.
        table: the table whose rows were deleted.
    """
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(without_parameters(statement_of_vacuum(connection, table)))
