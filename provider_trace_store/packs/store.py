"""Packs in the database: the parts of one that some traces are read from, and new packs."""

from __future__ import annotations

import sqlite3
from functools import cache
from typing import TYPE_CHECKING, Any, Final, cast
from uuid import UUID

from sqlalchemy import Integer, LargeBinary, bindparam, func, insert, literal_column, select
from uuid_utils import uuid7

from provider_trace_store.packs.format import DamagedPackError, Directory, Part
from provider_trace_store.packs.recent import Recent
from provider_trace_store.tables.models import ProviderTracePackRecord

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime

    from sqlalchemy import ColumnElement, Connection, Select, Table

    from provider_trace_store.packs.format import Documents, Pack

PACKS: Final = cast("Table", ProviderTracePackRecord.__table__)
# The most ranges that one statement reads: PostgreSQL's results have at most 1,664 columns.
_MAX_RANGES: Final = 64
# What each process keeps of the packs that it read, in bytes.
_RECENT_KEY_BYTES: Final = 12_000_000
_RECENT_DIRECTORY_BYTES: Final = 2_000_000
# What `is_stored` compares at a time.
_COMPARED_BYTES: Final = 2_000_000
_STORED: Final = select(
    PACKS.c.directory, func.length(PACKS.c.data).label("size"), PACKS.c.traces, PACKS.c.raw_bytes
).where(PACKS.c.id == bindparam("pack_id"))
# A pack is never changed: its id decides what is read from it.
_recent_keys: Final[Recent[tuple[UUID, int], bytes]] = Recent(_RECENT_KEY_BYTES)
_recent_directories: Final[Recent[UUID, Directory]] = Recent(_RECENT_DIRECTORY_BYTES)
_DIRECTORIES: Final = select(PACKS.c.id, PACKS.c.directory).where(PACKS.c.id.in_(bindparam("pack_ids", expanding=True)))
_ROWID: Final = select(literal_column("rowid", Integer)).select_from(PACKS).where(PACKS.c.id == bindparam("pack_id"))


def new_pack_id() -> UUID:
    """Return a new id of a pack; ids that are made later sort later."""
    return UUID(bytes=uuid7().bytes)


def documents_of(
    connection: Connection, wanted: Mapping[UUID, Collection[str]], *, use_recent: bool = False
) -> dict[str, Documents | DamagedPackError]:
    """Return the documents of packed traces by their ids, or the error for one whose part of a pack is damaged.

    A trace that its pack does not have, and one whose pack is gone, is left out: the pack was replaced after the row
    of metadata was read.

    Args:
        connection: the connection to the database that has the packs.
        wanted: the ids of the wanted traces of each pack.
        use_recent: whether what this process read lately is not read again; otherwise all is read as it is stored now.
    """
    directories = {pack_id: _recent_directories.find(pack_id) for pack_id in wanted} if use_recent else {}
    missing = [pack_id for pack_id in wanted if directories.get(pack_id) is None]
    stored: dict[UUID, bytes] = {}
    if missing:
        rows = connection.execute(_DIRECTORIES, {"pack_ids": missing})
        stored = {row.id: row.directory for row in rows}
    found: dict[str, Documents | DamagedPackError] = {}
    for pack_id, trace_ids in wanted.items():
        directory = directories.get(pack_id)
        try:
            if directory is None and pack_id in stored:
                directory = Directory(stored[pack_id])
                if use_recent:
                    # Its numbers and ids take about eight times its stored bytes.
                    _recent_directories.keep(pack_id, directory, 8 * len(stored[pack_id]))
            if directory is not None:
                found |= _documents(connection, pack_id, directory, trace_ids, use_recent=use_recent)
        except DamagedPackError as error:
            found |= dict.fromkeys(trace_ids, error)
    return found


def _documents(
    connection: Connection, pack_id: UUID, directory: Directory, trace_ids: Collection[str], *, use_recent: bool
) -> dict[str, Documents | DamagedPackError]:
    keys: dict[int, bytes] = {}
    find_key = (lambda frame: _recent_keys.find((pack_id, frame))) if use_recent else None
    wanted = directory.parts_of(trace_ids, keys, find_key)
    known = set(keys)
    parts = _read(connection, pack_id, wanted)
    if parts is None:
        return {}
    found = dict(directory.documents_of(trace_ids, parts, keys if use_recent else None))
    for frame in keys.keys() - known:
        _recent_keys.keep((pack_id, frame), keys[frame], len(keys[frame]))
    return found


