"""The report of `status`: what the database, its tables, indexes and packs and a spool look like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from provider_trace_store.maintenance.reports import Report

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime


@dataclass(frozen=True)
class DateRange:
    """The dates of the oldest and the newest row of a table.

    Args:
        oldest: the oldest date; None if there is no row with a date, or it is not known.
        newest: the newest date.
        source: `index` (exact), `statistics` (the bounds of the histogram that the last ANALYZE made of a sample) or
            `unknown` (no index has the dates, and there are no statistics).
    """

    oldest: datetime | None
    newest: datetime | None
    source: Literal["index", "statistics", "unknown"]


@dataclass(frozen=True)
class TableStatus:
    """One table of the package; figures of a partitioned table are sums over its partitions.

    Args:
        name: the table, without its schema.
        exists: whether there is such a table; without it, all other figures are 0 or None.
        partitions: the number of partitions; 0 if the table is not partitioned.
        rows: the number of rows; None if it is not known until ANALYZE has run.
        has_exact_rows: whether the rows were counted, which is done in small tables only.
        heap_bytes: the size of the rows; None on SQLite.
        toast_bytes: the size of the values that are stored outside of their rows; None on SQLite.
        index_bytes: the size of the indexes; None on SQLite.
        dates: the dates of the oldest and the newest row.
        compression: the compression of new values, by column.
        dead_rows: the number of dead rows, as the server's statistics have it; None on SQLite.
        last_vacuum: the end of the last VACUUM, by hand or by autovacuum; of a partitioned table, the latest.
        last_autovacuum: the end of the last one by autovacuum.
        last_analyze: the end of the last ANALYZE, by hand or by autovacuum.
    """

    name: str
    exists: bool
    partitions: int = 0
    rows: int | None = None
    has_exact_rows: bool = False
    heap_bytes: int | None = None
    toast_bytes: int | None = None
    index_bytes: int | None = None
    dates: DateRange = DateRange(None, None, "unknown")
    compression: Mapping[str, str] | None = None
    dead_rows: int | None = None
    last_vacuum: datetime | None = None
    last_autovacuum: datetime | None = None
    last_analyze: datetime | None = None


@dataclass(frozen=True)
class IndexFinding:
    """An index that needs the operator.

    Args:
        table: the table or partition that it belongs to.
        name: the index.
        problem: `missing`, `invalid` (an interrupted build left it; no query uses it) or `duplicate` (another index of
            the table serves the same queries).
        statements: mend it; run them outside of a transaction, without semicolons.
    """

    table: str
    name: str
    problem: Literal["missing", "invalid", "duplicate"]
    statements: tuple[str, ...]


@dataclass(frozen=True)
class PackedShare:
    """The traces that are packed.

    Args:
        traces: the number of packed traces.
        packs: the number of packs.
        raw_bytes: the bytes of their documents before packing.
        is_estimated: whether the figures were computed from a sample of the packs.
    """

    traces: int
    packs: int
    raw_bytes: int
    is_estimated: bool


@dataclass(frozen=True)
class SpoolStatus:
    """A spool directory.

    Args:
        directory: its path.
        files: the number of files with traces that wait for the database.
        file_bytes: their size.
        damaged_bytes: the size of damaged files that were set aside.
        rejected: the number of rejected traces; None if they could not be counted now.
        rejected_bytes: the size of the file that has them.
    """

    directory: str
    files: int
    file_bytes: int
    damaged_bytes: int
    rejected: int | None
    rejected_bytes: int


@dataclass(frozen=True)
class StatusReport(Report):
    """The result of `status`.

    Args:
        server: the database and its version, such as `PostgreSQL 17.2`.
        schema: the schema of the tables; None on SQLite.
        revision: the revision of the tables; None if they were never migrated.
        head: the newest revision that this version of the package knows.
        default_compression: the server's compression of columns that have no own; None on SQLite.
        has_lz4: whether the server was built with lz4; None on SQLite.
        tables: the tables of the package.
        indexes: missing, invalid and duplicate indexes.
        packed: the packed traces; None if there is no table of packs.
        file_bytes: the size of a SQLite file with its journal; None on PostgreSQL.
        free_bytes: the part of the SQLite file that new rows reuse; None on PostgreSQL.
        spool: the spool directory, if one was named.
        needs: one sentence for each thing that needs the operator, with the command to run.
        seconds: how long it took.
    """

    server: str
    schema: str | None
    revision: str | None
    head: str
    default_compression: str | None
    has_lz4: bool | None
    tables: tuple[TableStatus, ...]
    indexes: tuple[IndexFinding, ...]
    packed: PackedShare | None
    file_bytes: int | None
    free_bytes: int | None
    spool: SpoolStatus | None
    needs: tuple[str, ...]
    seconds: float
