"""Verification of packs: each kind of damage is found, by ids."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

from sqlalchemy import delete, update

from provider_trace_store.maintenance import verify_packs
from provider_trace_store.packs.store import PACKS
from provider_trace_store.tables.kinds import METADATA
from tests.support.constants import SECRET
from tests.support.packed_tables import flip, store_packed
from tests.support.traces import a_batch, trace_id

if TYPE_CHECKING:
    from tests.support.servers import Database

ROWS = METADATA.table.c


def test_sound_packs(database: Database) -> None:
    engine = database.engine()
    store_packed(engine, a_batch(5))
    store_packed(engine, a_batch(5, first=10), "another")
    report = verify_packs(engine)
    assert (report.packs, report.traces, report.problems, report.findings, report.pruned) == (2, 10, 0, (), 0)
    assert verify_packs(engine, organization_id="another").packs == 1


def test_a_flipped_byte_is_found(database: Database) -> None:
    engine = database.engine()
    bad, worse = store_packed(engine, a_batch(5)), store_packed(engine, a_batch(5, first=10))
    store_packed(engine, a_batch(5, first=20))
    flip(engine, bad)
    flip(engine, worse, "directory")
    report = verify_packs(engine)
    assert {finding.pack_id for finding in report.findings} == {bad, worse}
    damaged = {finding.trace_id for finding in report.findings if finding.pack_id == bad}
    assert damaged
    assert damaged <= {trace_id(number) for number in range(5)}
    assert SECRET not in str(report.as_json())


def test_rows_that_do_not_fit_their_pack(database: Database) -> None:
    engine = database.engine()
    one, two, empty = (store_packed(engine, a_batch(3, first=first)) for first in (0, 10, 20))
    missing = uuid4()
    with engine.begin() as connection:
        connection.execute(update(METADATA.table).where(ROWS.id == trace_id(1)).values(pack_id=two))
        connection.execute(update(METADATA.table).where(ROWS.id == trace_id(2)).values(pack_id=missing))
        connection.execute(update(METADATA.table).where(ROWS.id == trace_id(10)).values(organization_id="another"))
        connection.execute(delete(METADATA.table).where(ROWS.pack_id == empty))
    found = {(finding.pack_id, finding.trace_id, finding.problem) for finding in verify_packs(engine).findings}
    assert found == {
        (two, trace_id(1), "its row of metadata names a pack that does not have it"),
        (missing, trace_id(2), "its row of metadata names a pack that is missing"),
        (two, trace_id(10), "its row of metadata has another organization than the pack"),
        (empty, None, "no row of metadata names it"),
    }
    with engine.begin() as connection:
        connection.execute(delete(PACKS).where(PACKS.c.id == one))
    assert (one, trace_id(0)) in {(finding.pack_id, finding.trace_id) for finding in verify_packs(engine).findings}
