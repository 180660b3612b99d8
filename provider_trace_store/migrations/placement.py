"""Where the tables are: only in the schema in which a migration would create them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import bindparam, text

from provider_trace_store.database.names import quoted
from provider_trace_store.errors import MigrationError
from provider_trace_store.migrations.autogenerate import VERSION_TABLE
from provider_trace_store.tables.models import metadata

if TYPE_CHECKING:
    from sqlalchemy import Connection


def check_placement(connection: Connection, schema: str | None) -> None:
    """Check that the tables that statements would find are those of the schema in which CREATE TABLE would create.

    With `search_path = app2, app1`, CREATE TABLE creates in app2, and a statement without a schema also finds the
    tables of app1. A migration would take these for the tables of app2, or create one of the two beside the other.

    Args:
        connection: the connection of a migration, before anything else looks for tables on it.
        schema: the schema of the tables; None for the connection's default.

    Raises:
        MigrationError: the schema does not exist, or the tables are in another schema of the search path.
    """
    if connection.dialect.name != "postgresql":
        return
    if schema is not None:
        if (
            connection.scalar(text("SELECT 1 FROM pg_namespace WHERE CAST(nspname AS text) = :name"), {"name": schema})
            is None
        ):
            raise MigrationError(no_schema(connection, schema))
        return
    path, current = connection.execute(text("SELECT current_setting('search_path'), current_schema()")).one()
    if current is None:
        raise MigrationError(
            f"no schema of the search_path ({path}) exists for this role; nothing was changed: set the search_path, or "
            "name the schema of the tables with `schema`"
        )
    statement = text(
        "SELECT nspname, string_agg(relname, ', ' ORDER BY relname) FROM pg_class "
        "JOIN pg_namespace ON pg_namespace.oid = relnamespace "
        "WHERE relname IN :names AND relkind IN ('r', 'p', 'v', 'm', 'f') AND pg_table_is_visible(pg_class.oid) "
        "AND nspname <> current_schema() GROUP BY nspname ORDER BY nspname"
    ).bindparams(bindparam("names", expanding=True))
    elsewhere = connection.execute(statement, {"names": [VERSION_TABLE, *metadata.tables]}).all()
    if elsewhere:
        found = " and ".join(f"{tables} in the schema {name}" for name, tables in elsewhere)
        raise MigrationError(
            f"the search_path ({path}) leads to {found}, but a migration creates tables in the schema {current}; "
            f"nothing was changed: name the schema of the tables with `schema`, or set "
            "a search_path that has it first"
        )


def no_schema(connection: Connection, schema: str) -> str:
    """Return the message for a schema that does not exist."""
    name = quoted(connection.dialect, schema)
    return f"schema {name} does not exist; nothing was changed: run CREATE SCHEMA {name}, or correct `schema`"
