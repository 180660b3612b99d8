"""The commands `unpack` and `verify`: their reports and exit statuses."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from typer.testing import CliRunner

from provider_trace_store.cli import app
from tests.support.constants import ORG, SECRET
from tests.support.packed_tables import flip, row_counts, store_packed
from tests.support.traces import a_batch

if TYPE_CHECKING:
    from tests.support.servers import Database


def run(database: Database, *arguments: str) -> Any:
    url = database.url.render_as_string(hide_password=False)
    return CliRunner().invoke(app, [*arguments, "--url", url])


def test_unpack_and_verify(database: Database) -> None:
    engine = database.engine()
    bad = store_packed(engine, a_batch(3))
    store_packed(engine, a_batch(4, first=10))
    assert run(database, "verify").exit_code == 0
    dry = run(database, "unpack", "--dry-run", "--organization", ORG, "--rate", "1000", "--json")
    assert dry.exit_code == 0
    assert json.loads(dry.stdout)["traces"] == 7
    assert row_counts(engine) == (0, 7, 2)
    flip(engine, bad)
    for command in ("verify", "unpack"):
        for options in ((), ("--json",)):
            result = run(database, command, *options)
            assert result.exit_code == 1
            assert str(bad) in result.output
            assert SECRET not in result.output
    assert row_counts(engine) == (4, 3, 1)
