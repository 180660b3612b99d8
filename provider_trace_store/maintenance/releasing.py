"""The way out of an adoption: removes what the migrations added, and leaves the host's tables and rows."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from sqlalchemy.exc import DBAPIError

from provider_trace_store.database.names import quoted_table, without_parameters
from provider_trace_store.errors import MaintenanceError
from provider_trace_store.maintenance.ddl import Ddl, refusal
from provider_trace_store.maintenance.progress import Stop, one_at_a_time, schema_of
from provider_trace_store.maintenance.release_plan import Plan, ReleasedTable, checked_names, packs_of, plan_of
from provider_trace_store.maintenance.reports import Report
from provider_trace_store.maintenance.transactions import connected
from provider_trace_store.migrations import DEFAULT_LOCK_TIMEOUT, DEFAULT_TRIES, schema_metadata
from provider_trace_store.migrations.checks import kind_of
from provider_trace_store.migrations.dropping import check_drop
from provider_trace_store.migrations.failures import translated
from provider_trace_store.migrations.locking import Patience, run_exclusively
from provider_trace_store.migrations.placement import check_placement
from provider_trace_store.migrations.rows import lock, why_not_empty
from provider_trace_store.migrations.scripts import Scripts, down

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy import Connection, Engine


@dataclass(frozen=True)
class ReleaseReport(Report):
    """What `release` did; for a dry run, what it would do.

    Args:
        revision: the revision that the tables had; None if they had no version table.
        tables: what happened to each table that exists.
        statements: the statements that were run, or would be, in this order, without semicolons.
        seconds: how long it took.
        is_dry_run: whether nothing was changed.
    """

    revision: str | None
    tables: tuple[ReleasedTable, ...]
    statements: tuple[str, ...]
    seconds: float
    is_dry_run: bool


def release(  # noqa: PLR0913  (each is an option of the command)
    engine: Engine,
    *,
    drop_tables: Collection[str] = (),
    keep_columns: bool = False,
    lock_timeout: float = DEFAULT_LOCK_TIMEOUT,
    tries: int = DEFAULT_TRIES,
    dry_run: bool = False,
) -> ReleaseReport:
    """Undo the adoption of a host's tables: the host keeps its tables with all rows.

    The version table goes. From an adopted table, the indexes and columns go that a migration or `build_indexes`
    created. A table that a migration created stays with all that belongs to it, unless `drop_tables` names it. An
    adopted table is never dropped.

    PostgreSQL drops each index with CONCURRENTLY, one after the other; those of a partitioned table under a lock of the
    table for milliseconds. One transaction drops all else, the version table among it. The function can be stopped at
    any moment, and called again: it goes on with what is left. `upgrade` adopts the tables again.

    Args:
        engine: its `schema_translate_map` decides the schema; on PostgreSQL the function needs three connections.
        drop_tables: tables that a migration created and that go with their rows, without a schema.
        keep_columns: whether the columns that migrations added to adopted tables stay, with their values.
        lock_timeout: how long a statement waits for a lock of a table, in seconds; 0 waits without a limit.
        tries: how often a statement is tried whose lock is not free, from 1 to 1000, with growing pauses.
        dry_run: whether to change nothing, and report what it would do.

    Raises:
        MaintenanceError: packs have traces, `drop_tables` names an adopted table, the database refused a statement, or
            another command of maintenance runs.
        MigrationLockError: a lock was not free in any try.
        MigrationError: a newer version of the package migrated the tables, or other objects depend on a table that
            `drop_tables` names.
        InvalidArgumentError: an argument is out of its range.
    """
    began = time.monotonic()
    names = checked_names(drop_tables)
    with connected(engine) as connection:
        patience = Patience(schema_of(connection), lock_timeout, tries)
        work = _Release(connection, patience, names, keep_columns=keep_columns)
        if dry_run:
            revision, plan = translated(connection, patience.schema, work.look)
            return ReleaseReport(
                revision, tuple(plan.tables), plan.statements, time.monotonic() - began, is_dry_run=True
            )
        with one_at_a_time(engine), Stop() as stop:
            revision, plan = translated(connection, patience.schema, work.look)
            ddl = Ddl(engine, patience, stop)
            _drop_indexes(ddl, plan)
            stop.check()
            if plan.final:
                run = partial(run_exclusively, connection, work.finish, patience)
                translated(connection, patience.schema, run)
    done = (*ddl.statements, *work.done)
    return ReleaseReport(revision, tuple(plan.tables), done, time.monotonic() - began, is_dry_run=False)


def _drop_indexes(ddl: Ddl, plan: Plan) -> None:
    for statement in (*plan.concurrent, *plan.quick):
        run = ddl.run_long if statement in plan.concurrent else ddl.run_quick
        try:
            ddl.insist(partial(run, statement))
        except DBAPIError as error:
            problem = f"the database refused {statement} {refusal(error)}"
        else:
            continue
        raise MaintenanceError(problem)


class _Release:
    """The release of the tables of one database.

    Args:
        connection: for looks at the database, and the last transaction.
        patience: the schema, and how long to wait for locks.
        drop_tables: as for `release`.
        keep_columns: as for `release`.
    """

    def __init__(
        self, connection: Connection, patience: Patience, drop_tables: frozenset[str], *, keep_columns: bool
    ) -> None:
        self.done: tuple[str, ...] = ()
        self._connection = connection
        self._schema = patience.schema
        self._drop_tables = drop_tables
        self._keep_columns = keep_columns

    def look(self) -> tuple[str | None, Plan]:
        """Return the revision of the tables and the plan, in a transaction of its own; check that a release may run."""
        scripts = Scripts(down, "base", self._schema)
        with self._connection.begin():
            check_placement(self._connection, self._schema)
            heads = scripts.heads(self._connection)
            scripts.has_steps(heads)  # raises an error for a revision of a newer version
            self._check_packs()
            return next(iter(heads), None), self._plan()

    def finish(self) -> None:
        """Drop all that is left in the transaction of the connection, which limits the waits for locks."""
        tables = {table.name: table for table in schema_metadata(self._schema).sorted_tables}
        packs = packs_of(self._schema)
        if kind_of(self._connection, packs) == "a table":
            # Keeps a packer out that does not take the lock of maintenance.
            lock(self._connection, packs, "SHARE")
        self._check_packs()
        plan = self._plan()
        for released in plan.tables:
            if released.is_dropped:
                check_drop(self._connection, tables[released.name], is_named=False, may_drop_rows=True)
        for statement in plan.final:
            self._connection.execute(without_parameters(statement))
        self.done = tuple(plan.final)

    def _plan(self) -> Plan:
        return plan_of(self._connection, self._schema, self._drop_tables, keep_columns=self._keep_columns)

    def _check_packs(self) -> None:
        packs = packs_of(self._schema)
        if kind_of(self._connection, packs) != "a table":
            return
        if reason := why_not_empty(self._connection, packs):
            name = quoted_table(self._connection, packs)
            raise MaintenanceError(
                f"{name} {reason}, and only this package reads packed traces; nothing was changed: run "
                "`provider-trace-store unpack` first, which returns the traces to provider_traces"
            )
