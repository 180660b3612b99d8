"""What a SQLite file says about the package's tables, by look-ups at the edges of its B-trees."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import func, select, text

from provider_trace_store.database.names import quoted, quoted_table, without_parameters
from provider_trace_store.maintenance.date_range import date_range
from provider_trace_store.maintenance.status_report import DateRange, PackedShare, TableStatus
from provider_trace_store.migrations.indexes import indexed_columns
from provider_trace_store.packs.store import PACKS

if TYPE_CHECKING:
    from sqlalchemy import Connection, Table


def server_of() -> str:
    """Return the library's version."""
    return f"SQLite {sqlite3.sqlite_version}"


def file_sizes(connection: Connection, schema: str | None) -> tuple[int | None, int]:
    """Return the size of the file with its journal, None for a database in memory, and its free bytes."""
    name = quoted(connection.dialect, schema or "main")
    pages, size = (
        int(connection.scalar(without_parameters(f"PRAGMA {name}.{pragma}")) or 0)
        for pragma in ("freelist_count", "page_size")
    )
    files = text("SELECT file FROM pragma_database_list WHERE name = :name")
    path = connection.scalar(files, {"name": schema or "main"})
    if not path:
        return None, pages * size
    parts = (Path(f"{path}{suffix}") for suffix in ("", "-wal", "-journal"))
    return sum(part.stat().st_size for part in parts if part.exists()), pages * size


def table_status(connection: Connection, table: Table) -> TableStatus:
    """Return the figures of an existing table: rows by the numbers of its first and last one, an upper bound.

    Args:
        connection: in a transaction.
        table: the table, in its schema.
    """
    name = quoted_table(connection, table)
    query = f"SELECT (SELECT max(rowid) FROM {name}) - (SELECT min(rowid) FROM {name}) + 1"  # noqa: S608  # quoted
    rows = connection.scalar(without_parameters(query))
    dates = DateRange(None, None, "unknown")
    if "is_deleted" in table.columns:
        dates = date_range(connection, table, indexed_columns(connection, table))
    return TableStatus(name=table.name, exists=True, rows=int(rows or 0), dates=dates)


def packed_share(connection: Connection) -> tuple[PackedShare, DateRange]:
    """Return the sums over the packs, and the dates of their traces."""
    sums = (func.coalesce(func.sum(PACKS.c[name]), 0).label(name) for name in ("traces", "raw_bytes"))
    row = connection.execute(
        select(
            func.count().label("packs"),
            *sums,
            func.min(PACKS.c.first_created_at).label("oldest"),
            func.max(PACKS.c.last_created_at).label("newest"),
        ).select_from(PACKS)
    ).one()
    return PackedShare(row.traces, row.packs, row.raw_bytes, is_estimated=False), DateRange(
        row.oldest, row.newest, "index"
    )
