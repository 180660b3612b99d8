"""Unpacking: moves packed traces back into the table of full traces, byte for byte."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import JSON, LargeBinary, Text, bindparam, cast, delete, insert, select, type_coerce
from sqlalchemy.types import NullType

from provider_trace_store.maintenance.progress import Meter, Stop, Throttle, one_at_a_time
from provider_trace_store.maintenance.reports import Report
from provider_trace_store.maintenance.stored_packs import (
    DamagedTracesError,
    PackFailure,
    StoredPack,
    attempted,
    contents,
    dates_of,
    delete_pack,
    listed,
    stored_pack,
)
from provider_trace_store.maintenance.transactions import UnexpectedCountError, begin, connected
from provider_trace_store.packs.format import PACKED_DOCUMENTS, DamagedPackError, Directory
from provider_trace_store.tables.ids import is_among, lookup_for
from provider_trace_store.tables.kinds import FULL, METADATA

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from uuid import UUID

    from sqlalchemy import Connection, Engine, Insert, Select

    from provider_trace_store.maintenance.progress import Progress
    from provider_trace_store.packs.format import Documents

# The raw bytes of the rows of one statement.
_BATCH_BYTES: Final = 4_000_000


@dataclass(frozen=True)
class UnpackReport(Report):
    """What `unpack` did; for a dry run, what it would do.

    Args:
        traces: the traces that are full traces again.
        packs: the packs that were unpacked.
        raw_bytes: the bytes of their documents.
        pruned: traces of these packs without a row of metadata: they were deleted for good, and are not restored.
        failures: the packs that stay as they are, with the reason.
        seconds: how long it took.
        is_dry_run: whether nothing was changed.
    """

    traces: int
    packs: int
    raw_bytes: int
    pruned: int
    failures: tuple[PackFailure, ...]
    seconds: float
    is_dry_run: bool


def unpack(  # noqa: PLR0913  (each is an option of the command)
    engine: Engine,
    *,
    organization_id: str | None = None,
    rate: float | None = None,
    pause: float = 0.0,
    dry_run: bool = False,
    on_progress: Callable[[Progress], object] | None = None,
) -> UnpackReport:
    """Move packed traces back into `provider_traces`. Each pack is one transaction: another call goes on after a kill.

    Args:
        engine: synchronous; its pool must allow two connections. `schema_translate_map` decides the schema.
        organization_id: only this organization; None for all.
        rate: the most MB (a million bytes) of documents a second; None for no limit.
        pause: a pause after each transaction, in seconds.
        dry_run: whether to change nothing, and to report what it would do.
        on_progress: called after each pack.

    Raises:
        InvalidArgumentError: an argument is out of its range.
        MaintenanceError: another command of maintenance runs.
    """
    throttle = Throttle(rate, pause)
    traces = packs = raw_bytes = pruned = 0
    failures: list[PackFailure] = []
    meter = Meter("unpack", on_progress, None)
    with Stop() as stop, one_at_a_time(engine), connected(engine) as connection:
        for row in listed(connection, organization_id):
            result = attempted(connection, row.id, partial(unpack_one, connection, row.id, dry_run=dry_run), "the pack")
            if isinstance(result, PackFailure):
                failures.append(result)
            elif result is not None:
                traces, pruned = traces + result[0], pruned + result[1]
                packs, raw_bytes = packs + 1, raw_bytes + row.raw_bytes
            meter.add(row.traces, row.raw_bytes)
            stop.check()
            if not dry_run:
                throttle.wait(row.raw_bytes, stop)
    return UnpackReport(traces, packs, raw_bytes, pruned, tuple(failures), round(meter.seconds, 3), dry_run)


def unpack_one(connection: Connection, pack_id: UUID, *, dry_run: bool = False) -> tuple[int, int] | None:
    """Move the traces of one pack back; return how many, and how many were pruned; None if the pack is gone.

    Args:
        connection: in a transaction, which the caller rolls back after an error.
        pack_id: the pack.
        dry_run: whether to read and to check only.

    Raises:
        DamagedPackError: the pack is damaged; nothing was changed if the caller rolls back.
        UnexpectedCountError: the database did not do what the statements say.
    """
    if not dry_run:
        begin(connection)
    stored = stored_pack(connection, pack_id, lock=not dry_run)
    if stored is None:
        return None
    directory = Directory(stored.pack.directory)
    kept = dates_of(connection, pack_id, directory.trace_ids, lock=not dry_run)
    wanted = [trace_id for trace_id in directory.trace_ids if trace_id in kept]
    for batch in _batches(stored, directory, wanted):
        if not dry_run:
            _insert(connection, pack_id, batch)
    if not dry_run:
        if wanted:
            lookup, parameters = lookup_for(wanted, connection.dialect.name)
            rows = delete(METADATA.table).where(is_among(METADATA, lookup), METADATA.table.c.pack_id == pack_id)
            deleted = connection.execute(rows, parameters).rowcount
            if deleted != len(wanted):
                raise UnexpectedCountError("deleting rows of metadata", len(wanted), deleted)
        delete_pack(connection, pack_id)
    return len(wanted), len(directory.trace_ids) - len(wanted)


def _batches(stored: StoredPack, directory: Directory, wanted: list[str]) -> Iterator[list[tuple[str, Documents]]]:
    batch: list[tuple[str, Documents]] = []
    damaged = []
    size = seen = 0
    for trace_id, documents in contents(stored, directory, wanted):
        seen += 1
        if isinstance(documents, DamagedPackError):
            damaged.append(trace_id)
        elif not damaged:
            batch.append((trace_id, documents))
            size += sum(len(document or b"") for document in documents)
        if size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    # All of the pack is read, so that the report names each damaged trace.
    if damaged:
        raise DamagedTracesError(damaged)
    if seen != len(wanted):
        raise UnexpectedCountError("reading traces of a pack", len(wanted), seen)
    if batch:
        yield batch


def _insert(connection: Connection, pack_id: UUID, batch: list[tuple[str, Documents]]) -> None:
    dialect = connection.dialect.name
    rows = [
        {"row_id": trace_id, "row_pack_id": pack_id}
        | {
            f"row_{name}": None if document is None else document.decode()
            for name, document in zip(PACKED_DOCUMENTS, documents, strict=True)
        }
        for trace_id, documents in batch
    ]
    connection.execute(_restoring(dialect), rows)
    lookup, parameters = lookup_for([trace_id for trace_id, _ in batch], dialect)
    stored = {
        row.id: tuple(row[1:]) for row in connection.execute(_texts(dialect).where(is_among(FULL, lookup)), parameters)
    }
    for trace_id, documents in batch:
        read_back = stored.get(trace_id, ())
        if tuple(value.encode() if isinstance(value, str) else value for value in read_back) != documents:
            raise UnexpectedCountError("reading the restored traces back: equal", 1, 0)


@cache
def _restoring(dialect: str) -> Insert:
    columns = METADATA.table.c
    names = [column.name for column in columns if column.name in FULL.table.columns]
    # Without the type, so that no column is read as text, or as a date, on its way.
    copied = [type_coerce(columns[name], NullType()) for name in names]
    texts: list[Any] = []
    for name in PACKED_DOCUMENTS:
        value = cast(bindparam(f"row_{name}", type_=Text), Text)
        texts.append(
            type_coerce(value, NullType()) if dialect == "sqlite" else type_coerce(cast(value, JSON), NullType())
        )
    row = select(*copied, *texts).where(
        columns.id == bindparam("row_id"), columns.pack_id == bindparam("row_pack_id", type_=columns.pack_id.type)
    )
    return insert(FULL.table).from_select([*names, *PACKED_DOCUMENTS], row)


@cache
def _texts(dialect: str) -> Select[Any]:
    # SQLite returns bytes: its driver refuses some texts.
    kind = LargeBinary if dialect == "sqlite" else Text
    return select(FULL.columns["id"], *(cast(FULL.columns[name], kind) for name in PACKED_DOCUMENTS))
