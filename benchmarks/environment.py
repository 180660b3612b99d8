"""What figures depend on: versions, the machine, the server's settings, and whether lz4 is in effect."""

from __future__ import annotations

import os
import platform
import sqlite3
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

import psycopg

import provider_trace_store
from benchmarks import raw

if TYPE_CHECKING:
    from benchmarks.bench import Bench

_PACKAGES: Final = ("sqlalchemy", "pydantic", "orjson")
_SETTINGS: Final = (
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "shared_buffers",
    "effective_cache_size",
    "default_toast_compression",
)


def describe(bench: Bench, way: str) -> dict[str, Any]:
    """Return what figures depend on, by name.

    Args:
        bench: the database, migrated.
        way: where its server comes from.
    """
    return {
        "provider_trace_store": provider_trace_store.__version__,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "psycopg": f"{psycopg.__version__} ({psycopg.pq.__impl__})",
        **{name: version(name) for name in _PACKAGES},
        "sqlite": sqlite3.sqlite_version,
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "server": bench.execute("SELECT version()")[0][0],
        "server_from": way,
        "connection": "unix socket" if "host" in bench.url.query else "tcp",
        **{name: bench.execute(f"SELECT current_setting('{name}')")[0][0] for name in _SETTINGS},
        "compression": _compression(bench),
    }


def _compression(bench: Bench) -> str:
    """Return what compresses the bodies; both names where the columns differ."""
    found = bench.execute(
        "SELECT DISTINCT CASE attcompression WHEN 'l' THEN 'lz4' WHEN 'p' THEN 'pglz'"  # noqa: S608  (names of our own)
        " ELSE current_setting('default_toast_compression') END FROM pg_attribute"
        f" WHERE attrelid = '{raw.FULL.table}'::regclass AND attname IN {raw.BODIES}"
    )
    return ", ".join(sorted(name for (name,) in found))
