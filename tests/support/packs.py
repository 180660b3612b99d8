"""Packs for tests: calls of agents' runs, made up, and traces packed without `maintenance`."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

from sqlalchemy import Text, cast, delete, insert, select, type_coerce
from sqlalchemy.types import NullType

from provider_trace_store.packs.format import PACKED_DOCUMENTS, DamagedPackError, Directory, PackBuilder
from provider_trace_store.packs.store import insert_pack, new_pack_id
from provider_trace_store.tables.kinds import FULL, METADATA

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from uuid import UUID

    from sqlalchemy import Connection

    from provider_trace_store.packs.format import Documents, Pack

WORDS = [f"word{number}" for number in range(400)]


def text_of(source: random.Random, words: int) -> str:
    """Return text that compresses about as prose does.

    Args:
        source: the source of chance.
        words: the number of words.
    """
    return " ".join(source.choices(WORDS, k=words))


def run_of(seed: int, calls: int, words: int = 200) -> list[Documents]:
    """Return the documents of a run whose requests grow, the oldest call first.

    Args:
        seed: of the source of chance.
        calls: the number of calls.
        words: the words of each message.
    """
    source = random.Random(seed)  # noqa: S311
    messages = [{"role": "system", "content": text_of(source, 5 * words)}]
    made: list[Documents] = []
    for _ in range(calls):
        messages.append({"role": "user", "content": text_of(source, words)})
        answer = {"role": "assistant", "content": text_of(source, words)}
        request = json.dumps({"messages": messages}).encode()
        made.append((request, json.dumps(answer).encode(), None, b"{}"))
        messages.append(answer)
    return made


def packed(runs: Iterable[Sequence[Documents]]) -> tuple[Pack, dict[str, Documents]]:
    """Return a pack of runs, and its traces by their ids.

    Args:
        runs: the documents of each run, the oldest call first.
    """
    builder, traces = PackBuilder(), {}
    for run, calls in enumerate(runs):
        for number, documents in reversed(list(enumerate(calls))):
            trace_id = f"run {run} call {number}"
            builder.add(trace_id, documents)
            traces[trace_id] = documents
        builder.end_run()
    return builder.finish(), traces


def read(pack: Pack, trace_ids: Iterable[str] | None = None) -> dict[str, Documents | DamagedPackError]:
    """Return what is read from a pack.

    Args:
        pack: the pack.
        trace_ids: the wanted ids; None for all.
    """
    directory = Directory(pack.directory)
    wanted = directory.trace_ids if trace_ids is None else list(trace_ids)
    parts = {part: pack.data[part.start : part.start + part.length] for part in directory.parts_of(wanted)}
    return dict(directory.documents_of(wanted, parts))


def pack_now(connection: Connection, trace_ids: Sequence[str]) -> UUID:
    """Move full traces into one pack, in the caller's transaction, and return the pack's id.

    Args:
        connection: a connection to the database.
        trace_ids: traces of one organization, all of them in `provider_traces`.
    """
    full, metadata = FULL.table, METADATA.table
    texts = [cast(full.c[name], Text).label(name) for name in PACKED_DOCUMENTS]
    query = select(full.c.id, full.c.organization_id, full.c.created_at, full.c.agent_id, *texts)
    rows = connection.execute(
        query.where(full.c.id.in_(trace_ids)).order_by(full.c.created_at.desc(), full.c.id.desc())
    )
    stored = rows.all()
    assert sorted(row.id for row in stored) == sorted(trace_ids)
    builder = PackBuilder()
    for row in stored:
        documents: Any = tuple(None if text is None else text.encode() for text in row[-len(PACKED_DOCUMENTS) :])
        builder.add(row.id, documents)
    builder.end_run()
    pack_id = new_pack_id()
    insert_pack(
        connection,
        pack_id,
        builder.finish(),
        organization_id=stored[0].organization_id,
        agent_id=stored[0].agent_id,
        first_created_at=stored[-1].created_at,
        last_created_at=stored[0].created_at,
    )
    names = [METADATA.table_column(name) for name in (*METADATA.fields, "organization_id", "is_deleted")]
    # As the columns are stored: SQLAlchemy does not read them.
    kept = [type_coerce(full.c[name], NullType()) for name in names]
    moved = select(*kept, type_coerce(pack_id, metadata.c.pack_id.type)).where(full.c.id.in_(trace_ids))
    connection.execute(insert(metadata).from_select([*names, "pack_id"], moved))
    assert connection.execute(delete(full).where(full.c.id.in_(trace_ids))).rowcount == len(trace_ids)
    return pack_id
