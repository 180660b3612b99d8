"""Erasure: a trace is gone from both tables and from its pack, and no byte of the others changes."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select

from provider_trace_store.maintenance import erase, unpack, verify_packs
from provider_trace_store.maintenance.unpacking import unpack_one
from provider_trace_store.packs.store import PACKS
from tests.support.constants import ORG, PATIENCE
from tests.support.packed_tables import await_a_lock, flip, raw_rows, row_counts, store, store_packed
from tests.support.packs import pack_now
from tests.support.traces import a_batch, a_trace, trace_id

if TYPE_CHECKING:
    from provider_trace_store import ProviderTrace
    from provider_trace_store.maintenance import EraseReport
    from tests.support.servers import Database


def a_run(calls: int) -> list[ProviderTrace]:
    """Return the calls of a run, each of which repeats the ones before: the last is the key of the others."""
    messages = [{"role": "user", "content": f"message {number} " * 50} for number in range(calls)]
    return [a_trace(number, run_id="run", request_json={"messages": messages[: number + 1]}) for number in range(calls)]


@pytest.mark.parametrize("erased", [[9], [4], [0, 4, 9]], ids=["key call", "delta call", "several"])
def test_the_others_stay_byte_for_byte(database: Database, erased: list[int]) -> None:
    engine = database.engine()
    traces = a_run(10)
    store(engine, traces)
    before = raw_rows(engine)
    with engine.begin() as connection:
        old = pack_now(connection, [trace.id for trace in traces])
    ids = [trace_id(number) for number in erased]
    report = erase(engine, ids, organization_id=ORG)
    assert (report.erased, report.packs_rewritten, report.packs_dropped) == (tuple(ids), 1, 0)
    assert row_counts(engine) == (0, 10 - len(ids), 1)
    with engine.connect() as connection:
        assert connection.scalar(select(PACKS.c.id)) != old
    assert verify_packs(engine).problems == 0
    assert unpack(engine).pruned == 0
    assert list(raw_rows(engine)) == [row for number, row in enumerate(before) if number not in erased]


def test_full_traces_and_the_last_of_a_pack(database: Database) -> None:
    engine = database.engine()
    store_packed(engine, a_batch(2))
    store(engine, a_batch(2, first=10))
    wanted = [trace_id(number) for number in (0, 1, 10, 99)]
    report = erase(engine, wanted, organization_id=ORG)
    assert (report.erased, report.packs_rewritten, report.packs_dropped) == (tuple(wanted[:3]), 0, 1)
    assert row_counts(engine) == (1, 0, 0)
    assert erase(engine, [*wanted, "\0"], organization_id=ORG).erased == ()


def test_another_organization_erases_nothing(database: Database) -> None:
    engine = database.engine()
    store_packed(engine, a_batch(2))
    store(engine, a_batch(2, first=10))
    ids = [trace_id(number) for number in (0, 1, 10, 11)]
    assert erase(engine, ids, organization_id="another").erased == ()
    assert row_counts(engine) == (2, 2, 1)


def test_the_callers_transaction_decides(database: Database) -> None:
    engine = database.engine()
    store_packed(engine, a_batch(3))
    with engine.connect() as connection:
        assert erase(connection, [trace_id(1)], organization_id=ORG).erased == (trace_id(1),)
        connection.rollback()
    assert row_counts(engine) == (0, 3, 1)
    assert verify_packs(engine).problems == 0


@pytest.mark.parametrize("column", ["data", "directory"])
def test_a_damaged_pack_is_reported(database: Database, column: str) -> None:
    engine = database.engine()
    flip(engine, store_packed(engine, a_batch(3)), column)
    store_packed(engine, a_batch(3, first=10))
    report = erase(engine, [trace_id(1), trace_id(11)], organization_id=ORG)
    assert trace_id(11) in report.erased
    assert trace_id(1) in {*report.damaged, *report.erased}


@pytest.mark.parametrize("moves", ["unpack", "pack"])
def test_a_trace_that_moves_meanwhile_is_erased(postgres: Database, moves: str) -> None:
    engine = postgres.engine()
    store(engine, a_batch(3))
    ids = [trace_id(number) for number in range(3)]
    reports: list[EraseReport] = []

    def client() -> None:
        reports.append(erase(postgres.engine(), [trace_id(1)], organization_id=ORG))

    pack_id = None
    if moves == "unpack":
        with engine.begin() as connection:
            pack_id = pack_now(connection, ids)
    thread = threading.Thread(target=client)
    with engine.begin() as connection:
        if pack_id is None:
            pack_now(connection, ids)
        else:
            unpack_one(connection, pack_id)
        thread.start()
        await_a_lock(postgres, thread)
    thread.join(PATIENCE)
    assert reports[0].erased == (trace_id(1),)
    assert sum(row_counts(engine)[:2]) == 2
    assert verify_packs(engine).problems == 0
