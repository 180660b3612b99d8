"""What `submit` costs its caller, one 42 KB trace after the other."""

from __future__ import annotations

import gc
from dataclasses import replace
from time import perf_counter, sleep
from typing import TYPE_CHECKING, Final

from benchmarks import conversations, raw
from benchmarks.bench import Bench, Load
from benchmarks.latency import Latencies, Latency, percentiles
from benchmarks.writer_setup import begun, finish

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from provider_trace_store import ProviderTrace, TraceWriter

    Submitted = Callable[[TraceWriter, Sequence[ProviderTrace]], list[float]]

_SIZE: Final = 42_000
_CALLS: Final = 2_000
# As many as the loop's figure has, and a fraction of what the thread can store: the queue always has room.
_PACE: Final = 1_000
# Less than the thread takes at a time, and so all of them come into a queue that holds nothing before.
_BURST: Final = 80
# Different bodies, as many as the other traces have: into no cache of the processor's.
_ASCII_BODIES: Final = 480


def latencies(*, durable: bool) -> Callable[[Bench], Latencies]:
    """Return what measures a writer's `submit`: the call alone, on one thread, while the writer's thread stores.

    Args:
        durable: whether through the spool, else through memory.
    """

    def measure(bench: Bench) -> Latencies:
        load = Load(_SIZE, bench.effort.of(_CALLS, at_least=100), 1)
        [traces] = bench.traces(load)
        kinds: list[tuple[Latency, Submitted, list[ProviderTrace]]] = [
            (Latency(f"{_PACE:,} submits/s"), _paced, traces),
            (Latency(f"{_PACE:,} submits/s, bodies in ASCII"), _paced, _in_ascii(load)),
            (Latency(f"{_BURST} back to back into an empty queue"), _in_bursts, traces),
        ]
        # The first round fills caches and does not count.
        for number in range(bench.effort.rounds + 1):
            for latency, submitted, given in kinds:
                with begun(bench, load, durable=durable) as writer:
                    gc.collect()
                    seconds = submitted(writer, given)
                if number:
                    latency.rounds.append(percentiles(seconds))
        ours, *others = (latency for latency, _, _ in kinds)
        return Latencies(ours, tuple(others))

    return measure


def _in_ascii(load: Load) -> list[ProviderTrace]:
    """Return traces whose text takes one byte a character, in memory and in a copy: no text has to be encoded."""
    count = min(load.count, _ASCII_BODIES) // conversations.TURNS * conversations.TURNS
    exchanges = [
        replace(exchange, request=_ascii(exchange.request), response=_ascii(exchange.response))
        for exchange in conversations.exchanges(_SIZE, count)
    ]
    return list(conversations.repeated(conversations.parsed(exchanges), load.count))


def _ascii(body: bytes) -> bytes:
    return body.decode().encode("ascii", "replace")


def _paced(writer: TraceWriter, traces: Sequence[ProviderTrace]) -> list[float]:
    start = perf_counter()
    seconds = []
    for number, trace in enumerate(traces):
        if (early := start + number / _PACE - perf_counter()) > 0:
            sleep(early)
        seconds.append(_timed(writer, trace))
    return seconds


def _in_bursts(writer: TraceWriter, traces: Sequence[ProviderTrace]) -> list[float]:
    seconds = []
    for number, trace in enumerate(traces):
        if not number % _BURST:
            finish(writer)
        seconds.append(_timed(writer, trace))
    return seconds


def _timed(writer: TraceWriter, trace: ProviderTrace) -> float:
    began = perf_counter()
    writer.submit(trace, organization_id=raw.ORGANIZATION)
    return perf_counter() - began
