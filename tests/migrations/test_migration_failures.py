"""Errors of the database in a migration: an error of the package that says what to do, without the driver's text."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import pytest
from sqlalchemy import create_engine, text

from provider_trace_store import MigrationError
from provider_trace_store.migrations import VERSION_TABLE, current, downgrade, upgrade
from tests.support.batches import run_script
from tests.support.constants import HEAD, OUR_TABLES
from tests.support.spaces import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.servers import Database

pytestmark = pytest.mark.every_server

ACTS: Final[dict[str, Callable[..., Any]]] = {
    "upgrade": upgrade,
    "current": current,
    "downgrade": lambda connection: downgrade(connection, "base", drop_data=True),
}


def failure_of(act: Callable[..., Any], connection: Any, **arguments: Any) -> str:
    """Return the message of the error, which has no other error behind it."""
    with pytest.raises(MigrationError) as caught:
        act(connection, **arguments)
    text_of_all = shown(caught.value)
    assert "psycopg" not in text_of_all
    assert "sqlite3." not in text_of_all
    return str(caught.value)


@contextmanager
def role_in(database: Database, *statements: str) -> Iterator[str]:
    """Make a role without rights, run statements about it as `{role}`, and drop it."""
    role = f"role_{uuid4().hex}"
    try:
        run_script(database, f"CREATE ROLE {role}", *(statement.format(role=role) for statement in statements))
        yield role
    finally:
        run_script(database, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("joined", [False, True])
def test_a_role_that_may_not_read_the_version_table(postgres: Database, act: str, joined: bool) -> None:
    with role_in(postgres) as role, postgres.engine().connect() as connection:
        connection.execute(text(f"SET ROLE {role}"))
        connection.commit()
        if joined:
            connection.execute(text("SELECT 1"))
        message = failure_of(ACTS[act], connection)
        assert f"GRANT SELECT ON public.{VERSION_TABLE} TO {role}" in message
        # The caller's transaction is usable.
        assert connection.in_transaction() == joined
        assert connection.scalar(text("SELECT 1")) == 1


def test_what_the_message_says_to_grant_is_enough_at_the_newest_revision(postgres: Database) -> None:
    with role_in(postgres, f"GRANT SELECT ON {VERSION_TABLE} TO {{role}}") as role:
        with postgres.engine().connect() as connection:
            connection.execute(text(f"SET ROLE {role}"))
            connection.commit()
            upgrade(connection)
            assert current(connection) == HEAD
            connection.commit()
            assert f"{role} does not own public.provider_trace" in failure_of(ACTS["downgrade"], connection)
        run_script(postgres, *(f"ALTER TABLE {table} OWNER TO {role}" for table in OUR_TABLES))
        with postgres.engine().connect() as connection:
            connection.execute(text(f"SET ROLE {role}"))
            connection.commit()
            message = failure_of(ACTS["downgrade"], connection)
            assert f"GRANT SELECT, INSERT, UPDATE, DELETE ON public.{VERSION_TABLE} TO {role}" in message


def test_a_role_that_may_not_create_tables(empty_postgres: Database) -> None:
    run_script(empty_postgres, "REVOKE CREATE ON SCHEMA public FROM public", "CREATE SCHEMA hidden")
    with role_in(empty_postgres) as role, empty_postgres.engine().connect() as connection:
        connection.execute(text(f"SET ROLE {role}"))
        connection.commit()
        assert f"GRANT CREATE ON SCHEMA public TO {role}" in failure_of(upgrade, connection)
        assert f"GRANT USAGE ON SCHEMA hidden TO {role}" in failure_of(upgrade, connection, schema="hidden")
        assert "CREATE SCHEMA nowhere" in failure_of(upgrade, connection, schema="nowhere")
        connection.execute(text("SET search_path = nowhere"))
        connection.commit()
        assert "search_path" in failure_of(upgrade, connection)


def test_a_read_only_server(empty_postgres: Database, tmp_path: Path) -> None:
    with empty_postgres.engine().connect() as connection:
        connection.execute(text("SET default_transaction_read_only = on"))
        connection.commit()
        assert "read-only: connect to the primary" in failure_of(upgrade, connection)
        connection.execute(text("SET default_transaction_read_only = off"))
        connection.commit()
        upgrade(connection)
        connection.execute(text("SET default_transaction_read_only = on"))
        connection.commit()
        upgrade(connection)  # nothing to do
    path = tmp_path / "file.db"
    path.touch()
    with create_engine(f"sqlite:///file:{path}?mode=ro&uri=true").connect() as connection:
        assert "read-only" in failure_of(upgrade, connection)


def test_a_lost_connection(empty_postgres: Database) -> None:
    with empty_postgres.engine().connect() as connection:
        pid = connection.scalar(text("SELECT pg_backend_pid()"))
        connection.commit()
        run_script(empty_postgres, f"SELECT pg_terminate_backend({pid})")
        message = failure_of(upgrade, connection)
    assert "connection to the database was lost" in message


def test_a_transaction_that_has_failed_already(empty_postgres: Database) -> None:
    with empty_postgres.engine().connect() as connection:
        with pytest.raises(Exception, match="nothing_here"):
            connection.execute(text("SELECT * FROM nothing_here"))
        assert "roll it back first" in failure_of(upgrade, connection)


def test_a_revision_that_this_version_does_not_know(database: Database) -> None:
    with database.engine().connect() as connection:
        assert "9999" in failure_of(upgrade, connection, revision="9999")
    run_script(database, f"UPDATE {VERSION_TABLE} SET version_num = '9999'")  # noqa: S608  (constants)
    with database.engine().connect() as connection:
        message = failure_of(upgrade, connection)
        assert "9999" in message
        assert "newer version of provider_trace_store" in message
        assert current(connection) == "9999"


def test_a_full_file_and_a_file_that_is_no_database(tmp_path: Path) -> None:
    with create_engine(f"sqlite:///{tmp_path}/full.db").connect() as connection:
        connection.execute(text("PRAGMA max_page_count = 3"))
        connection.commit()
        assert "free space" in failure_of(upgrade, connection)
    (tmp_path / "text.db").write_text("no database" * 1000, "utf-8")
    with create_engine(f"sqlite:///{tmp_path}/text.db").connect() as connection:
        assert "not a SQLite database" in failure_of(upgrade, connection)


@pytest.mark.parametrize("act", ACTS)
def test_an_engine_is_no_connection(act: str) -> None:
    with pytest.raises(TypeError, match=r"engine\.connect\(\)"):
        ACTS[act](create_engine("sqlite://"))
