"""Migration 0004: the table of the packs, and the column of the metadata that names a trace's pack."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import inspect, text

from provider_trace_store import TableMismatchError, TableNotEmptyError
from provider_trace_store.migrations import VERSION_TABLE, current, downgrade, upgrade
from provider_trace_store.packs.format import PackBuilder
from provider_trace_store.packs.store import insert_pack, new_pack_id
from tests.support.batches import run_script
from tests.support.constants import HEAD, ORG

if TYPE_CHECKING:
    from tests.support.servers import Database

pytestmark = pytest.mark.every_server


def columns_of(database: Database, table: str) -> set[str]:
    return {column["name"] for column in inspect(database.engine()).get_columns(table)}


def store_a_pack(database: Database) -> None:
    builder = PackBuilder()
    builder.add("provider_trace-00000001", (b"{}", b"{}", None, None))
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    with database.engine().begin() as connection:
        insert_pack(
            connection,
            new_pack_id(),
            builder.finish(),
            organization_id=ORG,
            agent_id=None,
            first_created_at=moment,
            last_created_at=moment,
        )


def test_a_pack_is_dropped_only_with_drop_data(database: Database) -> None:
    store_a_pack(database)
    with database.engine().connect() as connection:
        with pytest.raises(
            TableNotEmptyError, match="provider_trace_packs has rows: run `provider-trace-store unpack`"
        ):
            downgrade(connection, "0003")
        connection.rollback()
        assert current(connection) == HEAD
        connection.rollback()
        downgrade(connection, "0003", drop_data=True)
    assert "pack_id" not in columns_of(database, "provider_trace_metadata")


def test_a_lost_version_table_costs_nothing(database: Database) -> None:
    store_a_pack(database)
    run_script(database, f"DROP TABLE {VERSION_TABLE}")
    with database.engine().connect() as connection:
        upgrade(connection)
        assert current(connection) == HEAD
        assert connection.scalar(text("SELECT count(*) FROM provider_trace_packs")) == 1


def test_another_table_of_the_name_is_refused_and_nothing_is_changed(empty_database: Database) -> None:
    with empty_database.engine().connect() as connection:
        upgrade(connection, "0003")
        connection.commit()
        connection.execute(text("CREATE TABLE provider_trace_packs (id varchar NOT NULL PRIMARY KEY)"))
        connection.commit()
        with pytest.raises(TableMismatchError, match="provider_trace_packs"):
            upgrade(connection)
        connection.rollback()
        assert current(connection) == "0003"
    assert columns_of(empty_database, "provider_trace_packs") == {"id"}


def test_a_column_of_the_name_and_another_type_is_refused(empty_database: Database) -> None:
    with empty_database.engine().connect() as connection:
        upgrade(connection, "0003")
        connection.commit()
        connection.execute(text("ALTER TABLE provider_trace_metadata ADD COLUMN pack_id integer"))
        connection.commit()
        with pytest.raises(TableMismatchError, match="its column pack_id is INTEGER, not uuid"):
            upgrade(connection)


def test_the_owner_of_an_adopted_table_is_told_of_the_column(
    empty_database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    with empty_database.engine().connect() as connection:
        upgrade(connection, "0003")
        connection.commit()
    run_script(
        empty_database,
        "ALTER TABLE provider_trace_metadata RENAME TO moved",
        "DROP INDEX ix_provider_trace_metadata_id",
        "CREATE TABLE provider_trace_metadata AS SELECT * FROM moved",
    )
    with caplog.at_level(logging.WARNING, "provider_trace_store"), empty_database.engine().connect() as connection:
        upgrade(connection)
    assert any("got the columns pack_id" in record.getMessage() for record in caplog.records)


def test_parts_of_a_pack_are_read_without_the_rest(postgres: Database) -> None:
    with postgres.engine().connect() as connection:
        storage = connection.execute(
            text(
                "SELECT attname, attstorage FROM pg_attribute "
                "WHERE attrelid = CAST('provider_trace_packs' AS regclass) AND attname IN ('data', 'directory')"
            )
        ).all()
        assert {tuple(row) for row in storage} == {("data", "e"), ("directory", "e")}
        assert [index["name"] for index in inspect(connection).get_indexes("provider_trace_packs")] == []
