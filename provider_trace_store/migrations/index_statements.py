"""The statements with which an operator builds a missing index while the table is in use: one a line, for psql."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import text
from sqlalchemy.schema import CreateIndex

from provider_trace_store.database.names import quoted, quoted_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection, Index, Row, Table

# PostgreSQL cuts longer names, in bytes.
_LONGEST_NAME: Final = 63
_LIMIT: Final = "SET lock_timeout = '500ms'"
_NO_LIMIT: Final = "RESET lock_timeout"
_RELATION: Final = text(
    "SELECT oid, CAST(relkind AS text) AS relkind FROM pg_class WHERE oid = CAST(CAST(:name AS text) AS regclass)"
)
_PARTITIONS: Final = text(
    "SELECT pg_class.oid, CAST(relkind AS text) AS relkind, nspname AS schema, relname AS name FROM pg_inherits "
    "JOIN pg_class ON pg_class.oid = inhrelid JOIN pg_namespace ON pg_namespace.oid = relnamespace "
    "WHERE inhparent = :table AND relkind IN ('r', 'p') ORDER BY schema, name"
)
# The plain B-tree on exactly these columns, which ALTER INDEX … ATTACH PARTITION takes; a valid one first. `parent` is
# the index of the parent table that it belongs to.
_SAME_INDEX: Final = text(
    "SELECT indexrelid AS oid, nspname AS schema, relname AS name, indisvalid AS is_valid, "
    "(SELECT inhparent FROM pg_inherits WHERE inhrelid = indexrelid) AS parent "
    "FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid JOIN pg_namespace ON pg_namespace.oid = relnamespace "
    "JOIN pg_am ON pg_am.oid = relam "
    "WHERE indrelid = :table AND amname = 'btree' AND NOT indisunique AND indpred IS NULL AND indnatts = indnkeyatts "
    "AND ARRAY(SELECT CAST(attname AS text) FROM unnest(indkey) WITH ORDINALITY AS keys (number, place) "
    "JOIN pg_attribute ON attrelid = indrelid AND attnum = number ORDER BY place) = CAST(:columns AS text[]) "
    "AND NOT EXISTS (SELECT FROM unnest(indoption) AS options (option) WHERE option <> 0) "
    "ORDER BY indisvalid DESC, relname"
)
# An index that a cancelled CREATE INDEX CONCURRENTLY left: none that a session builds now.
_LEFT: Final = text(
    "SELECT true FROM pg_index WHERE indexrelid = to_regclass(:name) AND NOT indisvalid AND indrelid NOT IN "
    "(SELECT relid FROM pg_stat_progress_create_index WHERE relid IS NOT NULL)"
)


class Steps(NamedTuple):
    """The statements that build an index, each without its semicolon.

    Args:
        slow: block no writer, take long, and run outside of a transaction.
        quick: change only the catalogue, after the slow ones; each takes a table lock for milliseconds.
    """

    slow: list[str]
    quick: list[str]


def statements_for(connection: Connection, table: Table, index: Index) -> list[str]:
    """Return the statements that an operator runs to build an index, each without its semicolon.

    Args:
        connection: the database.
        table: the table, in its schema.
        index: the missing index.
    """
    slow, quick = steps_for(connection, table, index)
    return [*slow, *limited(quick)]


def limited(statements: Sequence[str]) -> list[str]:
    """Return statements that take table locks between those that limit how long they wait for the locks."""
    return [_LIMIT, *statements, _NO_LIMIT] if statements else []


def steps_for(connection: Connection, table: Table, index: Index) -> Steps:
    """Return the statements that build an index without blocking writes.

    PostgreSQL refuses CONCURRENTLY on a partitioned table. There the index of each partition is built with it, the
    parent's index is created empty, and the partitions' are attached to it.

    Args:
        connection: the database.
        table: the table, in its schema.
        index: the missing index.
    """
    statement = str(CreateIndex(index).compile(dialect=connection.dialect)).strip()
    # SQLAlchemy doubles a percent sign for the driver; an operator's psql takes it as it is.
    statement = statement.replace("%%", "%")
    if connection.dialect.name != "postgresql":
        return Steps([statement], [])
    relation = connection.execute(_RELATION, {"name": quoted_table(connection, table)}).one()
    name = str(index.name)
    schema = connection.schema_for_object(table)
    if relation.relkind == "p":
        partitioned = _Partitioned(connection, [column.name for column in index.columns])
        partitioned.add(relation.oid, quoted_table(connection, table), schema, name)
        return Steps(partitioned.slow, partitioned.quick)
    concurrently = statement.replace("CREATE INDEX", "CREATE INDEX CONCURRENTLY", 1)
    return Steps([*_removal(connection, quoted(connection.dialect, schema, name)), concurrently], [])


def _removal(connection: Connection, name: str) -> list[str]:
    """Return the statement that drops what a cancelled CREATE INDEX CONCURRENTLY left under this name, if it did."""
    return [f"DROP INDEX CONCURRENTLY {name}"] if connection.scalar(_LEFT, {"name": name}) else []


class _Partitioned:
    """The statements for an index of a partitioned table.

    `slow` build the indexes of the partitions and block no writer; `quick` change only the catalogue.

    Args:
        connection: a connection to PostgreSQL.
        columns: the columns of the index.
    """

    def __init__(self, connection: Connection, columns: Sequence[str]) -> None:
        self.slow: list[str] = []
        self.quick: list[str] = []
        self._connection = connection
        self._dialect = connection.dialect
        self._columns = list(columns)

    def add(self, table: int, table_name: str, schema: str | None, name: str) -> str:
        """Add the statements for a partitioned table, and return the full name of its index.

        Args:
            table: the table's oid.
            table_name: its name as SQL.
            schema: the schema of the table, and so of its index; None for the connection's default.
            name: the index's name if it must be created.
        """
        existing = self._same_index(table)
        if existing:
            full_name = quoted(self._dialect, existing[0].schema, existing[0].name)
        else:
            full_name = quoted(self._dialect, schema, name)
            columns = quoted_list(self._connection, self._columns)
            self.quick.append(f"CREATE INDEX {quoted(self._dialect, name)} ON ONLY {table_name} ({columns})")
        parent = existing[0].oid if existing else None
        for partition in self._connection.execute(_PARTITIONS, {"table": table}).all():
            self._attach(partition, parent, full_name)
        return full_name

    def _attach(self, partition: Row[Any], parent: int | None, parent_name: str) -> None:
        name = _name_of(partition.name, self._columns)
        table_name = quoted(self._dialect, partition.schema, partition.name)
        existing = self._same_index(partition.oid)
        attached = any(index.parent == parent for index in existing) if parent is not None else False
        if partition.relkind == "p":
            full_name = self.add(partition.oid, table_name, partition.schema, name)
        elif usable := [index for index in existing if index.is_valid and index.parent is None]:
            full_name = quoted(self._dialect, usable[0].schema, usable[0].name)
        elif not attached:
            full_name = quoted(self._dialect, partition.schema, name)
            columns = quoted_list(self._connection, self._columns)
            self.slow += _removal(self._connection, full_name)
            self.slow.append(f"CREATE INDEX CONCURRENTLY {quoted(self._dialect, name)} ON {table_name} ({columns})")
        if not attached:
            self.quick.append(f"ALTER INDEX {parent_name} ATTACH PARTITION {full_name}")

    def _same_index(self, table: int) -> list[Row[Any]]:
        return list(self._connection.execute(_SAME_INDEX, {"table": table, "columns": self._columns}).all())


def quoted_list(connection: Connection, names: Sequence[str]) -> str:
    """Return names of columns as SQL, separated by commas."""
    return ", ".join(quoted(connection.dialect, name) for name in names)


def _name_of(table: str, columns: Sequence[str]) -> str:
    """Return a name for the index of a partition, of the form that PostgreSQL gives them."""
    name = f"{table}_{'_'.join(columns)}_idx"
    if len(name.encode()) <= _LONGEST_NAME:
        return name
    digest = sha256(name.encode()).hexdigest()[:8]
    return f"{name.encode()[: _LONGEST_NAME - 13].decode(errors='ignore')}_{digest}_idx"
