"""Indexes that need the operator: missing, invalid and duplicate ones, each with the statements that mend it."""

from __future__ import annotations

import re
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import text

from provider_trace_store.database.names import quoted, quoted_table
from provider_trace_store.maintenance.status_report import IndexFinding
from provider_trace_store.migrations.index_statements import limited, statements_for
from provider_trace_store.migrations.indexes import missing_indexes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlalchemy import Connection, Row, Table
    from sqlalchemy.engine import Dialect

# All indexes of a table and of its partitions. `definition` is what two indexes have in common that serve the same
# queries. An index that a session builds now is left out.
_INDEXES: Final = text(
    """
    SELECT CAST(tables.relname AS text) AS table, CAST(schemas.nspname AS text) AS schema,
        CAST(indexes.relname AS text) AS name, CAST(indexes.relkind AS text) AS relkind, indisvalid, indisunique,
        indisreplident OR indisprimary OR indisexclusion
            OR EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid) AS is_needed,
        EXISTS (SELECT FROM pg_inherits WHERE inhrelid = indexrelid) AS is_attached,
        concat_ws(' ', indrelid, indnkeyatts, indexes.relam, indkey, indclass, indcollation, indoption,
            pg_get_expr(indexprs, indrelid), pg_get_expr(indpred, indrelid)) AS definition
    FROM pg_index JOIN pg_class AS indexes ON indexes.oid = indexrelid JOIN pg_class AS tables ON tables.oid = indrelid
    JOIN pg_namespace AS schemas ON schemas.oid = indexes.relnamespace
    WHERE indrelid IN (
        SELECT CAST(CAST(:name AS text) AS regclass)
        UNION SELECT relid FROM pg_partition_tree(CAST(CAST(:name AS text) AS regclass)))
    AND indexrelid NOT IN (SELECT index_relid FROM pg_stat_progress_create_index WHERE index_relid IS NOT NULL)
    ORDER BY definition, name
    """
)
# REINDEX CONCURRENTLY names its second index like this.
_LEFT_BY_REINDEX: Final = re.compile(r".*_cc(new|old)\d*")


def index_findings(connection: Connection, table: Table) -> Iterator[IndexFinding]:
    """Yield the indexes of a table that need the operator.

    Args:
        connection: the database.
        table: an existing table, with the indexes that it must have.
    """
    mended: set[str] = set()
    for index in missing_indexes(connection, table):
        statements = statements_for(connection, table, index)
        mended.update(statements)
        yield IndexFinding(table.name, str(index.name), "missing", tuple(statements))
    if connection.dialect.name != "postgresql":
        return
    rows = connection.execute(_INDEXES, {"name": quoted_table(connection, table)}).all()
    ours = {str(index.name) for index in table.indexes}
    for row in rows:
        # The index of a partitioned table becomes valid with those of its partitions.
        if row.indisvalid or row.relkind == "I":
            continue
        name = quoted(connection.dialect, row.schema, row.name)
        drop = f"DROP INDEX CONCURRENTLY {name}"
        if drop in mended:
            continue
        mend = (
            drop if row.name in ours or _LEFT_BY_REINDEX.fullmatch(row.name) else f"REINDEX INDEX CONCURRENTLY {name}"
        )
        yield IndexFinding(row.table, row.name, "invalid", (mend,))
    yield from _duplicates(connection.dialect, [row for row in rows if row.indisvalid], ours)


def _duplicates(dialect: Dialect, rows: Sequence[Row[Any]], ours: set[str]) -> Iterator[IndexFinding]:
    """Yield the indexes that another one makes useless; one that a constraint needs is never among them."""
    for _, group in groupby(rows, key=lambda row: row.definition):
        first, *others = sorted(group, key=lambda row: (not row.is_needed, not row.indisunique, row.name not in ours))
        for row in others:
            # One of a partition goes with that of the parent.
            if row.is_needed or row.is_attached or (row.indisunique and not first.indisunique):
                continue
            name = quoted(dialect, row.schema, row.name)
            statements = limited([f"DROP INDEX {name}"]) if row.relkind == "I" else [f"DROP INDEX CONCURRENTLY {name}"]
            yield IndexFinding(row.table, row.name, "duplicate", tuple(statements))
