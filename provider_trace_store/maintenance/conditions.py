"""What must hold before rows are moved out of the table of traces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import inspect, text

from provider_trace_store.database.names import quoted, quoted_table
from provider_trace_store.errors import MaintenanceError, TableMissingError, shown
from provider_trace_store.packs.store import PACKS
from provider_trace_store.tables.kinds import FULL, METADATA

if TYPE_CHECKING:
    from sqlalchemy import Connection

_REFERENCING: Final = text(
    """
    SELECT DISTINCT CAST(CAST(conrelid AS regclass) AS text) AS name FROM pg_constraint
    WHERE contype = 'f' AND conrelid <> confrelid AND confrelid IN (
        SELECT CAST(CAST(:table AS regclass) AS oid) UNION SELECT relid FROM pg_partition_tree(CAST(:table AS regclass))
    )
    ORDER BY 1
    """
)
_IS_READ_ONLY: Final = text("SELECT pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on'")
_UPGRADE: Final = "run `provider-trace-store migrate upgrade`"


def check_conditions(connection: Connection) -> None:
    """Check that traces of a database can be moved between the table and packs.

    Args:
        connection: in a transaction.

    Raises:
        TableMissingError: one of the tables does not exist.
        MaintenanceError: a host's table references the traces, the server is read-only, or the tables are of an older
            version of the package.
    """
    check_tables(connection)
    check_writable(connection)
    is_sqlite = connection.dialect.name == "sqlite"
    # UTF-16 text would be read as other bytes than it is written with.
    if is_sqlite and connection.scalar(text("PRAGMA encoding")) != "UTF-8":
        raise MaintenanceError("the SQLite database is in UTF-16, and packs hold UTF-8: copy it into a new database")
    if tables := _referencing(connection):
        raise MaintenanceError(
            f"foreign keys of {', '.join(map(shown, tables))} reference {FULL.table.name}, and packing deletes its "
            "rows: drop these foreign keys (ALTER TABLE ... DROP CONSTRAINT ...), then run the command again"
        )


def check_tables(connection: Connection) -> None:
    """Check that the tables are there, and of this version; arguments and errors as `check_conditions`."""
    inspector = inspect(connection)
    for table in (FULL.table, METADATA.table, PACKS):
        if not inspector.has_table(table.name, schema=connection.schema_for_object(table)):
            raise TableMissingError(table.name)
    schema = connection.schema_for_object(METADATA.table)
    if "pack_id" not in {column["name"] for column in inspector.get_columns(METADATA.table.name, schema=schema)}:
        raise MaintenanceError(f"{METADATA.table.name} has no column pack_id: {_UPGRADE}")


def check_writable(connection: Connection) -> None:
    """Check that the session writes; argument as `check_conditions`.

    Raises:
        MaintenanceError: the server or the session is read-only.
    """
    is_sqlite = connection.dialect.name == "sqlite"
    if connection.scalar(text("PRAGMA query_only") if is_sqlite else _IS_READ_ONLY):
        raise MaintenanceError("the server or the session is read-only: connect to the primary, as a role that writes")


def _referencing(connection: Connection) -> list[str]:
    """Return the tables whose foreign keys reference the table of traces."""
    if connection.dialect.name == "postgresql":
        return list(connection.scalars(_REFERENCING, {"table": quoted_table(connection, FULL.table)}))
    names = connection.scalars(text("SELECT name FROM sqlite_master WHERE type = 'table'")).all()
    found = []
    for name in names:
        keys = connection.exec_driver_sql(f"PRAGMA foreign_key_list({quoted(connection.dialect, name)})")
        if name != FULL.table.name and any(key[2].lower() == FULL.table.name for key in keys):
            found.append(name)
    return found
