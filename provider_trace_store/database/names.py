"""Names of the database's objects in statements that SQLAlchemy does not write."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy import Connection, Table
    from sqlalchemy.engine import Dialect


def quoted(dialect: Dialect, *parts: str | None) -> str:
    """Return a name as a statement has it, such as `app.provider_traces` or `"My app".provider_traces`.

    A percent sign stays single. SQLAlchemy's own quoting doubles it, for drivers that take `%` for a parameter.

    Args:
        dialect: decides which names need quotation marks.
        parts: of the name, the schema first; None for a part that is not given.
    """
    return ".".join(_quoted(dialect, part) for part in parts if part)


def quoted_table(connection: Connection, table: Table) -> str:
    """Return a table's name with the schema that it has on a connection, as `quoted` does."""
    return quoted(connection.dialect, connection.schema_for_object(table), table.name)


def _quoted(dialect: Dialect, name: str) -> str:
    if dialect.identifier_preparer.quote(name) == name:
        return name
    return '"' + name.replace('"', '""') + '"'
