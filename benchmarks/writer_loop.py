"""How much later an asyncio loop comes to what is due while traces are submitted in it."""

from __future__ import annotations

import asyncio
import gc
from functools import partial
from random import Random
from selectors import SelectSelector
from typing import TYPE_CHECKING, Final

from benchmarks.bench import Bench, Load
from benchmarks.latency import Latencies, Latency, Percentiles, percentiles
from benchmarks.writer_setup import begun, submit

if TYPE_CHECKING:
    from collections.abc import Callable

    from provider_trace_store import ProviderTrace

_SIZE: Final = 42_000
_PACE: Final = 1_000
_TICK: Final = 0.001
_SUBMITS: Final = 2_000


def added(bench: Bench) -> Latencies:
    """Measure how late a tick every millisecond is, with submits in the same loop and without, in turn."""
    load = Load(_SIZE, bench.effort.of(_SUBMITS, at_least=100), 1)
    [traces] = bench.traces(load)
    late, without = Latency("ticks with the submits"), Latency("ticks without")
    difference = Latency("added")
    # The first round fills caches and does not count.
    for number in range(bench.effort.rounds + 1):
        if number % 2:
            busy, idle = _with_submits(bench, load, traces, number), _ticks(_nothing, traces, number)
        else:
            idle, busy = _ticks(_nothing, traces, number), _with_submits(bench, load, traces, number)
        if number:
            late.rounds.append(busy)
            without.rounds.append(idle)
            difference.rounds.append(Percentiles(busy.p50 - idle.p50, busy.p99 - idle.p99))
    return Latencies(difference, (late, without))


def _with_submits(bench: Bench, load: Load, traces: list[ProviderTrace], number: int) -> Percentiles:
    with begun(bench, load) as writer:
        return _ticks(partial(submit, writer), traces, number)


def _ticks(take: Callable[[ProviderTrace], None], traces: list[ProviderTrace], number: int) -> Percentiles:
    """Return how late ticks are in a loop that takes traces, given the number of the round."""
    gc.collect()
    # The usual selector, epoll, waits for whole milliseconds: a tick would be late by up to one, whatever else is
    # done in the loop.
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(SelectSelector())) as runner:
        return percentiles(runner.run(_lateness(take, traces, Random(number))))


async def _lateness(take: Callable[[ProviderTrace], None], traces: list[ProviderTrace], random: Random) -> list[float]:
    """Return how late each tick was, in seconds, while traces are taken in the same loop."""
    loop = asyncio.get_running_loop()
    begin = loop.time()
    taking = asyncio.create_task(_take_all(take, traces, random))
    late = []
    # A late tick does not postpone those behind it, which are then late, too.
    for number in range(1, round(len(traces) / _PACE / _TICK) + 1):
        due = begin + number * _TICK
        await asyncio.sleep(due - loop.time())
        late.append(loop.time() - due)
    await taking
    return late


async def _take_all(take: Callable[[ProviderTrace], None], traces: list[ProviderTrace], random: Random) -> None:
    """Take each at a random moment, as requests come: in step with the ticks, all would delay them, or none."""
    loop = asyncio.get_running_loop()
    due = loop.time()
    for trace in traces:
        due += random.expovariate(_PACE)
        await asyncio.sleep(due - loop.time())
        take(trace)


def _nothing(_: ProviderTrace) -> None:
    """Do what is compared with."""
