"""Operations of the migration scripts on a whole table: create it, adopt an existing one, drop it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import JSON, Boolean, Column, DateTime, String, func, inspect, text
from sqlalchemy.dialects.postgresql import JSONB

from provider_trace_store.database.names import quoted, quoted_table, without_parameters
from provider_trace_store.errors import MigrationError, TableMismatchError, TableNotEmptyError
from provider_trace_store.migrations.indexes import build_indexes, has_rows
from provider_trace_store.migrations.operations import op

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection, Table
    from sqlalchemy.engine import Inspector
    from sqlalchemy.engine.interfaces import ReflectedColumn

logger: Final = logging.getLogger("provider_trace_store.migrations")

# Adoption does not add these columns: a table without one of them does not hold traces.
_INDISPENSABLE: Final = frozenset({"id", "request_json", "response_json", "organization_id"})


def target_schema() -> str | None:
    """Return the schema of the running migration; None for the connection's default."""
    schema: str | None = op.get_context().opts["version_table_schema"]
    return schema


def create_or_adopt(table: Table) -> None:
    """Create a table with its indexes, or adopt the existing table of that name.

    Adoption checks the columns and the primary key. It adds missing columns, without rewriting a row, and missing
    indexes, if the table is empty. It changes no existing row, index or foreign key. One log line reports the result.

    Args:
        table: the table to create, in the schema of the running migration.

    Raises:
        TableMismatchError: the existing table has other columns or another primary key.
        MigrationError: the database's encoding is not UTF-8.
    """
    context = op.get_context()
    if context.as_sql:
        # A script cannot look at the database: if the table exists, the script stops at CREATE TABLE.
        context.impl.create_table(table)
        _use_lz4(table)
        return
    connection = op.get_bind()
    _check_encoding(connection)
    if inspect(connection).has_table(table.name, schema=table.schema):
        _adopt(connection, table)
        return
    context.impl.create_table(table)
    _use_lz4(table)
    logger.info("%s: created", table.fullname)


def drop(name: str) -> None:
    """Drop a table, if it has no rows or the migration runs with `drop-data`.

    Args:
        name: the table's name, in the schema of the running migration.

    Raises:
        TableNotEmptyError: the table has rows, and the migration runs without `drop-data`.
        MigrationError: the migration runs without `drop-data` and with `--sql`, and a script for this database cannot
            check for rows.
    """
    context = op.get_context()
    schema = target_schema()
    full_name = quoted(context.dialect, schema, name)
    may_drop_rows: bool = context.opts["drop_data"]
    if context.dialect.name == "postgresql":
        # Lock before the check for rows, so that no row can be written between the check and the drop.
        op.execute(without_parameters(f"LOCK TABLE {full_name} IN ACCESS EXCLUSIVE MODE"))
        if context.as_sql and not may_drop_rows:
            op.execute(
                without_parameters(
                    f"DO $$ BEGIN IF EXISTS (SELECT FROM {full_name}) THEN RAISE EXCEPTION "
                    f"'{name} has rows: a script that drops them is printed with the option drop-data'; END IF; END $$"
                )
            )
    elif context.as_sql and not may_drop_rows:
        raise MigrationError(
            f"a script for {context.dialect.name} cannot check whether {name} has rows: run the downgrade without "
            "--sql, or allow it to drop rows with `drop_data=True`"
        )
    if not context.as_sql and not may_drop_rows and has_rows(op.get_bind(), full_name):
        raise TableNotEmptyError(full_name)
    op.drop_table(name, schema=schema)


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
    context = op.get_context()
    if context.as_sql or context.dialect.name != "postgresql":
        return
    connection = op.get_bind()
    collations = [_collations(connection, table) for table in tables]
    for table, of_columns in zip(tables, collations, strict=True):
        if inexact := sorted(name for name, (_, is_exact) in of_columns.items() if not is_exact):
            problem = "has a collation that takes different texts for equal; change it to a deterministic one"
            raise TableMismatchError(table.fullname, [f"its column {name} {problem}" for name in inexact])
    first, last = collations[0]["id"][0], collations[-1]["id"][0]
    if first == last:
        return
    name = quoted_table(connection, tables[-1])
    change = f"ALTER TABLE {name} ALTER COLUMN id TYPE varchar COLLATE {first}"
    if has_rows(connection, name):
        problem = f"its ids are sorted by the collation {last}, those of {tables[0].fullname} by {first}"
        raise TableMismatchError(tables[-1].fullname, [f"{problem}; run {change}"])
    connection.execute(without_parameters(change))


