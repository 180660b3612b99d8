"""The command: measures what it is asked for, prints a table, writes a document."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from dataclasses import asdict
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from benchmarks import environment, report, server, suite
from benchmarks.bench import Bench, Effort
from tests.support.servers import ServerError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.figures import Figure

_QUICK: Final = Effort(rounds=1, scale=0.01)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: of the command line; by default this process's.

    Returns:
        0, or 1 where a figure could not be measured. A ratio that falls short is no failure: times are noisy.
    """
    options = _options(arguments)
    chosen = [figure for figure in suite.figures() if _is_chosen(figure, options.only)]
    if options.list or not chosen:
        print(*(figure.name for figure in chosen or suite.figures()), sep="\n")
        return 0 if chosen else 2
    default = _QUICK if options.quick else Effort()
    effort = Effort(options.rounds or default.rounds, options.scale or default.scale)
    # The database is dropped and the server ended on the way out.
    signal.signal(signal.SIGTERM, _leave)
    began = time.monotonic()
    try:
        with server.database(options.url or os.environ.get(server.VARIABLE)) as (url, way), Bench(url, effort) as bench:
            values = environment.describe(bench, way)
            print(report.environment(values))
            print(report.HEADER)
            results = [_measured(figure, bench) for figure in chosen]
    except ServerError as error:
        print(f"no server to measure on: {error}", file=sys.stderr)
        return 2
    print(f"\n{len(results)} figures in {time.monotonic() - began:.0f} s, medians of {effort.rounds} rounds")
    if options.json:
        document = report.document(values, asdict(effort), results)
        options.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return int(any(result.error for result in results))


def _measured(figure: Figure, bench: Bench) -> report.Result:
    try:
        result = report.Result(figure, figure.measure(bench))
    except Exception as error:  # noqa: BLE001  # one figure's failure does not cost the others
        result = report.Result(figure, None, f"{type(error).__name__}: {error}"[:300])
        bench.recover()
    print(report.table(result), flush=True)
    return result


def _is_chosen(figure: Figure, patterns: Sequence[str] | None) -> bool:
    return not patterns or any(fnmatch(figure.name, pattern) for pattern in patterns)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Ours beside the raw driver.")
    parser.add_argument(
        "--url",
        help=f"of a role that may create databases on a PostgreSQL; by default {server.VARIABLE}, else a PostgreSQL"
        " of this machine with lz4, else Docker's, else the wheel of the tests",
    )
    parser.add_argument(
        "--only", action="append", metavar="NAME", help="a figure, or a pattern such as 'get-*'; repeatable"
    )
    parser.add_argument("--list", action="store_true", help="print the figures' names")
    parser.add_argument("--quick", action="store_true", help="a few traces each, to see that it works")
    parser.add_argument("--rounds", type=_positive_int, help=f"that count, {Effort().rounds} by default")
    parser.add_argument("--scale", type=_positive_float, help="of the number of batches and calls, 1 by default")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the figures with all samples")
    return parser.parse_args(arguments)


def _positive_int(text: str) -> int:
    if (value := int(text)) < 1:
        raise ValueError
    return value


def _positive_float(text: str) -> float:
    if not (value := float(text)) > 0:
        raise ValueError
    return value


def _leave(*_: object) -> NoReturn:
    raise SystemExit(143)


if __name__ == "__main__":
    sys.exit(main())
