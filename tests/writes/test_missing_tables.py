"""A write that uses both tables while one of them is missing: the error names that one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from provider_trace_store import ProviderTraceRepository, TableMissingError
from provider_trace_store.migrations import downgrade, upgrade
from tests.support.constants import ORG, TABLES
from tests.support.traces import a_batch, a_trace

if TYPE_CHECKING:
    from tests.support.servers import Database

ID = "provider_trace-00000001-0000-4000-8000-000000000000"
each_method = pytest.mark.parametrize("method", ["delete", "restore"])


@each_method
@pytest.mark.parametrize("missing", TABLES.values())
def test_the_missing_one_of_two_tables_is_named(database: Database, method: str, missing: str) -> None:
    with database.engine().begin() as connection:
        connection.execute(text(f"DROP TABLE {missing}"))
    with Session(database.engine()) as session:
        repository = ProviderTraceRepository(session, organization_id="org-1")
        with pytest.raises(TableMissingError) as caught:
            getattr(repository, method)(ID)
        assert caught.value.table == missing
        assert missing in str(caught.value)
        assert session.scalar(text("SELECT 1")) == 1


@each_method
@pytest.mark.parametrize("missing", TABLES.values())
def test_a_table_of_that_name_in_another_schema_is_not_the_missing_one(
    postgres: Database, method: str, missing: str
) -> None:
    with postgres.engine().begin() as connection:
        connection.execute(text("CREATE SCHEMA traces"))
        upgrade(connection, schema="traces")
        connection.execute(text(f"DROP TABLE traces.{missing}"))
    engine = postgres.engine().execution_options(schema_translate_map={None: "traces"})
    with Session(engine) as session:
        repository = ProviderTraceRepository(session, organization_id="org-1")
        with pytest.raises(TableMissingError) as caught:
            getattr(repository, method)(ID)
        assert caught.value.table == missing
        assert session.scalar(text("SELECT 1")) == 1


def test_a_database_of_an_earlier_release_is_named_with_what_it_lacks(database: Database) -> None:
    with database.engine().connect() as connection:
        downgrade(connection, "0003")
    with Session(database.engine()) as session:
        repository = ProviderTraceRepository(session, organization_id=ORG)
        with pytest.raises(TableMissingError, match="has no column pack_id: run `provider-trace-store"):
            repository.create(a_trace(1))
        with pytest.raises(TableMissingError, match="provider_trace_metadata has no column pack_id"):
            repository.create_many(a_batch(3))
        assert session.scalar(text("SELECT count(*) FROM provider_traces")) == 0
