"""The state of the tables, at a glance, and what needs the operator."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

from provider_trace_store.errors import InvalidArgumentError
from provider_trace_store.maintenance import status_postgresql, status_sqlite
from provider_trace_store.maintenance.index_findings import index_findings
from provider_trace_store.maintenance.progress import schema_of
from provider_trace_store.maintenance.status_report import SpoolStatus, StatusReport, TableStatus
from provider_trace_store.maintenance.transactions import connected
from provider_trace_store.migrations import current, schema_metadata, scripts_config
from provider_trace_store.migrations.failures import translated
from provider_trace_store.migrations.scripts import revisions
from provider_trace_store.packs.store import PACKS
from provider_trace_store.spool.overview import look_at

if TYPE_CHECKING:
    from collections.abc import Iterator
    from os import PathLike

    from sqlalchemy import Connection, Engine

    from provider_trace_store.maintenance.status_report import IndexFinding, PackedShare

# A session that holds ACCESS EXCLUSIVE on a table is waited for.
_LOCK_TIMEOUT: Final = text("SET LOCAL lock_timeout = '2s'")
# Compiling a look-up takes longer than the look-up.
_NO_JIT: Final = text("SET LOCAL jit = off")


def status(engine: Engine, *, spool: str | PathLike[str] | None = None) -> StatusReport:
    """Return the state of the tables: sizes, dates, indexes, packs, and what needs the operator.

    It reads catalogs, statistics and the ends of indexes, and no large table: its time does not depend on the number of
    rows. It takes the same locks as a SELECT.

    Args:
        engine: its `schema_translate_map` decides the schema of the tables.
        spool: the spool directory of a writer; it is only read, while a writer may use it.

    Raises:
        MigrationError: the database did not answer, a table is locked, or the schema does not exist.
        InvalidArgumentError: `spool` is not a directory that can be read.
    """
    began = time.monotonic()
    # Before the database is asked: a wrong path is the faster error.
    in_spool = None if spool is None else _spool_status(Path(spool))
    with closing(connected(engine)) as connection:
        schema = schema_of(connection)
        revision = current(connection, schema=schema)
        report = translated(connection, schema, lambda: _report(connection, schema, revision, in_spool))
    return replace(report, seconds=time.monotonic() - began)


def _report(
    connection: Connection, schema: str | None, revision: str | None, spool: SpoolStatus | None
) -> StatusReport:
    known = revisions(ScriptDirectory.from_config(scripts_config()))
    is_postgresql = connection.dialect.name == "postgresql"
    default_compression, has_lz4, file_bytes, free_bytes = None, None, None, None
    with connection.begin():
        if is_postgresql:
            connection.execute(_LOCK_TIMEOUT)
            connection.execute(_NO_JIT)
            found = status_postgresql.server_of(connection)
            server, schema = found.server, schema or found.schema
            default_compression, has_lz4 = found.compression, found.has_lz4
        else:
            server = status_sqlite.server_of()
            file_bytes, free_bytes = status_sqlite.file_sizes(connection, schema)
        tables, indexes, packed = _tables(connection)
    needs = (
        *_needs_of_revision(revision, known),
        *_needs_of_tables(tables, revision),
        *_needs_of_indexes(indexes),
        *_needs_of_spool(spool),
    )
    return StatusReport(
        server=server,
        schema=schema,
        revision=revision,
        head=known[0],
        default_compression=default_compression,
        has_lz4=has_lz4,
        tables=tables,
        indexes=indexes,
        packed=packed,
        file_bytes=file_bytes,
        free_bytes=free_bytes,
        spool=spool,
        needs=needs,
        seconds=0.0,
    )


def _tables(connection: Connection) -> tuple[tuple[TableStatus, ...], tuple[IndexFinding, ...], PackedShare | None]:
    is_postgresql = connection.dialect.name == "postgresql"
    tables: list[TableStatus] = []
    indexes: list[IndexFinding] = []
    packed = None
    by_name = schema_metadata(schema_of(connection)).tables.values()
    # The full table comes first, the packs last.
    for table in sorted(by_name, key=lambda table: (table.name == PACKS.name, "request_json" not in table.columns)):
        if not inspect(connection).has_table(table.name, schema=table.schema):
            tables.append(TableStatus(name=table.name, exists=False))
            continue
        module = status_postgresql if is_postgresql else status_sqlite
        found = module.table_status(connection, table)
        if table.name == PACKS.name:
            packed, dates = (
                status_postgresql.packed_share(connection, table)
                if is_postgresql
                else status_sqlite.packed_share(connection)
            )
            found = replace(found, dates=dates)
        tables.append(found)
        indexes += index_findings(connection, table)
    return tuple(tables), tuple(indexes), packed


def _spool_status(directory: Path) -> SpoolStatus:
    try:
        return SpoolStatus(str(directory), *look_at(directory))
    except OSError as error:
        reason = error.strerror or type(error).__name__
    raise InvalidArgumentError("spool", f"must be a directory that can be read: {reason}")


def _needs_of_revision(revision: str | None, known: list[str]) -> Iterator[str]:
    if revision is None:
        yield "the tables were never migrated: run `provider-trace-store migrate upgrade`"
    elif revision not in known:
        yield f"the revision {revision} is newer than this version of the package: install a newer version"
    elif revision != known[0]:
        yield f"the revision is {revision}, the newest is {known[0]}: run `provider-trace-store migrate upgrade`"


def _needs_of_tables(tables: tuple[TableStatus, ...], revision: str | None) -> Iterator[str]:
    if revision is None:
        return
    for table in tables:
        if not table.exists:
            yield f"{table.name} does not exist: see `provider-trace-store migrate upgrade`"


def _needs_of_indexes(indexes: tuple[IndexFinding, ...]) -> Iterator[str]:
    for problem, remedy in (
        ("missing", "run `provider-trace-store index`, or the statements below"),
        ("invalid", "no query uses them, and each write pays for them: run the statements below"),
        ("duplicate", "each write pays for them: run the statements below"),
    ):
        if names := [index.name for index in indexes if index.problem == problem]:
            yield f"{problem} indexes: {', '.join(names)}; {remedy}"


def _needs_of_spool(spool: SpoolStatus | None) -> Iterator[str]:
    if spool is None:
        return
    if spool.rejected is None:
        yield f"rejected.db in {spool.directory} could not be read: run the command again, or see its permissions"
    elif spool.rejected:
        yield f"{spool.rejected} rejected traces in {spool.directory}: look at the table rejected_traces of rejected.db"
    if spool.damaged_bytes:
        yield f"{spool.damaged_bytes} bytes of damaged files in {spool.directory}: look at the files *.damaged"
