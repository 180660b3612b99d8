"""Calls of agents' runs, made up for packs."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING

from provider_trace_store.packs.format import DamagedPackError, Directory, PackBuilder

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

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
