"""The parts that the commands share: options, the choice of figures, and an orderly end."""

import argparse
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Final, NoReturn

from benchmarks.core import server
from benchmarks.core.bench import Effort
from benchmarks.core.results import Figure
from benchmarks.figures import packs, repositories, transfer, writer
from tests.support.servers import ServerError

_QUICK: Final = Effort(rounds=1, scale=0.01)


def parser(program: str, description: str, *, chooses: bool = True, repeats: bool = True) -> argparse.ArgumentParser:
    """Return a parser with the options of every command, and those that choose figures and the number of rounds."""
    parser = argparse.ArgumentParser(prog=f"python -m {program}", description=description)
    ways = f"by default {server.VARIABLE}, else a PostgreSQL of this machine with lz4, else one of the tests' servers"
    url = os.environ.get(server.VARIABLE)
    parser.add_argument("--url", default=url, help=f"of a PostgreSQL role that may create databases; {ways}")
    parser.add_argument("--quick", action="store_true", help="a small part of the work, to see that it runs")
    if repeats:
        parser.add_argument("--rounds", type=int, help="number of rounds that count, at least 1")
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for all figures with all samples")
    if chooses:
        only = "a figure, or a pattern such as 'get-*'; repeatable"
        parser.add_argument("--only", action="append", metavar="NAME", help=only)
        parser.add_argument("--scale", type=float, help="factor of the number of batches and calls; default 1")
    return parser


def figures() -> list[Figure]:
    """Return all figures, in the order of the table."""
    return [*repositories.figures(), *writer.figures(), *packs.figures(), *transfer.figures()]


def chosen(options: argparse.Namespace) -> list[Figure]:
    """Return the figures that `--only` names, all by default."""
    return [each for each in figures() if any(fnmatch(each.name, pattern) for pattern in options.only or "*")]


def effort(options: argparse.Namespace) -> Effort:
    """Return how much is measured."""
    default = _QUICK if options.quick else Effort()
    return Effort(options.rounds or default.rounds, options.scale or default.scale)


@contextmanager
def ending() -> Iterator[None]:
    """Let SIGTERM end the command as an error does: databases are dropped, servers stopped. No server is status 2."""
    signal.signal(signal.SIGTERM, _leave)
    try:
        yield
    except ServerError as error:
        print(f"no server to measure on: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def save(document: dict[str, Any], path: Path | None) -> None:
    """Write a document to the file of `--json`, if there is one."""
    if path:
        path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _leave(*_: object) -> NoReturn:
    raise SystemExit(143)
