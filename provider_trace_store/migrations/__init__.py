"""The migrations for those who embed or operate the package: run them, and keep a host's Alembic off the tables.

One tree of scripts, in the top-level folder `alembic` of a checkout and in the wheel. `alembic upgrade head`,
`upgrade(connection)` and the command `provider-trace-store migrate` run the same.
"""

from provider_trace_store.migrations.autogenerate import VERSION_TABLE, compare_filters, include_name, schema_metadata
from provider_trace_store.migrations.commands import current, downgrade, scripts_config, upgrade
from provider_trace_store.migrations.locking import DEFAULT_LOCK_TIMEOUT, migration_transaction, offline_preamble

__all__ = [
    "DEFAULT_LOCK_TIMEOUT",
    "VERSION_TABLE",
    "compare_filters",
    "current",
    "downgrade",
    "include_name",
    "migration_transaction",
    "offline_preamble",
    "schema_metadata",
    "scripts_config",
    "upgrade",
]
