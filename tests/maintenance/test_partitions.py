"""Retention of partitioned tables: partitions whose rows are all too old go as a whole, and no row that must stay."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import pytest
from sqlalchemy import text

from provider_trace_store import MaintenanceError
from provider_trace_store.maintenance import backfill, partitions, prune, verify_packs
from tests.support.batches import run_script
from tests.support.commands import VARIABLE, run_on
from tests.support.constants import ORG
from tests.support.packed_tables import store, store_packed
from tests.support.traces import every_field
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from provider_trace_store.maintenance import PrunedTable
    from tests.support.servers import Database

pytestmark = pytest.mark.every_server

NOW: Final = datetime.now(UTC)
TODAY: Final = NOW.replace(hour=0, minute=0, second=0, microsecond=0)
AGE: Final = timedelta(days=30)


def days_ago(days: int) -> datetime:
    return TODAY - timedelta(days=days)


def partition(database: Database, *more: str, table: str = "provider_trace_metadata") -> None:
    """Put a partitioned table in the place of one, and fill it: 4 partitions of 10 days, the third only partly old.

    In the table then are the metadata of traces of 41 and 42, 35, 31 and 25, and 5 days.
    """
    run_script(
        database,
        f"ALTER TABLE {table} RENAME TO unparted",
        f"CREATE TABLE {table} (LIKE unparted INCLUDING DEFAULTS INCLUDING INDEXES) PARTITION BY RANGE (created_at)"
        if table == "provider_trace_metadata"
        else f"CREATE TABLE {table} (LIKE unparted INCLUDING DEFAULTS) PARTITION BY RANGE (created_at)",
        "DROP TABLE unparted",
        *([] if table == "provider_trace_metadata" else [f"CREATE INDEX ON {table} (organization_id, created_at, id)"]),
        *(
            f"CREATE TABLE from_{first} PARTITION OF {table} "
            f"FOR VALUES FROM ('{days_ago(first)}') TO ('{days_ago(end)}')"
            for first, end in ((50, 40), (40, 33), (33, 20), (20, -1))
        ),
        *more,
    )
    ages = (41, 42, 35, 31, 25, 5)
    store(database.engine(), [every_field(number, created_at=days_ago(age)) for number, age in enumerate(ages)])
    if table == "provider_trace_metadata":
        backfill(database.engine())


def tables_of(database: Database) -> list[str]:
    with database.engine().connect() as connection:
        found = connection.scalars(text("SELECT tablename FROM pg_tables WHERE tablename LIKE 'from%' ORDER BY 1"))
        return list(found)


def rows_of(database: Database, table: str = "provider_trace_metadata") -> int:
    with database.engine().connect() as connection:
        return int(connection.scalar(text(f"SELECT count(*) FROM {table}")) or 0)


def pruned(database: Database, **options: object) -> PrunedTable:
    report = prune(database.engine(), older_than=AGE, table="metadata", **options).metadata  # type: ignore[arg-type]  # options of prune
    assert report is not None
    return report


def parts(report: PrunedTable) -> Sequence[tuple[str, int | None]]:
    return [(each.name.removeprefix("public."), each.rows) for each in report.partitions]


def test_old_partitions_are_dropped_and_rows_of_a_partly_old_one_are_deleted(postgres: Database) -> None:
    partition(postgres)
    dry = json.loads(run_on(postgres, "prune", "--older-than", "30d", "--table", "all", "--dry-run", "--json").stdout)
    assert [(each["name"], each["rows"]) for each in dry["metadata"]["partitions"]] == [
        ("public.from_50", 2),
        ("public.from_40", 1),
    ]
    assert (dry["metadata"]["rows"], len(dry["metadata"]["days"]), dry["full"]["partitions"]) == (4, 4, [])
    assert rows_of(postgres) == 6
    done = run_on(postgres, "prune", "--older-than", "30d", "--table", "metadata")
    assert done.stdout.splitlines() == [
        "deleted 4 rows of metadata",
        "  partition public.from_50, dropped as a whole, rows: 2",
        "  partition public.from_40, dropped as a whole, rows: 1",
    ], done.stderr
    assert (rows_of(postgres), tables_of(postgres)) == (2, ["from_20", "from_33"])
    assert (pruned(postgres).rows, pruned(postgres).partitions) == (0, ())


def test_detached_partitions_are_kept_on_request(postgres: Database) -> None:
    partition(postgres)
    assert parts(pruned(postgres, detach=True)) == [("from_50", 2), ("from_40", 1)]
    assert (rows_of(postgres), rows_of(postgres, "from_50"), pruned(postgres).partitions) == (2, 2, ())
    assert len(tables_of(postgres)) == 4


def test_beside_a_default_partition_without_concurrently(postgres: Database) -> None:
    partition(postgres, "CREATE TABLE from_default PARTITION OF provider_trace_metadata DEFAULT")
    with postgres.engine().connect() as reader:
        reader.execute(text("SELECT count(*) FROM provider_trace_metadata"))
        partitions_before = tables_of(postgres)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("provider_trace_store.maintenance.pruning.DEFAULT_TRIES", 2)
            with pytest.raises(MaintenanceError, match="lock was not free in time"):
                pruned(postgres)
        assert tables_of(postgres) == partitions_before
    assert parts(pruned(postgres)) == [("from_50", 2), ("from_40", 1)]
    assert tables_of(postgres) == ["from_20", "from_33", "from_default"]


def test_a_partition_of_a_packed_trace_stays(postgres: Database) -> None:
    partition(postgres)
    packed = [every_field(100 + number, created_at=days_ago(age)) for number, age in enumerate((45, 5))]
    store_packed(postgres.engine(), packed)
    report = pruned(postgres)
    assert (report.rows, report.packed, parts(report)) == (4, 1, [("from_40", 1)])
    assert (rows_of(postgres, "from_50"), verify_packs(postgres.engine()).problems) == (1, 0)


@pytest.mark.parametrize(
    "reason",
    [
        "one organization",
        "CREATE TRIGGER audit BEFORE DELETE ON provider_trace_metadata FOR EACH ROW EXECUTE FUNCTION seen()",
        "CREATE TABLE notes (at timestamptz, id varchar, FOREIGN KEY (at, id) REFERENCES provider_trace_metadata)",
    ],
)
def test_rows_are_deleted_where_each_row_counts(postgres: Database, reason: str) -> None:
    seen = "CREATE FUNCTION seen() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN OLD; END $$"
    is_filtered = not reason.startswith("CREATE")
    partition(postgres, seen, *([] if is_filtered else [reason]))
    report = pruned(postgres, organization_id=ORG) if is_filtered else pruned(postgres)
    assert (report.rows, report.partitions, len(tables_of(postgres))) == (4, (), 4)


def test_full_traces_of_a_table_that_is_partitioned_by_date(postgres: Database) -> None:
    partition(postgres, table="provider_traces")
    report = prune(postgres.engine(), older_than=AGE).full
    assert report is not None
    assert (report.rows, parts(report)) == (4, [("from_50", 2), ("from_40", 1)])
    assert rows_of(postgres, "provider_traces") == 2


def test_a_killed_detach_is_finalized_and_a_detached_partition_is_dropped(postgres: Database) -> None:
    partition(postgres)
    environment = os.environ | {VARIABLE: postgres.url.render_as_string(hide_password=False)}
    arguments = [sys.executable, "-m", "provider_trace_store", "prune", "--older-than", "30d", "--table", "metadata"]
    pending = text("SELECT count(*) FROM pg_inherits WHERE inhdetachpending")

    def is_pending() -> bool:
        with postgres.engine().connect() as looker:
            return bool(looker.scalar(pending))

    sessions = "pg_locks JOIN pg_stat_activity USING (pid) WHERE datname = current_database()"

    def has_locks(condition: str) -> bool:
        with postgres.engine().connect() as looker:
            return bool(looker.scalar(text(f"SELECT count(*) FROM {sessions} AND {condition}")))

    with postgres.engine().connect() as reader:
        reader.execute(text("SELECT count(*) FROM provider_trace_metadata"))
        with subprocess.Popen(arguments, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as command:
            wait_until(lambda: is_pending() or command.poll() is not None)
            command.send_signal(signal.SIGKILL)
            command.communicate()
        # The server would go on with the statement when the reader has ended.
        run_script(postgres, f"SELECT pg_cancel_backend(pid) FROM {sessions} AND query LIKE 'ALTER TABLE%DETACH%'")
        wait_until(lambda: not has_locks("NOT granted"))
        assert is_pending()
        assert "from_50" in tables_of(postgres)
    wait_until(lambda: not has_locks("locktype = 'advisory'"))
    # One partition was detached to be dropped, as a command leaves it that was killed after the detach.
    comment = f"{partitions._TO_DROP} public.provider_trace_metadata"
    run_script(postgres, "CREATE TABLE from_left (id varchar)", f"COMMENT ON TABLE from_left IS '{comment}'")
    assert parts(pruned(postgres)) == [("from_left", None), ("from_50", 2), ("from_40", 1)]
    assert (is_pending(), tables_of(postgres), rows_of(postgres)) == (False, ["from_20", "from_33"], 2)
