"""The short form of `python -m tests.chaos.transfer`: killed exports and imports lose, double and change no row."""

from __future__ import annotations

from tests.chaos.transfer import run_rounds
from tests.support.throwaway import throwaway


def test_killed_exports_and_imports_go_on_and_leave_every_row_as_it_was() -> None:
    with throwaway() as server:
        source, target = server.create_database("source"), server.create_database("target")
        rows, missing, doubled, _ = run_rounds(source, target, rounds=1, traces=1_500, seed=1)
    assert (rows, missing, doubled) == (1_500, 0, 0)
