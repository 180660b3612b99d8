"""The longest write of clients with `pack` beside them and without it, in turns on the same table."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from provider_trace_store import ProviderTrace, ProviderTraceRepository
from tests.chaos.client import numbered_id
from tests.chaos.kills import PACK, started
from tests.support.constants import ORG

if TYPE_CHECKING:
    from sqlalchemy import URL, Engine

CLIENTS: Final = 16
# The pause of a client after each write, in seconds at most: clients that never pause wait for each other's processors.
_PAUSE: Final = 0.04
# The table gets so many runs before each turn: about a megabyte each.
_RUNS: Final = 60
_CALLS: Final = 40
_TURN: Final = 1_200
# So that no two clients, and no client and the runs, make the same trace.
_A_CLIENT: Final = 1_000_000
_START: Final = datetime.now(UTC).replace(microsecond=0) - timedelta(days=2)


@dataclass
class Stall:
    """The writes of all turns, in seconds.

    Args:
        without: of those without `pack`.
        beside: of those with it.
    """

    without: list[float] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        """The longest write of each, and the difference, which is what `pack` causes."""
        one, other = max(self.without), max(self.beside)
        return (
            f"{CLIENTS} clients: longest of {len(self.without)} writes without pack {one * 1000:.0f} ms (99.9 %:"
            f" {_most(self.without) * 1000:.0f} ms), of {len(self.beside)} writes beside it {other * 1000:.0f} ms"
            f" (99.9 %: {_most(self.beside) * 1000:.0f} ms): stall caused by pack {(other - one) * 1000:.0f} ms"
        )


def measure_stall(url: URL, seconds: float, turns: int = 3) -> Stall:
    """Let clients add calls, and delete, restore and send again calls that `pack` packs, in turns with and without it.

    No two clients change the same call, so a client waits for the table, for the machine, or for `pack`.

    Args:
        url: of a migrated database.
        seconds: of a turn.
        turns: how many there are with `pack`, and as many without.
    """
    engine = create_engine(url, pool_size=CLIENTS)
    stall = Stall()
    for turn in range(turns):
        old = _fill(engine, turn)
        for is_packing in (False, True):
            first = (2 * turn + is_packing + 1) * CLIENTS * _A_CLIENT
            (stall.beside if is_packing else stall.without).extend(
                _turn(engine, seconds, first, old, is_packing=is_packing)
            )
    engine.dispose()
    return stall


def _fill(engine: Engine, turn: int) -> list[ProviderTrace]:
    """Store runs whose calls grow, as those of agents do; return their calls."""
    source = random.Random(turn)  # noqa: S311  (not for secrets)
    calls: list[ProviderTrace] = []
    for run in range(_RUNS):
        turns: list[str] = []
        traces = []
        for call in range(_CALLS):
            turns.append(" ".join(f"{source.getrandbits(20):x}" for _ in range(_TURN // 6)))
            traces.append(
                ProviderTrace(
                    id=numbered_id(_A_CLIENT // 2 + (turn * _RUNS + run) * _CALLS + call),
                    request_json={"messages": list(turns)},
                    response_json={"text": turns[-1][:100]},
                    agent_id="agent",
                    run_id=f"old-{turn}-{run}",
                    created_at=_START + timedelta(seconds=call),
                )
            )
        calls += traces
        with Session(engine) as session:
            ProviderTraceRepository(session, organization_id=ORG).create_many(traces)
            session.commit()
    return calls


def _turn(engine: Engine, seconds: float, first: int, old: list[ProviderTrace], *, is_packing: bool) -> list[float]:
    written: list[list[float]] = [[] for _ in range(CLIENTS)]
    # All connections are open, and the first write of each is done, before the time begins.
    ready = threading.Barrier(CLIENTS + 1)
    ended = threading.Event()

    def write(client: int) -> None:
        source = random.Random(client)  # noqa: S311  (not for secrets)
        mine = old[client::CLIENTS]
        with Session(engine) as session:
            repository = ProviderTraceRepository(session, organization_id=ORG)
            repository.create(_call(first + client * _A_CLIENT))
            session.commit()
            ready.wait()
            number = 1
            while not ended.is_set():
                kind = source.choice(["create", "create", "send again", "mark"])
                trace = source.choice(mine)
                made = _call(first + client * _A_CLIENT + number)
                began = time.monotonic()
                if kind == "create":
                    repository.create(made)
                elif kind == "send again":
                    repository.create_many([trace])
                else:
                    repository.delete(trace.id)
                    repository.restore(trace.id)
                session.commit()
                written[client].append(time.monotonic() - began)
                number += 1
                time.sleep(source.random() * _PAUSE)  # a client has other work, too

    threads = [threading.Thread(target=write, args=(client,)) for client in range(CLIENTS)]
    for thread in threads:
        thread.start()
    ready.wait()
    end = time.monotonic() + seconds
    while is_packing and time.monotonic() < end:
        with started(PACK, engine.url, "chaos-stall") as process:
            process.communicate()
    time.sleep(max(0.0, end - time.monotonic()))
    ended.set()
    for thread in threads:
        thread.join()
    return [each for one in written for each in one]


def _call(number: int) -> ProviderTrace:
    return ProviderTrace(
        id=numbered_id(number),
        request_json={"text": f"{number} " * 200},
        response_json={"number": number},
        run_id=f"run-{number // 20}",
        agent_id="agent",
        created_at=_START,
    )


def _most(seconds: list[float]) -> float:
    return sorted(seconds)[len(seconds) * 999 // 1000]
