"""A process of its own for a figure, and what memory this one has taken."""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from benchmarks.measure import BenchmarkError

_STATUS: Final = Path("/proc/self/status")
_CLEAR: Final = Path("/proc/self/clear_refs")


def run(module: str, task: dict[str, Any]) -> dict[str, Any]:
    """Run a module as a process, and return what it prints.

    Args:
        module: prints one JSON object.
        task: given to it as JSON on its input, as a command line is everyone's to read.

    Raises:
        BenchmarkError: it failed.
    """
    ran = subprocess.run(
        [sys.executable, "-m", module], input=json.dumps(task), capture_output=True, check=False, text=True
    )
    if ran.returncode:
        raise BenchmarkError((ran.stderr.strip().splitlines() or ["no output"])[-1])
    result: dict[str, Any] = json.loads(ran.stdout)
    return result


def forget_peak() -> None:
    """Let the peak begin anew at what is in use now, where the system can: imports have their own."""
    if _CLEAR.exists():
        _CLEAR.write_text("5", encoding="ascii")


def peak() -> float:
    """Return the most memory that this process has held, in MB."""
    if _STATUS.exists():
        # Of this program alone, where the other one begins with what its parent took.
        found = re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text(encoding="ascii"))
        if found:
            return int(found[1]) * 1024 / 1e6
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / 1e6 if sys.platform == "darwin" else used * 1024 / 1e6
