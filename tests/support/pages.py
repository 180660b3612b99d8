"""Runs the code of a page of the documentation on a database, as a reader does: shell, SQL and Python."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Final, NamedTuple

import psycopg

from tests.support.commands import VARIABLE, run_module
from tests.support.constants import PATIENCE
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from tests.support.servers import Database

_BLOCK: Final = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LANGUAGES: Final = {"sh", "sql", "python"}
# `status` says by 3 that it found something to do.
_STATUSES: Final = {0, 3}


class Block(NamedTuple):
    """A block of code of a page."""

    language: str
    code: str


def sections_of(path: Path) -> dict[str, list[Block]]:
    """Return the blocks of shell, SQL and Python of each section of a page; sections without any are left out."""
    found = {}
    for section in re.split(r"^## ", path.read_text("utf-8"), flags=re.MULTILINE)[1:]:
        title, _, content = section.partition("\n")
        if blocks := [Block(*block) for block in _BLOCK.findall(content) if block[0] in _LANGUAGES]:
            found[title] = blocks
    return found


def run_block(block: Block, database: Database, directory: Path, variables: Mapping[str, str]) -> str:
    """Run a block; return what it printed. A failure fails the test.

    Args:
        block: one whose SQL has a semicolon at the end of the last line of each statement, and nowhere else there.
        database: PostgreSQL; the environment of the block names it.
        directory: the current directory of the block.
        variables: of the environment, added.
    """
    url = database.url.render_as_string(hide_password=False)
    if block.language == "sql":
        with psycopg.connect(url.replace("+psycopg", "", 1), autocommit=True) as connection:
            for statement in re.split(r"(?<=;)\n", block.code.strip()):
                connection.execute(statement.encode())
        return ""
    programs = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    environment = {name: value for name, value in os.environ.items() if name not in {VARIABLE, "PYTEST_CURRENT_TEST"}}
    environment |= {"PATH": programs, "PYTHONPATH": str(ROOT), "COLUMNS": "200", "NO_COLOR": "1"}
    added = {VARIABLE: url, **variables}
    if block.language == "python":
        return _printed(_run([sys.executable, "-W", "error", "-c", block.code], directory, {**environment, **added}))
    return "".join(_run_line(line, directory, environment, added) for line in block.code.splitlines())


def _run_line(line: str, directory: Path, environment: Mapping[str, str], added: Mapping[str, str]) -> str:
    words = shlex.split(Template(line).safe_substitute(added))
    if words[0] == "provider-trace-store":
        # Without the start of an interpreter and its imports, which take most of the time.
        result = run_module(
            "provider_trace_store", *words[1:], environment=environment, added=added, directory=directory
        )
    else:
        result = _run(["sh", "-c", line], directory, {**environment, **added})
    return _printed(result, _STATUSES if "status" in words else {0})


def _run(command: list[str], directory: Path, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=directory,
        env=environment,
        capture_output=True,
        check=False,
        encoding="utf-8",
        timeout=PATIENCE,
    )


def _printed(result: subprocess.CompletedProcess[str], statuses: Collection[int] = (0,)) -> str:
    assert result.returncode in statuses, result.stdout + result.stderr
    return result.stdout
