"""The short form of `python -m tests.chaos.packing`: killed commands lose, double and change no trace."""

from __future__ import annotations

from tests.chaos.packing import run_rounds
from tests.support.throwaway import throwaway


def test_killed_commands_and_writes_beside_them_leave_every_trace_as_sent() -> None:
    with throwaway() as server:
        url = server.create_database("rounds")
        findings = run_rounds(url, rounds=2, traces=400, seed=1, gets=400, unpack_every=2)
    assert findings.is_right, findings
    assert findings.traces >= 390
    assert (findings.killed("pack"), findings.killed("unpack")) == (2, 1)
