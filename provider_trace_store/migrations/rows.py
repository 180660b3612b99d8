"""Whether a table is empty, asked so that no policy, privilege or snapshot can falsify the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import text

from provider_trace_store.database.names import quoted_table, without_parameters

if TYPE_CHECKING:
    from sqlalchemy import Connection, Table

HAS_ROWS: Final = "has rows"


def why_not_empty(connection: Connection, table: Table) -> str | None:
    """Return why a table cannot be taken for empty, such as "has rows"; None if it is empty.

    Args:
        connection: the connection of the running migration. The answer holds for as long as it has a lock of the table
            that keeps writers out.
        table: an existing table.
    """
    name = quoted_table(connection, table)
    if connection.dialect.name == "postgresql":
        statement = text(
            "SELECT row_security_active(CAST(:name AS regclass)), has_any_column_privilege(:name, 'SELECT'), "
            "current_user"
        )
        is_filtered, is_readable, role = connection.execute(statement, {"name": name}).one()
        if not is_readable:
            return f"may have rows, which the role {role} may not read"
        if is_filtered:
            return f"may have rows that its row-level security hides from the role {role}"
    query = f"SELECT 1 FROM {name} LIMIT 1"  # noqa: S608  # the name is quoted
    return None if connection.execute(without_parameters(query)).first() is None else HAS_ROWS


def sees_all_commits(connection: Connection) -> bool:
    """Return whether the next statement sees every row that was committed before it.

    In a transaction with one snapshot for all statements, it does not see the rows that were committed after the
    transaction's first statement, and no lock changes that.

    Args:
        connection: the connection of the running migration.
    """
    if connection.dialect.name != "postgresql":
        return True
    return str(connection.scalar(text("SELECT current_setting('transaction_isolation')"))).startswith("read ")


def lock(connection: Connection, table: Table, mode: str) -> None:
    """Lock a table on PostgreSQL until the transaction ends; SQLite's write lock is held already.

    Args:
        connection: the connection of the running migration.
        table: an existing table.
        mode: PostgreSQL's name of the lock, such as `SHARE`.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(without_parameters(f"LOCK TABLE {quoted_table(connection, table)} IN {mode} MODE"))