def _collations(connection: Connection, table: Table) -> dict[str, tuple[str, bool]]:
    """Return, for the columns id and organization_id, the collation's quoted name and whether it is deterministic."""
    statement = text(
        "SELECT attname, format('%I.%I', nspname, collname), collisdeterministic FROM pg_attribute "
        "JOIN pg_collation ON pg_collation.oid = attcollation JOIN pg_namespace ON pg_namespace.oid = collnamespace "
        "WHERE attrelid = CAST(:name AS regclass) AND attname IN ('id', 'organization_id')"
    )
    rows = connection.execute(statement, {"name": quoted_table(connection, table)})
    return {column: (name, is_exact) for column, name, is_exact in rows}


def _adopt(connection: Connection, table: Table) -> None:
    inspector = inspect(connection)
    problems, missing = _compare(inspector, table)
    if problems:
        raise TableMismatchError(table.fullname, problems)
    for column in missing:
        _add(table, column)
    reports = ["adopted, its columns and primary key are as expected"]
    if missing:
        reports.append(f"added {', '.join(column.name for column in missing)}")
    index_report, level = build_indexes(connection, table)
    logger.log(level, "%s: %s", table.fullname, "; ".join(filter(None, [*reports, index_report])))


def _compare(inspector: Inspector, table: Table) -> tuple[list[str], list[Column[Any]]]:
    """Return the problems of the existing table, one sentence each, and the columns that it lacks."""
    if table.name not in inspector.get_table_names(schema=table.schema):
        return ["it is a view or a foreign table, not a table; rename it, or migrate into another schema"], []
    actual = {column["name"]: column for column in inspector.get_columns(table.name, schema=table.schema)}
    problems = []
    missing = []
    for column in table.columns:
        if column.name in actual:
            problems += _differences(inspector, column, actual[column.name])
        elif column.name in _INDISPENSABLE or column.primary_key:
            problems.append(f"it has no column {column.name}; rename the table, or migrate into another schema")
        else:
            missing.append(column)
    problems += [
        f"its column {name} is not of ours, NOT NULL and without a default, so no trace could be written; "
        "give it a default, or drop the NOT NULL"
        for name, column in actual.items()
        if name not in table.columns and not column["nullable"] and not _has_default(column)
    ]
    expected_key = [column.name for column in table.primary_key]
    key = inspector.get_pk_constraint(table.name, schema=table.schema)["constrained_columns"]
    if key != expected_key:
        difference = f"its primary key is ({', '.join(key)}), not ({', '.join(expected_key)})"
        problems.append(f"{difference}; change it, or migrate into another schema")
    return problems, missing


def _differences(inspector: Inspector, expected: Column[Any], actual: ReflectedColumn) -> list[str]:
    name = expected.name
    problems = []
    if (wanted := _unlike(inspector.dialect.name, expected.type, actual["type"])) is not None:
        problems.append(
            f"its column {name} is {actual['type']}, not {wanted}; change its type, or migrate into another schema"
        )
    if expected.nullable and not actual["nullable"]:
        problems.append(f"its column {name} is NOT NULL, but a trace may have none; drop the NOT NULL")
    return problems


def _unlike(dialect: str, expected: object, actual: object) -> str | None:
    """Return None if a column of the actual type can hold the values of the expected one, else the type it needs."""
    # SQLite stores any value in a column, whatever the column's declared type.
    strict = dialect != "sqlite"
    match expected:
        case JSON():
            fits = isinstance(actual, JSON) and not isinstance(actual, JSONB)
            return None if fits or not strict else "json (jsonb refuses some documents)"
        case String():
            fits = isinstance(actual, String) and (actual.length is None or not strict)
            return None if fits else "varchar without a limit"
        case DateTime():
            fits = isinstance(actual, DateTime) and (actual.timezone or not strict)
            return None if fits else "timestamp with time zone"
        case Boolean():
            return None if isinstance(actual, Boolean) else "boolean"
    raise NotImplementedError(f"no rule for {expected!r}")


def _has_default(column: ReflectedColumn) -> bool:
    return bool(column.get("default") is not None or column.get("identity") or column.get("computed"))


def _add(table: Table, column: Column[Any]) -> None:
    """Add a column without rewriting a row: existing rows get a constant default, or NULL."""
    if not isinstance(column.type, DateTime):
        op.add_column(table.name, column._copy(), schema=table.schema)  # noqa: SLF001  # a column belongs to one table; Alembic copies the same way
        return
    # The default is set in a second step: in one step, existing rows would get the time of this migration.
    op.add_column(table.name, Column(column.name, column.type), schema=table.schema)
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
    if context.dialect.name != "postgresql":
        return
    changes = ", ".join(
        f"ALTER COLUMN {quoted(context.dialect, column.name)} SET COMPRESSION lz4"
        for column in table.columns
        if isinstance(column.type, JSON)
    )
    name = quoted(context.dialect, table.schema, table.name)
    op.execute(
        without_parameters(
            "DO $$ BEGIN IF EXISTS (SELECT FROM pg_settings WHERE name = 'default_toast_compression' "
            f"AND 'lz4' = ANY (enumvals)) THEN ALTER TABLE {name} {changes}; END IF; END $$"
        )
    )
