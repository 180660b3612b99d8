"""What a downgrade drops: only what a migration created, only without rows, and only if nothing depends on it."""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Final
from uuid import uuid4

import pytest
from sqlalchemy import NullPool, inspect, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session

from provider_trace_store import AdoptedTableError, MigrationError, ProviderTraceRepository, TableNotEmptyError
from provider_trace_store.migrations import VERSION_TABLE, downgrade, upgrade
from provider_trace_store.tables.models import metadata
from tests.support.batches import run_script
from tests.support.constants import ORG, OUR_TABLES, PATIENCE, TABLES
from tests.support.traces import a_trace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Connection

    from tests.support.servers import Database

pytestmark = pytest.mark.every_server

BOTH: Final = sorted(OUR_TABLES)


def tables_of(database: Database) -> set[str]:
    with database.engine().connect() as connection:
        return set(inspect(connection).get_table_names()) - {VERSION_TABLE}


def adopt(database: Database) -> None:
    """Migrate a database in which a host has created the tables."""
    with database.engine().begin() as connection:
        metadata.create_all(connection)
    with database.engine().connect() as connection:
        upgrade(connection)


def store_one(database: Database, *, metadata_only: bool = False) -> None:
    with Session(database.engine()) as session, session.begin():
        ProviderTraceRepository(session, organization_id=ORG, metadata_only=metadata_only).create(a_trace(1))


