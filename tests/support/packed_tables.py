"""Traces stored and packed by hand, what the tables hold, and damage, for the tests of maintenance."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select, text, update
from sqlalchemy.orm import Session

from provider_trace_store import ProviderTraceRepository
from provider_trace_store.packs.store import PACKS
from provider_trace_store.tables.kinds import FULL, METADATA
from tests.support.constants import ORG
from tests.support.packs import pack_now

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future
    from uuid import UUID

    from sqlalchemy import Engine

    from provider_trace_store import ProviderTrace
    from tests.support.servers import Database


def store(engine: Engine, traces: Sequence[ProviderTrace], organization_id: str = ORG) -> None:
    with Session(engine) as session:
        ProviderTraceRepository(session, organization_id=organization_id).create_many(traces)
        session.commit()


def store_packed(engine: Engine, traces: Sequence[ProviderTrace], organization_id: str = ORG) -> UUID:
    store(engine, traces, organization_id)
    with engine.begin() as connection:
        return pack_now(connection, [trace.id for trace in traces])


def raw_rows(engine: Engine) -> Sequence[Any]:
    """Return the full table's rows as they are stored: all columns as text."""
    names = ", ".join(f"CAST({column.name} AS TEXT)" for column in FULL.table.columns)
    with engine.connect() as connection:
        return connection.execute(text(f"SELECT {names} FROM provider_traces ORDER BY id")).all()  # noqa: S608  (our own names)


def row_counts(engine: Engine) -> tuple[int, int, int]:
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


def await_a_lock(database: Database, client: threading.Thread | Future[Any]) -> None:
    """Return as soon as a session waits for a lock; fail if the client that should wait has ended."""
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    with database.engine().connect().execution_options(isolation_level="AUTOCOMMIT") as observer:
        while not observer.scalar(waiting):
            assert client.is_alive() if isinstance(client, threading.Thread) else not client.done()
