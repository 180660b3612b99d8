"""Looks into PostgreSQL's catalog for the cause of an error that its SQLSTATE alone does not tell.

No statement here fails for a name that does not exist or that the role may not use, because a failed statement would
abort the host's transaction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import text

from provider_trace_store.database.names import quoted, quoted_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection, Table

# The schemas that a table's name is looked up in. `current_schemas()` leaves out those that the role may not use.
_SEARCH_PATH: Final = """
    SELECT CASE name WHEN '$user' THEN CAST(current_user AS text) ELSE name END AS name, place
    FROM (
        SELECT trim(both '" ' FROM part) AS name, place
        FROM unnest(string_to_array(current_setting('search_path'), ',')) WITH ORDINALITY AS parts (part, place)
    ) AS trimmed
"""
_TABLE: Final = f"""
    SELECT class.oid AS id, schema.oid AS schema_id, CAST(schema.nspname AS text) AS schema,
        CAST(current_user AS text) AS role, has_schema_privilege(schema.oid, 'USAGE') AS is_usable,
        CASE WHEN class.relkind = 'p' THEN pg_get_partkeydef(class.oid) END AS partition_key
    FROM pg_class AS class JOIN pg_namespace AS schema ON schema.oid = class.relnamespace
    LEFT JOIN ({_SEARCH_PATH}) AS path ON path.name = schema.nspname
    WHERE class.relname = CAST(:table AS text) AND class.relkind IN ('r', 'p', 'v', 'f', 'm')
        AND (schema.nspname = CAST(:schema AS text) OR (CAST(:schema AS text) IS NULL AND path.place IS NOT NULL))
    ORDER BY is_usable DESC, path.place LIMIT 1
"""  # noqa: S608  (constants)
_COLUMNS: Final = """
    SELECT CAST(attname AS text) AS name, has_column_privilege(attrelid, attnum, CAST(:privilege AS text)) AS is_granted
    FROM pg_attribute WHERE attrelid = CAST(:id AS oid) AND attnum > 0 AND NOT attisdropped
"""
# The sequences that the defaults of a table's columns use. CASE: the function fails for what is no sequence.
_SEQUENCES: Final = """
    SELECT DISTINCT CAST(schema.nspname AS text) AS schema, CAST(sequence.relname AS text) AS name
    FROM pg_attrdef AS expression
    JOIN pg_depend AS uses ON uses.classid = CAST('pg_attrdef' AS regclass) AND uses.objid = expression.oid
    JOIN pg_class AS sequence ON sequence.oid = uses.refobjid AND uses.refclassid = CAST('pg_class' AS regclass)
    JOIN pg_namespace AS schema ON schema.oid = sequence.relnamespace
    WHERE expression.adrelid = CAST(:id AS oid)
        AND CASE WHEN sequence.relkind = 'S' THEN NOT has_sequence_privilege(sequence.oid, 'USAGE, UPDATE') END
"""
# A partition has an index of its own name for each of its parent's. An index of an expression has a column of another
# name, and a partial index is a rule of the host's.
_INDEX_COLUMNS: Final = """
    SELECT DISTINCT CAST(columns.attname AS text) AS name
    FROM pg_index AS indexes
    JOIN pg_class AS class ON class.oid = indexes.indexrelid
    JOIN pg_attribute AS columns ON columns.attrelid = indexes.indexrelid
    WHERE class.relname = CAST(:name AS text) AND indexes.indisunique AND indexes.indpred IS NULL
        AND (indexes.indrelid = CAST(:id AS oid)
            OR indexes.indrelid IN (SELECT relid FROM pg_partition_tree(CAST(CAST(:id AS oid) AS regclass))))
"""


class Found(NamedTuple):
    """A table in the catalog.

    Args:
        id: its object id.
        schema: the name of its schema.
        role: the role that the connection uses now.
        is_usable: whether the role may use the schema.
        partition_key: the definition of its partition key; None if the table is not partitioned.
    """

    id: int
    schema: str
    role: str
    is_usable: bool
    partition_key: str | None


def find_table(connection: Connection, table: Table) -> Found | None:
    """Return what the catalog says about a table, or None if the connection's schemas have no such table.

    Args:
        connection: to PostgreSQL.
        table: the table; it is also found in a schema that the role may not use.
    """
    names = {"table": table.name, "schema": connection.schema_for_object(table)}
    found = connection.execute(text(_TABLE), names).first()
    return None if found is None else Found(found.id, found.schema, found.role, found.is_usable, found.partition_key)


def missing_privileges(connection: Connection, table: Table, found: Found, needed: Sequence[str]) -> list[str]:
    """Return the privileges that the role lacks for statements on a table, as in GRANT.

    Args:
        connection: to PostgreSQL.
        table: the table.
        found: the table in the catalog.
        needed: privileges on the table's columns, such as `INSERT`.
    """
    dialect = connection.dialect
    missing = [] if found.is_usable else [f"USAGE ON SCHEMA {quoted(dialect, found.schema)}"]
    ours = {column.name for column in table.columns}
    for privilege in needed:
        columns = connection.execute(text(_COLUMNS), {"id": found.id, "privilege": privilege}).all()
        granted = {column.name for column in columns if column.is_granted}
        lacking = [column.name for column in columns if column.name in ours - granted]
        # A column that only the host's rows have needs no privilege.
        if lacking:
            names = ", ".join(quoted(dialect, name) for name in lacking)
            some = f" ({names})" if ours & granted else ""
            missing.append(f"{privilege}{some} ON {quoted_table(connection, table)}")
    sequences = connection.execute(text(_SEQUENCES), {"id": found.id}) if "INSERT" in needed else ()
    missing += [f"USAGE ON SEQUENCE {quoted(dialect, each.schema, each.name)}" for each in sequences]
    return missing


def columns_of_index(connection: Connection, table: Table, name: str) -> set[str]:
    """Return the columns of a unique index of a table or of its partitions; nothing if there is none of that name.

    Args:
        connection: to PostgreSQL.
        table: the table.
        name: the name of the index, or of the constraint that has it.
    """
    found = find_table(connection, table)
    parameters: dict[str, Any] = {"id": found and found.id, "name": name}
    return set(connection.scalars(text(_INDEX_COLUMNS), parameters))
