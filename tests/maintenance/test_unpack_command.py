"""The commands `unpack` and `verify`: their reports and exit statuses."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.support.commands import run_on
from tests.support.constants import ORG, SECRET
from tests.support.packed_tables import flip, row_counts, store_packed
from tests.support.traces import a_batch

if TYPE_CHECKING:
    from tests.support.servers import Database


def test_unpack_and_verify(database: Database) -> None:
    engine = database.engine()
    bad = store_packed(engine, a_batch(3))
    store_packed(engine, a_batch(4, first=10))
    assert run_on(database, "verify").returncode == 0
    dry = run_on(database, "unpack", "--dry-run", "--organization", ORG, "--rate", "1000", "--json")
    assert dry.returncode == 0
    assert json.loads(dry.stdout)["traces"] == 7
    assert row_counts(engine) == (0, 7, 2)
    flip(engine, bad)
    for command in ("verify", "unpack"):
        for options in ((), ("--json",)):
            result = run_on(database, command, *options)
            assert result.returncode == 1
            assert str(bad) in result.stdout + result.stderr
            assert SECRET not in result.stdout + result.stderr
    assert row_counts(engine) == (4, 3, 1)
