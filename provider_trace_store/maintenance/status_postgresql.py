"""What PostgreSQL's catalog and statistics say about the package's tables, without a scan of a large table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import text

from provider_trace_store.database.names import quoted_table, without_parameters
from provider_trace_store.maintenance.date_range import date_range
from provider_trace_store.maintenance.status_report import DateRange, PackedShare, TableStatus
from provider_trace_store.migrations.indexes import indexed_columns
from provider_trace_store.tables.models import DOCUMENTS

if TYPE_CHECKING:
    from sqlalchemy import Connection, Row, Table

# A table up to this size is counted; a larger one is estimated.
_COUNTED_BYTES: Final = 1 << 20
# How much of the rows of packs is read; of more, a sample.
_READ_BYTES: Final = 32 << 20
# The table itself, or its partitions that have rows.
_LEAVES: Final = """
    SELECT pg_class.* , pg_class.oid AS id FROM (
        SELECT CAST(CAST(:name AS text) AS regclass) AS relid
        UNION SELECT relid FROM pg_partition_tree(CAST(CAST(:name AS text) AS regclass))
    ) AS tree JOIN pg_class ON pg_class.oid = tree.relid WHERE relkind IN ('r', 'm')
"""
# `reltuples` is the number of rows at the last VACUUM or ANALYZE: the rows per page of that time are taken for the
# pages of now, as PostgreSQL's planner does.
_SIZES: Final = text(
    f"""
    SELECT (SELECT CAST(relkind AS text) FROM pg_class WHERE oid = CAST(CAST(:name AS text) AS regclass)) AS relkind,
        count(*) AS leaves, coalesce(sum(heap), 0) AS heap, coalesce(sum(toast), 0) AS toast,
        coalesce(sum(indexes), 0) AS indexes, sum(dead) AS dead, max(vacuumed) AS vacuumed,
        max(autovacuumed) AS autovacuumed, max(analyzed) AS analyzed,
        bool_or(heap > 0 AND (reltuples < 0 OR relpages = 0)) AS has_unknown_rows,
        sum(CASE WHEN heap > 0 AND relpages > 0
            THEN greatest(reltuples, 0) / relpages * heap / CAST(current_setting('block_size') AS int) END) AS rows
    FROM (
        SELECT pg_relation_size(id) AS heap, reltuples, relpages, pg_indexes_size(id) AS indexes,
            CASE WHEN reltoastrelid <> 0 THEN pg_total_relation_size(reltoastrelid) ELSE 0 END AS toast,
            pg_stat_get_dead_tuples(id) AS dead,
            greatest(pg_stat_get_last_vacuum_time(id), pg_stat_get_last_autovacuum_time(id)) AS vacuumed,
            pg_stat_get_last_autovacuum_time(id) AS autovacuumed,
            greatest(pg_stat_get_last_analyze_time(id), pg_stat_get_last_autoanalyze_time(id)) AS analyzed
        FROM ({_LEAVES}) AS leaves
    ) AS sizes
    """  # noqa: S608  (constants)
)
_COMPRESSION: Final = text(
    "SELECT CAST(attname AS text), CASE CAST(attcompression AS text) WHEN 'p' THEN 'pglz' WHEN 'l' THEN 'lz4' "
    "ELSE current_setting('default_toast_compression') END FROM pg_attribute "
    "WHERE attrelid = CAST(CAST(:name AS text) AS regclass) AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
)
_SERVER: Final = text(
    "SELECT 'PostgreSQL ' || current_setting('server_version') AS server, "
    "current_setting('default_toast_compression') AS compression, CAST(current_schema() AS text) AS schema, "
    "(SELECT 'lz4' = ANY (enumvals) FROM pg_settings WHERE name = 'default_toast_compression') AS has_lz4"
)


def server_of(connection: Connection) -> Row[Any]:
    """Return the server's version, the default schema and what it says about compression."""
    return connection.execute(_SERVER).one()


def table_status(connection: Connection, table: Table) -> TableStatus:
    """Return the figures of an existing table that is no table of packs, or of one without the dates of its traces.

    Args:
        connection: in a transaction.
        table: the table, in its schema.
    """
    name = quoted_table(connection, table)
    sizes = connection.execute(_SIZES, {"name": name}).one()
    rows = _estimated(sizes)
    is_counted = sizes.heap <= _COUNTED_BYTES
    if is_counted:
        rows = connection.scalar(without_parameters(f"SELECT count(*) FROM {name}"))  # noqa: S608  # quoted
    compression = {
        column: method for column, method in connection.execute(_COMPRESSION, {"name": name}) if column in DOCUMENTS
    }
    has_traces = "is_deleted" in table.columns
    return TableStatus(
        name=table.name,
        exists=True,
        partitions=sizes.leaves if sizes.relkind == "p" else 0,
        rows=rows,
        has_exact_rows=is_counted,
        heap_bytes=int(sizes.heap),
        toast_bytes=int(sizes.toast),
        index_bytes=int(sizes.indexes),
        dates=date_range(connection, table, indexed_columns(connection, table)) if has_traces else _UNKNOWN,
        compression=compression,
        dead_rows=int(sizes.dead or 0),
        last_vacuum=sizes.vacuumed,
        last_autovacuum=sizes.autovacuumed,
        last_analyze=sizes.analyzed,
    )


def estimated_rows(connection: Connection, table: Table) -> int | None:
    """Return about how many rows an existing table has, from PostgreSQL's statistics; None if it is not known.

    Args:
        connection: in a transaction.
        table: the table, in its schema.
    """
    return _estimated(connection.execute(_SIZES, {"name": quoted_table(connection, table)}).one())


def _estimated(sizes: Row[Any]) -> int | None:
    return None if sizes.has_unknown_rows else round(sizes.rows or 0)


def packed_share(connection: Connection, table: Table) -> tuple[PackedShare, DateRange]:
    """Return the sums over the packs, and the dates of their traces; of a sample if the packs are very many.

    Args:
        connection: in a transaction.
        table: the table of packs.
    """
    name = quoted_table(connection, table)
    sample, factor = "", 1.0
    # A row of a pack is small: the pack itself is stored outside of it.
    size = connection.scalar(text("SELECT pg_relation_size(CAST(CAST(:name AS text) AS regclass))"), {"name": name})
    if size and size > _READ_BYTES:
        percent = 100 * _READ_BYTES / size
        sample, factor = f" TABLESAMPLE SYSTEM ({percent:.6f})", 100 / percent
    sums = (
        "count(*) AS packs, coalesce(sum(traces), 0) AS traces, coalesce(sum(raw_bytes), 0) AS raw_bytes, "
        "min(first_created_at) AS oldest, max(last_created_at) AS newest"
    )
    row = connection.execute(without_parameters(f"SELECT {sums} FROM {name}{sample}")).one()  # noqa: S608  # quoted
    traces, packs, raw_bytes = (round(int(value) * factor) for value in (row.traces, row.packs, row.raw_bytes))
    share = PackedShare(traces, packs, raw_bytes, is_estimated=bool(sample))
    return share, DateRange(row.oldest, row.newest, "statistics" if sample else "index")


_UNKNOWN: Final = DateRange(None, None, "unknown")
