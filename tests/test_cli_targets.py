"""The command's URLs, secrets and streams: what is accepted, what is never shown, and when the output fails."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from sqlalchemy import inspect

from tests.support.commands import failure_of, run_module
from tests.support.constants import HEAD, OUR_TABLES, PATIENCE
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from tests.support.servers import Database

VARIABLE: Final = "PROVIDER_TRACE_STORE_DATABASE_URL"
# A part of a password: of no other word in a message.
PASSWORD: Final = "zq7xw9"  # noqa: S105  (no password: what a test looks for)
ALEMBIC_INI: Final = str(ROOT / "alembic.ini")
ENVIRONMENT: Final = {
    **{name: value for name, value in os.environ.items() if not name.startswith(("PROVIDER_", "PYTEST_", "PYTHON"))},
    "PYTHONPATH": str(ROOT),
    "COLUMNS": "40",
    "NO_COLOR": "1",
}


def run(
    *arguments: str,
    module: str = "provider_trace_store",
    cwd: Path | None = None,
    variables: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run `provider-trace-store`, or another module, with variables of the environment."""
    added = variables or {}
    return run_module(module, *arguments, environment=ENVIRONMENT, added=added, directory=cwd or Path.cwd())


def run_in_shell(line: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run `$COMMAND …` in a shell that directs its streams."""
    command = f"{shlex.quote(sys.executable)} -m provider_trace_store"
    environment = {**ENVIRONMENT, "PYTHONWARNINGS": "ignore"}
    shell = ["bash", "-c", line.replace("$COMMAND", command)]
    return subprocess.run(
        shell, env=environment, cwd=cwd, capture_output=True, text=True, timeout=PATIENCE, check=False
    )


def tables_of(database: Database) -> set[str]:
    with database.engine().connect() as connection:
        return set(inspect(connection).get_table_names()) & OUR_TABLES


@pytest.mark.parametrize(
    ("driver", "query"),
    [
        ("postgresql+asyncpg", "ssl=prefer&prepared_statement_cache_size=0&command_timeout=60&timeout=30"),
        ("postgresql+asyncpg", "sslmode=prefer"),
        ("postgresql+asyncpg", "ssl=disable"),
        ("postgresql+psycopg2", "sslmode=prefer&connect_timeout=30"),
        ("postgresql+pg8000", ""),
        ("postgresql+psycopg_async", "application_name=x"),
        ("postgres", "sslmode=prefer"),
        ("postgresql", "sslmode=disable"),
    ],
)
def test_a_url_of_another_driver_leads_to_the_same_server(empty_postgres: Database, driver: str, query: str) -> None:
    url = empty_postgres.url.set(drivername="postgresql").render_as_string(hide_password=False)
    given = f"  {driver}{url.removeprefix('postgresql')}{'&' if '?' in url else '?'}{query}\n"
    assert run("migrate", "upgrade", "--url", given).returncode == 0
    assert tables_of(empty_postgres) == OUR_TABLES
    assert run("migrate", "current", variables={VARIABLE: given.strip()}).stdout == f"{HEAD} (head)\n"
    alembic = ("-c", ALEMBIC_INI, "-x", f"url={given}", "current")
    assert f"{HEAD} (head)" in run(*alembic, module="alembic", cwd=ROOT).stdout


def test_the_url_of_an_asynchronous_sqlite_leads_to_the_file(tmp_path: Path) -> None:
    assert run("migrate", "upgrade", "--url", "sqlite+aiosqlite:///a@b.db", cwd=tmp_path).returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["a@b.db"]


WRONG: Final = {
    "mysql": (f"mysql://u:{PASSWORD}@h/d", "postgresql://user:password@host:5432/database or sqlite:///file.db"),
    "driver": (f"postgresql+nothing://u:{PASSWORD}@h/d", "not supported"),
    "option": (f"postgresql://u:{PASSWORD}@h/d?sslmod=require", "(sslmod)"),
    "empty": ("", "is not a database URL"),
    "no scheme": (f"u:{PASSWORD}@h/d", "is not a database URL"),
    "one slash": (f"postgresql:/u:{PASSWORD}@h/d", "is not a database URL"),
    "space": (f"postgresql ://u:{PASSWORD}@h/d", "is not a database URL"),
    "keywords": (f"host=h password={PASSWORD}", "is not a database URL"),
    "@": (f"postgresql://u:p@{PASSWORD}@h/d", "%40"),
    "@ and /": (f"postgresql://u:p@a/{PASSWORD}@h/d", "%40"),
    "@ and ?": (f"postgresql://u:p@a?{PASSWORD}@h/d", "%40"),
    "@ and :": (f"postgresql://u:p@a:{PASSWORD}@h/d", "is not a database URL"),
    "two @": (f"postgresql://u:{PASSWORD}@@h/d", "%40"),
    "directory": ("sqlite:////nowhere/at/all.db", "/nowhere/at does not exist"),
    "host of SQLite": ("sqlite://file.db", "sqlite:///"),
    "in memory": ("sqlite://", "names a SQLite database in memory"),
    "no socket": (f"postgresql://u:{PASSWORD}@/d?host=/nowhere", "no socket .s.PGSQL.5432"),
    "no server": (f"postgresql://u:{PASSWORD}@127.0.0.1:1/d", "no server listens there"),
    "no host": (f"postgresql://u:{PASSWORD}@host.invalid/d", "host name is not known"),
}


@pytest.mark.parametrize(("url", "expected"), WRONG.values(), ids=WRONG)
def test_a_wrong_url_is_one_line_without_a_secret(url: str, expected: str) -> None:
    results = [run("migrate", "upgrade", "--url", url)]
    if url:  # an empty variable is none
        results.append(run("migrate", "current", variables={VARIABLE: url}))
    for result in results:
        assert expected in failure_of(result)
    results.append(run("-c", ALEMBIC_INI, "-x", f"url={url}", "upgrade", "head", module="alembic", cwd=ROOT))
    assert expected in results[-1].stdout + results[-1].stderr
    for result in results:
        assert PASSWORD not in result.stdout + result.stderr


URL: Final = f"postgresql://u:{PASSWORD}@h/d"


@pytest.mark.parametrize(
    "arguments",
    [
        ("migrate", "upgrade", URL),
        ("migrate", "upgrade", "head", URL),
        ("migrate", "upgrade", "--schema", URL),
        ("migrate", "upgrade", "--lock-timeout", URL),
        ("migrate", "upgrade", f"--ulr={URL}"),
        ("migrate", "upgrade", "--ulr", URL),
        ("migrate", "upgrade", "--url", "postgresql://u:p", f"{PASSWORD}@h/d"),
        ("migrate", "upgrade", f"host=h password={PASSWORD}"),
        ("migrate", URL),
        (URL,),
        ("migrate", "downgrade", f"-1{URL}"),
    ],
)
def test_a_url_at_another_place_is_not_repeated(arguments: tuple[str, ...], tmp_path: Path) -> None:
    result = run(*arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert PASSWORD not in result.stdout + result.stderr
    assert "--url 'URL'" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_alembic_does_not_repeat_a_url_either() -> None:
    for option in (URL, f"ulr={URL}", f"lock-timeout={URL}"):
        result = run("-c", ALEMBIC_INI, "-x", option, "current", module="alembic", cwd=ROOT)
        assert result.returncode != 0
        assert PASSWORD not in result.stdout + result.stderr


def test_a_wrong_variable_is_named_without_its_value(tmp_path: Path) -> None:
    said = failure_of(
        run("migrate", "upgrade", cwd=tmp_path, variables={"PROVIDER_TRACE_STORE_METADATA_ONLY": PASSWORD})
    )
    assert "PROVIDER_TRACE_STORE_METADATA_ONLY" in said
    assert PASSWORD not in said


def test_relative_revisions_are_no_options(tmp_path: Path) -> None:
    url = "sqlite:///relative.db"
    for arguments, revision in (
        (("upgrade", "+1"), "0001"),
        (("upgrade", "+2"), "0003"),
        (("downgrade", "-1"), "0002"),
        (("downgrade", "--url", url, "-2"), "base"),
        (("upgrade", "head"), HEAD),
        (("downgrade", "--", "-1"), "0003"),
        (("downgrade", "head-2"), "0002"),
    ):
        done = run("migrate", *arguments, cwd=tmp_path, variables={VARIABLE: url})
        assert done.returncode == 0, done.stderr
        assert run("migrate", "current", "--url", url, cwd=tmp_path).stdout.split()[0] == revision


@pytest.mark.parametrize("option", ["--drop-dta", "-x", "-1x", "--sq"])
def test_an_unknown_option_is_no_revision(option: str, tmp_path: Path) -> None:
    for action in ("upgrade", "downgrade"):
        result = run("migrate", action, option, cwd=tmp_path)
        assert result.returncode == 2
        assert list(tmp_path.iterdir()) == []


def test_a_refusal_names_the_option_of_the_command_that_was_run(database: Database) -> None:
    url = database.url.render_as_string(hide_password=False)
    with database.engine().begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO provider_trace_metadata (id, organization_id, created_at) "
            "VALUES ('a', 'b', '2026-01-01 00:00:00+00')"
        )
    said = failure_of(run("migrate", "downgrade", "base", "--url", url))
    assert "--drop-data" in said
    assert "-x" not in said
    result = run("-c", ALEMBIC_INI, "-x", f"url={url}", "downgrade", "base", module="alembic", cwd=ROOT)
    assert "-x drop-data=yes" in result.stdout + result.stderr


def test_a_script_that_cannot_be_made_is_not_printed_in_part(tmp_path: Path) -> None:
    for arguments in (("downgrade", "head:base"), ("upgrade", "0001:9999"), ("downgrade", "base")):
        result = run("migrate", *arguments, "--sql", "--url", "sqlite:///file.db", cwd=tmp_path)
        assert failure_of(result)
        assert result.stdout == ""
    assert "--sql" in failure_of(run("migrate", "upgrade", "0001:0002", "--url", "sqlite:///file.db", cwd=tmp_path))


def test_current_says_what_to_do(tmp_path: Path) -> None:
    url = "sqlite:///current.db"
    assert run("migrate", "current", "--url", url, cwd=tmp_path).stdout.startswith(
        "base (the tables were never migrated"
    )
    run("migrate", "upgrade", "0001", "--url", url, cwd=tmp_path)
    said = run("migrate", "current", "--url", url, cwd=tmp_path).stdout
    assert said == f"0001 (the newest is {HEAD}: run `provider-trace-store migrate upgrade`)\n"


@pytest.mark.parametrize("command", ["--help", "migrate history", "migrate current", "migrate upgrade --sql"])
def test_output_that_cannot_be_written_is_an_error(command: str, tmp_path: Path) -> None:
    targets = [">/dev/full", ">&-", ">/dev/full 2>/dev/full", ">&- 2>&-"]
    # The streams are the same for all commands: one has all targets, each other one the first.
    for target in targets if command == "migrate upgrade --sql" else targets[:1]:
        result = run_in_shell(f"$COMMAND {command} {target}", tmp_path)
        # 120 is Python's own status where even the error cannot be written.
        assert result.returncode in {1, 120}, (target, result.stdout + result.stderr)
        assert "Traceback" not in result.stderr
        if "2>" not in target:
            assert "the output could not be written: " in result.stderr


@pytest.mark.parametrize("command", ["--help", "migrate history", "migrate upgrade --sql"])
def test_a_reader_that_has_gone_ends_the_command_quietly(command: str, tmp_path: Path) -> None:
    line = f"set -o pipefail; (sleep 0.1; $COMMAND {command}) | true; echo ${{PIPESTATUS[0]}}"
    result = run_in_shell(line, tmp_path)
    assert result.stdout == "1\n"
    assert [line for line in result.stderr.splitlines() if not line.startswith("database: ")] == []


def test_an_upgrade_whose_log_cannot_be_written_is_done(tmp_path: Path) -> None:
    for number, target in enumerate(("2>/dev/full", "2>&-")):
        run_in_shell(f"$COMMAND migrate upgrade --url sqlite:///{number}.db {target}", tmp_path)
        assert run("migrate", "current", "--url", f"sqlite:///{number}.db", cwd=tmp_path).stdout == f"{HEAD} (head)\n"
