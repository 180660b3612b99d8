"""Compares the package of two commits: the same figures, the same benchmark code, alternating rounds.

Each commit's package runs in a worker: a process of its own, which waits while the other one works. Both use this
environment, so only the package differs, not its libraries.
"""

import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Final, Self

import provider_trace_store
from benchmarks.core import command, server
from benchmarks.core.bench import Bench, Effort
from benchmarks.core.results import RATE, BenchmarkError, Contenders, Figure, alternate

_ROOT: Final = Path(__file__).parents[1]
_HEADER: Final = f"{'':<26}{'unit':<10}{'base':>12}{'new':>12}{'ratio':>8}{'min..max':>13}"


def main(arguments: Sequence[str]) -> int:
    """Run the command, and return its status: 1 if a figure failed, 2 if no figure was chosen."""
    parser = command.parser("benchmarks compare", "The package of this folder beside that of a commit.")
    parser.add_argument("base", metavar="BASE", help="the commit")
    parser.add_argument("--least", type=float, default=0.95, help="mark ratios below this; default 0.95")
    options = parser.parse_args(arguments)
    chosen, effort = command.chosen(options), command.effort(options)
    with command.ending(), ExitStack() as stack:
        url = stack.enter_context(server.running(options.url)).url.render_as_string(hide_password=False)
        base = stack.enter_context(_checkout(options.base))
        sides = {name: stack.enter_context(_Side(path, url, effort)) for name, path in (("base", base), ("new", _ROOT))}
        print(f"base: {options.base}; new: this folder, with changes that are not committed; {effort.rounds} rounds")
        print("ratio: median of the rounds' ratios, new/base of traces/s, base/new of µs and MB: below 1 is worse")
        print(_HEADER)
        entries = [_compared(figure, sides, effort.rounds, options.least) for figure in chosen]
    command.save({"base": options.base, "effort": asdict(effort), "figures": entries}, options.json)
    return int(any("error" in entry for entry in entries)) if entries else 2


@contextmanager
def _checkout(commit: str) -> Iterator[Path]:
    """Make a folder with a commit's package and this folder's benchmarks, and delete it in the end.

    It is not a worktree: if this process were killed, git would keep the worktree registered.
    """
    archive = ["git", "-C", str(_ROOT), "archive", commit, "provider_trace_store", "alembic"]
    ran = subprocess.run(archive, check=False, capture_output=True)
    if ran.returncode:
        raise SystemExit(ran.stderr.decode().strip())
    with tempfile.TemporaryDirectory(prefix="bench-base-") as directory:
        with tarfile.open(fileobj=io.BytesIO(ran.stdout)) as packed:
            packed.extractall(directory, filter="data")
        for name in ("benchmarks", "tests"):
            (Path(directory) / name).symlink_to(_ROOT / name)
        yield Path(directory)


class _Side:
    """The worker of a folder's package. A context manager."""

    def __init__(self, folder: Path, url: str, effort: Effort) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.compare", json.dumps(asdict(effort))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=folder,  # Python looks for modules there first
            env=os.environ | {server.VARIABLE: url, "PYTHONPATH": str(folder)},
            text=True,
        )
        self._folder = folder.resolve()

    def __enter__(self) -> Self:
        package = Path(self._answer()["package"])
        if not package.is_relative_to(self._folder):
            raise BenchmarkError(f"{package} was imported, not the package of {self._folder}")
        return self

    def __exit__(self, *_: object) -> None:
        # At the end of its input a worker drops its database and ends.
        self._process.communicate()

    def run(self, figure: str, number: int) -> dict[str, float]:
        """Run a round of a figure, and return its sample."""
        print(json.dumps([figure, number]), file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline() if self._process.stdout else ""
        answer: dict[str, Any] = json.loads(line or '{"error": "the worker ended"}')
        if "error" in answer:
            raise BenchmarkError(answer["error"])
        return answer


def _compared(figure: Figure, sides: dict[str, _Side], rounds: int, least: float) -> dict[str, Any]:
    contenders: Contenders = {name: partial(side.run, figure.name) for name, side in sides.items()}
    try:
        series = alternate(contenders, 1 if figure.once else rounds, skip=not figure.once)
    except BenchmarkError as error:
        print(f"{figure.name:<26}FAILED {error}", flush=True)
        return {"name": figure.name, "error": str(error)}
    ratios = {}
    for key in figure.compared or figure.keys:
        base, new = ([sample[key] for sample in series[name]] for name in sides)
        pairs = zip(base, new, strict=True)
        each = ratios[key] = [after / before if key == RATE else before / after for before, after in pairs]
        spread, mark = f"{min(each):.2f}..{max(each):.2f}", f"  below {least:g}" if median(each) < least else ""
        numbers = f"{median(base):>12,.1f}{median(new):>12,.1f}{median(each):>8.2f}{spread:>13}"
        print(f"{figure.name:<26}{key:<10}{numbers}{mark}", flush=True)
    return {"name": figure.name, **series, "ratios": ratios}


def _work(effort: Effort) -> None:
    """Run the rounds that standard input names, one a line, and print the sample of each."""
    named, prepared = {figure.name: figure for figure in command.figures()}, ""
    with server.database(os.environ[server.VARIABLE]) as (url, _), Bench(url, effort) as bench, ExitStack() as stack:
        print(json.dumps({"package": str(Path(provider_trace_store.__file__).resolve())}), flush=True)
        for line in sys.stdin:
            name, number = json.loads(line)
            try:
                if name != prepared:
                    stack.close()
                    contenders = stack.enter_context(named[name].prepared(bench))
                    prepared = name
                answer: dict[str, Any] = next(iter(contenders.values()))(number)
            except Exception as error:  # noqa: BLE001  # the other figures must still be measured
                bench.recover()
                answer = {"error": f"{type(error).__name__}: {error}"[:300]}
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _work(Effort(**json.loads(sys.argv[1])))
