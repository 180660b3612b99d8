"""What the migration scripts do with a table: create it, adopt one that is there, or drop it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from alembic import op
from sqlalchemy import JSON, Boolean, Column, DateTime, String, func, inspect, select, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.schema import CreateIndex

from provider_trace_store.errors import MigrationError, TableMismatchError, TableNotEmptyError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection, Index, Table
    from sqlalchemy.engine import Dialect, Inspector
    from sqlalchemy.engine.interfaces import ReflectedColumn

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
    quote = context.dialect.identifier_preparer.quote
    full_name = ".".join(quote(part) for part in (schema, name) if part)
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
    if not context.as_sql and not may_drop_rows and _has_rows(op.get_bind(), full_name):
        raise TableNotEmptyError(full_name)
    op.drop_table(name, schema=schema)


def add_indexes(table: Table) -> None:
    """Build the indexes of a table that are missing where it is empty; elsewhere log the statements to run.

    Args:
        table: one that is there, in the schema that the migration works in, with the indexes that it is to have.
    """
    context = op.get_context()
    if context.as_sql:
        for index in sorted(table.indexes, key=lambda index: str(index.name)):
            context.impl.create_index(index)
        return
    found, level = _add_indexes(op.get_bind(), table)
    if found:
        logger.log(level, "%s: %s", table.fullname, found)


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
    name = _quoted(connection.dialect, tables[-1])
    change = f"ALTER TABLE {name} ALTER COLUMN id TYPE varchar COLLATE {first}"
    if _has_rows(connection, name):
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
    rows = connection.execute(statement, {"name": _quoted(connection.dialect, table)})
    return {column: (name, is_exact) for column, name, is_exact in rows}


def drop_indexes(table: Table) -> None:
    """Drop the indexes of a table that `add_indexes` or an operator built under their names.

    Args:
        table: as for `add_indexes`.
    """
    for index in sorted(table.indexes, key=lambda index: str(index.name)):
        op.drop_index(str(index.name), table.name, schema=table.schema, if_exists=True)


def missing_indexes(connection: Connection, table: Table) -> list[Index]:
    """Return the indexes of a table that the database has not, under whatever name, in order of their names."""
    present = _indexed_columns(connection, table)
    return sorted(
        (index for index in table.indexes if not _is_served(_columns_of(index), present)),
        key=lambda index: str(index.name),
    )


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
    indexes, level = _add_indexes(connection, table)
    logger.log(level, "%s: %s", table.fullname, "; ".join(filter(None, [*found, indexes])))


def _add_indexes(connection: Connection, table: Table) -> tuple[str, int]:
    """Return what was done about the missing indexes, and at which level the log says so."""
    indexes = missing_indexes(connection, table)
    if not indexes:
        return "", logging.INFO
    # SQLite has nobody to wait for it, and nobody who reads its log.
    if connection.dialect.name != "sqlite" and _has_rows(connection, _quoted(connection.dialect, table)):
        statements = "; ".join(_concurrently(connection, index) for index in indexes)
        return f"has rows, so it got no index: run {statements}", logging.WARNING
    for index in indexes:
        op.get_context().impl.create_index(index)
    return f"added {', '.join(str(index.name) for index in indexes)}", logging.INFO


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


def _columns_of(index: Index) -> list[str | None]:
    return [column.name for column in index.columns]


def _indexed_columns(connection: Connection, table: Table) -> list[Sequence[str | None]]:
    """Return the columns of each index that is there and has all rows, in one direction; the primary key's first."""
    inspector = inspect(connection)
    invalid = _invalid_indexes(connection, table)
    return [
        inspector.get_pk_constraint(table.name, schema=table.schema)["constrained_columns"],
        *(
            index["column_names"]
            for index in inspector.get_indexes(table.name, schema=table.schema)
            if index["name"] not in invalid
            and not index.get("dialect_options", {}).get("postgresql_where")
            and not index.get("column_sorting")
        ),
    ]


def _invalid_indexes(connection: Connection, table: Table) -> set[str]:
    """Return the indexes that a CREATE INDEX CONCURRENTLY left unfinished, which no query uses."""
    if connection.dialect.name != "postgresql":
        return set()
    statement = text(
        "SELECT relname FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid "
        "WHERE NOT indisvalid AND indrelid = CAST(:name AS regclass)"
    )
    return set(connection.scalars(statement, {"name": _quoted(connection.dialect, table)}))


def _quoted(dialect: Dialect, table: Table) -> str:
    # The preparer doubles percent signs, for a driver's statement; so does who takes text, once more.
    return dialect.identifier_preparer.format_table(table).replace("%%", "%")


def _is_served(columns: Sequence[str | None], present: list[Sequence[str | None]]) -> bool:
    return any(list(other[: len(columns)]) == list(columns) for other in present)


def _concurrently(connection: Connection, index: Index) -> str:
    statement = str(CreateIndex(index).compile(dialect=connection.dialect))
    if connection.dialect.name == "postgresql":
        statement = statement.replace("CREATE INDEX", "CREATE INDEX CONCURRENTLY", 1)
    return " ".join(statement.replace("%%", "%").split())


def _has_rows(connection: Connection, full_name: str) -> bool:
    statement = select(text("1 FROM " + full_name.replace(":", "\\:"))).limit(1)
    return connection.execute(statement).first() is not None


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
    preparer = context.dialect.identifier_preparer
    changes = ", ".join(
        f"ALTER COLUMN {preparer.quote(column.name)} SET COMPRESSION lz4"
        for column in table.columns
        if isinstance(column.type, JSON)
    )
    name = _quoted(context.dialect, table).replace(":", "\\:")
    op.execute(
        "DO $$ BEGIN IF EXISTS (SELECT FROM pg_settings WHERE name = 'default_toast_compression' "
        f"AND 'lz4' = ANY (enumvals)) THEN ALTER TABLE {name} {changes}; END IF; END $$"
    )
