"""Flips bits of packs and cuts them off: a read returns what was written, or an error.

python -m tests.chaos.packs_damage 10000
"""

from __future__ import annotations

import random
import sys
from base64 import b64encode
from collections import Counter
from typing import TYPE_CHECKING

from provider_trace_store.packs.format import DamagedPackError, without
from tests.support.packs import packed, read, run_of

if TYPE_CHECKING:
    from provider_trace_store.packs.format import Documents, Pack


def damage_packs(rounds: int, seed: int = 1) -> Counter[str]:
    """Damage a pack many times, and return how often a read was right, an error, or wrong.

    Args:
        rounds: how many times.
        seed: of the source of chance.
    """
    source = random.Random(seed)  # noqa: S311  (not for secrets)
    image = b64encode(source.randbytes(20_000))
    with_images: list[Documents] = [(b'{"image":"' + image + b'"}', *documents[:3]) for documents in run_of(9, 3)]
    pack, traces = packed([*(run_of(number, 6) for number in range(4)), with_images])
    results: Counter[str] = Counter()
    for _ in range(rounds):
        damaged = _damaged(pack, source)
        some = source.sample(sorted(traces), 2)
        for wanted in (some, None):
            results[_result_of_read(damaged, traces, wanted)] += 1
        if source.random() < 0.05:
            results[_result_of_rewrite(damaged, traces, some[0])] += 1
    return results


def _damaged(pack: Pack, source: random.Random) -> Pack:
    field = source.choice(["directory", "data"])
    content = bytearray(pack.directory if field == "directory" else pack.data)
    if source.random() < 0.3:
        del content[source.randrange(len(content)) :]
    else:
        for _ in range(source.choice([1, 1, 2, 8])):
            content[source.randrange(len(content))] ^= 1 << source.randrange(8)
    return pack._replace(directory=bytes(content)) if field == "directory" else pack._replace(data=bytes(content))


def _result_of_read(pack: Pack, traces: dict[str, Documents], wanted: list[str] | None) -> str:
    try:
        found = read(pack, wanted)
    except DamagedPackError:
        return "error of the directory"
    if set(found) != set(traces if wanted is None else wanted):
        return "wrong"
    errors = [documents for documents in found.values() if isinstance(documents, DamagedPackError)]
    if any(
        documents != traces[trace_id]
        for trace_id, documents in found.items()
        if not isinstance(documents, DamagedPackError)
    ):
        return "wrong"
    return "error of some traces" if errors else "right"


def _result_of_rewrite(pack: Pack, traces: dict[str, Documents], left_out: str) -> str:
    try:
        rewritten = without(pack, [left_out])
    except DamagedPackError:
        return "error of a rewrite"
    assert rewritten
    expected = {trace_id: documents for trace_id, documents in traces.items() if trace_id != left_out}
    return "right" if read(rewritten) == expected else "wrong"


if __name__ == "__main__":
    counted = damage_packs(int(sys.argv[1]))
    print(dict(counted))  # noqa: T201  (a command that prints)
    sys.exit(1 if counted["wrong"] else 0)
