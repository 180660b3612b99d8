"""What the tests of the writer share: writers that are closed, and what is in the database and in the spool."""

from __future__ import annotations

import sqlite3
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import NullPool, create_engine, text
from sqlalchemy.orm import Session

from provider_trace_store import ProviderTraceRepository, TraceWriter
from tests.support.constants import ORG, PATIENCE, TABLES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import URL

    from provider_trace_store import ProviderTrace, ProviderTraceMetadata, WriterStats
    from tests.support.servers import Database

# Where nobody listens.
NOWHERE: Final = "postgresql+psycopg://nobody:hunter2-secret@127.0.0.1:1/nothing?connect_timeout=2"


@contextmanager
def a_writer(database: Database, **options: Any) -> Iterator[TraceWriter]:
    """Return a writer on a database that tries again soon, and close it after the test."""
    defaults: dict[str, Any] = {"max_retry_delay": 0.1, "batch_age": 0.02, "handle_sigterm": False}
    writer = TraceWriter(database.engine(), **(defaults | options))
    try:
        yield writer
    finally:
        writer.close(PATIENCE)


@contextmanager
def a_writer_to_nowhere(**options: Any) -> Iterator[TraceWriter]:
    """Return a writer whose database is away."""
    defaults: dict[str, Any] = {"max_retry_delay": 0.1, "batch_age": 0.02, "handle_sigterm": False}
    writer = TraceWriter(create_engine(NOWHERE, poolclass=NullPool), **(defaults | options))
    try:
        yield writer
    finally:
        writer.close(0)


def assert_accounted(stats: WriterStats) -> None:
    """Look whether every trace is counted once."""
    parts = stats.stored + stats.unchanged + stats.rejected + stats.spooled + stats.queued + stats.dropped
    assert stats.accepted == parts, stats


def ids_in(url: URL, *, metadata_only: bool = False) -> list[str]:
    """Return the ids of all rows of a table, one as often as it is there."""
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        statement = text(f"SELECT id FROM {TABLES[metadata_only]} ORDER BY id")  # noqa: S608  (our own names)
        return list(connection.scalars(statement))


def read(database: Database, trace_id: str, organization_id: str = ORG) -> ProviderTrace | None:
    """Return a whole trace."""
    with Session(database.engine()) as session:
        return ProviderTraceRepository(session, organization_id=organization_id).get(trace_id)


def read_metadata(database: Database, trace_id: str) -> ProviderTraceMetadata | None:
    """Return the metadata of a trace."""
    with Session(database.engine()) as session:
        return ProviderTraceRepository(session, organization_id=ORG).get_metadata(trace_id)


def rejects_in(spool: Path) -> list[dict[str, Any]]:
    """Return the rows of a spool's reject table."""
    with closing(sqlite3.connect(spool / "rejected.db")) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute("SELECT * FROM rejected_traces ORDER BY rowid")]


def files_in(spool: Path) -> list[str]:
    """Return what is left in a spool, besides what was rejected."""
    return sorted(path.name for path in spool.iterdir() if not path.name.startswith("rejected.db"))
