"""The migrations of the package's tables: run them, and keep a host's Alembic away from these tables.

One set of scripts serves all three ways to run them: `alembic upgrade head` in a checkout, `upgrade(connection)` from
Python, and the command `provider-trace-store migrate`. A checkout has the scripts in its folder `alembic`, a wheel in
the folder `_alembic` of the package.
"""

from provider_trace_store.migrations.autogenerate import VERSION_TABLE, include_name, include_object, schema_metadata
from provider_trace_store.migrations.commands import current, downgrade, upgrade
from provider_trace_store.migrations.locking import DEFAULT_LOCK_TIMEOUT, DEFAULT_TRIES
from provider_trace_store.migrations.scripts import scripts_config

__all__ = [
    "DEFAULT_LOCK_TIMEOUT",
    "DEFAULT_TRIES",
    "VERSION_TABLE",
    "current",
    "downgrade",
    "include_name",
    "include_object",
    "schema_metadata",
    "scripts_config",
    "upgrade",
]
