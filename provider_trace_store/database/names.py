"""SQL that the package writes as text: the names of tables and columns in it, and how SQLAlchemy gets it."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

from sqlalchemy import text

if TYPE_CHECKING:
    from sqlalchemy import Connection, Table, TextClause
    from sqlalchemy.engine import Dialect


def quoted(dialect: Dialect, *parts: str | None) -> str:
    """Return a name as SQL, such as `app.provider_traces` or `"My app".provider_traces`.

    A percent sign stays single. SQLAlchemy's own quoting doubles it for drivers whose parameters begin with `%`; in
    a value, a log line or a COPY statement the doubled one would be another name.

    Args:
        dialect: decides which names need quotation marks.
        parts: of the name, the schema first; None for a part that is not given.
    """
    return ".".join(_quoted(dialect, part) for part in parts if part)


def quoted_table(connection: Connection, table: Table) -> str:
    """Return a table's name as SQL, with the schema that the connection gives it.

    Args:
        connection: its `schema_translate_map` decides the schema.
        table: the table.
    """
    return quoted(connection.dialect, connection.schema_for_object(table), table.name)


def without_parameters(sql: str) -> TextClause:
    """Return SQL as SQLAlchemy's `text`, in which each colon stands for itself.

    In `text`, a colon before a word begins a parameter, even inside a quoted name.

    Args:
        sql: one statement, with names as `quoted` returns them.
    """
    return text(sql.replace(":", "\\:"))


def literal(value: str) -> str:
    """Return text as an SQL literal of PostgreSQL, whatever `standard_conforming_strings` says.

    Args:
        value: any text.
    """
    doubled = value.replace("'", "''")
    return f"'{doubled}'" if "\\" not in value else "E'" + doubled.replace("\\", "\\\\") + "'"


def do_block(body: str) -> str:
    """Return a PL/pgSQL block as a DO statement of PostgreSQL, in quotes that the block does not contain.

    A name inside the block may contain any `$tag$`, and would end a block with a fixed tag.

    Args:
        body: the block, from DECLARE or BEGIN to END, with names as `quoted` returns them.
    """
    tag = next(tag for number in count() if (tag := f"$block{number or ''}$") not in f"{body}$")
    return f"DO {tag} {body} {tag}"


def _quoted(dialect: Dialect, name: str) -> str:
    if dialect.identifier_preparer.quote(name) == name:
        return name
    return '"' + name.replace('"', '""') + '"'
