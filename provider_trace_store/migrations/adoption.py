"""Operations of the migration scripts on a whole table: create it, or adopt an existing one."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import JSON, Column, DateTime, MetaData, Table, func, text

from provider_trace_store.database.names import do_block, quoted, quoted_table, without_parameters
from provider_trace_store.errors import MigrationError, TableMismatchError
from provider_trace_store.migrations.checks import key_problems, kind_of, risks
from provider_trace_store.migrations.columns import existing_columns
from provider_trace_store.migrations.dropping import drop
from provider_trace_store.migrations.indexes import build_indexes
from provider_trace_store.migrations.operations import op
from provider_trace_store.migrations.origin import add_column, create_table, is_created
from provider_trace_store.migrations.rows import why_not_empty
from provider_trace_store.migrations.sqlite_version import drops_columns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

__all__ = ["add_columns", "align_collations", "create_or_adopt", "drop", "drop_column", "target_schema"]

logger: Final = logging.getLogger("provider_trace_store.migrations")

# Adoption does not add these columns: a table without one of them does not hold traces.
_INDISPENSABLE: Final = frozenset({"id", "request_json", "response_json", "organization_id"})


def target_schema() -> str | None:
    """Return the schema of the running migration; None for the connection's default."""
    schema: str | None = op.get_context().opts["version_table_schema"]
    return schema


def create_or_adopt(table: Table, beside: str | None = None) -> None:
    """Create a table with its indexes, or adopt the existing table of that name.

    Adoption checks the columns and the keys. It adds missing columns, without rewriting a row, and missing indexes, if
    the table is empty. It changes no existing row, index or foreign key. A log line reports the result, and one each
    risk that the table's owner should know.

    Args:
        table: the table to create, in the schema of the running migration.
        beside: the name of the table that an application creates beside this one. If it was adopted and this one is
            created, the log says what that means for the migrations of its owner. None for a table that only this
            package has.

    Raises:
        TableMismatchError: the existing table has other columns or keys, or would break a promise of the package.
        MigrationError: the database's encoding is not UTF-8.
    """
    context = op.get_context()
    if context.as_sql:
        # A script cannot look at the database: if the table exists, the script stops at CREATE TABLE.
        create_table(table)
        _use_lz4(table)
        return
    connection = op.get_bind()
    _check_encoding(connection)
    kind = kind_of(connection, table)
    if kind is not None and kind != "a table":
        what = f"it is {kind}" if kind.startswith("named ") else "it is a view or a foreign table, not a table"
        raise TableMismatchError(table.fullname, [f"{what}; rename it, or migrate into another schema"])
    if kind is not None:
        _adopt(connection, table)
        return
    create_table(table)
    _use_lz4(table)
    logger.info("%s: created", table.fullname)
    if beside is None:
        return
    other = Table(beside, MetaData(), schema=table.schema)
    if kind_of(connection, other) == "a table" and not is_created(connection, other):
        _warn_of_owner(table, f"was created beside {other.fullname}, which was adopted")


def add_columns(table: Table) -> None:
    """Add columns to an existing table without rewriting a row; one that it has stays as it is.

    Args:
        table: the table, in the schema of the running migration, with the new columns only; each may be NULL and has
            no default.

    Raises:
        TableMismatchError: the table has another column of the name.
        MigrationError: the table does not exist.
    """
    context = op.get_context()
    missing = list(table.columns)
    if not context.as_sql:
        connection = op.get_bind()
        _require(connection, table)
        if problems := _differences(connection, table):
            raise TableMismatchError(table.fullname, problems)
        existing = existing_columns(connection, table)
        missing = [column for column in table.columns if column.name not in existing]
    for column in missing:
        add_column(table, column)
    if missing and not context.as_sql and not is_created(op.get_bind(), table):
        _warn_of_owner(table, f"was adopted, and got the columns {', '.join(column.name for column in missing)}")


def drop_column(table: str, column: str) -> None:
    """Drop a column of a table that may be gone. SQLite before 3.35 cannot: there the column stays, unused.

    Args:
        table: the table's name, in the schema of the running migration.
        column: the column's name.
    """
    context = op.get_context()
    if context.dialect.name == "sqlite":
        if not context.as_sql:
            place = Table(table, MetaData(), schema=target_schema())
            if kind_of(op.get_bind(), place) != "a table" or column not in existing_columns(op.get_bind(), place):
                return
        if not drops_columns():
            return
        op.execute(f"ALTER TABLE {quoted(context.dialect, target_schema(), table)} DROP COLUMN {column}")
        return
    name = quoted(context.dialect, target_schema(), table)
    op.execute(without_parameters(f"ALTER TABLE IF EXISTS {name} DROP COLUMN IF EXISTS {column}"))


def align_collations(tables: Sequence[Table]) -> None:
    """Check that ids and organizations are compared exactly, and that ids sort in the same order in all tables.

    A page merges the tables in the order of their ids. And under a collation for which different texts are equal, an
    organization could read the traces of another one.

    Args:
        tables: the existing tables, in the schema of the running migration. If the ids of the last one have another
            collation than those of the first one, it gets the first one's, provided that it is empty.

    Raises:
        TableMismatchError: a collation takes different texts for equal, or the ids have different collations and the
            last table has rows.
    """
    if op.get_context().as_sql:
        return
    connection = op.get_bind()
    for table in tables:
        _require(connection, table)
        if problems := _differences(connection, table):
            raise TableMismatchError(table.fullname, problems)
    if connection.dialect.name != "postgresql":
        return
    first, last = (_collation_of_ids(connection, table) for table in (tables[0], tables[-1]))
    if first == last:
        return
    name = quoted_table(connection, tables[-1])
    change = f"ALTER TABLE {name} ALTER COLUMN id TYPE varchar COLLATE {first}"
    if why_not_empty(connection, tables[-1]):
        problem = f"its ids are sorted by the collation {last}, those of {tables[0].fullname} by {first}"
        raise TableMismatchError(tables[-1].fullname, [f"{problem}; run {change}"])
    connection.execute(without_parameters(change))


