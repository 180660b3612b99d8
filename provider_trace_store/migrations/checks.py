"""What of an existing table would break a promise of the package: problems stop the adoption, risks are logged."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from sqlalchemy import inspect, text

from provider_trace_store.database.names import quoted, quoted_table, without_parameters

if TYPE_CHECKING:
    from sqlalchemy import Connection, Table, TextClause

_KINDS: Final = {
    "v": "a view",
    "m": "a materialized view",
    "f": "a foreign table",
    "view": "a view",
    "virtual": "a virtual table",
}
_IN_THE_SCHEMA: Final = (
    "FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE relname = :name "
    "AND nspname = coalesce(CAST(:schema AS text), CAST(current_schema() AS text))"
)
_PRIMARY_KEY: Final = text(
    """
    SELECT array(
        SELECT CAST(attname AS text) FROM unnest(conkey) WITH ORDINALITY AS part (number, place)
        JOIN pg_attribute ON attrelid = conrelid AND attnum = number ORDER BY place
    )
    FROM pg_constraint WHERE conrelid = CAST(:table AS regclass) AND contype = 'p'
    """
)

_EXISTING: Final = "change it, or migrate into another schema"
_POSTGRESQL_PROBLEMS: Final = text(
    """
    SELECT format('its constraint %I is deferrable, so a trace could be refused as late as at the commit, and '
        'ON CONFLICT fails; make it NOT DEFERRABLE', conname)
    FROM pg_constraint
    WHERE conrelid = CAST(:table AS regclass) AND contype IN ('p', 'u', 'x') AND condeferrable
    UNION ALL
    SELECT format('the index of its primary key, %s, is not valid, so an id could be stored twice; build it on every '
        'partition and attach it', CAST(indexrelid AS regclass))
    FROM pg_index WHERE indrelid = CAST(:table AS regclass) AND indisprimary AND NOT (indisvalid AND indisready)
    UNION ALL
    SELECT format('its rule %I rewrites statements, so a trace could be lost, and ON CONFLICT fails; replace it by a '
        'trigger', rulename)
    FROM pg_rewrite WHERE ev_class = CAST(:table AS regclass) AND rulename <> '_RETURN' AND ev_enabled <> 'D'
    ORDER BY 1
    """
)
_POSTGRESQL_RISKS: Final = text(
    """
    WITH parts AS (
        SELECT CAST(:table AS regclass) AS part
        UNION SELECT relid FROM pg_partition_tree(CAST(:table AS regclass))
    )
    SELECT format('is UNLOGGED (%s): a crash of the server empties it; change it with ALTER TABLE ... SET LOGGED',
        string_agg(CAST(part AS text), ', ' ORDER BY CAST(part AS text)))
    FROM parts JOIN pg_class ON oid = part WHERE relpersistence = 'u' HAVING count(*) > 0
    UNION ALL
    SELECT format('has the trigger %I before each row: if it returns NULL, a trace is not stored, without an error',
        tgname)
    FROM parts JOIN pg_trigger ON tgrelid = part WHERE NOT tgisinternal AND tgenabled IN ('O', 'A')
    AND tgtype & 7 = 7  -- row, before, insert
    GROUP BY tgname
    UNION ALL
    SELECT format('has the deferred constraint %I: it refuses a trace as late as at the commit, with all others of its '
        'transaction; make it INITIALLY IMMEDIATE', conname)
    FROM pg_constraint WHERE conrelid = CAST(:table AS regclass) AND contype IN ('f', 't') AND condeferred
    UNION ALL
    SELECT 'has row-level security: the roles that write and read traces need policies, or BYPASSRLS, for all '
        'organizations that they serve'
    FROM pg_class WHERE oid = CAST(:table AS regclass) AND relrowsecurity
    UNION ALL
    SELECT format('has the inheritance child %s, whose rows its primary key does not cover: an id can be there twice',
        string_agg(CAST(CAST(inhrelid AS regclass) AS text), ', '))
    FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
    WHERE inhparent = CAST(:table AS regclass) AND NOT relispartition
    HAVING count(*) > 0
    ORDER BY 1
    """
)
# A conflict clause of the table decides what a plain INSERT of a stored id does; ABORT is the default.
_CONFLICT_CLAUSE: Final = re.compile(r"\bON\s+CONFLICT\s+(REPLACE|IGNORE|FAIL|ROLLBACK)\b", re.IGNORECASE)
_DEFERRED: Final = re.compile(r"(?<!NOT\s)DEFERRABLE\s+INITIALLY\s+DEFERRED\b", re.IGNORECASE)
_BEFORE_INSERT: Final = re.compile(r"\bBEFORE\s+INSERT\b", re.IGNORECASE)


def kind_of(connection: Connection, table: Table) -> str | None:
    """Return what has the table's name in its schema: "a table", or "a view" and so on; None if nothing has.

    SQLite compares names without case, SQLAlchemy does not.

    Args:
        connection: the connection of the running migration.
        table: the table, in the schema of the running migration.
    """
    if connection.dialect.name == "postgresql":
        statement = text(f"SELECT relkind {_IN_THE_SCHEMA} AND relkind IN ('r', 'p', 'v', 'm', 'f')")  # a constant
        schema = connection.schema_for_object(table)
        found = connection.scalar(statement, {"name": table.name, "schema": schema})
    else:
        rows = connection.execute(_sqlite_objects(connection, table, "name = :name"), {"name": table.name}).all()
        row = next((row for row in rows if row.type in {"table", "view"}), None)
        if row is not None and row.name != table.name:
            return f"named {row.name}, in other letters"
        found = None if row is None else _sqlite_kind(row.type, row.sql)
    return None if found is None else _KINDS.get(found, "a table")


def key_problems(connection: Connection, table: Table) -> list[str]:
    """Return a sentence for each reason why the keys, constraints and rules of an existing table cannot be used.

    Args:
        connection: the connection of the running migration.
        table: the table, in the schema of the running migration, with the primary key that it must have.
    """
    expected = [column.name for column in table.primary_key]
    if connection.dialect.name == "postgresql":
        name = quoted_table(connection, table)
        key = connection.scalar(_PRIMARY_KEY, {"table": name}) or []
        others = list(connection.scalars(_POSTGRESQL_PROBLEMS, {"table": name}))
    else:
        found = inspect(connection).get_pk_constraint(table.name, schema=table.schema)
        key = [name.lower() for name in found["constrained_columns"]]
        others = _sqlite_problems(connection, table)
    if key == expected:
        return others
    return [f"its primary key is ({', '.join(key)}), not ({', '.join(expected)}); {_EXISTING}", *others]


def risks(connection: Connection, table: Table) -> list[str]:
    """Return a sentence for each thing that may cost traces, and that the table's owner may have wanted.

    Args:
        connection: the connection of the running migration.
        table: the table, in the schema of the running migration.
    """
    if connection.dialect.name == "postgresql":
        return list(connection.scalars(_POSTGRESQL_RISKS, {"table": quoted_table(connection, table)}))
    found = []
    for row in connection.execute(_sqlite_objects(connection, table, "tbl_name = :name"), {"name": table.name}):
        if row.type == "trigger" and _BEFORE_INSERT.search(row.sql):
            found.append(
                f"has the trigger {row.name} before each row: if it calls RAISE(IGNORE), a trace is not stored, and "
                "there is no error"
            )
        if row.type == "table" and _DEFERRED.search(row.sql):
            found.append(
                "has a deferred foreign key: it refuses a trace as late as at the commit, with all others of its "
                "transaction; declare it without INITIALLY DEFERRED"
            )
    return found


def _sqlite_problems(connection: Connection, table: Table) -> list[str]:
    statement = text(
        "SELECT part.name, part.coll FROM pragma_index_list(:table, :schema) AS list "
        "JOIN pragma_index_xinfo(list.name, :schema) AS part "
        "WHERE list.origin = 'pk' AND part.\"key\" AND upper(part.coll) <> 'BINARY'"
    )
    rows = connection.execute(statement, {"table": table.name, "schema": table.schema or "main"})
    problems = [
        f"its primary key has a collation that takes different texts for equal: {coll} for {name}; {_EXISTING}"
        for name, coll in rows
    ]
    objects = connection.execute(_sqlite_objects(connection, table, "name = :name"), {"name": table.name})
    return problems + [
        f"its definition has ON CONFLICT {clause[1].upper()}, so a trace could replace another one or be lost; create "
        "the table without it"
        for row in objects
        if (clause := _CONFLICT_CLAUSE.search(row.sql))
    ]


def _sqlite_objects(connection: Connection, table: Table, condition: str) -> TextClause:
    """Return the statement for the objects of SQLite's schema; SQLite compares their names without case."""
    schema = quoted(connection.dialect, table.schema or "main")
    found = without_parameters(f"SELECT type, name, sql FROM {schema}.sqlite_master WHERE ").text  # noqa: S608  # quoted
    return text(f"{found}{condition} COLLATE NOCASE AND sql IS NOT NULL ORDER BY name")


def _sqlite_kind(kind: str, sql: str) -> str:
    return "virtual" if sql.upper().startswith("CREATE VIRTUAL") else kind
