"""Packs: the space that they take, the time that reads of packed traces take, and the rate of packing."""

import gzip
import json
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib import import_module
from pathlib import Path
from random import Random
from statistics import median
from typing import Any, Final

from sqlalchemy.orm import Session

from benchmarks.core.bench import Bench
from benchmarks.core.results import BenchmarkError, Contenders, Figure, Sample, Stopwatch
from benchmarks.data import rows
from provider_trace_store import ProviderTrace, ProviderTraceRepository
from provider_trace_store.maintenance import pack

# A file of calls, one JSON object a line, that replaces the generated calls: plain, `.gz` or `.zst`.
RUNS: Final = "PROVIDER_TRACE_STORE_BENCH_RUNS"
CHATS: Final = "PROVIDER_TRACE_STORE_BENCH_CHATS"

_RUNS, _CALLS, _TURN, _CHATS = 12, 38, 2_600, 1_000
_READS, _LISTED, _BATCH = 300, 12, 100
_WORDS: Final = 4_000
_AGE: Final = timedelta(days=30)


def figures() -> list[Figure]:
    """Return the figures of packs: all that one packing shows is measured once."""
    measured: dict[tuple[int, str], Sample] = {}

    def figure(name: str, title: str, key: str, limits: tuple[float, float], variable: str = RUNS) -> Figure:
        def contenders(bench: Bench) -> Contenders:
            def run(_: int) -> Sample:
                which = id(bench), variable
                if which not in measured:
                    measured[which] = _measure(bench, variable)
                return {key: measured[which][key]}

            return {"packs": run}

        at_most = key in ("ms", "times")
        return Figure(
            f"packs-{name}", title, contenders, (limits[0],), (limits[1],), (key,), once=True, more=not at_most
        )

    return [
        figure("size", "runs, JSON bytes a byte of packs", "packs", (90, 120)),
        figure("whole", "runs, full table before / packs + metadata", "all", (15, 25)),
        figure("chats", "chats, JSON bytes a byte of packs", "packs", (2.7, 4), CHATS),
        figure("get", "packed get - full get, p50", "ms", (1.0, 0.5)),
        figure("run", "list_by_run_id, packed / full", "times", (1.0, 0.5)),
        figure("rate", "pack with verification", "MB/s", (40, 80)),
    ]


def _measure(bench: Bench, variable: str) -> Sample:
    store = bench.postgres
    store.empty()
    path = os.environ.get(variable)
    calls = _read(Path(path)) if path else _runs(bench) if variable == RUNS else _chats(bench)
    ids, runs, size = [], dict[str, None](), 0
    with Session(store.engine) as session:
        repository = ProviderTraceRepository(session, organization_id=rows.ORGANIZATION)
        batch: list[ProviderTrace] = []
        start = datetime.now(UTC) - _AGE
        for number, call in enumerate(calls):
            run = call["run"] if variable == RUNS else None
            created_at = start + timedelta(seconds=number)
            bodies = {key: call[key] for key in rows.BODIES}
            trace = ProviderTrace(**bodies, run_id=run, agent_id=call.get("agent"), created_at=created_at)
            size += sum(
                len(json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()) for body in bodies.values()
            )
            ids.append(trace.id)
            runs |= {run: None} if run else {}
            batch.append(trace)
            if len(batch) == _BATCH:
                repository.create_many(batch)
                session.commit()
                batch.clear()
        repository.create_many(batch)
        session.commit()
    store.execute("VACUUM ANALYZE")
    some = Random(1).choices(ids, k=bench.effort.of(_READS, 3))
    listed = list(runs)[: bench.effort.of(_LISTED)]
    full, before = _size(bench, rows.FULL.table), _reads(bench, some, listed)
    with Stopwatch() as watch:
        pack(store.engine, older_than=timedelta(0), idle=timedelta(0))
    [[left]] = store.execute(f"SELECT count(*) FROM {rows.FULL.table}")
    if left:
        raise BenchmarkError(f"{left} traces were not packed")
    store.execute("VACUUM ANALYZE")
    packs, after = _size(bench, rows.PACKS), _reads(bench, some, listed)
    return {
        "packs": size / packs,
        "all": full / (packs + _size(bench, rows.METADATA.table)),
        "ms": (after[0] - before[0]) * 1e3,
        "times": after[1] / before[1] if listed else 0.0,
        "MB/s": size / watch.seconds / 1e6,
    }


def _reads(bench: Bench, ids: list[str], runs: list[str]) -> tuple[float, float]:
    """Return the median seconds of a `get`, and the seconds of all runs' lists; a first round does not count."""
    with Session(bench.postgres.engine) as session:
        repository = ProviderTraceRepository(session, organization_id=rows.ORGANIZATION)

        def seconds(read: Callable[[str], object], key: str) -> float:
            with Stopwatch() as watch:
                found = read(key)
            if not found:
                raise BenchmarkError(f"{key} was not found")
            return watch.seconds

        for _ in range(2):
            gets = median(seconds(repository.get, each) for each in ids)
            lists = sum(seconds(partial(repository.list_by_run_id, limit=1_000), each) for each in runs)
    return gets, lists


def _size(bench: Bench, table: str) -> int:
    [[size]] = bench.postgres.execute(f"SELECT pg_total_relation_size('{table}')")
    return int(size)


def _read(path: Path) -> Iterator[dict[str, Any]]:
    opener: Any = {".gz": gzip.open, ".zst": _open_zstd}.get(path.suffix, open)
    with opener(path, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def _open_zstd(path: Path, mode: str, encoding: str) -> Any:
    try:
        zstd = import_module("compression.zstd")
    except ImportError:
        zstd = import_module("backports.zstd")
    # The window of a file of runs may be longer than the default limit.
    return zstd.open(path, mode, encoding=encoding, options={zstd.DecompressionParameter.window_log_max: 31})


def _text(random: Random, size: int) -> str:
    """Return words, the common ones more often, with a number or a hexadecimal id now and then."""
    words = []
    while size > 0:
        chance = random.random()
        word = f"{random.getrandbits(32):x}" if chance < 0.05 else f"w{int(_WORDS ** random.random()):o}x"  # noqa: PLR2004
        words.append(word)
        size -= len(word) + 1
    return " ".join(words)


def _runs(bench: Bench) -> Iterator[dict[str, Any]]:
    random = Random(12)
    system = {"role": "system", "content": _text(random, 4_000)}
    for number in range(bench.effort.of(_RUNS)):
        messages = [system, {"role": "user", "content": _text(random, 3_000)}]
        for _ in range(_CALLS):
            answer = {"role": "assistant", "content": _text(random, _TURN // 4)}
            yield {
                "run": f"run-{number}",
                "agent": "agent",
                "request_json": {"model": "model", "messages": list(messages)},
                "response_json": {"choices": [{"message": answer}]},
            }
            messages += [answer, {"role": "tool", "content": _text(random, random.randrange(_TURN * 3 // 2))}]


def _chats(bench: Bench) -> Iterator[dict[str, Any]]:
    random = Random(13)
    for _ in range(bench.effort.of(_CHATS)):
        messages = [{"role": "user", "content": _text(random, random.randrange(200, 4_000))}]
        answer = {"role": "assistant", "content": _text(random, 600)}
        yield {"run": "", "request_json": {"messages": messages}, "response_json": {"choices": [{"message": answer}]}}
