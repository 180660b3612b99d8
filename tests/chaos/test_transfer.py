"""The short form of `python -m tests.chaos.transfer` and `walks`: killed commands lose, double and change no row."""

from __future__ import annotations

from tests.chaos import transfer, walks
from tests.support.throwaway import throwaway


def test_killed_exports_and_imports_go_on_and_leave_every_row_as_it_was() -> None:
    with throwaway() as server:
        source, target = server.create_database("source"), server.create_database("target")
        assert transfer.run_rounds(source, target, rounds=1, traces=1_500, seed=1) == (1_500, 0, 0)


def test_killed_backfills_and_prunes_go_on_and_leave_the_right_rows() -> None:
    with throwaway() as server:
        assert walks.run_rounds(server.create_database("walks"), rounds=1, traces=4_000, seed=1) == (0, 0)
