"""The short form of `python -m tests.chaos.isolation`: one bad trace among good ones, drawn from all faults."""

from __future__ import annotations

from tests.chaos.isolation import Tally, campaign


def test_a_bad_trace_stops_no_other_and_is_kept_whole() -> None:
    total = Tally()
    for _, tally in campaign(rounds=30, seed=11):
        total += tally
    assert total == Tally(rounds=30, missing=0, kept=30)