@pytest.fixture
def owner(empty_postgres: Database) -> Iterator[Database]:
    """Return a migrated database whose tables belong to a role that row-level security can bind."""
    role = f"owner_{uuid4().hex[:8]}"
    run_script(empty_postgres, f"CREATE ROLE {role}", f"GRANT ALL ON SCHEMA public TO {role}")
    try:
        with empty_postgres.engine().connect() as connection:
            connection.execute(text(f"SET SESSION AUTHORIZATION {role}"))
            connection.commit()
            upgrade(connection)
            connection.execute(text("RESET SESSION AUTHORIZATION"))
        yield empty_postgres
    finally:
        run_script(empty_postgres, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def role_of(database: Database) -> str:
    with database.engine().connect() as connection:
        return str(connection.scalar(text("SELECT tableowner FROM pg_tables WHERE tablename = 'provider_traces'")))


def hide_all_rows(database: Database) -> None:
    for table in TABLES.values():
        run_script(
            database, f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY", f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY"
        )


def test_an_adopted_table_is_dropped_only_if_it_is_named(empty_database: Database) -> None:
    adopt(empty_database)
    with empty_database.engine().connect() as connection:
        for drop_data in (False, True):
            with pytest.raises(AdoptedTableError, match="provider_trace_packs was adopted"):
                downgrade(connection, "base", drop_data=drop_data)
            connection.rollback()
        with pytest.raises(AdoptedTableError, match="provider_traces was adopted"):
            downgrade(connection, "base", drop_adopted=["provider_trace_packs", "provider_trace_metadata"])
        connection.rollback()
        assert tables_of(empty_database) == OUR_TABLES
        downgrade(connection, "base", drop_adopted=BOTH)
    assert tables_of(empty_database) == set()


def test_a_named_table_with_rows_also_needs_drop_data(empty_database: Database) -> None:
    adopt(empty_database)
    store_one(empty_database)
    with empty_database.engine().connect() as connection:
        with pytest.raises(TableNotEmptyError, match="provider_traces has rows"):
            downgrade(connection, "base", drop_adopted=BOTH)
        connection.rollback()
        assert tables_of(empty_database) == OUR_TABLES
        downgrade(connection, "base", drop_adopted=BOTH, drop_data=True)
    assert tables_of(empty_database) == set()


@pytest.mark.parametrize("names", ["traces", ["public.provider_traces"], ["provider_traces", "users"]])
def test_an_unknown_name_is_refused(database: Database, names: str | list[str]) -> None:
    with database.engine().connect() as connection, pytest.raises(MigrationError, match="drop_adopted names"):
        downgrade(connection, "base", drop_adopted=names)
    assert tables_of(database) == OUR_TABLES


def test_a_table_of_a_host_in_the_place_of_ours_is_not_ours(database: Database) -> None:
    run_script(
        database,
        "ALTER TABLE provider_traces RENAME TO moved",
        "CREATE TABLE provider_traces AS SELECT * FROM moved",
    )
    with database.engine().connect() as connection, pytest.raises(AdoptedTableError):
        downgrade(connection, "base")


def test_only_one_table_was_adopted(empty_database: Database) -> None:
    with empty_database.engine().begin() as connection:
        metadata.tables["provider_traces"].create(connection)
    with empty_database.engine().connect() as connection:
        upgrade(connection)
        downgrade(connection, "0001")
        assert tables_of(empty_database) == {"provider_traces"}
        with pytest.raises(AdoptedTableError, match="provider_traces"):
            downgrade(connection, "base")


def test_indexes_of_others_stay(empty_database: Database, caplog: pytest.LogCaptureFixture) -> None:
    with empty_database.engine().connect() as connection:
        upgrade(connection, "0002")
        connection.execute(text("CREATE INDEX ix_provider_traces_run_id ON provider_traces (run_id)"))
        connection.commit()
        upgrade(connection)
        with caplog.at_level(logging.WARNING, "provider_trace_store"):
            downgrade(connection, "0002")
        names = {index["name"] for table in TABLES.values() for index in inspect(connection).get_indexes(table)}
    assert "ix_provider_traces_run_id" in names
    assert "ix_provider_trace_metadata_run_id" not in names
    assert [record.getMessage().partition("run ")[2] for record in caplog.records] == [
        "DROP INDEX ix_provider_traces_run_id"
    ]


def test_a_table_that_is_gone_does_not_stop_the_downgrade(database: Database) -> None:
    run_script(database, "DROP TABLE provider_trace_metadata")
    with database.engine().connect() as connection:
        downgrade(connection, "base")
    assert tables_of(database) == set()


def test_a_view_in_the_place_of_a_table_is_refused(database: Database) -> None:
    run_script(
        database,
        "ALTER TABLE provider_traces RENAME TO moved",
        "CREATE VIEW provider_traces AS SELECT * FROM moved",
    )
    with (
        database.engine().connect() as connection,
        pytest.raises(MigrationError, match="provider_traces is a view"),
    ):
        downgrade(connection, "base", drop_adopted=BOTH, drop_data=True)


@pytest.mark.parametrize(
    ("script", "dependent"),
    [
        ("CREATE TABLE notes (id varchar REFERENCES provider_traces (id))", "notes"),
        ("CREATE VIEW newest AS SELECT id FROM provider_traces", "view newest"),
    ],
)
def test_what_depends_on_a_table_is_named(database: Database, script: str, dependent: str) -> None:
    run_script(database, script)
    with (
        database.engine().connect() as connection,
        pytest.raises(MigrationError, match=f"provider_traces cannot be dropped, .*{dependent}.*: drop or change"),
    ):
        downgrade(connection, "base", drop_data=True)
    assert tables_of(database) >= OUR_TABLES


@pytest.mark.parametrize(
    ("script", "dependent"),
    [
        ("CREATE TABLE child () INHERITS (provider_traces)", "table child"),
        ("CREATE MATERIALIZED VIEW counted AS SELECT count(*) FROM provider_traces", "view counted"),
        ("CREATE FUNCTION f(provider_traces) RETURNS int LANGUAGE sql AS 'SELECT 1'", "function f"),
        ("CREATE TABLE rows_of (kept provider_traces)", "rows_of"),
    ],
)
def test_dependents_of_postgres_are_named(postgres: Database, script: str, dependent: str) -> None:
    test_what_depends_on_a_table_is_named(postgres, script, dependent)


def test_what_is_a_part_of_the_table_does_not_stop_its_end(postgres: Database) -> None:
    run_script(
        postgres,
        "CREATE POLICY own ON provider_traces USING (organization_id = 'a')",
        "CREATE FUNCTION same() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
        "CREATE TRIGGER own BEFORE UPDATE OF run_id ON provider_traces FOR EACH ROW WHEN (old.run_id = 'a') "
        "EXECUTE FUNCTION same()",
        "CREATE TABLE copies (LIKE provider_traces)",
        "CREATE RULE own AS ON INSERT TO provider_traces DO ALSO INSERT INTO copies SELECT NEW.*",
        "ALTER TABLE provider_traces ADD CONSTRAINT own CHECK (run_id <> id)",
        "ALTER TABLE provider_traces ADD FOREIGN KEY (run_id) REFERENCES provider_traces (id)",
        "ALTER TABLE provider_traces ADD COLUMN own varchar GENERATED ALWAYS AS (run_id) STORED",
        "CREATE STATISTICS own ON run_id, agent_id FROM provider_traces",
        "CREATE INDEX own ON provider_traces (lower(run_id)) WHERE agent_id IS NOT NULL",
    )
    with postgres.engine().connect() as connection:
        downgrade(connection, "base")
    assert tables_of(postgres) == {"copies"}


def wait_for_a_waiting_lock(database: Database) -> None:
    query = text("SELECT 1 FROM pg_locks WHERE NOT granted AND relation IS NOT NULL")
    deadline = time.monotonic() + PATIENCE
    with database.engine(isolation_level="AUTOCOMMIT").connect() as connection:
        while connection.scalar(query) is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def migrate_while_a_row_is_written(database: Database, migrate: Callable[[Connection], None]) -> None:
    """Run a migration that begins before the row is committed, and goes on afterwards."""

    def run() -> None:
        with database.engine().connect() as connection:
            migrate(connection)

    with ThreadPoolExecutor(1) as pool, Session(database.engine()) as session:
        # As SQL: the tables may be those of an earlier release.
        session.execute(
            text(
                "INSERT INTO provider_traces (id, request_json, response_json, organization_id) "
                "VALUES ('provider_trace-00000001', '{}', '{}', 'org-1')"
            )
        )
        running = pool.submit(run)
        wait_for_a_waiting_lock(database)
        session.commit()
        running.result(PATIENCE)


def test_a_row_that_is_committed_during_the_wait_is_not_dropped(postgres: Database) -> None:
    with pytest.raises(TableNotEmptyError, match="provider_traces has rows"):
        migrate_while_a_row_is_written(
            postgres, lambda connection: downgrade(connection, "base", lock_timeout=PATIENCE)
        )
    assert tables_of(postgres) == OUR_TABLES


def test_a_row_that_is_committed_during_the_wait_counts_for_the_indexes(postgres: Database) -> None:
    with postgres.engine().connect() as connection:
        downgrade(connection, "0002")
    migrate_while_a_row_is_written(postgres, lambda connection: upgrade(connection, lock_timeout=PATIENCE))
    with postgres.engine().connect() as connection:
        names = {index["name"] for index in inspect(connection).get_indexes("provider_traces")}
    assert names == {"ix_provider_traces_step_id"}


def test_rows_that_the_owner_may_not_read_are_not_dropped(owner: Database) -> None:
    store_one(owner)
    role = role_of(owner)
    run_script(owner, f"REVOKE SELECT ON provider_traces FROM {role}")  # noqa: S608  # no query
    with owner.engine().connect() as connection:
        connection.execute(text(f"SET SESSION AUTHORIZATION {role}"))
        connection.commit()
        with pytest.raises(TableNotEmptyError, match=f"which the role {role} may not read"):
            downgrade(connection, "base")
        connection.rollback()
        connection.execute(text("RESET SESSION AUTHORIZATION"))
        connection.commit()


async def test_every_check_runs_on_asyncpg(empty_postgres: Database) -> None:
    with empty_postgres.engine().begin() as connection:
        metadata.create_all(connection)
    engine = create_async_engine(empty_postgres.url.set(drivername="postgresql+asyncpg"), poolclass=NullPool)
    async with engine.connect() as connected:
        await connected.run_sync(upgrade)
        with pytest.raises(AdoptedTableError):
            await connected.run_sync(downgrade, "base")
        await connected.rollback()
        await connected.run_sync(partial(downgrade, revision="base", drop_adopted=BOTH))
        await connected.run_sync(upgrade)
        await connected.run_sync(downgrade, "base")
    await engine.dispose()
    assert tables_of(empty_postgres) == set()


def test_rows_that_a_policy_hides_are_not_dropped(owner: Database) -> None:
    store_one(owner)
    store_one(owner, metadata_only=True)
    hide_all_rows(owner)
    role = role_of(owner)
    with owner.engine().connect() as connection:
        connection.execute(text(f"SET SESSION AUTHORIZATION {role}"))
        assert connection.scalar(text("SELECT count(*) FROM provider_traces")) == 0
        connection.commit()
        with pytest.raises(TableNotEmptyError, match=f"row-level security hides from the role {role}"):
            downgrade(connection, "base")
        connection.rollback()
        connection.execute(text("RESET SESSION AUTHORIZATION"))
        connection.commit()
        with pytest.raises(TableNotEmptyError, match="has rows"):
            downgrade(connection, "base")
    assert tables_of(owner) == OUR_TABLES


def test_upgrade_builds_no_index_on_rows_that_a_policy_hides(owner: Database, caplog: pytest.LogCaptureFixture) -> None:
    store_one(owner)
    role = role_of(owner)
    with owner.engine().connect() as connection:
        downgrade(connection, "0002")
    hide_all_rows(owner)
    with caplog.at_level(logging.INFO, "provider_trace_store"), owner.engine().connect() as connection:
        connection.execute(text(f"SET SESSION AUTHORIZATION {role}"))
        connection.commit()
        upgrade(connection)
        connection.execute(text("RESET SESSION AUTHORIZATION"))
    with owner.engine().connect() as connection:
        names = {index["name"] for index in inspect(connection).get_indexes("provider_traces")}
    assert names == {"ix_provider_traces_step_id"}
    assert "may have rows that its row-level security hides" in caplog.text
    assert "CREATE INDEX CONCURRENTLY ix_provider_traces_run_id" in caplog.text


def test_an_old_snapshot_is_no_proof_of_emptiness(postgres: Database) -> None:
    with postgres.engine(isolation_level="REPEATABLE READ").connect() as connection:
        connection.execute(text("SELECT count(*) FROM provider_traces"))
        store_one(postgres)
        with pytest.raises(TableNotEmptyError, match="use READ COMMITTED"):
            downgrade(connection, "base")
    assert tables_of(postgres) == OUR_TABLES
