"""The distributions: what is in them, and that the wheel alone migrates and serves a database.

They are built and installed in fresh environments, which takes a package index; `-m "not wheel"` leaves them out.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from typing import TYPE_CHECKING, Final

import pytest

from provider_trace_store import __version__
from tests.support.constants import HEAD, PATIENCE
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.support.servers import Database

pytestmark = pytest.mark.wheel

NEEDS_TYPER: Final = "provider-trace-store needs Typer: pip install 'provider_trace_store[cli]'\n"
# What an application does with the package, by nothing but the wheel.
ROUND_TRIP: Final = (
    f"HEAD = {HEAD!r}"
    """
import sys, warnings
warnings.simplefilter("error")
from sqlalchemy import create_engine
from sqlalchemy.orm import Session
import provider_trace_store
from provider_trace_store import ProviderTrace, ProviderTraceRepository
from provider_trace_store.migrations import current, upgrade
assert provider_trace_store.__file__.startswith(sys.prefix), provider_trace_store.__file__
engine = create_engine(sys.argv[1])
with engine.connect() as connection:
    upgrade(connection)
    assert current(connection) == HEAD
trace = ProviderTrace(request_json={"n": 2**70, "nan": [float("inf")]}, response_json={"text": "\\x00"}, step_id="s")
with Session(engine) as session:
    ProviderTraceRepository(session, organization_id="org-1").create(trace)
    ProviderTraceRepository(session, organization_id="org-1", metadata_only=True).create(trace)
    session.commit()
with Session(engine) as session:
    repository = ProviderTraceRepository(session, organization_id="org-1")
    assert repository.get(trace.id) == trace
    assert repository.get_metadata(trace.id).step_id == "s"
engine.dispose()
print("kept", trace.id)
"""
)
ASYNC_ROUND_TRIP: Final = """
import asyncio, sys
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from provider_trace_store import AsyncProviderTraceRepository, ProviderTrace
from provider_trace_store.migrations import upgrade
async def main():
    engine = create_async_engine(sys.argv[1])
    async with engine.connect() as connection:
        await connection.run_sync(upgrade)
    trace = ProviderTrace(request_json={"model": "m"}, response_json={})
    async with AsyncSession(engine) as session:
        await AsyncProviderTraceRepository(session, organization_id="org-1").create(trace)
        await session.commit()
    async with AsyncSession(engine) as session:
        assert await AsyncProviderTraceRepository(session, organization_id="org-1").get(trace.id) == trace
    await engine.dispose()
    print("kept", trace.id)
asyncio.run(main())
"""


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command that must succeed, outside of the checkout."""
    result = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=600,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the source distribution of the checkout."""
    target = tmp_path_factory.mktemp("sdist")
    run(sys.executable, "-m", "build", "--sdist", "--outdir", target, ROOT, cwd=target)
    (found,) = target.iterdir()
    return found


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from the source distribution, not from the checkout."""
    target = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", target, sdist, cwd=target)
    (found,) = target.iterdir()
    return found


class Environment:
    """A virtual environment with the wheel in it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.scripts = directory / ("Scripts" if sys.platform == "win32" else "bin")
        venv.create(directory, with_pip=True)

    def install(self, wheel: Path, extras: Sequence[str]) -> None:
        """Install the wheel with extras, its dependencies from the index."""
        self.python("-m", "pip", "install", "--quiet", f"provider_trace_store[{','.join(extras)}] @ {wheel.as_uri()}")

    def python(self, *arguments: str) -> str:
        """Run Python, with nothing of the directory it runs in on its path."""
        return run(self.scripts / "python", "-P", *arguments, cwd=self.directory)

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `provider-trace-store`."""
        return subprocess.run(
            [self.scripts / "provider-trace-store", *arguments],
            check=False,
            capture_output=True,
            text=True,
            cwd=self.directory,
            timeout=PATIENCE,
        )


