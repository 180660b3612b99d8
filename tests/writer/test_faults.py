"""One refused trace among good ones of other tenants: the writer stores the others, and keeps the refused one whole."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.support.batches import run_script
from tests.support.constants import ORG, PATIENCE, SECRET, TABLES
from tests.support.faults import partition_by_month, trigger
from tests.support.traces import a_batch, a_trace, trace_id
from tests.support.waiting import wait_until
from tests.support.writers import a_writer, assert_accounted, ids_in, rejects_in

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.servers import Database

CODES: Final = ("08006", "0A000", "25006", "38000", "40001", "42P01", "53100", "57014", "57P01", "XX000", "ABCDE")


@pytest.mark.parametrize("code", CODES)
def test_a_trigger_that_refuses_one_tenant_stops_no_other(postgres: Database, tmp_path: Path, code: str) -> None:
    run_script(postgres, *trigger(f"RAISE SQLSTATE '{code}'", TABLES[False], "new.organization_id = 'bad'"))
    with a_writer(postgres, spool_dir=tmp_path, durability="memory", batch_age=0.2) as writer:
        for trace in a_batch(50):
            writer.submit(trace, organization_id="bad" if trace.id == trace_id(20) else ORG)
        assert writer.flush(PATIENCE)
        assert (writer.stats.stored, writer.stats.rejected) == (49, 1)
    [row] = rejects_in(tmp_path)
    assert row["id"] == trace_id(20)
    assert code in row["reason"]
    assert SECRET in row["request_json"]


@pytest.mark.parametrize("code", ["0A000", "40001", "55000"])
def test_a_refused_trace_that_comes_alone_ends_in_a_bounded_number_of_tries(postgres: Database, code: str) -> None:
    run_script(postgres, *trigger(f"RAISE SQLSTATE '{code}'", TABLES[False], "new.organization_id = 'bad'"))
    with a_writer(postgres) as writer:
        writer.submit(a_trace(1000), organization_id="bad")
        for trace in a_batch(300):
            writer.submit(trace, organization_id=ORG)
            if writer.stats.rejected:
                break
            wait_until(lambda number=trace.id: number in ids_in(postgres.url))  # type: ignore[misc]  # the id of now
        assert writer.flush(PATIENCE)
        assert writer.stats.rejected == 1
        assert_accounted(writer.stats)


def test_traces_of_now_wait_for_their_partition_and_an_old_one_is_rejected(postgres: Database) -> None:
    partition_by_month(postgres, "2026-03-01", "2026-04-01")
    now = datetime.now(UTC)
    options: dict[str, Any] = {"metadata_only": True, "batch_age": 0.05}
    with a_writer(postgres, **options) as writer:
        for trace in a_batch(20):
            writer.submit(trace, organization_id=ORG)
        writer.submit(a_trace(100, created_at=datetime(1999, 1, 1, tzinfo=UTC)), organization_id=ORG)
        writer.submit(a_trace(101, created_at=now), organization_id=ORG)
        number = 1000
        while not writer.stats.rejected:
            writer.submit(a_trace(number, created_at=a_trace(1).created_at), organization_id=ORG)
            stored = writer.stats.stored
            wait_until(lambda before=stored: writer.stats.stored > before or writer.stats.rejected > 0)  # type: ignore[misc]  # of now
            number += 1
        assert writer.stats.rejected == 1
        run_script(postgres, "CREATE TABLE rest PARTITION OF provider_trace_metadata DEFAULT")
        assert writer.flush(PATIENCE)
        assert writer.stats.rejected == 1
    assert trace_id(101) in ids_in(postgres.url, metadata_only=True)


def test_a_trace_that_cannot_be_encoded_is_kept_whole(postgres: Database, tmp_path: Path) -> None:
    bad = a_trace(5, request_json={"a": {1, 2}})
    with a_writer(postgres, spool_dir=tmp_path, durability="memory") as writer:
        bad.__dict__["step_id"] = "a\ud800b"
        writer.submit(bad, organization_id=ORG)
        for trace in a_batch(5):
            writer.submit(trace, organization_id=ORG)
        assert writer.flush(PATIENCE)
        assert (writer.stats.stored, writer.stats.rejected) == (5, 1)
    [row] = rejects_in(tmp_path)
    assert row["step_id"] == '"a\\ud800b"'
    assert row["request_json"] == '{"a":{"$pts:kept":["set",[1,2]]}}'
