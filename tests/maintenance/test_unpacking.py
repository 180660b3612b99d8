"""Unpacking: every byte and column is back in the table, a damaged pack stays, and a kill changes nothing."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import func, select, text, update
from sqlalchemy.orm import Session

from provider_trace_store import InvalidArgumentError, ProviderTraceRepository
from provider_trace_store.maintenance import unpack
from provider_trace_store.maintenance.unpacking import unpack_one
from provider_trace_store.packs.store import PACKS
from provider_trace_store.tables.kinds import FULL, METADATA
from tests.support.constants import ORG, PATIENCE
from tests.support.packs import pack_now
from tests.support.traces import a_batch, every_field, odd_traces, trace_id

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from sqlalchemy import Engine

    from provider_trace_store import ProviderTrace
    from tests.support.servers import Database


def store(engine: Engine, traces: Sequence[ProviderTrace], organization_id: str = ORG) -> None:
    with Session(engine) as session:
        ProviderTraceRepository(session, organization_id=organization_id).create_many(traces)
        session.commit()


def packed(engine: Engine, traces: Sequence[ProviderTrace], organization_id: str = ORG) -> UUID:
    store(engine, traces, organization_id)
    with engine.begin() as connection:
        return pack_now(connection, [trace.id for trace in traces])


def raw_rows(engine: Engine) -> Sequence[Any]:
    """Return the full table's rows as they are stored: all columns as text."""
    names = ", ".join(f"CAST({column.name} AS TEXT)" for column in FULL.table.columns)
    with engine.connect() as connection:
        return connection.execute(text(f"SELECT {names} FROM provider_traces ORDER BY id")).all()


def counts(engine: Engine) -> tuple[int, int, int]:
    """Return the rows of the full table, of the metadata and of the packs."""
    with engine.connect() as connection:
        full, metadata, packs = (
            connection.scalar(select(func.count()).select_from(table)) or 0
            for table in (FULL.table, METADATA.table, PACKS)
        )
        return full, metadata, packs


def flip(engine: Engine, pack_id: UUID, column: str = "data") -> None:
    """Change the byte in the middle of a pack's data or directory."""
    with engine.begin() as connection:
        stored = bytearray(connection.scalar(select(PACKS.c[column]).where(PACKS.c.id == pack_id)) or b"")
        stored[len(stored) // 2] ^= 0x41
        connection.execute(update(PACKS).where(PACKS.c.id == pack_id).values({column: bytes(stored)}))


def await_a_lock(database: Database, client: threading.Thread) -> None:
    """Return as soon as a session waits for a lock."""
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    with database.engine().connect().execution_options(isolation_level="AUTOCOMMIT") as observer:
        while not observer.scalar(waiting):
            assert client.is_alive()


def test_unpack_restores_every_byte_and_column(database: Database) -> None:
    engine = database.engine()
    traces = [*odd_traces(), *(every_field(number) for number in range(1000, 1020))]
    store(engine, traces)
    before = raw_rows(engine)
    with engine.begin() as connection:
        pack_now(connection, [trace.id for trace in traces])
    assert counts(engine) == (0, len(traces), 1)
    seen: list[Any] = []
    report = unpack(engine, on_progress=seen.append)
    assert (report.traces, report.packs, report.pruned, report.failures) == (len(traces), 1, 0, ())
    assert counts(engine) == (len(traces), 0, 0)
    assert raw_rows(engine) == before
    assert seen[-1].done == len(traces)
    assert unpack(engine).packs == 0


def test_unpack_takes_the_mark_of_the_metadata(database: Database) -> None:
    engine = database.engine()
    traces = a_batch(3)
    packed(engine, traces)
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
    assert counts(engine) == (2, 0, 0)


@pytest.mark.parametrize("column", ["data", "directory"])
def test_a_damaged_pack_stays_and_the_others_go(database: Database, column: str) -> None:
    engine = database.engine()
    bad = packed(engine, a_batch(3))
    packed(engine, a_batch(3, first=10))
    flip(engine, bad, column)
    report = unpack(engine)
    assert (report.traces, report.packs) == (3, 1)
    assert [failure.pack_id for failure in report.failures] == [bad]
    assert report.as_json()["failures"][0]["pack_id"] == str(bad)
    assert counts(engine) == (3, 3, 1)


def test_an_id_in_both_tables_leaves_the_pack(database: Database) -> None:
    engine = database.engine()
    packed(engine, a_batch(2))
    with Session(engine) as session:
        connection = session.connection()
        names = "id, request_json, response_json, organization_id, created_at, is_deleted"
        values = f"'{trace_id(1)}', '{{}}', '{{}}', 'another', CURRENT_TIMESTAMP, false"
        connection.execute(text(f"INSERT INTO provider_traces ({names}) VALUES ({values})"))
        session.commit()
    report = unpack(engine)
    assert (report.traces, len(report.failures)) == (0, 1)
    assert "refused" in report.failures[0].problem
    assert counts(engine) == (1, 2, 1)


def test_unpack_of_one_organization_and_a_dry_run(database: Database) -> None:
    engine = database.engine()
    packed(engine, a_batch(2))
    packed(engine, a_batch(2, first=10), "another")
    report = unpack(engine, organization_id=ORG, dry_run=True)
    assert (report.traces, report.packs, report.is_dry_run) == (2, 1, True)
    assert counts(engine) == (0, 4, 2)
    assert unpack(engine, organization_id=ORG).traces == 2
    assert counts(engine) == (2, 2, 1)


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
    assert counts(engine) == (3, 6, 2)
    if database.backend == "postgresql":
        # The server notices the end of the client; until then it holds the lock of the command.
        with engine.begin() as connection:
            end = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = current_database()"
            connection.execute(text(f"{end} AND pid <> pg_backend_pid() AND backend_type = 'client backend'"))
    assert unpack(engine).traces == 6
    assert raw_rows(engine) == before


def test_a_change_of_a_row_waits_for_unpack(postgres: Database) -> None:
    engine = postgres.engine()
    pack_id = packed(engine, a_batch(2))
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
    assert counts(engine) == (2, 0, 0)