def insert_pack(  # noqa: PLR0913  (one argument for each column)
    connection: Connection,
    pack_id: UUID,
    pack: Pack,
    *,
    organization_id: str,
    agent_id: str | None,
    first_created_at: datetime,
    last_created_at: datetime,
) -> None:
    """Insert a pack; arguments as the columns of `ProviderTracePackRecord`."""
    values = {
        "id": pack_id,
        "organization_id": organization_id,
        "agent_id": agent_id,
        "first_created_at": first_created_at,
        "last_created_at": last_created_at,
        "traces": pack.traces,
        "raw_bytes": pack.raw_bytes,
        "directory": pack.directory,
        "data": pack.data,
    }
    connection.execute(insert(PACKS), values)


def is_stored(connection: Connection, pack_id: UUID, pack: Pack) -> bool:
    """Return whether a pack reads back byte for byte; a few MB of it are in memory at a time.

    Args:
        connection: the connection that inserted it, in the same transaction.
        pack_id: its id.
        pack: the pack.
    """
    row = connection.execute(_STORED, {"pack_id": pack_id}).first()
    expected = pack.directory, len(pack.data), pack.traces, pack.raw_bytes
    if row is None or (bytes(row.directory), row.size, row.traces, row.raw_bytes) != expected:
        return False
    data = memoryview(pack.data)
    for start in range(0, len(data), _COMPARED_BYTES):
        span = Part(start, len(data[start : start + _COMPARED_BYTES]))
        contents = _contents(connection, pack_id, [span])
        if contents is None or contents[0] != data[start : start + span.length]:
            return False
    return True


def _read(connection: Connection, pack_id: UUID, parts: list[Part]) -> dict[Part, bytes] | None:
    """Return the content of parts of a pack's data, which are in the order of the data; None if the pack is gone."""
    ranges: list[list[Part]] = []
    for part in parts:
        if ranges and ranges[-1][-1].start + ranges[-1][-1].length == part.start:
            ranges[-1].append(part)
        else:
            ranges.append([part])
    found: dict[Part, bytes] = {}
    for first in range(0, len(ranges), _MAX_RANGES):
        chunk = ranges[first : first + _MAX_RANGES]
        spans = [Part(part[0].start, part[-1].start + part[-1].length - part[0].start) for part in chunk]
        contents = _contents(connection, pack_id, spans)
        if contents is None:
            return None
        for adjacent, content in zip(chunk, contents, strict=True):
            start = adjacent[0].start
            # Slices of a `bytes` copy: a range of one part, the usual case, is not sliced.
            found |= {
                part: content if len(adjacent) == 1 else content[part.start - start : part.start - start + part.length]
                for part in adjacent
            }
    return found


def _contents(connection: Connection, pack_id: UUID, spans: list[Part]) -> Sequence[bytes] | None:
    """Return the content of ranges of a pack's data; None if the pack is gone."""
    contents: Sequence[bytes] | None = _read_blob(connection, pack_id, spans)
    return _select(connection, pack_id, spans) if contents is None else contents


def _select(connection: Connection, pack_id: UUID, spans: list[Part]) -> Sequence[bytes] | None:
    """Return the content of ranges of a pack's data; None if the pack is gone."""
    parameters: dict[str, Any] = {"pack_id": pack_id}
    for number, span in enumerate(spans):
        parameters |= {f"start_{number}": span.start + 1, f"length_{number}": span.length}
    return connection.execute(_ranges_statement(len(spans)), parameters).first()


def _read_blob(connection: Connection, pack_id: UUID, spans: list[Part]) -> list[bytes] | None:
    """Return the content of ranges of a pack's data, read by SQLite's functions for blobs; None if that is impossible.

    `substr` reads the whole value for each range.
    """
    driver = connection.connection.driver_connection
    # Not the connection of aiosqlite, which belongs to another thread.
    if not isinstance(driver, sqlite3.Connection):
        return None
    rowid = connection.scalar(_ROWID, {"pack_id": pack_id})
    if rowid is None:
        return None
    schema = connection.schema_for_object(PACKS) or "main"
    contents = []
    try:
        with driver.blobopen(PACKS.name, "data", rowid, readonly=True, name=schema) as blob:
            for span in spans:
                blob.seek(span.start)
                contents.append(blob.read(span.length))
    except (sqlite3.Error, ValueError):
        # A damaged row: shorter than a range, or not a blob.
        return None
    return contents


@cache
def _ranges_statement(count: int) -> Select[Any]:
    columns: list[ColumnElement[Any]] = []
    for number in range(count):
        start = bindparam(f"start_{number}", type_=Integer)
        length = bindparam(f"length_{number}", type_=Integer)
        columns.append(func.substr(PACKS.c.data, start, length, type_=LargeBinary))
    return select(*columns).where(PACKS.c.id == bindparam("pack_id"))
