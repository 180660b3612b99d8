"""Retention by whole partitions: a partition whose rows are all too old goes at once, where no row needs a look."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime  # noqa: TC003  (part of a public report)
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from provider_trace_store.database.names import literal, quoted, quoted_table, without_parameters
from provider_trace_store.errors import MaintenanceError
from provider_trace_store.maintenance.ddl import Ddl, refusal
from provider_trace_store.tables.kinds import METADATA

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection, Engine, Row

    from provider_trace_store.maintenance.progress import Stop
    from provider_trace_store.migrations.locking import Patience
    from provider_trace_store.tables.kinds import Kind

logger: Final = logging.getLogger("provider_trace_store.maintenance")

# A comment on a partition that was detached to be dropped: a killed command leaves it, and the next one drops it.
_TO_DROP: Final = "detached by provider_trace_store to be dropped, from"
_PARENT: Final = text(
    "SELECT format('%I.%I', nspname, relname) FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace "
    "WHERE pg_class.oid = CAST(CAST(:table AS text) AS regclass)"
)
# The partitions of a table that is partitioned by ranges of `created_at` alone. A partition that begins at MINVALUE can
# have rows without a readable date, which stay. A trigger or a foreign key must see each row that is deleted. Policies
# hide rows that a DELETE leaves.
_PARTITIONS: Final = text(
    """
    WITH parent AS (
        SELECT pg_class.oid, partdefid,
            pg_has_role(relowner, 'USAGE') AND NOT row_security_active(pg_class.oid) AS is_ours
        FROM pg_class JOIN pg_partitioned_table ON partrelid = pg_class.oid
        JOIN pg_attribute ON attrelid = pg_class.oid AND attnum = partattrs[0]
        WHERE pg_class.oid = CAST(CAST(:table AS text) AS regclass) AND partstrat = 'r' AND partnatts = 1
        AND attname = 'created_at'
    ), parts AS (
        SELECT child.oid, nspname, relname, inhdetachpending AS is_pending, parent.oid AS parent, partdefid,
            obj_description(child.oid, 'pg_class') AS comment,
            is_ours AND relkind IN ('r', 'p') AND pg_has_role(child.relowner, 'USAGE')
                AND NOT row_security_active(child.oid) AS is_ours,
            regexp_match(pg_get_expr(relpartbound, child.oid), '^FOR VALUES FROM [(]''(.*)''[)] TO [(]''(.*)''[)]$')
                AS bounds
        FROM parent JOIN pg_inherits ON inhparent = parent.oid JOIN pg_class AS child ON child.oid = inhrelid
        JOIN pg_namespace ON pg_namespace.oid = child.relnamespace
    ), trees AS (
        SELECT parts.oid, parent AS relid FROM parts UNION SELECT parts.oid, parts.oid FROM parts
        UNION SELECT parts.oid, tree.relid FROM parts, pg_partition_tree(parts.oid) AS tree
    )
    SELECT CAST(nspname AS text) AS schema, CAST(relname AS text) AS name, is_pending, partdefid <> 0 AS has_default,
        comment,
        CAST(bounds[2] AS timestamptz) AS until,
        is_ours AND CAST(bounds[1] AS timestamptz) > '-infinity' AND CAST(bounds[2] AS timestamptz) <= :cutoff
        AND NOT EXISTS (SELECT FROM trees JOIN pg_trigger ON tgrelid = relid WHERE trees.oid = parts.oid
            AND NOT tgisinternal AND tgtype & 8 = 8 AND tgenabled <> 'D')  -- before or after DELETE
        AND NOT EXISTS (SELECT FROM trees JOIN pg_constraint ON confrelid = relid WHERE trees.oid = parts.oid
            AND contype = 'f') AS may_go
    FROM parts ORDER BY until, name
    """
)
_LEFT: Final = text(
    "SELECT CAST(nspname AS text) AS schema, CAST(relname AS text) AS name FROM pg_class "
    "JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE relkind IN ('r', 'p') AND NOT relispartition "
    "AND pg_has_role(relowner, 'USAGE') AND obj_description(pg_class.oid, 'pg_class') = :comment ORDER BY 1, 2"
)


@dataclass(frozen=True)
class PrunedPartition:
    """A partition that went as a whole; for a dry run, one that would go.

    Args:
        name: its name, with its schema.
        until: its upper bound: all rows are from before this moment.
        rows: its rows, counted before it went; None for one that an interrupted run had detached.
    """

    name: str
    until: datetime | None
    rows: int | None


class Partitions:
    """The partitions of a table of PostgreSQL that hold only rows which are too old.

    Args:
        engine: for the statements that change tables.
        connection: without a transaction, for looks at the catalog and for counting.
        kind: the table; one that is not partitioned by date has no such partition.
        cutoff: rows from before this moment are too old.
        keep: whether partitions are detached, and their tables kept.
    """

    def __init__(self, engine: Engine, connection: Connection, kind: Kind, cutoff: datetime, *, keep: bool) -> None:
        self._engine = engine
        self._connection = connection
        self._kind = kind
        self._parent = quoted_table(connection, kind.table)
        self._cutoff = cutoff
        self._keep = keep
        with connection.begin():
            self._comment = f"{_TO_DROP} {connection.scalar(_PARENT, {'table': self._parent})}"

    def going(self) -> list[PrunedPartition]:
        """Return the partitions that go; one with a row of a packed trace stays, and its other rows are deleted."""
        rows = [row for row in self._rows() if row.may_go and not self._is_foreign(row)]
        counted = [(row, self._counted(row)) for row in rows]
        return [PrunedPartition(self._name(row), row.until, rows) for row, (rows, packed) in counted if not packed]

    def prune(self, patience: Patience, stop: Stop) -> Iterator[PrunedPartition]:
        """Detach or drop the partitions, and yield each one that is gone.

        A partition that an interrupted run began to detach is finalized, and one that it detached is dropped.

        Args:
            patience: how long a statement waits for a lock, and how often it is tried.
            stop: ends the wait between two tries.

        Raises:
            MaintenanceError: the database refused a statement, a lock was not free in any try, or another session
                detaches a partition.
        """
        ddl = Ddl(self._engine, patience, stop)
        going = self.going()
        names = {partition.name for partition in going}
        foreign = [name for row in self._rows() if row.is_pending and (name := self._name(row)) not in names]
        if going and foreign:
            raise MaintenanceError(
                f"{foreign[0]} waits for the end of its DETACH, and PostgreSQL detaches one partition at a time: run "
                f"ALTER TABLE {self._parent} DETACH PARTITION {foreign[0]} FINALIZE, then run the command again"
            )
        for partition in [*self._left(), *going]:
            self._run(ddl, partition)
            yield partition

    def _run(self, ddl: Ddl, partition: PrunedPartition) -> None:
        try:
            ddl.insist(partial(self._try, ddl, partition.name))
        except DBAPIError as error:
            self._unmark(ddl, partition.name)
            verb = "detach" if self._keep else "drop"
            problem = f"the database refused to {verb} the partition {partition.name} {refusal(error)}"
        else:
            return
        raise MaintenanceError(problem)

    def _try(self, ddl: Ddl, name: str) -> None:
        """Go on with a partition from the state that an earlier try left."""
        detach = f"ALTER TABLE {self._parent} DETACH PARTITION {name}"
        drops = [] if self._keep else [f"DROP TABLE IF EXISTS {name}"]
        found = self._found(name)
        if not found and name not in {each.name for each in self._left()}:
            return  # another session detached it, or it is kept
        if found and found[0].has_default and not found[0].is_pending:
            # PostgreSQL refuses CONCURRENTLY beside a default partition. One transaction leaves no half-way state.
            ddl.run_quick(detach, *drops)
            return
        if found and not self._keep:
            ddl.run_quick(f"COMMENT ON TABLE {name} IS {literal(self._comment)}")
        elif found:
            self._unmark(ddl, name)
        if found:
            ddl.run_alone(f"{detach} FINALIZE" if found[0].is_pending else f"{detach} CONCURRENTLY")
        if drops:
            ddl.run_quick(*drops)

    def _is_foreign(self, row: Row[Any]) -> bool:
        """Return whether another one began to detach a partition: it may want to keep the table."""
        return bool(row.is_pending) and not self._keep and row.comment != self._comment

    def _unmark(self, ddl: Ddl, name: str) -> None:
        """Take the mark from a partition that stays: a later run drops a table that has it."""
        try:
            if any(row.comment == self._comment for row in self._found(name)):
                ddl.run_quick(f"COMMENT ON TABLE {name} IS NULL")
        except DBAPIError as error:
            logger.warning("the comment on %s stays, and says that it is to be dropped %s", name, refusal(error))

    def _found(self, name: str) -> list[Row[Any]]:
        return [row for row in self._rows() if self._name(row) == name]

    def _left(self) -> list[PrunedPartition]:
        if self._keep:
            return []
        with self._connection.begin():
            rows = self._connection.execute(_LEFT, {"comment": self._comment}).all()
        return [PrunedPartition(self._name(row), None, None) for row in rows]

    def _rows(self) -> list[Row[Any]]:
        with self._connection.begin():
            return list(self._connection.execute(_PARTITIONS, {"table": self._parent, "cutoff": self._cutoff}))

    def _name(self, row: Row[Any]) -> str:
        return quoted(self._connection.dialect, row.schema, row.name)

    def _counted(self, row: Row[Any]) -> tuple[int, int]:
        packed = "count(pack_id)" if self._kind is METADATA else "0"
        counted = f"SELECT count(*), {packed} FROM {self._name(row)}"  # noqa: S608  (the name is quoted)
        with self._connection.begin():
            rows, of_packs = self._connection.execute(without_parameters(counted)).one()
        return rows, of_packs
