"""What the migration scripts do with a table: create it, adopt one that is there, or drop it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from alembic import op
from sqlalchemy import JSON, Boolean, Column, DateTime, String, func, inspect, text
from sqlalchemy.dialects.postgresql import JSONB

from provider_trace_store.database.names import quoted, quoted_table
from provider_trace_store.errors import MigrationError, TableMismatchError, TableNotEmptyError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection, Table
    from sqlalchemy.engine import Inspector
    from sqlalchemy.engine.interfaces import ReflectedColumn
from provider_trace_store.migrations.indexes import build_or_log, has_rows

logger: Final = logging.getLogger("provider_trace_store.migrations")

# Without these a table holds something else than traces.
_INDISPENSABLE: Final = frozenset({"id", "request_json", "response_json", "organization_id"})


def target_schema() -> str | None:
    """Return the schema that the running migration works in; None for the connection's default."""
    schema: str | None = op.get_context().opts["version_table_schema"]
    return schema


def create_or_adopt(table: Table) -> None:
    """Create a table with its indexes, or adopt the one of that name.

    Adoption checks columns and primary key, adds the columns that are missing where that rewrites no row, and
    the indexes that are missing where the table is empty. It touches no row, no index and no foreign key that
    is there, and says in one line what it found.

    Args:
        table: what the migration creates, in the schema that it works in.

    Raises:
        TableMismatchError: the table of that name is something else.
        MigrationError: the database is not in UTF-8.
    """
    context = op.get_context()
    if context.as_sql:
        # Nothing can be looked at: where the table is there already, the script stops at CREATE TABLE.
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
    """Drop a table that has no rows, or any where the migration runs with `drop-data`.

    Args:
        name: the table, in the schema that the migration works in.

    Raises:
        TableNotEmptyError: it has rows, and nobody said that they may go.
        MigrationError: nobody said so, and a script for this database cannot look for rows.
    """
    context = op.get_context()
    schema = target_schema()
    full_name = quoted(context.dialect, schema, name)
    may_drop_rows: bool = context.opts["drop_data"]
    if context.dialect.name == "postgresql":
        # Before the look for rows, so that none is written between the look and the drop.
        op.execute(f"LOCK TABLE {full_name} IN ACCESS EXCLUSIVE MODE")
        if context.as_sql and not may_drop_rows:
            op.execute(
                f"DO $$ BEGIN IF EXISTS (SELECT FROM {full_name}) THEN RAISE EXCEPTION "
                f"'{name} has rows: it is dropped only with -x drop-data=yes'; END IF; END $$"
            )
    elif context.as_sql and not may_drop_rows:
        raise MigrationError(
            f"a script for {context.dialect.name} cannot look whether {name} has rows: run the downgrade without "
            "--sql, or say that rows may go, with -x drop-data=yes (--drop-data)"
        )
    if not context.as_sql and not may_drop_rows and has_rows(op.get_bind(), full_name):
        raise TableNotEmptyError(full_name)
    op.drop_table(name, schema=schema)


def align_collations(tables: Sequence[Table]) -> None:
    """Make sure that ids and organizations are compared exactly, and ids in one order in all tables.

    A page merges the tables in the order of their ids, and an organization is the one whose text is the same.

    Args:
        tables: those that are there, in the schema that the migration works in; the last gets the first one's
            collation where it is empty.

    Raises:
        TableMismatchError: a collation takes different texts for equal, or the tables with rows have different ones.
    """
    context = op.get_context()
    if context.as_sql or context.dialect.name != "postgresql":
        return
    connection = op.get_bind()
    collations = [_collations(connection, table) for table in tables]
    for table, of_columns in zip(tables, collations, strict=True):
        if vague := sorted(name for name, (_, is_exact) in of_columns.items() if not is_exact):
            reason = f"its column {' and '.join(vague)} has a collation that takes different texts for equal"
            raise TableMismatchError(table.fullname, [f"{reason}; change it to a deterministic one"])
    first, last = collations[0]["id"][0], collations[-1]["id"][0]
    if first == last:
        return
    name = quoted_table(connection, tables[-1])
    change = f"ALTER TABLE {name} ALTER COLUMN id TYPE varchar COLLATE {first}"
    if has_rows(connection, name):
        problem = f"its ids are in the order of {last}, those of {tables[0].fullname} in that of {first}"
        raise TableMismatchError(tables[-1].fullname, [f"{problem}; run {change}"])
    connection.execute(text(change.replace(":", "\\:")))


