"""The command behind `make chaos`: runs the scenarios and writes their table."""

from __future__ import annotations

import argparse
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.chaos import scenarios
from tests.support.throwaway import throwaway

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.chaos.scenarios import Outcome
    from tests.support.throwaway import Throwaway

# Each with how often or how long in the whole run, and with --quick.
FAULTS: Final[dict[str, tuple[Callable[[Throwaway, int], Outcome], int, int]]] = {
    "kill-writer": (scenarios.kill_the_writer, 200, 5),
    "kill-server": (scenarios.kill_the_server, 50, 2),
    "cut": (scenarios.cut_connections, 30, 2),
    "away": (scenarios.take_the_database_away, 60, 2),
    "full-disk": (scenarios.fill_the_disk, 16, 2),
    "two-start": (scenarios.start_two_after_a_third, 50, 2),
    "prefork": (scenarios.kill_forked_workers, 10, 1),
}
_BEGIN: Final = "<!-- The output of `make chaos`: begin -->"
_END: Final = "<!-- end -->"


def main() -> int:
    """Run the command; 1 where a trace was lost, doubled or changed."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Faults, and what they cost.")
    parser.add_argument("--only", action="append", choices=FAULTS, help="a fault; repeatable")
    parser.add_argument("--quick", action="store_true", help="a few of each, to see that it works")
    parser.add_argument("--docs", type=Path, metavar="FILE", help="a page whose table is replaced")
    options = parser.parse_args()
    outcomes = []
    with throwaway(fsync=True) as server:
        for name in options.only or FAULTS:
            run, times, few = FAULTS[name]
            outcome = run(server, few if options.quick else times)
            outcomes.append(outcome)
            print("ok " if outcome.is_right else "BAD", outcome, flush=True)  # noqa: T201  # a command that prints
    if options.docs:
        page = options.docs.read_text("utf-8")
        before, rest = page.split(_BEGIN)
        after = rest.split(_END)[1]
        options.docs.write_text(f"{before}{_BEGIN}\n{_table(outcomes)}\n{_END}{after}", encoding="utf-8")
    return int(not all(outcome.is_right for outcome in outcomes))


def _table(outcomes: list[Outcome]) -> str:
    lines = [
        "| fault | how often | accepted | stored | missing | stored twice | dropped | notes |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in outcomes:
        notes = dict(one.notes)
        if one.unfinished:
            notes["stored, killed before `submit` returned"] = one.unfinished
        besides = "; ".join(f"{name}: {value:,}" for name, value in notes.items())
        lines.append(
            f"| {one.fault} | {one.times} | {one.accepted:,} | {one.stored - one.unfinished:,} | {one.missing}"
            f" | {one.twice} | {one.dropped} | {besides} |"
        )
    lines.append(f"\nPython {platform.python_version()}, {sum(one.seconds for one in outcomes):.0f} s.")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
