"""Import: writes the rows of an exported file into both tables, by the rules of `create_many`."""

from __future__ import annotations

import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy.orm import Session

from provider_trace_store.errors import MaintenanceError
from provider_trace_store.maintenance.batches import batches_of
from provider_trace_store.maintenance.progress import Meter, Stop, Throttle, one_at_a_time
from provider_trace_store.maintenance.reports import Report
from provider_trace_store.maintenance.transactions import connected
from provider_trace_store.maintenance.transfer import parquet
from provider_trace_store.maintenance.transfer.failures import translated
from provider_trace_store.maintenance.transfer.lines import read_summary, stored_in
from provider_trace_store.maintenance.transfer.stored import Source, source_of
from provider_trace_store.packs.zstd import open_stream
from provider_trace_store.tables.kinds import FULL, METADATA
from provider_trace_store.writes.bulk import create_rows
from provider_trace_store.writes.chunks import MAX_BYTES, MAX_ROWS
from provider_trace_store.writes.single import RowStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from io import BufferedIOBase

    from sqlalchemy import Connection, Engine

    from provider_trace_store.maintenance.progress import Progress
    from provider_trace_store.maintenance.transfer.stored import StoredTrace
    from provider_trace_store.tables.kinds import Kind
    from provider_trace_store.tables.rows import Row

_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_PARQUET: Final = b"PAR1"
_SAMPLE: Final = 100  # rejections that a report names
_DAMAGED: Final = "the file is damaged or not complete; nothing was imported: export it again"


@dataclass(frozen=True)
class Rejection:
    """A row that was not imported.

    Args:
        trace_id: the trace.
        reason: why, without content.
    """

    trace_id: str
    reason: str


@dataclass(frozen=True)
class ImportReport(Report):
    """What `import_traces` did.

    Args:
        rows: the rows of the file.
        created: the rows that were inserted.
        unchanged: the rows that were stored already, with the same content.
        rejected: the rows that were not imported.
        rejections: the first 100 of them.
        raw_bytes: the bytes of the documents.
        seconds: how long it took.
    """

    rows: int
    created: int
    unchanged: int
    rejected: int
    rejections: tuple[Rejection, ...]
    raw_bytes: int
    seconds: float


def import_traces(
    engine: Engine,
    file: str | Path,
    *,
    rate: float | None = None,
    pause: float = 0.0,
    on_progress: Callable[[Progress], object] | None = None,
) -> ImportReport:
    """Store the rows of an exported file, each for its own organization, with the same text of every document.

    The file is checked first: if its checksum or its number of rows is wrong, nothing is imported. Full and packed
    traces become full traces, metadata becomes metadata, and deleted rows stay deleted. A row that is stored already
    with the same content is left as it is, so the same call again, after a kill or an error, does what is left. A row
    whose id is stored with other content is rejected, and the stored row stands.

    Args:
        engine: synchronous; its pool must allow two connections. `schema_translate_map` decides the schema.
        file: as `export_traces` wrote it; its content says which format it has.
        rate: the most MB (a million bytes) of documents a second; None for no limit.
        pause: a pause after each transaction, in seconds.
        on_progress: called after each transaction.

    Raises:
        InvalidArgumentError: an argument is out of its range.
        MaintenanceError: the file is damaged, the database failed, or another command of maintenance runs.
        ProviderTraceUnavailableError: the database could not store rows now; the same call goes on.
        TableMissingError: the database has not been migrated.
    """
    throttle = Throttle(rate, pause)
    path = Path(file)
    rows = _checked_rows(path)
    meter = Meter("import", on_progress, rows)
    created = unchanged = rejected = 0
    rejections: list[Rejection] = []

    def reject(trace_id: str, error: Exception) -> None:
        nonlocal rejected
        rejected += 1
        if len(rejections) < _SAMPLE:
            rejections.append(Rejection(trace_id, str(error)))

    with translated("import"), Stop() as stop, one_at_a_time(engine), connected(engine) as connection:
        sources_of_file = _sources(_stored_rows(path))
        for batch in batches_of(sources_of_file, lambda each: each[1].row.size, rows=MAX_ROWS, size=MAX_BYTES):
            for kind in (FULL, METADATA):
                if sources := [source for each, source in batch if each is kind]:
                    result = _store(connection, kind, sources, reject)
                    created, unchanged = created + result[0], unchanged + result[1]
            size = sum(source.size for _, source in batch)
            meter.add(len(batch), size)
            stop.check()
            throttle.wait(size, stop)
    return ImportReport(
        meter.done, created, unchanged, rejected, tuple(rejections), meter.raw_bytes, round(meter.seconds, 3)
    )


def _store(
    connection: Connection, kind: Kind, sources: list[Source], reject: Callable[[str, Exception], None]
) -> tuple[int, int]:
    """Store rows in a transaction of their own; return how many were created and how many were there."""
    refused: list[tuple[str, Exception]] = []
    with Session(connection) as session:
        result = create_rows(
            RowStore(session, kind),
            sources,
            lambda source: source.row,
            lambda refusal, error: refused.append((_id_of(refusal), error)),
            lambda row, error: refused.append((row.trace_id, error)),
        )
        session.commit()
    for trace_id, error in refused:
        reject(trace_id, error)
    return result.created, result.unchanged


def _id_of(refused: Row | Source) -> str:
    return refused.id if isinstance(refused, Source) else refused.trace_id


def _sources(stored: Iterable[StoredTrace]) -> Iterator[tuple[Kind, Source]]:
    for number, each in enumerate(stored, start=1):
        yield each.kind, source_of(each, f"row {number} of the file")


def _checked_rows(path: Path) -> int:
    """Return the number of rows of a file; MaintenanceError if it is not complete."""
    if _is_parquet(path):
        rows = parquet.rows_in(path)
        if sum(1 for _ in parquet.stored_rows_in(path)) != rows:
            raise MaintenanceError(_DAMAGED)
        return rows
    rows = checksum = 0
    with _opened(path) as lines:
        last = b""
        for line in lines:
            if last:
                checksum = zlib.crc32(last, checksum)
                rows += 1
            last = line
    if read_summary(last) != (rows, checksum):
        raise MaintenanceError(_DAMAGED)
    return rows


def _stored_rows(path: Path) -> Iterator[StoredTrace]:
    if _is_parquet(path):
        yield from parquet.stored_rows_in(path)
        return
    with _opened(path) as lines:
        for number, line in enumerate(lines, start=1):
            if read_summary(line) is not None:
                return
            yield stored_in(line, number)


def _is_parquet(path: Path) -> bool:
    return _start_of(path) == _PARQUET


def _start_of(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(len(_PARQUET))
    except OSError as error:
        reason = error.strerror
    raise MaintenanceError(f"the file cannot be read: {reason}")


@contextmanager
def _opened(path: Path) -> Iterator[BufferedIOBase]:
    is_damaged = False
    try:
        with open_stream(path) if _start_of(path) == _ZSTD else path.open("rb") as lines:
            yield lines
    except (EOFError, OSError, ValueError):
        is_damaged = True
    if is_damaged:
        raise MaintenanceError(_DAMAGED)
