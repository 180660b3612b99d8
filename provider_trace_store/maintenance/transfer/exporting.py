"""Export: writes the rows of both tables into one file."""

from __future__ import annotations

from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from provider_trace_store.errors import InvalidArgumentError
from provider_trace_store.maintenance.conditions import check_tables
from provider_trace_store.maintenance.durations import check_zone
from provider_trace_store.maintenance.progress import Meter, Stop, Throttle
from provider_trace_store.maintenance.reports import Report
from provider_trace_store.maintenance.status_postgresql import estimated_rows
from provider_trace_store.maintenance.transfer.failures import translated
from provider_trace_store.maintenance.transfer.parquet import ParquetSink
from provider_trace_store.maintenance.transfer.reading import StoredTraces
from provider_trace_store.maintenance.transfer.sinks import LineSink, part_file, part_of
from provider_trace_store.tables.kinds import FULL, METADATA
from provider_trace_store.tables.moments import moment_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from typing import BinaryIO

    from sqlalchemy import Connection, Engine

    from provider_trace_store.maintenance.progress import Progress
    from provider_trace_store.maintenance.transfer.sinks import Sink

Format = Literal["jsonl", "parquet"]


@dataclass(frozen=True)
class ExportReport(Report):
    """What `export_traces` wrote.

    Args:
        file: the file.
        format: `jsonl` or `parquet`.
        rows: the rows in the file: full traces, packed ones and rows of metadata.
        resumed_rows: those of them that an earlier call had written before it was ended.
        raw_bytes: the bytes of the documents that this call wrote.
        file_bytes: the size of the file.
        unreadable: the rows that are not in the file: a damaged pack, a document that is not text, a date that is out
            of range.
        unreadable_ids: the ids of the first 100 of them.
        seconds: how long it took.
    """

    file: str
    format: Format
    rows: int
    resumed_rows: int
    raw_bytes: int
    file_bytes: int
    unreadable: int
    unreadable_ids: tuple[str, ...]
    seconds: float


def export_traces(  # noqa: PLR0913  (each is an option of the command)
    engine: Engine,
    file: str | Path,
    *,
    format: Format | None = None,  # noqa: A002  (the option's name)
    since: datetime | None = None,
    until: datetime | None = None,
    organization_id: str | None = None,
    rate: float | None = None,
    pause: float = 0.0,
    on_progress: Callable[[Progress], object] | None = None,
) -> ExportReport:
    """Write every stored row into a file: full and packed traces, metadata, and those that are marked as deleted.

    Only the package's columns are written. No lock is taken. A trace that is stored while the export runs is in the
    file if its date lies behind the row that is being read: end the range (`until`) where no client writes any more.

    It can be ended at any moment, also by `kill -9`: the same call goes on where the file is durable. A Parquet file is
    begun anew.

    Args:
        engine: synchronous. `schema_translate_map` decides the schema.
        file: must not exist. While it is written it has the suffix `.part`.
        format: by default `parquet` for a name that ends with `.parquet`, else `jsonl`: plain for a name that ends
            with `.jsonl`, else compressed by zstd with a window of 32 MB.
        since: only rows from this moment on, with a time zone; None for all.
        until: only rows before this moment, with a time zone; None for all. Rows without a date (adopted tables) are
            written if neither is given.
        organization_id: only this organization; None for all.
        rate: the most MB (a million bytes) of documents a second; None for no limit.
        pause: a pause after each batch, in seconds.
        on_progress: called after each batch.

    Raises:
        InvalidArgumentError: an argument is out of its range, the file exists, or its unfinished part is of an export
            with other options.
        MaintenanceError: another export writes the file, pyarrow is missing, or the database failed.
        PackSupportMissingError: Python has no zstd library.
        TableMissingError: the database has not been migrated.
    """
    path = Path(file)
    kind: Format = format or ("parquet" if path.suffix == ".parquet" else "jsonl")
    if kind not in ("jsonl", "parquet"):
        raise InvalidArgumentError("format", "must be jsonl or parquet")
    check_zone(since, "since")
    check_zone(until, "until")
    since, until = (None if moment is None else moment_of(moment) for moment in (since, until))
    throttle = Throttle(rate, pause)
    with translated("export"), Stop() as stop, _connected(engine) as connection, ExitStack() as stack:
        with connection.begin():
            check_tables(connection)
        part = stack.enter_context(part_file(path))
        total = None if since or until or organization_id else _estimate(connection)
        meter = Meter("export", on_progress, total)
        request = {
            "since": since and since.isoformat(),
            "until": until and until.isoformat(),
            "organization_id": organization_id,
            "file": path.name,
        }
        sink = stack.enter_context(closing(_sink(kind, path, part, request)))
        resumed = sink.rows
        meter.done = resumed
        traces = StoredTraces(connection, organization_id, since, until)
        try:
            for lines in traces.batches(sink.position):
                sink.write(lines)
                last = lines.position
                rows = lines.rows + len(lines.unreadable)
                meter.add(rows, lines.size, resume_at=None if last.created_at is None else str(last.created_at))
                stop.check()
                throttle.wait(lines.size, stop)
        except KeyboardInterrupt:
            sink.keep()
            raise
        out_of_range = list(traces.out_of_range())
        sink.finish()
        file_bytes = path.stat().st_size
    ids = (*sink.unreadable_ids, *out_of_range)[:100]
    unreadable = sink.unreadable + len(out_of_range)
    seconds = round(meter.seconds, 3)
    return ExportReport(str(path), kind, sink.rows, resumed, meter.raw_bytes, file_bytes, unreadable, ids, seconds)


def _sink(kind: Format, path: Path, part: BinaryIO, request: dict[str, Any]) -> Sink:
    if kind == "jsonl":
        return LineSink(path, part, request, is_compressed=path.suffix != ".jsonl")
    try:
        return ParquetSink(path, part)
    except Exception:
        part_of(path).unlink(missing_ok=True)
        raise


def _connected(engine: Engine) -> Connection:
    """Return a connection whose transactions each see one state of the database."""
    connection = engine.connect()
    if engine.dialect.name == "postgresql":
        connection = connection.execution_options(isolation_level="REPEATABLE READ")
    return connection


def _estimate(connection: Connection) -> int | None:
    """Return about how many rows both tables have, from PostgreSQL's statistics; None if it is not known."""
    if connection.dialect.name != "postgresql":
        return None
    with connection.begin():
        counts = [estimated_rows(connection, kind.table) for kind in (FULL, METADATA)]
    return None if None in counts else sum(filter(None, counts)) or None
