"""What a release takes away, and what stays: each object with the mark of the migration that created it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sqlalchemy import Table, inspect, text

from provider_trace_store.database.names import quoted, quoted_table
from provider_trace_store.errors import InvalidArgumentError, MaintenanceError
from provider_trace_store.migrations import VERSION_TABLE, schema_metadata
from provider_trace_store.migrations.checks import kind_of
from provider_trace_store.migrations.origin import (
    MARK,
    added_columns,
    is_created,
    is_created_index,
    statement_of_comment,
)
from provider_trace_store.migrations.sqlite_version import drops_columns
from provider_trace_store.packs.store import PACKS
from provider_trace_store.tables.models import metadata

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy import Connection

# What a column of a table, or of a partition of it, would take away with it: indexes, constraints, views. An index with
# our mark goes in any case, and the indexes of partitions that belong to it go with it.
_USERS: Final = text(
    """
    SELECT DISTINCT pg_describe_object(classid, objid, 0)
    FROM pg_depend JOIN pg_attribute ON attrelid = refobjid AND attnum = refobjsubid
    WHERE refclassid = CAST('pg_class' AS regclass) AND attname = CAST(:column AS text)
    AND refobjid IN (SELECT CAST(CAST(:table AS text) AS regclass)
        UNION SELECT relid FROM pg_partition_tree(CAST(CAST(:table AS text) AS regclass)))
    AND classid NOT IN (CAST('pg_attrdef' AS regclass), CAST('pg_type' AS regclass))
    AND NOT (classid = CAST('pg_class' AS regclass)
        AND position(CAST(:mark AS text)
            IN coalesce(obj_description(coalesce(pg_partition_root(objid), objid), 'pg_class'), '')) > 0)
    ORDER BY 1
    """
)
_IS_PARTITIONED: Final = text("SELECT relkind = 'I' FROM pg_class WHERE oid = CAST(:name AS regclass)")


@dataclass(frozen=True)
class ReleasedTable:
    """What happens to one of the tables.

    Args:
        name: the table.
        is_adopted: whether it was adopted, or created by a release that did not record it.
        is_dropped: whether it goes, with its rows.
        indexes: the indexes that go, although the table stays.
        columns: the columns that go, with their values, although the table stays.
        stays: a sentence for each index or column that stays and may be of this package, with its reason.
    """

    name: str
    is_adopted: bool
    is_dropped: bool
    indexes: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    stays: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """The statements of a release, without semicolons, in their order.

    Args:
        tables: what happens to each table that exists.
        concurrent: drop an index, block nobody, and run outside of a transaction.
        quick: drop an index of a partitioned table; each blocks the table for milliseconds.
        final: drop all else, in one transaction.
    """

    tables: list[ReleasedTable]
    concurrent: list[str]
    quick: list[str]
    final: list[str]

    @property
    def statements(self) -> tuple[str, ...]:
        """All statements."""
        return (*self.concurrent, *self.quick, *self.final)


def checked_names(drop_tables: Collection[str]) -> frozenset[str]:
    """Return the names of tables to drop.

    Args:
        drop_tables: the names, without a schema.

    Raises:
        InvalidArgumentError: one of them is not the name of a table of this package.
    """
    names = frozenset([drop_tables] if isinstance(drop_tables, str) else drop_tables)
    if names - set(metadata.tables):
        raise InvalidArgumentError("drop_tables", f"must be of {', '.join(metadata.tables)}, without a schema")
    return names


def plan_of(connection: Connection, schema: str | None, drop_tables: frozenset[str], *, keep_columns: bool) -> Plan:
    """Return what a release does to a database as it is now.

    Args:
        connection: the database to look at, in a transaction.
        schema: the schema of the tables; None for the connection's default.
        drop_tables: the tables to drop, which a migration must have created.
        keep_columns: whether columns stay.

    Raises:
        MaintenanceError: `drop_tables` names a table that was adopted.
    """
    plan = Plan([], [], [], [])
    for table in schema_metadata(schema).sorted_tables:
        if kind_of(connection, table) != "a table":
            continue
        name = quoted_table(connection, table)
        is_adopted = not is_created(connection, table)
        if table.name in drop_tables and is_adopted:
            raise MaintenanceError(
                f"{name} was adopted, or created by a release that did not record it, so a release never drops it; "
                "nothing was changed: leave its name out of `drop_tables`"
            )
        if is_adopted:
            released = _adopted(connection, table, keep_columns=keep_columns)
            _add(plan, connection, table, released)
        else:
            released = ReleasedTable(table.name, is_adopted=False, is_dropped=table.name in drop_tables)
            plan.final.extend([f"DROP TABLE {name}"] * released.is_dropped)
        plan.tables.append(released)
    if inspect(connection).has_table(VERSION_TABLE, schema=schema):
        plan.final.append(f"DROP TABLE {quoted(connection.dialect, schema, VERSION_TABLE)}")
    return plan


def _add(plan: Plan, connection: Connection, table: Table, released: ReleasedTable) -> None:
    """Add the statements for an adopted table."""
    dialect = connection.dialect
    for index in released.indexes:
        name = quoted(dialect, table.schema, index)
        if dialect.name == "sqlite":
            plan.final.append(f"DROP INDEX {name}")
        elif connection.scalar(_IS_PARTITIONED, {"name": name}):
            plan.quick.append(f"DROP INDEX {name}")
        else:
            plan.concurrent.append(f"DROP INDEX CONCURRENTLY {name}")
    actions = [f"DROP COLUMN {quoted(dialect, column)}" for column in released.columns]
    # SQLite drops one column a statement. PostgreSQL takes the lock of the table once.
    if actions and dialect.name != "sqlite":
        actions = [", ".join(actions)]
    plan.final.extend(f"ALTER TABLE {quoted_table(connection, table)} {action}" for action in actions)
    if actions and dialect.name != "sqlite":
        plan.final.append(statement_of_comment(connection, table, released.columns))


def packs_of(schema: str | None) -> Table:
    """Return the table of packs in a schema."""
    return schema_metadata(schema).tables[PACKS.name if schema is None else f"{schema}.{PACKS.name}"]


def _adopted(connection: Connection, table: Table, *, keep_columns: bool) -> ReleasedTable:
    indexes, columns, stays = [], [], []
    for index in sorted(table.indexes, key=lambda index: str(index.name)):
        created = is_created_index(connection, index)
        if created:
            indexes.append(str(index.name))
        elif created is False:
            name = quoted(connection.dialect, table.schema, str(index.name))
            stays.append(f"index {name}: nothing records that this package created it; if it may go: DROP INDEX {name}")
    for column in added_columns(connection, table):
        reason = "columns are kept" if keep_columns else _why_column_stays(connection, table, column)
        if reason is None:
            columns.append(column)
        else:
            stays.append(f"column {column}: {reason}")
    return ReleasedTable(
        table.name,
        is_adopted=True,
        is_dropped=False,
        indexes=tuple(indexes),
        columns=tuple(columns),
        stays=tuple(stays),
    )


def _why_column_stays(connection: Connection, table: Table, column: str) -> str | None:
    if connection.dialect.name == "postgresql":
        names = {"table": quoted_table(connection, table), "column": column, "mark": MARK}
        users = list(connection.scalars(_USERS, names))
    else:
        if not drops_columns():
            return "SQLite drops columns from version 3.35 on"
        ours = {index.name for index in table.indexes if is_created_index(connection, index)}
        users = [
            f"index {index['name']}"
            for index in inspect(connection).get_indexes(table.name, schema=table.schema)
            if column in index["column_names"] and index["name"] not in ours
        ]
    return f"used by {', '.join(users)}" if users else None
