"""Constants of the tests."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

ORG: Final = "org-1"
SECRET: Final = "the-payload-that-nobody-may-see"  # noqa: S105  (no password: what a test looks for)
MOMENT: Final = datetime(2026, 3, 29, 1, 30, 0, 123456, tzinfo=UTC)
# The table that a repository writes, by its flag `metadata_only`.
TABLES: Final = {False: "provider_traces", True: "provider_trace_metadata"}
OUR_TABLES: Final = frozenset({*TABLES.values(), "provider_trace_packs"})
# The newest revision of the migrations.
HEAD: Final = "0004"
# The bound of every wait for an event, in seconds: a machine ten times slower than ours still meets it. A test that
# succeeds never waits so long.
PATIENCE: Final = 300.0
