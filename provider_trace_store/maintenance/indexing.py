"""Builds the missing indexes of the package's tables while the tables are in use."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import inspect, text
from sqlalchemy.exc import DBAPIError

from provider_trace_store.database.names import quoted, quoted_table, without_parameters
from provider_trace_store.errors import MaintenanceError
from provider_trace_store.maintenance.ddl import Ddl, refusal
from provider_trace_store.maintenance.progress import Meter, Stop, one_at_a_time, schema_of
from provider_trace_store.maintenance.reports import Report
from provider_trace_store.migrations import DEFAULT_LOCK_TIMEOUT, DEFAULT_TRIES, schema_metadata
from provider_trace_store.migrations.failures import translated
from provider_trace_store.migrations.index_statements import Steps, statements_for, steps_for
from provider_trace_store.migrations.indexes import missing_indexes
from provider_trace_store.migrations.locking import Patience
from provider_trace_store.migrations.origin import statement_for_sqlite, statement_of_mark
from provider_trace_store.migrations.placement import check_placement

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Connection, Engine, Index, Row, Table

    from provider_trace_store.maintenance.progress import Progress

_POLL: Final = 0.5  # seconds
_TREE: Final = """
    SELECT CAST(CAST(:name AS text) AS regclass) AS relid
    UNION SELECT relid FROM pg_partition_tree(CAST(CAST(:name AS text) AS regclass))
