"""Unpacking: every byte and column is back in the table, a damaged pack stays, and a kill changes nothing."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import select, text, update
from sqlalchemy.orm import Session

from provider_trace_store import InvalidArgumentError
from provider_trace_store.maintenance import unpack
from provider_trace_store.maintenance.unpacking import unpack_one
from provider_trace_store.tables.kinds import FULL, METADATA
from tests.support.constants import ORG, PATIENCE
from tests.support.packed_tables import await_a_lock, flip, raw_rows, row_counts, store, store_packed
from tests.support.packs import pack_now
from tests.support.traces import a_batch, every_field, odd_traces, trace_id

if TYPE_CHECKING:
    from tests.support.servers import Database


def test_unpack_restores_every_byte_and_column(database: Database) -> None:
    engine = database.engine()
    traces = [*odd_traces(), *(every_field(number) for number in range(1000, 1020))]
    store(engine, traces)
    before = raw_rows(engine)
    with engine.begin() as connection:
        pack_now(connection, [trace.id for trace in traces])
    assert row_counts(engine) == (0, len(traces), 1)
    seen: list[Any] = []
    report = unpack(engine, on_progress=seen.append)
    assert (report.traces, report.packs, report.pruned, report.failures) == (len(traces), 1, 0, ())
    assert row_counts(engine) == (len(traces), 0, 0)
    assert raw_rows(engine) == before
    assert seen[-1].done == len(traces)
    assert unpack(engine).packs == 0


def test_unpack_takes_the_mark_of_the_metadata(database: Database) -> None:
    engine = database.engine()
    traces = a_batch(3)
    store_packed(engine, traces)
    with engine.begin() as connection:
        marked = update(METADATA.table).where(METADATA.table.c.id == trace_id(1)).values(is_deleted=True, user_id="u")
        connection.execute(marked)
        connection.execute(METADATA.table.delete().where(METADATA.table.c.id == trace_id(2)))
    report = unpack(engine)
    assert (report.traces, report.pruned) == (2, 1)
    with engine.connect() as connection:
        columns = FULL.table.c
        rows = connection.execute(select(columns.id, columns.is_deleted, columns.user_id).order_by(columns.id)).all()
    assert [tuple(row) for row in rows] == [(trace_id(0), False, None), (trace_id(1), True, "u")]
    assert row_counts(engine) == (2, 0, 0)


@pytest.mark.parametrize("column", ["data", "directory"])
def test_a_damaged_pack_stays_and_the_others_go(database: Database, column: str) -> None:
    engine = database.engine()
    bad = store_packed(engine, a_batch(3))
    store_packed(engine, a_batch(3, first=10))
    flip(engine, bad, column)
    report = unpack(engine)
    assert (report.traces, report.packs) == (3, 1)
    assert [failure.pack_id for failure in report.failures] == [bad]
    assert report.as_json()["failures"][0]["pack_id"] == str(bad)
    assert row_counts(engine) == (3, 3, 1)


def test_an_id_in_both_tables_leaves_the_pack(database: Database) -> None:
    engine = database.engine()
    store_packed(engine, a_batch(2))
    with Session(engine) as session:
        connection = session.connection()
        names = "id, request_json, response_json, organization_id, created_at, is_deleted"
        values = f"'{trace_id(1)}', '{{}}', '{{}}', 'another', CURRENT_TIMESTAMP, false"
        connection.execute(text(f"INSERT INTO provider_traces ({names}) VALUES ({values})"))
        session.commit()
    report = unpack(engine)
    assert (report.traces, len(report.failures)) == (0, 1)
    assert "refused" in report.failures[0].problem
    assert row_counts(engine) == (1, 2, 1)


def test_unpack_of_one_organization_and_a_dry_run(database: Database) -> None:
    engine = database.engine()
    store_packed(engine, a_batch(2))
    store_packed(engine, a_batch(2, first=10), "another")
    report = unpack(engine, organization_id=ORG, dry_run=True)
    assert (report.traces, report.packs, report.is_dry_run) == (2, 1, True)
    assert row_counts(engine) == (0, 4, 2)
    assert unpack(engine, organization_id=ORG).traces == 2
    assert row_counts(engine) == (2, 2, 1)


def test_arguments_out_of_range(database: Database) -> None:
    with pytest.raises(InvalidArgumentError):
        unpack(database.engine(), rate=0)


_KILLED = """
import sys, time
from sqlalchemy import create_engine, event
from provider_trace_store.maintenance import unpack
engine = create_engine(sys.argv[1])
@event.listens_for(engine, "before_cursor_execute")
def wait(connection, cursor, statement, *_):
    if statement.startswith("DELETE FROM provider_trace_packs"):
        wait.count = getattr(wait, "count", 0) + 1
        if wait.count == 2:
            print("in the middle", flush=True)
            time.sleep(600)
unpack(engine)
"""


def test_a_killed_unpack_goes_on(database: Database) -> None:
    engine = database.engine()
    traces = a_batch(9)
    store(engine, traces)
    before = raw_rows(engine)
    for first in (0, 3, 6):
        with engine.begin() as connection:
            pack_now(connection, [trace.id for trace in traces[first : first + 3]])
    url = database.url.render_as_string(hide_password=False)
    with subprocess.Popen([sys.executable, "-c", _KILLED, url], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "in the middle\n"
        process.send_signal(signal.SIGKILL)
    assert row_counts(engine) == (3, 6, 2)
    if database.backend == "postgresql":
        # The server notices the end of the client; until then it holds the lock of the command.
        with engine.begin() as connection:
            end = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = current_database()"
            connection.execute(text(f"{end} AND pid <> pg_backend_pid() AND backend_type = 'client backend'"))
    assert unpack(engine).traces == 6
    assert raw_rows(engine) == before


def test_a_change_of_a_row_waits_for_unpack(postgres: Database) -> None:
    engine = postgres.engine()
    pack_id = store_packed(engine, a_batch(2))
    changed: list[int] = []

    def delete() -> None:
        with postgres.engine().begin() as connection:
            rows = update(METADATA.table).where(METADATA.table.c.id == trace_id(1)).values(is_deleted=True)
            changed.append(connection.execute(rows).rowcount)

    with engine.begin() as connection:
        assert unpack_one(connection, pack_id) == (2, 0)
        client = threading.Thread(target=delete)
        client.start()
        await_a_lock(postgres, client)
    client.join(PATIENCE)
    # The row moved while the change waited: the client looks in the full table again.
    assert changed == [0]
    assert row_counts(engine) == (2, 0, 0)