@pytest.fixture(scope="module")
def library(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Install the wheel with its drivers, without the command's library."""
    environment = Environment(tmp_path_factory.mktemp("library") / "venv")
    environment.install(wheel, ["binary", "sqlite"])
    return environment


@pytest.fixture(scope="module")
def command_line(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Install the wheel as an operator does."""
    environment = Environment(tmp_path_factory.mktemp("command") / "venv")
    environment.install(wheel, ["binary", "cli"])
    return environment


def tracked(*folders: str) -> set[str]:
    """Return the files of the checkout that belong to the project: those that Git does not ignore."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *folders],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    return {name for name in listed.stdout.splitlines() if (ROOT / name).is_file()}


def test_wheel_holds_the_package_and_its_migrations_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    information = f"provider_trace_store-{__version__}.dist-info/"
    expected = tracked("provider_trace_store") | {f"provider_trace_store/_{name}" for name in tracked("alembic")}
    assert {name for name in names if not name.startswith(information)} == expected
    assert expected > {
        "provider_trace_store/py.typed",
        "provider_trace_store/_alembic/env.py",
        "provider_trace_store/_alembic/script.py.mako",
        "provider_trace_store/_alembic/versions/0001_provider_traces.py",
        "provider_trace_store/_alembic/versions/0002_provider_trace_metadata.py",
        "provider_trace_store/_alembic/versions/0003_read_indexes.py",
        "provider_trace_store/_alembic/versions/0004_packs.py",
    }
    assert {f"{information}{name}" for name in ("METADATA", "RECORD", "entry_points.txt", "licenses/LICENSE")} <= names


def test_sdist_holds_what_the_tests_need_and_no_ignored_file(sdist: Path) -> None:
    root = f"provider_trace_store-{__version__}/"
    with tarfile.open(sdist) as archive:
        names = {member.name.removeprefix(root) for member in archive if member.isfile()}
    assert names - {"PKG-INFO"} <= tracked()
    assert names >= tracked("provider_trace_store", "alembic", "tests", "alembic.ini", "pyproject.toml", "LICENSE")
    assert names >= tracked("docs", "examples", ".ci", "*.md", "Makefile", "hatch_build.py")


def test_readme_of_the_wheel_has_no_link_that_only_works_in_a_checkout(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read(f"provider_trace_store-{__version__}.dist-info/METADATA").decode()
    assert "\n# provider_trace_store\n" in metadata
    assert re.findall(r"\]\((?!\w+:|#)[^)\s]+\)", metadata) == []


def test_wheel_alone_serves_a_sqlite_file(library: Environment, tmp_path: Path) -> None:
    assert library.python("-c", ROUND_TRIP, f"sqlite:///{tmp_path / 'one.db'}").startswith("kept provider_trace-")
    asynchronous = library.python("-c", ASYNC_ROUND_TRIP, f"sqlite+aiosqlite:///{tmp_path / 'two.db'}")
    assert asynchronous.startswith("kept provider_trace-")


@pytest.mark.parametrize("script", [ROUND_TRIP, ASYNC_ROUND_TRIP], ids=["sync", "async"])
def test_wheel_alone_serves_postgres(library: Environment, empty_postgres: Database, script: str) -> None:
    url = empty_postgres.url.render_as_string(hide_password=False)
    assert library.python("-c", script, url).startswith("kept provider_trace-")


def test_command_without_its_extra_says_how_to_install_it(library: Environment) -> None:
    result = library.command("migrate", "upgrade")
    assert (result.returncode, result.stdout, result.stderr) == (1, "", NEEDS_TYPER)


def test_command_migrates_from_the_wheel(command_line: Environment, empty_postgres: Database, tmp_path: Path) -> None:
    for url in (f"sqlite:///{tmp_path / 'one.db'}", empty_postgres.url.render_as_string(hide_password=False)):
        assert command_line.command("migrate", "upgrade", "--url", url).returncode == 0
        assert command_line.command("migrate", "current", "--url", url).stdout == f"{HEAD} (head)\n"
        assert command_line.command("migrate", "downgrade", "base", "--url", url).returncode == 0