"""
_BUILDING: Final = text(
    f"""
    SELECT pid, phase, blocks_done, blocks_total, CAST(CAST(relid AS regclass) AS text) AS relation,
        CAST(current_setting('block_size') AS int) AS block_size
    FROM pg_stat_progress_create_index
    WHERE datid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND relid IN ({_TREE})
    ORDER BY pid LIMIT 1
    """  # noqa: S608  (constants)
)


@dataclass(frozen=True)
class IndexReport(Report):
    """The result of `build_indexes`.

    Args:
        built: the names of the indexes that were missing, and are built or, in a dry run, would be.
        statements: the statements that were run, or would be, in this order, without semicolons.
        seconds: how long it took.
        is_dry_run: whether nothing was changed.
    """

    built: tuple[str, ...]
    statements: tuple[str, ...]
    seconds: float
    is_dry_run: bool


def build_indexes(
    engine: Engine,
    *,
    lock_timeout: float = DEFAULT_LOCK_TIMEOUT,
    tries: int = DEFAULT_TRIES,
    dry_run: bool = False,
    on_progress: Callable[[Progress], object] | None = None,
) -> IndexReport:
    """Build the indexes that the migrations name and the tables lack, one after the other, without blocking writers.

    PostgreSQL builds each with CONCURRENTLY, which needs two scans of the table and waits for the transactions that are
    open. An invalid index that an interrupted build left is dropped first. Those of a partitioned table are built
    partition by partition, and attached. The function can be stopped at any moment, and called again: it goes on with
    the first index, or partition, that is not built. SQLite locks the file while an index is built.

    Args:
        engine: its `schema_translate_map` decides the schema; on PostgreSQL the function needs three connections.
        lock_timeout: how long a statement that blocks writers (of a partitioned table only) waits for its lock, in
            seconds; 0 waits without a limit.
        tries: how often a statement is tried whose lock is not free, from 1 to 1000, with growing pauses.
        dry_run: whether to change nothing, and report the statements.
        on_progress: called twice a second with what PostgreSQL reports of the build.

    Raises:
        MaintenanceError: a table does not exist, the database refused a statement, or another command of maintenance
            runs.
        InvalidArgumentError: a number is out of its range.
    """
    began = time.monotonic()
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        schema = schema_of(connection)
        patience = Patience(schema, lock_timeout, tries)
        translated(connection, schema, lambda: check_placement(connection, schema))
        if dry_run:
            planned = [(index, statements_for(connection, table, index)) for table, index in _missing(connection)]
            names = tuple(str(index.name) for index, _ in planned)
            statements = tuple(statement for _, some in planned for statement in some)
            return IndexReport(names, statements, time.monotonic() - began, is_dry_run=True)
        with one_at_a_time(engine), Stop() as stop:
            builder = _Builder(engine, connection, patience, stop, on_progress)
            built = [builder.build(table, index) for table, index in list(_missing(connection))]
    return IndexReport(tuple(built), tuple(builder.statements), time.monotonic() - began, is_dry_run=False)


def _missing(connection: Connection) -> Iterator[tuple[Table, Index]]:
    for table in schema_metadata(schema_of(connection)).sorted_tables:
        if not inspect(connection).has_table(table.name, schema=table.schema):
            raise MaintenanceError(f"{table.fullname} does not exist: run `provider-trace-store migrate upgrade` first")
        for index in missing_indexes(connection, table):
            yield table, index


class _Builder:
    """Builds indexes, and tells how far each is.

    Args:
        engine: for the connections on which statements run.
        connection: in autocommit mode, for looks at the catalog.
        patience: how long to wait for locks.
        stop: whether Ctrl-C was pressed.
        on_progress: as for `build_indexes`.
    """

    def __init__(
        self,
        engine: Engine,
        connection: Connection,
        patience: Patience,
        stop: Stop,
        on_progress: Callable[[Progress], object] | None,
    ) -> None:
        self._ddl = Ddl(engine, patience, stop)
        self._connection = connection
        self._stop = stop
        self._on_progress = on_progress
        self._meter: Meter | None = None
        self._phase = ""

    @property
    def statements(self) -> list[str]:
        """The statements that were run."""
        return self._ddl.statements

    def build(self, table: Table, index: Index) -> str:
        """Build an index, and return its name; a build by another session is waited for."""
        name = str(index.name)
        try:
            self._ddl.insist(partial(self._try, table, index))
        except DBAPIError as error:
            problem = f"{table.fullname}: the database refused to build {name} {refusal(error)}"
        else:
            if index not in missing_indexes(self._connection, table):
                return name
            problem = (
                f"{table.fullname}: the index {name} is still missing, although its statements were run: look for an "
                "index of this name with other columns, rename it, and run the command again"
            )
        raise MaintenanceError(problem)

    def _try(self, table: Table, index: Index) -> None:
        self._await_others(table)
        if index not in missing_indexes(self._connection, table):
            return
        steps = self._steps(table, index)
        for statement in steps.slow:
            self._ddl.run_long(statement, lambda: self._tell(table))
        for statement in steps.quick:
            self._ddl.run_quick(statement)
        self._mark(index, steps)

    def _steps(self, table: Table, index: Index) -> Steps:
        if self._connection.dialect.name != "postgresql":
            return Steps([statement_for_sqlite(self._connection.dialect, index)], [])
        return steps_for(self._connection, table, index)

    def _mark(self, index: Index, steps: Steps) -> None:
        """Mark an index that the steps created, so that a downgrade drops it as it drops those of a migration."""
        dialect = self._connection.dialect
        created = any(
            f" {quoted(dialect, str(index.name))} ON " in statement for statement in (*steps.slow, *steps.quick)
        )
        if dialect.name == "postgresql" and created:
            self._connection.execute(without_parameters(statement_of_mark(dialect, index)))

    def _await_others(self, table: Table) -> None:
        """Wait while a session builds an index of the table: a killed command leaves the server building."""
        if self._connection.dialect.name != "postgresql":
            return
        while self._tell(table):
            self._stop.wait(_POLL)
            self._stop.check()

    def _tell(self, table: Table) -> bool:
        """Tell how far a build on the table is; return False if there is none."""
        row = self._connection.execute(_BUILDING, {"name": quoted_table(self._connection, table)}).first()
        if row is None:
            return False
        meter = self._meter_for(row)
        meter.total = row.blocks_total or None
        blocks = max(row.blocks_done - meter.done, 0)
        meter.add(blocks, blocks * row.block_size, resume_at=f"{row.relation}, {row.phase}")
        return True

    def _meter_for(self, row: Row[Any]) -> Meter:
        """Return the meter of a phase of a build: each phase counts from 0."""
        phase = f"{row.relation} {row.phase}"
        if self._meter is None or phase != self._phase or row.blocks_done < self._meter.done:
            self._meter = Meter("index", self._on_progress, None, unit="blocks")
            self._phase = phase
        return self._meter
