"""Runs Python modules as commands, in processes that are forked from an interpreter with the libraries imported.

Such a process has arguments, an environment, a directory, streams and a status of its own, as a new interpreter has; it
lacks the imports, which take most of the time of a short command.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.support.constants import PATIENCE
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.support.servers import Database

VARIABLE: Final = "PROVIDER_TRACE_STORE_DATABASE_URL"
_SERVER: Final = """
import json, os, runpy, signal, sys
import alembic.config, alembic.command, alembic.autogenerate, psycopg, sqlalchemy.dialects.postgresql
import provider_trace_store.cli, provider_trace_store.migrations

requests = sys.stdin
for line in requests:
    module, arguments, environment, directory, output, seconds = json.loads(line)
    child = os.fork()
    if child:
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    signal.alarm(seconds)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    for target, name, flags in ((0, os.devnull, os.O_RDONLY), (1, output + "/1", os.O_WRONLY | os.O_CREAT),
                                (2, output + "/2", os.O_WRONLY | os.O_CREAT)):
        os.dup2(os.open(name, flags), target)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    sys.exit()
"""


@cache
def _server(environment: str) -> subprocess.Popen[str]:
    server = subprocess.Popen(
        [sys.executable, "-c", _SERVER],
        env=json.loads(environment),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(server.communicate)
    return server


def run_module(
    module: str, *arguments: str, environment: Mapping[str, str], added: Mapping[str, str], directory: Path
) -> subprocess.CompletedProcess[str]:
    """Run a module as `python -m` does.

    Args:
        module: the module's name.
        arguments: the command's arguments.
        environment: the environment of the interpreter that imports the libraries.
        added: variables that only this command has.
        directory: the current directory of the command.
    """
    server = _server(json.dumps(dict(environment), sort_keys=True))
    assert server.stdin is not None
    assert server.stdout is not None
    with tempfile.TemporaryDirectory() as output:
        request = [module, arguments, {**environment, **added}, str(directory), output, int(PATIENCE)]
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        status = int(server.stdout.readline())
        said, errors = (Path(output, name).read_text("utf-8") for name in ("1", "2"))
    return subprocess.CompletedProcess([module, *arguments], status, said, errors)


def run_on(database: Database, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `provider-trace-store` on a database, which its environment names.

    Args:
        database: the database.
        arguments: the command's arguments.
    """
    environment = {name: value for name, value in os.environ.items() if name not in {VARIABLE, "PYTEST_CURRENT_TEST"}}
    environment |= {"PYTHONPATH": str(ROOT), "COLUMNS": "200", "NO_COLOR": "1"}
    url = database.url.render_as_string(hide_password=False)
    added = {VARIABLE: url}
    return run_module("provider_trace_store", *arguments, environment=environment, added=added, directory=Path.cwd())


def failure_of(result: subprocess.CompletedProcess[str]) -> str:
    """Return the one line in which a command says why it failed."""
    assert result.returncode == 1, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if not line.startswith("database: ")]
    assert len(lines) == 1, result.stderr
    return lines[0]
