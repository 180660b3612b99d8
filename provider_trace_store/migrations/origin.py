"""Who created a table, an index or a column: a mark in the database on each one that a migration of ours creates.

PostgreSQL keeps the mark as a comment on the table's primary key, on the index, and on the column of an adopted table.
SQLite keeps it as a comment inside the stored text of the CREATE statement. The mark belongs to the object: it is gone
with it, and a table of the same name that a host creates has none. Earlier releases set no mark, so a table without one
may also be theirs.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import text
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.schema import CreateColumn, CreateIndex, CreateTable

from provider_trace_store.database.names import do_block, literal, quoted, quoted_table, without_parameters
from provider_trace_store.migrations.operations import op

if TYPE_CHECKING:
    from sqlalchemy import Column, Connection, Index, Table
    from sqlalchemy.engine import Dialect

MARK: Final = "created by provider_trace_store"
# Not the same text: SQLite keeps both marks in the text of the table.
_COLUMN_MARK: Final = "added by provider_trace_store"
_MARKED_COLUMN: Final = re.compile(rf"(\w+)\"? /\* {_COLUMN_MARK} \*/")
_MARKED_COLUMNS: Final = text(
    "SELECT CAST(attname AS text) FROM pg_attribute WHERE attrelid = to_regclass(:name) AND NOT attisdropped "
    "AND attnum > 0 AND position(CAST(:mark AS text) IN col_description(attrelid, attnum)) > 0 ORDER BY attnum"
)


class _CreateTable(CreateTable):
    """CREATE TABLE with the mark, where the database keeps the text of the statement."""


class _CreateIndex(CreateIndex):
    """CREATE INDEX with the mark, where the database keeps the text of the statement."""


@compiles(_CreateTable, "sqlite")
def _marked_table(element: _CreateTable, compiler: Any, **options: Any) -> str:  # noqa: ANN401  # SQLAlchemy's signature
    return _with_mark(compiler.visit_create_table(element, **options))


@compiles(_CreateIndex, "sqlite")
def _marked_index(element: _CreateIndex, compiler: Any, **options: Any) -> str:  # noqa: ANN401  # as above
    return _with_mark(compiler.visit_create_index(element, **options))


def create_table(table: Table) -> None:
    """Create a table with its indexes, and mark them.

    Args:
        table: the table, in the schema of the running migration.
    """
    op.execute(_CreateTable(table))
    dialect = op.get_context().dialect
    if dialect.name == "postgresql":
        # PostgreSQL chooses the constraint's name, and takes another one where the usual one is in use.
        name = quoted(dialect, table.schema, table.name)
        op.execute(
            without_parameters(
                do_block(
                    "DECLARE key name; BEGIN SELECT conname INTO STRICT key FROM pg_constraint "  # noqa: S608  # quoted
                    f"WHERE conrelid = CAST({literal(name)} AS regclass) AND contype = 'p'; "
                    f"EXECUTE format('COMMENT ON CONSTRAINT %I ON %s IS %L', key, {literal(name)}, {literal(MARK)}); "
                    "END"
                )
            )
        )
    for index in sorted(table.indexes, key=lambda index: str(index.name)):
        create_index(index)


def create_index(index: Index) -> None:
    """Create an index, and mark it.

    Args:
        index: an index of a table in the schema of the running migration.
    """
    op.execute(_CreateIndex(index))
    dialect = op.get_context().dialect
    if dialect.name == "postgresql":
        op.execute(without_parameters(statement_of_mark(dialect, index)))


def add_column(table: Table, column: Column[Any]) -> None:
    """Add a column to an existing table, and mark it if the table was adopted; one of SQLite is marked in any case.

    Args:
        table: the table, in the schema of the running migration.
        column: the new column, with the default that existing rows get.
    """
    dialect = op.get_context().dialect
    name = quoted(dialect, table.schema, table.name)
    definition = str(CreateColumn(column).compile(dialect=dialect)).strip()
    if dialect.name == "sqlite":
        column_name, _, rest = definition.partition(" ")
        definition = f"{column_name} /* {_COLUMN_MARK} */ {rest}"
    op.execute(without_parameters(f"ALTER TABLE {name} ADD COLUMN {definition}"))
    if dialect.name == "postgresql":
        comment = f"COMMENT ON COLUMN {name}.{quoted(dialect, column.name)} IS {literal(_COLUMN_MARK)}"
        condition = is_created_condition(name)
        op.execute(without_parameters(do_block(f"BEGIN IF NOT {condition} THEN {comment}; END IF; END")))


def added_columns(connection: Connection, table: Table) -> list[str]:
    """Return the columns that migrations of this package are recorded to have added to an adopted table.

    Args:
        connection: the database to look at.
        table: an existing table, in its schema.
    """
    if connection.dialect.name == "postgresql":
        names = {"name": quoted_table(connection, table), "mark": _COLUMN_MARK}
        return list(connection.scalars(_MARKED_COLUMNS, names))
    return _MARKED_COLUMN.findall(_sqlite_text(connection, table, "table", table.name))


def statement_of_mark(dialect: Dialect, index: Index) -> str:
    """Return the statement that marks an index which was just created on PostgreSQL."""
    return f"COMMENT ON INDEX {_name_of(dialect, index)} IS {literal(MARK)}"


def statement_for_sqlite(dialect: Dialect, index: Index) -> str:
    """Return the statement that creates an index with the mark on SQLite, unless there is one of its name."""
    return str(_CreateIndex(index, if_not_exists=True).compile(dialect=dialect)).strip()


def is_created(connection: Connection, table: Table) -> bool:
    """Return whether a migration of this package created a table.

    Args:
        connection: the database to look at.
        table: an existing table, in the schema of the running migration.
    """
    if connection.dialect.name == "postgresql":
        condition = is_created_condition(quoted(connection.dialect, table.schema, table.name))
        return bool(connection.scalar(without_parameters(f"SELECT {condition}")))
    return MARK in _sqlite_text(connection, table, "table", table.name)


def is_created_condition(name: str) -> str:
    """Return the expression of PostgreSQL that is true if a migration of this package created a table.

    Args:
        name: the table's name as SQL, as `names.quoted` returns it.
    """
    return (
        f"EXISTS (SELECT FROM pg_constraint WHERE conrelid = to_regclass({literal(name)}) AND contype = 'p' "
        f"AND position({literal(MARK)} IN obj_description(oid, 'pg_constraint')) > 0)"
    )


def is_created_index(connection: Connection, index: Index) -> bool | None:
    """Return whether a migration of this package created an index; None if there is no index of this name.

    Args:
        connection: the database to look at.
        index: as for `create_index`.
    """
    if connection.dialect.name == "postgresql":
        statement = text("SELECT to_regclass(:name) IS NULL, obj_description(to_regclass(:name), 'pg_class')")
        is_missing, comment = connection.execute(statement, {"name": _name_of(connection.dialect, index)}).one()
        return None if is_missing else MARK in (comment or "")
    return MARK in found if (found := _sqlite_text(connection, index.table, "index", str(index.name))) else None


def drop_index_if_created(index: Index) -> None:
    """Drop an index if it has the mark, in a script that cannot look at the database: the database looks.

    Args:
        index: as for `create_index`.
    """
    name = _name_of(op.get_context().dialect, index)
    op.execute(
        without_parameters(
            do_block(
                f"BEGIN IF obj_description(to_regclass({literal(name)}), 'pg_class') LIKE {literal(f'%{MARK}%')} "
                f"THEN DROP INDEX {name}; END IF; END"
            )
        )
    )


def _name_of(dialect: Dialect, index: Index) -> str:
    assert index.table is not None  # noqa: S101  # an index without a table has no schema
    return quoted(dialect, index.table.schema, str(index.name))


def _with_mark(statement: str) -> str:
    columns, _, rest = statement.rpartition(")")
    return f"{columns}/* {MARK} */){rest}"


def _sqlite_text(connection: Connection, table: Table | None, kind: str, name: str) -> str:
    """Return the CREATE statement that SQLite keeps, or an empty text if there is no such object."""
    schema = quoted(connection.dialect, (table.schema if table is not None else None) or "main")
    statement = f"SELECT sql FROM {schema}.sqlite_master WHERE type = '{kind}' AND lower(name) = lower('{name}')"  # noqa: S608  # our own names
    return connection.scalar(without_parameters(statement)) or ""
