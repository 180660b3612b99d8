"""The command: fills the tables at each size, asks, prints tables, writes a document and the page for `docs`."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from benchmarks import environment, server
from benchmarks.bench import Bench, Effort
from benchmarks.scale import iteration, page, sizes, writes
from tests.support.servers import ServerError

if TYPE_CHECKING:
    from collections.abc import Sequence

_SIZES: Final = (100_000, 1_000_000, 10_000_000)
_QUICK: Final = Effort(rounds=1, scale=0.025)
_QUICK_SIZES: Final = (1_000, 5_000)
# Of a small server for a database of this size. The table and its indexes are several times as large.
_SETTINGS: Final = {"shared_buffers": "2GB", "effective_cache_size": "8GB", "maintenance_work_mem": "1GB"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: of the command line; by default this process's.

    Returns:
        0, or 2 where there is nothing to measure on. A figure that falls short is no failure: times are noisy.
    """
    options = _options(arguments)
    if options.docs and not find_spec("matplotlib"):
        print("--docs draws with matplotlib: pip install --group bench", file=sys.stderr)
        return 2
    if options.read:
        document = json.loads(options.read.read_text(encoding="utf-8"))
    else:
        # The database is dropped and the server ended on the way out.
        signal.signal(signal.SIGTERM, _leave)
        try:
            document = _measured(options)
        except ServerError as error:
            print(f"no server to measure on: {error}", file=sys.stderr)
            return 2
    print(page.text(document))
    if options.json:
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    if options.docs:
        page.write(document, options.docs)
    return 0


def _measured(options: argparse.Namespace) -> dict[str, Any]:
    default = _QUICK if options.quick else Effort(rounds=3)
    effort = Effort(options.rounds or default.rounds, default.scale)
    wanted = sorted(options.sizes or (_QUICK_SIZES if options.quick else _SIZES))
    url = options.url or os.environ.get(server.VARIABLE)
    began = time.monotonic()

    def tell(what: str) -> None:
        print(f"[{time.monotonic() - began:>6.0f} s] {what}", file=sys.stderr, flush=True)

    silent = options.quick
    with server.database(url, _SETTINGS) as (address, way), Bench(address, effort) as bench:
        document: dict[str, Any] = {
            "environment": environment.describe(bench, way),
            "effort": asdict(effort),
            "sizes": [sizes.measure(bench, rows, (lambda _: None) if silent else tell) for rows in wanted],
        }
        count = iteration.wanted(wanted[-1])
        document["iteration"] = page.comparison(iteration.compare(bench, count)) | {"traces": count}
        document["memory"] = asdict(iteration.memory(bench, count))
        document["writes"] = [asdict(cost) for cost in writes.measure(bench, wanted[-1])]
        document["seconds"] = time.monotonic() - began
    return document


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description="Reads of tables that grow.")
    parser.add_argument("--sizes", type=_numbers, metavar="ROWS,…", help="of metadata rows; 100,000 to 10,000,000")
    parser.add_argument("--quick", action="store_true", help="small tables and few calls, to see that it works")
    parser.add_argument("--rounds", type=int, help="of reading a million traces, 3 by default")
    parser.add_argument("--url", help=f"of a role that may create databases on a PostgreSQL; else {server.VARIABLE}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write all figures with all samples")
    parser.add_argument("--docs", type=Path, metavar="DIR", help="where to write scale.md and scale.svg")
    parser.add_argument("--read", type=Path, metavar="FILE", help="measure nothing: take what --json wrote")
    return parser.parse_args(arguments)


def _numbers(text: str) -> list[int]:
    return [int(part.replace("_", "")) for part in text.split(",")]


def _leave(*_: object) -> NoReturn:
    raise SystemExit(143)


if __name__ == "__main__":
    sys.exit(main())
