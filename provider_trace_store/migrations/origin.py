"""Who created a table, an index or a column: a mark in the database on each one that a migration of ours creates.

PostgreSQL keeps the mark as a comment on the table's primary key and on the index, SQLite as a comment inside the
stored text of the CREATE statement. The mark belongs to the object: it is gone with it, and a table of the same name
that a host creates has none. The primary key of an adopted table names the columns that it got, by name and number, and
no column has another one's number. A comment on the column itself would be a difference for a host's autogenerate.
Earlier releases set no mark, so a table without one may also be theirs.
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
    from collections.abc import Sequence

    from sqlalchemy import Column, Connection, Index, Table
    from sqlalchemy.engine import Dialect

MARK: Final = "created by provider_trace_store"
# Not the same text: SQLite keeps both marks in the text of the table.
_COLUMN_MARK: Final = "added by provider_trace_store"
_IN_SQLITE: Final = re.compile(rf"(\w+)\"? /\* {_COLUMN_MARK} \*/")
_IN_COMMENT: Final = re.compile(rf"(?:; )?{_COLUMN_MARK}: (\w+)/(\d+)")
_KEY: Final = text(
    "SELECT conname AS name, coalesce(obj_description(oid, 'pg_constraint'), '') AS comment FROM pg_constraint "
    "WHERE conrelid = to_regclass(:name) AND contype = 'p'"
)
_NUMBERS: Final = text(
    "SELECT CAST(attname AS text), attnum FROM pg_attribute "
    "WHERE attrelid = to_regclass(:name) AND attnum > 0 AND NOT attisdropped"
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
        op.execute(
            without_parameters(
                do_block(
                    "DECLARE key name; kept text; added text; BEGIN "  # noqa: S608  # quoted
                    "SELECT conname, obj_description(oid, 'pg_constraint') INTO key, kept FROM pg_constraint "
                    f"WHERE conrelid = CAST({literal(name)} AS regclass) AND contype = 'p'; "
                    f"SELECT {literal(f'{_COLUMN_MARK}: {column.name}/')} || attnum INTO added FROM pg_attribute "
                    f"WHERE attrelid = CAST({literal(name)} AS regclass) AND attname = {literal(column.name)}; "
                    f"IF key IS NOT NULL AND position({literal(MARK)} IN coalesce(kept, '')) = 0 THEN "
                    f"EXECUTE format('COMMENT ON CONSTRAINT %I ON %s IS %L', key, {literal(name)}, "
                    "concat_ws('; ', kept, added)); END IF; END"
                )
            )
        )


def added_columns(connection: Connection, table: Table) -> list[str]:
    """Return the columns that migrations of this package are recorded to have added to an adopted table.

    Args:
        connection: the database to look at.
        table: an existing table, in its schema.
    """
    if connection.dialect.name != "postgresql":
        return _IN_SQLITE.findall(_sqlite_text(connection, table, "table", table.name))
    name = {"name": quoted_table(connection, table)}
    key = connection.execute(_KEY, name).first()
    numbers = {column: str(number) for column, number in connection.execute(_NUMBERS, name)}
    marked = _IN_COMMENT.findall(key.comment) if key else ()
    return [column for column, number in marked if numbers.get(column) == number]


def statement_of_comment(connection: Connection, table: Table, columns: Sequence[str]) -> str:
    """Return the statement of PostgreSQL that takes columns out of the mark of an adopted table.

    Args:
        connection: the database to look at.
        table: as for `added_columns`.
        columns: columns that `added_columns` returned.
    """
    name = quoted_table(connection, table)
    key = connection.execute(_KEY, {"name": name}).one()
    left = _IN_COMMENT.sub(lambda found: "" if found[1] in columns else found[0], key.comment).removeprefix("; ")
    constraint = quoted(connection.dialect, key.name)
    return f"COMMENT ON CONSTRAINT {constraint} ON {name} IS {literal(left) if left else 'NULL'}"


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
