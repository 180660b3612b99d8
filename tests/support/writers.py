"""Writers that a test closes, and the rows in the database and in the spool."""

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

# No server listens there.
NOWHERE: Final = "postgresql+psycopg://nobody:hunter2-secret@127.0.0.1:1/nothing?connect_timeout=2"


@contextmanager
def a_writer(database: Database, **options: Any) -> Iterator[TraceWriter]:
    """Return a writer on a database, with short pauses between retries; close it after the test."""
    defaults: dict[str, Any] = {"max_retry_delay": 0.1, "batch_age": 0.02, "handle_sigterm": False}
    bind = options.pop("bind", None) or database.engine()
    writer = TraceWriter(bind, **(defaults | options))
    try:
        yield writer
    finally:
        writer.close(PATIENCE)


@contextmanager
def a_writer_to_nowhere(**options: Any) -> Iterator[TraceWriter]:
    """Return a writer whose database does not answer."""
    defaults: dict[str, Any] = {"max_retry_delay": 0.1, "batch_age": 0.02, "handle_sigterm": False}
    writer = TraceWriter(create_engine(NOWHERE, poolclass=NullPool), **(defaults | options))
    try:
        yield writer
    finally:
        writer.close(0)


def assert_accounted(stats: WriterStats) -> None:
    """Assert that every accepted trace is in exactly one counter."""
    parts = stats.stored + stats.unchanged + stats.rejected + stats.spooled + stats.queued + stats.dropped
    assert stats.accepted == parts, stats


def ids_in(url: URL, *, metadata_only: bool = False) -> list[str]:
    """Return the id of each row of a table; an id of two rows comes twice."""
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
    """Return the names of the files in a spool, without the reject table."""
    return sorted(path.name for path in spool.iterdir() if not path.name.startswith("rejected.db"))
