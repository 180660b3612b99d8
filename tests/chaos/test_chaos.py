"""The short form of `make chaos`: real processes and a real server are killed, and nothing is lost or doubled."""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING

import pytest

from tests.chaos import scenarios
from tests.support.throwaway import throwaway

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.chaos.scenarios import Outcome
    from tests.support.throwaway import Throwaway


@pytest.fixture(scope="module")
def server() -> Iterator[Throwaway]:
    """Return a server that is killed and started again."""
    with throwaway() as started:
        yield started


def assert_nothing_lost(outcome: Outcome) -> None:
    assert outcome.is_right, outcome
    assert outcome.accepted > 0


def test_a_killed_process_loses_nothing(server: Throwaway) -> None:
    assert_nothing_lost(scenarios.kill_the_writer(server, rounds=6))


def test_a_killed_server_costs_nothing(server: Throwaway) -> None:
    assert_nothing_lost(scenarios.kill_the_server(server, rounds=3))


def test_cut_connections_cost_nothing(server: Throwaway) -> None:
    outcome = scenarios.cut_connections(server, seconds=2)
    assert_nothing_lost(outcome)
    assert outcome.notes["connections cut"] > 2


def test_the_spool_holds_what_comes_while_the_database_is_away(server: Throwaway) -> None:
    outcome = scenarios.take_the_database_away(server, seconds=2)
    assert_nothing_lost(outcome)
    assert outcome.notes["files in the spool"] > 0


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or os.geteuid() != 0 or shutil.which("mount") is None,
    reason="mounts a small file system, which takes root on Linux",
)
def test_a_full_disk_costs_time_and_nothing_else(server: Throwaway) -> None:
    outcome = scenarios.fill_the_disk(server, megabytes=2)
    assert_nothing_lost(outcome)
    assert outcome.notes == {"times the spool was full": 1, "files left": 0}


def test_the_spool_of_a_dead_process_is_taken_over_by_one_of_two(server: Throwaway) -> None:
    outcome = scenarios.start_two_after_a_third(server, rounds=4)
    assert_nothing_lost(outcome)
    assert outcome.notes == {"rounds in which both took over": 0}


def test_killed_workers_of_a_forking_server_lose_nothing(server: Throwaway) -> None:
    assert_nothing_lost(scenarios.kill_forked_workers(server, rounds=1))
