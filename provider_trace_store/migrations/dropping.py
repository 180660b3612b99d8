"""The end of a table: a downgrade drops what a migration created, and what the caller names."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import MetaData, Table, inspect, text

from provider_trace_store.database.names import do_block, literal, quoted, quoted_table, without_parameters
from provider_trace_store.errors import AdoptedTableError, MigrationError, TableNotEmptyError
from provider_trace_store.migrations.checks import kind_of
from provider_trace_store.migrations.operations import op
from provider_trace_store.migrations.origin import is_created, is_created_condition
from provider_trace_store.migrations.rows import lock, sees_all_commits, why_not_empty
from provider_trace_store.tables.models import metadata

if TYPE_CHECKING:
    from sqlalchemy import Connection

logger: Final = logging.getLogger("provider_trace_store.migrations")

# The objects whose definition needs a table: foreign keys, views, inheritance children, functions with its row type.
_DEPENDENTS: Final = text(
    """
    SELECT DISTINCT coalesce(
        'view ' || (SELECT CAST(ev_class AS regclass) FROM pg_rewrite WHERE classid = CAST('pg_rewrite' AS regclass)
            AND pg_rewrite.oid = objid),
        pg_describe_object(classid, objid, 0))
    FROM pg_depend AS depend
    WHERE deptype = 'n' AND (
        refclassid = CAST('pg_class' AS regclass) AND refobjid = CAST(:name AS regclass)
        OR refclassid = CAST('pg_type' AS regclass)
            AND refobjid IN (SELECT reltype FROM pg_class WHERE oid = CAST(:name AS regclass))
        OR refclassid = CAST('pg_constraint' AS regclass)
            AND refobjid IN (SELECT oid FROM pg_constraint WHERE conrelid = CAST(:name AS regclass)))
    AND NOT EXISTS (  -- such as the table's own policies and triggers, which are dropped with it
        SELECT FROM pg_depend AS own WHERE (own.classid, own.objid) = (depend.classid, depend.objid)
        AND own.refclassid = CAST('pg_class' AS regclass) AND own.refobjid = CAST(:name AS regclass)
        AND own.deptype IN ('a', 'i'))
    ORDER BY 1
    """
)


def drop(name: str) -> None:
    """Drop a table, if a migration created it and it has no rows, or the caller has allowed either.

    Args:
        name: the table's name, in the schema of the running migration.

    Raises:
        AdoptedTableError: nothing shows that a migration created the table, and `drop_adopted` does not name it.
        TableNotEmptyError: the table has rows, or may have rows, and the migration runs without `drop_data`.
        MigrationError: other objects depend on the table, it is not a table any more, `drop_adopted` names an unknown
            table, or a script for this database cannot check for rows.
    """
    context = op.get_context()
    table = Table(name, MetaData(), schema=context.opts["version_table_schema"])
    may_drop_rows: bool = context.opts["drop_data"]
    is_named = name in _named(context.opts.get("drop_adopted") or ())
    if context.as_sql:
        _check_in_script(table, is_named=is_named, may_drop_rows=may_drop_rows)
    else:
        connection = op.get_bind()
        kind = kind_of(connection, table)
        if kind is None:
            logger.warning("%s: does not exist, so there is nothing to drop", table.fullname)
            return
        if kind != "a table":
            raise MigrationError(f"{table.fullname} is {kind}, not a table; nothing was changed: drop or rename it")
        check_drop(connection, table, is_named=is_named, may_drop_rows=may_drop_rows)
    op.drop_table(name, schema=table.schema)


def _named(names: Any) -> frozenset[str]:  # noqa: ANN401  # the caller's
    given = frozenset([names] if isinstance(names, str) else names)
    if unknown := sorted(given - set(metadata.tables)):
        raise MigrationError(
            f"drop_adopted names {', '.join(unknown)}; nothing was changed: name {' or '.join(metadata.tables)}, "
            "without a schema"
        )
    return given


def check_drop(connection: Connection, table: Table, *, is_named: bool, may_drop_rows: bool) -> None:
    """Lock an existing table, and check that it may be dropped.

    Args:
        connection: in the transaction that drops the table.
        table: the table, in its schema.
        is_named: whether it may be dropped although nothing shows that a migration created it.
        may_drop_rows: whether it may be dropped with its rows.

    Raises:
        AdoptedTableError: nothing shows that a migration created the table, and `is_named` is False.
        TableNotEmptyError: the table has rows, or may have rows, and `may_drop_rows` is False.
        MigrationError: other objects depend on the table.
    """
    name = quoted_table(connection, table)
    if not is_named and not is_created(connection, table):
        # Asked without a lock: the answer decides between two refusals, and the table's users go on.
        if not may_drop_rows and (reason := why_not_empty(connection, table)):
            raise TableNotEmptyError(name, reason)
        raise AdoptedTableError(name)
    # Locked before the check for rows, so that no row can be written between the check and the drop.
    lock(connection, table, "ACCESS EXCLUSIVE")
    if not may_drop_rows:
        reason = why_not_empty(connection, table)
        if reason is None and not sees_all_commits(connection):
            reason = "may have rows that were committed after the snapshot of this transaction; use READ COMMITTED"
        if reason is not None:
            raise TableNotEmptyError(name, reason)
    if dependents := _dependents(connection, table):
        raise MigrationError(
            f"{name} cannot be dropped, because these depend on it: {', '.join(dependents)}; nothing was changed: drop "
            "or change them, and run the command again"
        )


def _dependents(connection: Connection, table: Table) -> list[str]:
    if connection.dialect.name == "postgresql":
        return list(connection.scalars(_DEPENDENTS, {"name": quoted_table(connection, table)}))
    # SQLite drops the table, and the next use of the other object fails. Its views are known by their text only.
    inspector = inspect(connection)
    found = [
        f"a foreign key of {other}"
        for other in inspector.get_table_names(schema=table.schema)
        if other.lower() != table.name.lower()
        for key in inspector.get_foreign_keys(other, schema=table.schema)
        if key["referred_table"].lower() == table.name.lower()
    ]
    word = re.compile(rf"(?<!\w){re.escape(table.name)}(?!\w)", re.IGNORECASE)
    schema = quoted(connection.dialect, table.schema or "main")
    others = f"SELECT type, name, sql FROM {schema}.sqlite_master WHERE type IN ('view', 'trigger')"  # noqa: S608  # quoted
    own = table.name.lower()
    query = f"{others} AND lower(tbl_name) <> '{own}' ORDER BY name"
    rows = connection.execute(without_parameters(query))
    return found + [f"{row.type} {row.name}" for row in rows if word.search(row.sql)]


def _check_in_script(table: Table, *, is_named: bool, may_drop_rows: bool) -> None:
    """Add the statements to a script with which the database makes the same checks."""
    dialect = op.get_context().dialect
    name = quoted(dialect, table.schema, table.name)
    if dialect.name != "postgresql":
        if not may_drop_rows:
            raise MigrationError(
                f"a script for {dialect.name} cannot check whether {table.name} has rows, or who created it: run the "
                "downgrade without --sql, or allow it to drop rows, with `drop_data=True`"
            )
        if not is_named:
            raise MigrationError(
                f"a script for {dialect.name} cannot check whether {table.name} was adopted: run the downgrade without "
                "--sql, or name the table, with `drop_adopted=[TABLE]`"
            )
        return
    op.execute(without_parameters(f"LOCK TABLE {name} IN ACCESS EXCLUSIVE MODE"))
    checks = []
    if not is_named:
        checks.append((f"NOT {is_created_condition(name)}", str(AdoptedTableError(name))))
    if not may_drop_rows:
        hidden = f"row_security_active(CAST({literal(name)} AS regclass))"
        checks.append((hidden, str(TableNotEmptyError(name, "may have rows that its row-level security hides"))))
        checks.append((f"EXISTS (SELECT FROM {name})", str(TableNotEmptyError(name))))
    body = " ".join(
        f"IF {condition} THEN RAISE EXCEPTION USING MESSAGE = {literal(message)}; END IF;"
        for condition, message in checks
    )
    if body:
        op.execute(without_parameters(do_block(f"BEGIN {body} END")))
