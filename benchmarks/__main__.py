"""The command: measures the package beside the raw drivers, or one commit beside another."""

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict

from benchmarks import compare
from benchmarks.core import command, machine, server
from benchmarks.core.bench import Bench
from benchmarks.core.results import HEADER, Figure, Result


def main(arguments: Sequence[str]) -> int:
    """Run the command, and return its status: 1 if a figure failed, 2 if no figure was chosen.

    A ratio below its limit is not a failure, because times are noisy.
    """
    if arguments[:1] == ["compare"]:
        return compare.main(arguments[1:])
    parser = command.parser("benchmarks", "The package beside the raw drivers. `compare BASE` compares two commits.")
    parser.add_argument("--list", action="store_true", help="print the figures' names")
    options = parser.parse_args(arguments)
    chosen, effort = command.chosen(options), command.effort(options)
    if options.list or not chosen:
        print(*(figure.name for figure in chosen or command.figures()), sep="\n")
        return 0 if chosen else 2
    began = time.monotonic()
    with command.ending(), server.database(options.url) as (url, way), Bench(url, effort) as bench:
        environment = machine.describe(bench, way)
        print(machine.lines(environment))
        print(HEADER)
        results = [_measured(figure, bench) for figure in chosen]
    print(f"\n{len(results)} figures in {time.monotonic() - began:.0f} s, medians of {effort.rounds} rounds")
    entries = [result.entry() for result in results]
    command.save({"environment": environment, "effort": asdict(effort), "figures": entries}, options.json)
    return int(any(result.error for result in results))


def _measured(figure: Figure, bench: Bench) -> Result:
    try:
        result = Result(figure, figure.measure(bench))
    except Exception as error:  # noqa: BLE001  # the other figures must still be measured
        result = Result(figure, {}, f"{type(error).__name__}: {error}"[:300])
        bench.recover()
    print(result.table(), flush=True)
    return result


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
