"""The short form of `python -m tests.chaos.packing`: killed commands lose, double and change no trace."""

from __future__ import annotations

from tests.chaos.packing import run_rounds
from tests.support.throwaway import throwaway


def test_killed_commands_and_writes_beside_them_leave_every_trace_as_sent() -> None:
    with throwaway() as server:
        findings = run_rounds(server.create_database("rounds"), rounds=3, traces=400, seed=1, gets=400)
    assert findings.is_right, findings
    assert findings.traces >= 390