def _require(connection: Connection, table: Table) -> None:
    if kind_of(connection, table) != "a table":
        raise MigrationError(
            f"{table.fullname} does not exist or is not a table, though a migration has created or adopted it; nothing "
            "was changed: restore it, or downgrade to the revision before it and upgrade again"
        )


def _collation_of_ids(connection: Connection, table: Table) -> str:
    statement = text(
        "SELECT format('%I.%I', nspname, collname) FROM pg_attribute JOIN pg_collation ON pg_collation.oid = "
        "attcollation JOIN pg_namespace ON pg_namespace.oid = collnamespace "
        "WHERE attrelid = CAST(:name AS regclass) AND attname = 'id'"
    )
    return str(connection.scalar(statement, {"name": quoted_table(connection, table)}))


def _differences(connection: Connection, table: Table) -> list[str]:
    """Return a sentence for each reason why a column that exists cannot take the place of the expected one."""
    actual = existing_columns(connection, table)
    return [
        problem
        for column in table.columns
        if column.name in actual
        for problem in actual[column.name].differences(column)
    ]


def _adopt(connection: Connection, table: Table) -> None:
    problems, missing = _compare(connection, table)
    if problems:
        raise TableMismatchError(table.fullname, problems)
    for column in missing:
        _add(table, column)
    reports = ["adopted, its columns and primary key are as expected"]
    if missing:
        reports.append(f"added {', '.join(column.name for column in missing)}")
    index_report, level = build_indexes(connection, table)
    logger.log(level, "%s: %s", table.fullname, "; ".join(filter(None, [*reports, index_report])))
    for risk in risks(connection, table):
        logger.warning("%s: %s", table.fullname, risk)
    if missing and not is_created(connection, table):
        _warn_of_owner(table, f"was adopted, and got the columns {', '.join(column.name for column in missing)}")


def _warn_of_owner(table: Table, change: str) -> None:
    logger.warning(
        "%s: %s. The migrations of an application that owns these tables come first: later ones that add the same fail "
        "with 'already exists'. If there are any, roll this upgrade back, apply them, upgrade again; after a commit, "
        "mark them as applied (alembic stamp). See docs/migrations.md, Adopting existing tables",
        table.fullname,
        change,
    )


def _compare(connection: Connection, table: Table) -> tuple[list[str], list[Column[Any]]]:
    """Return the problems of the existing table, one sentence each, and the columns that it lacks."""
    actual = existing_columns(connection, table)
    lacking = [column for column in table.columns if column.name not in actual]
    missing = [column for column in lacking if column.name not in _INDISPENSABLE and not column.primary_key]
    problems = [
        f"it has no column {column.name}; rename the table, or migrate into another schema"
        for column in lacking
        if column not in missing
    ]
    problems += _differences(connection, table)
    problems += [
        f"its column {name} is not of ours, NOT NULL and without a default, so no trace could be written; "
        "give it a default, or drop the NOT NULL"
        for name, column in actual.items()
        if name not in table.columns and not column.nullable and not column.has_default
    ]
    return [*problems, *key_problems(connection, table)], missing


def _add(table: Table, column: Column[Any]) -> None:
    """Add a column without rewriting a row: existing rows get a constant default, or NULL."""
    if not isinstance(column.type, DateTime):
        add_column(table, column)
        return
    # The default is set in a second step: in one step, existing rows would get the time of this migration.
    add_column(table, Column(column.name, column.type))
    if op.get_context().dialect.name == "postgresql":
        op.alter_column(table.name, column.name, server_default=func.now(), schema=table.schema)


def _check_encoding(connection: Connection) -> None:
    if connection.dialect.name != "postgresql":
        return
    encoding = connection.scalar(text("SELECT current_setting('server_encoding')"))
    if encoding != "UTF8":
        raise MigrationError(
            f"the database's encoding is {encoding}, which cannot hold every trace; nothing was changed: migrate a "
            "database that was created with ENCODING 'UTF8'"
        )


def _use_lz4(table: Table) -> None:
    """Compress the json columns of a new table with lz4, which is faster than pglz, if the server supports it.

    The server decides when the statement runs, so a script of `--sql` does the same. PostgreSQL 14 introduced
    compression per column, and with it the setting that lists the methods that the server was built with.
    """
    context = op.get_context()
    if context.dialect.name != "postgresql" or not any(isinstance(column.type, JSON) for column in table.columns):
        return
    changes = ", ".join(
        f"ALTER COLUMN {quoted(context.dialect, column.name)} SET COMPRESSION lz4"
        for column in table.columns
        if isinstance(column.type, JSON)
    )
    name = quoted(context.dialect, table.schema, table.name)
    op.execute(
        without_parameters(
            do_block(
                "BEGIN IF EXISTS (SELECT FROM pg_settings WHERE name = 'default_toast_compression' "
                f"AND 'lz4' = ANY (enumvals)) THEN ALTER TABLE {name} {changes}; END IF; END"
            )
        )
    )
