"""The environment that figures depend on (versions, settings, machine), and the memory of a process."""

import gc
import json
import os
import platform
import re
import resource
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import psycopg

import provider_trace_store
from benchmarks.core.bench import Bench
from benchmarks.core.results import BenchmarkError, Sample
from benchmarks.data import rows

_PACKAGES: Final = ("sqlalchemy", "pydantic", "orjson")
_DURABILITY: Final = ("fsync", "synchronous_commit", "full_page_writes")
_SETTINGS: Final = (*_DURABILITY, "shared_buffers", "effective_cache_size", "default_toast_compression")
_STATUS: Final = Path("/proc/self/status")
_CLEAR: Final = Path("/proc/self/clear_refs")


def describe(bench: Bench, way: str) -> dict[str, Any]:
    """Return versions, the machine, and the server's settings; `way` is where the server comes from."""
    return {
        "provider_trace_store": provider_trace_store.__version__,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "psycopg": f"{psycopg.__version__} ({psycopg.pq.__impl__})",
        **{name: version(name) for name in _PACKAGES},
        "sqlite": sqlite3.sqlite_version,
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "server": bench.postgres.execute("SELECT version()")[0][0],
        "server_from": way,
        "connection": "unix socket" if "host" in bench.url.query else "tcp",
        **{name: bench.postgres.execute(f"SELECT current_setting('{name}')")[0][0] for name in _SETTINGS},
        "compression": _compression(bench),
    }


def lines(values: dict[str, Any]) -> str:
    """Return what `describe` found, one value a line, and a warning if the server does not compress with lz4."""
    found = [f"{name}: {value}" for name, value in values.items()]
    if values["compression"] != "lz4":
        found.append(f"\n*** WITHOUT lz4: bodies are compressed with {values['compression']}, several times slower.")
        found.append("*** The rates and ratios of whole traces are not those of a server with lz4. ***")
    return "\n".join(found) + "\n"


def peak_of(function: Callable[..., Sample], **task: Any) -> Sample:
    """Call a module's function in a process of its own, so that no other work's memory counts."""
    # The task goes through standard input, as other users may read a command line.
    command = [sys.executable, "-m", __name__, function.__module__, function.__name__]
    ran = subprocess.run(command, input=json.dumps(task), capture_output=True, check=False, text=True)
    if ran.returncode:
        raise BenchmarkError((ran.stderr.strip().splitlines() or ["no output"])[-1])
    found: Sample = json.loads(ran.stdout)
    return found


class Memory:
    """Measures this process's highest memory from now on."""

    def __init__(self) -> None:
        gc.collect()
        if _CLEAR.exists():
            # The peak starts again at the current level: imports may have needed more.
            _CLEAR.write_text("5", encoding="ascii")
        self._before = _peak()

    def peak(self) -> Sample:
        """Return the MB that were added since then, and the MB before."""
        return {"MB": _peak() - self._before, "before MB": self._before}


def _peak() -> float:
    # `ru_maxrss` starts with the parent's peak; Linux has a number for this program alone.
    if _STATUS.exists() and (found := re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text(encoding="ascii"))):
        return int(found[1]) * 1024 / 1e6
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / 1e6 if sys.platform == "darwin" else used * 1024 / 1e6


def _compression(bench: Bench) -> str:
    """Return the compression of the bodies; both names if the two columns differ."""
    found = bench.postgres.execute(
        "SELECT DISTINCT CASE attcompression WHEN 'l' THEN 'lz4' WHEN 'p' THEN 'pglz'"
        " ELSE current_setting('default_toast_compression') END FROM pg_attribute"
        f" WHERE attrelid = '{rows.FULL.table}'::regclass AND attname IN {rows.BODIES}"
    )
    return ", ".join(sorted(name for (name,) in found))


if __name__ == "__main__":
    module, name = sys.argv[1:]
    print(json.dumps(getattr(import_module(module), name)(**json.load(sys.stdin))))
