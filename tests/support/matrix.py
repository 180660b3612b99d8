"""Runs the tests that depend on a version with each Python and PostgreSQL of this machine: `make matrix`."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.support.paths import ROOT
from tests.support.servers import ServerError, discover, url_from_environment

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

PYTHONS: Final = ((3, 11), (3, 12), (3, 13), (3, 14))
# Fails if the interpreter lacks a module that the tests need; prints its version, which may differ from its name.
_PROBE: Final = "import ensurepip, sqlite3, ssl, sys, venv; print('%d.%d.%d' % sys.version_info[:3])"
_BY_OTHERS: Final = "tested by make test"
_NOT_INSTALLED: Final = "not installed"


def main() -> int:
    """Run the tests, print which versions they ran with, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", default="2", help="how many processes run tests")
    parser.add_argument("tests", nargs="+", help="what depends on the version of Python")
    arguments = parser.parse_args()
    pytest = ("-m", "pytest", "-n", arguments.processes, "--dist", "worksteal")

    names = ["{}.{}".format(*wanted) for wanted in PYTHONS if wanted != sys.version_info[:2]]
    pythons = {name: found for name in names if (found := find_python(name))}
    installed = _installed({name: python for name, (python, _) in pythons.items()})
    rows: list[tuple[str, str]] = []
    for wanted in PYTHONS:
        name = "{}.{}".format(*wanted)
        if wanted == sys.version_info[:2]:
            rows.append((f"Python {'.'.join(map(str, sys.version_info[:3]))}", _BY_OTHERS))
        elif name in pythons:
            command = (f".venv-{name}/bin/python", *pytest, "--newest-server", "-m", "not once", *arguments.tests)
            succeeded = name in installed and _ran(*command)
            rows.append((f"Python {pythons[name][1]}", _result(succeeded=succeeded)))
        else:
            rows.append((f"Python {name}", _NOT_INSTALLED))
    rows += _on_postgresql(pytest)

    print("\n".join(f"{version:<20}{result}" for version, result in rows))  # noqa: T201  # what the command is for
    return int(any(result == _result(succeeded=False) for _, result in rows))


def _on_postgresql(pytest: Sequence[str]) -> list[tuple[str, str]]:
    """Run the tests on the servers that `make test` leaves out."""
    try:
        servers = discover(url_from_environment())
    except ServerError as error:
        return [(f"PostgreSQL: {error}", _result(succeeded=False))]
    between = servers.found[1:-1]
    result = _BY_OTHERS
    if between:
        names = ",".join(server.name for server in between)
        result = _result(
            succeeded=_ran(sys.executable, *pytest, "-m", "every_server and not wheel", "--servers", names)
        )
    rows = [(server.name, server.version, result if server in between else _BY_OTHERS) for server in servers.found]
    rows += [(f"pg{major}", str(major), reason) for major, reason in servers.missing.items()]
    return [(f"PostgreSQL {version}", result) for _, version, result in sorted(rows)]


def find_python(name: str) -> tuple[Path, str] | None:
    """Return an interpreter and its whole version, or None where there is none that runs.

    Args:
        name: the version, such as `3.12`.
    """
    for python in _candidates(name):
        answer = subprocess.run([python, "-c", _PROBE], check=False, capture_output=True, text=True)
        version = answer.stdout.strip()
        if answer.returncode == 0 and version.startswith(f"{name}."):
            return python, version
    return None


def _candidates(name: str) -> Iterator[Path]:
    # pyenv's shim is on PATH even where the version is switched off; then it fails, and its own folder has it.
    for folder in os.get_exec_path():
        if program := shutil.which(f"python{name}", path=folder):
            yield Path(program)
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    yield from sorted(pyenv.glob(f"versions/{name}.*/bin/python{name}"), reverse=True)
    if uv := shutil.which("uv"):
        command = [uv, "python", "find", "--no-python-downloads", name]
        answer = subprocess.run(command, check=False, capture_output=True, text=True)
        if answer.returncode == 0:
            yield Path(answer.stdout.strip())


def _installed(pythons: Mapping[str, Path]) -> set[str]:
    """Make all environments at once, as pip uses one core, and return the names of those that were made."""
    processes = {
        name: subprocess.Popen(
            ["make", "--no-print-directory", f"PYTHON={python}", f".venv-{name}/installed-test"], cwd=ROOT
        )
        for name, python in pythons.items()
    }
    return {name for name, process in processes.items() if process.wait() == 0}


def _ran(*command: str) -> bool:
    print("$", *command, flush=True)  # noqa: T201  # tells the runs of a report apart
    return subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def _result(*, succeeded: bool) -> str:
    return "tested by make matrix" if succeeded else "FAILED"


if __name__ == "__main__":
    sys.exit(main())
