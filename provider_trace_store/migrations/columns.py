"""The columns of an existing table, and whether they hold and compare values as the package's columns do."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import JSON, Boolean, DateTime, Integer, LargeBinary, String, Uuid, inspect, text
from sqlalchemy.exc import DBAPIError

from provider_trace_store.database.drivers import sqlite_code
from provider_trace_store.database.names import quoted, quoted_table, without_parameters

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Column, Connection, Table
    from sqlalchemy.engine.interfaces import ReflectedColumn

# What a column of each kind must be, as a message says it.
_WANTED: Final = {
    "json": "json (jsonb refuses some documents)",
    "text": "varchar without a limit",
    "moment": "timestamp with time zone, without a precision",
    "boolean": "boolean",
    "uuid": "uuid",
    "bytes": "bytea",
    "integer": "bigint, or integer as in a table that a migration creates",
}
_POSTGRESQL_KINDS: Final = {
    "json": "json",
    "text": "text",
    "varchar": "text",
    "timestamptz": "moment",
    "bool": "boolean",
    "uuid": "uuid",
    "bytea": "bytes",
    "int4": "integer",
    "int8": "integer",
}
_KINDS_OF_TYPES: Final = (
    (JSON, "json"),
    (String, "text"),
    (DateTime, "moment"),
    (Boolean, "boolean"),
    (Uuid, "uuid"),
    (LargeBinary, "bytes"),
    (Integer, "integer"),
)
_ANY_LENGTH: Final = -1
_MICROSECONDS: Final = 6
_POSTGRESQL_COLUMNS: Final = text(
    """
    SELECT attname, format_type(atttypid, atttypmod) AS type, atttypmod AS modifier,
        CASE WHEN typnamespace = CAST('pg_catalog' AS regnamespace) THEN typname END AS typname,
        NOT (attnotnull OR typnotnull) AS nullable,
        atthasdef OR attidentity <> '' OR typdefault IS NOT NULL AS has_default,
        attgenerated <> '' OR attidentity <> '' AS is_generated,
        CASE WHEN NOT collisdeterministic THEN collname END AS collation
    FROM pg_attribute JOIN pg_type ON pg_type.oid = atttypid LEFT JOIN pg_collation ON pg_collation.oid = attcollation
    WHERE attrelid = CAST(:name AS regclass) AND attnum > 0 AND NOT attisdropped
    """
)
_PROBE: Final = "provider_trace_store_probe"


@dataclass(frozen=True, slots=True)
class ExistingColumn:
    """A column of a table in the database.

    Args:
        name: the column's name.
        type: its type, as a message shows it.
        kinds: the kinds of values that it holds and returns without a change.
        nullable: whether it may be NULL.
        has_default: whether a row can be inserted without a value for it.
        is_generated: whether the database makes its value, and refuses one.
        collation: the name of its collation if that one may take different texts for equal, else None.
    """

    name: str
    type: str
    kinds: frozenset[str]
    nullable: bool
    has_default: bool
    is_generated: bool
    collation: str | None

    def differences(self, expected: Column[Any]) -> Iterator[str]:
        """Yield a sentence for each reason why the column cannot take the place of the expected one."""
        kind = _kind_of(expected)
        if kind not in self.kinds:
            difference = f"its column {self.name} is {self.type}, not {_WANTED[kind]}"
            yield f"{difference}; change its type, or migrate into another schema"
        elif self.collation is not None and kind != "json":
            yield (
                f"its column {self.name} has a collation that takes different texts for equal; change it to a "
                f"deterministic one, such as that of a new column without COLLATE (it is {self.collation})"
            )
        if expected.nullable and not self.nullable:
            yield f"its column {self.name} is NOT NULL, but a trace may have none; drop the NOT NULL"
        if self.is_generated:
            yield f"its column {self.name} is generated, so no trace could be written; make it a plain column"


def existing_columns(connection: Connection, table: Table) -> dict[str, ExistingColumn]:
    """Return the columns of an existing table by their names; SQLite's names in lower case, as it ignores case.

    Args:
        connection: the connection of the running migration, which may write.
        table: the table, in the schema of the running migration.
    """
    if connection.dialect.name == "postgresql":
        rows = connection.execute(_POSTGRESQL_COLUMNS, {"name": quoted_table(connection, table)})
        return {row.attname: _of_postgresql(row) for row in rows}
    found = inspect(connection).get_columns(table.name, schema=table.schema)
    compared = [column["name"] for column in found if column["name"].lower() in table.columns]
    collations = _sqlite_collations(connection, table, compared) if compared else {}
    return {column["name"].lower(): _of_sqlite(column, collations) for column in found}


def _of_postgresql(row: Any) -> ExistingColumn:  # noqa: ANN401  # a row of _POSTGRESQL_COLUMNS
    kind = _POSTGRESQL_KINDS.get(row.typname)
    # A limit of a text refuses some values, and a precision of a moment rounds it.
    is_exact = row.modifier in ({_ANY_LENGTH, _MICROSECONDS} if kind == "moment" else {_ANY_LENGTH})
    shown = row.type if '"' in row.type else row.type.upper().replace("CHARACTER VARYING", "VARCHAR")
    return ExistingColumn(
        row.attname,
        shown,
        frozenset({kind} if kind and is_exact else ()),
        row.nullable,
        row.has_default,
        row.is_generated,
        row.collation,
    )


def _of_sqlite(column: ReflectedColumn, collations: dict[str, str]) -> ExistingColumn:
    name, declared, default = column["name"], column["type"], column.get("default")
    # SQLite stores any value in a column. Only numbers are changed by its type: they are no documents. A UUID is text.
    fitting = (
        ("text", String),
        ("moment", DateTime),
        ("boolean", Boolean),
        ("uuid", String),
        ("bytes", LargeBinary),
        ("integer", Integer),
    )
    kinds = {"json", *(kind for kind, type_ in fitting if isinstance(declared, type_))}
    collation = collations.get(name, "unknown to this connection")
    is_generated = bool(column.get("computed"))
    return ExistingColumn(
        name,
        str(declared),
        frozenset(kinds),
        column["nullable"],
        is_generated or (default is not None and default.upper() != "NULL"),
        is_generated,
        None if collation.upper() == "BINARY" else collation,
    )


def _sqlite_collations(connection: Connection, table: Table, columns: list[str]) -> dict[str, str]:
    """Return the collation of each column; an empty dict if the connection does not know one of them.

    SQLite has no view of them. An index without a COLLATE of its own takes those of its columns, so one without rows
    is created, and rolled back.
    """
    dialect = connection.dialect
    names = ", ".join(quoted(dialect, name) for name in columns)
    create = f"CREATE INDEX {quoted(dialect, table.schema, _PROBE)} ON {quoted(dialect, table.name)} ({names}) WHERE 0"
    query = text('SELECT name, coll FROM pragma_index_xinfo(:probe, :schema) WHERE "key"')
    savepoint = connection.begin_nested()
    try:
        connection.execute(without_parameters(create))
        rows = connection.execute(query, {"probe": _PROBE, "schema": table.schema or "main"}).all()
    except DBAPIError as error:
        # An unknown collation is an error of the statement; a lock is not.
        if sqlite_code(error) != sqlite3.SQLITE_ERROR:
            raise
        return {}
    finally:
        savepoint.rollback()
    return {name: collation for name, collation in rows}  # noqa: C416  # mypy: a Row is not a tuple


def _kind_of(expected: Column[Any]) -> str:
    return next(kind for type_, kind in _KINDS_OF_TYPES if isinstance(expected.type, type_))