def _collations(connection: Connection, table: Table) -> dict[str, tuple[str, bool]]:
    """Return the quoted name of the collation of id and organization_id, and whether it is deterministic."""
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
    found = ["adopted, its columns and primary key are as expected"]
    if missing:
        found.append(f"added {', '.join(column.name for column in missing)}")
    indexes, level = build_or_log(connection, table)
    logger.log(level, "%s: %s", table.fullname, "; ".join(filter(None, [*found, indexes])))


def _compare(inspector: Inspector, table: Table) -> tuple[list[str], list[Column[Any]]]:
    """Return what is wrong with the table that is there, and the columns that it lacks."""
    if table.name not in inspector.get_table_names(schema=table.schema):
        return ["it is a view or a foreign table; rename it, or migrate into another schema"], []
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
        "give it a default"
        for name, column in actual.items()
        if name not in table.columns and not column["nullable"] and not _has_default(column)
    ]
    expected_key = [column.name for column in table.primary_key]
    key = inspector.get_pk_constraint(table.name, schema=table.schema)["constrained_columns"]
    if key != expected_key:
        problems.append(f"its primary key is ({', '.join(key)}), not ({', '.join(expected_key)})")
    return problems, missing


def _differences(inspector: Inspector, expected: Column[Any], actual: ReflectedColumn) -> list[str]:
    name = expected.name
    problems = []
    if (wanted := _unlike(inspector.dialect.name, expected.type, actual["type"])) is not None:
        problems.append(f"its column {name} is {actual['type']}, not {wanted}")
    if expected.nullable and not actual["nullable"]:
        problems.append(f"its column {name} is NOT NULL, but a trace may be without; drop the NOT NULL")
    return problems


def _unlike(dialect: str, expected: object, actual: object) -> str | None:
    """Return the type that was wanted where the actual one cannot hold the same values, else None."""
    # SQLite stores what it is given, whatever a column's declared type is.
    strict = dialect != "sqlite"
    match expected:
        case JSON():
            fits = isinstance(actual, JSON) and not isinstance(actual, JSONB)
            return None if fits or not strict else "json, which keeps what jsonb refuses"
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
    """Add a column without rewriting a row: with a constant default, or NULL for the rows that are there."""
    if not isinstance(column.type, DateTime):
        op.add_column(table.name, column._copy(), schema=table.schema)  # noqa: SLF001  (a column belongs to one table; Alembic copies the same way)
        return
    # The default comes after: rows that are there would otherwise be dated to this migration.
    op.add_column(table.name, Column(column.name, column.type), schema=table.schema)
    if op.get_context().dialect.name == "postgresql":
        op.alter_column(table.name, column.name, server_default=func.now(), schema=table.schema)


def _check_encoding(connection: Connection) -> None:
    if connection.dialect.name != "postgresql":
        return
    encoding = connection.scalar(text("SELECT current_setting('server_encoding')"))
    if encoding != "UTF8":
        raise MigrationError(f"the database's encoding is {encoding}: traces need one in UTF8")


def _use_lz4(table: Table) -> None:
    """Let the json columns of a new table use lz4 where the server has it: it takes less time than pglz.

    Decided by the server, so that the script of `--sql` does the same. Compression per column came with
    PostgreSQL 14, and with it the setting that lists what the server was built with.
    """
    context = op.get_context()
    if context.dialect.name != "postgresql":
        return
    changes = ", ".join(
        f"ALTER COLUMN {quoted(context.dialect, column.name)} SET COMPRESSION lz4"
        for column in table.columns
        if isinstance(column.type, JSON)
    )
    name = quoted(context.dialect, table.schema, table.name).replace(":", "\\:")
    op.execute(
        "DO $$ BEGIN IF EXISTS (SELECT FROM pg_settings WHERE name = 'default_toast_compression' "
        f"AND 'lz4' = ANY (enumvals)) THEN ALTER TABLE {name} {changes}; END IF; END $$"
    )
