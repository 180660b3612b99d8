"""Retention of packs: bodies that are too old go, their metadata stays."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import func, select

from provider_trace_store.maintenance import prune_packs, unpack, verify_packs
from provider_trace_store.tables.kinds import METADATA
from tests.support.constants import ORG
from tests.support.packed_tables import flip, row_counts, store_packed
from tests.support.traces import a_trace

if TYPE_CHECKING:
    from provider_trace_store import ProviderTrace
    from tests.support.servers import Database

AGE = timedelta(days=30)


def aged(first: int, *days: int) -> list[ProviderTrace]:
    """Return traces of these ages, in days."""
    now = datetime.now(UTC)
    return [a_trace(first + number, created_at=now - timedelta(days=day)) for number, day in enumerate(days)]


def packed_rows(database: Database) -> int:
    with database.engine().connect() as connection:
        packed_ones = select(func.count()).where(METADATA.table.c.pack_id.is_not(None))
        return connection.scalar(packed_ones) or 0


def test_old_packs_are_dropped_and_young_ones_stay(database: Database) -> None:
    engine = database.engine()
    store_packed(engine, aged(0, 40, 50))
    store_packed(engine, aged(10, 1, 2))
    store_packed(engine, aged(20, 40, 50), "another")
    dry = prune_packs(engine, older_than=AGE, organization_id=ORG, dry_run=True)
    assert (dry.traces, dry.packs_dropped, row_counts(engine)) == (2, 1, (0, 6, 3))
    report = prune_packs(engine, older_than=AGE, organization_id=ORG)
    assert (report.traces, report.packs_dropped, report.packs_rewritten) == (2, 1, 0)
    assert row_counts(engine) == (0, 6, 2)
    assert packed_rows(database) == 4
    assert verify_packs(engine).problems == 0


@pytest.mark.parametrize(("ages", "expired"), [((40, 41, 1), 2), ((40, 1, 2, 3), 0)])
def test_a_mixed_pack_is_rewritten_when_half_of_it_is_too_old(
    database: Database, ages: tuple[int, ...], expired: int
) -> None:
    engine = database.engine()
    store_packed(engine, aged(0, *ages))
    report = prune_packs(engine, older_than=AGE)
    assert (report.traces, report.packs_dropped, report.packs_rewritten) == (expired, 0, bool(expired))
    assert packed_rows(database) == len(ages) - expired
    assert verify_packs(engine).problems == 0
    assert unpack(engine).traces == len(ages) - expired


@pytest.mark.parametrize("column", ["data", "directory"])
def test_a_damaged_pack(database: Database, column: str) -> None:
    engine = database.engine()
    old, mixed = store_packed(engine, aged(0, 40, 50)), store_packed(engine, aged(10, 40, 41, 1))
    flip(engine, old, column)
    flip(engine, mixed, column)
    report = prune_packs(engine, older_than=AGE)
    assert (report.traces, report.packs_dropped) == (2, 1)
    assert [failure.pack_id for failure in report.failures] == [mixed]
    assert packed_rows(database) == 3
