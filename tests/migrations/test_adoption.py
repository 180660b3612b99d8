"""Adoption: the tables of an existing deployment are taken over as they are, beside those of the host, without loss."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import ForeignKey, MetaData, String, inspect, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from provider_trace_store import (
    ProviderTrace,
    ProviderTraceConflictError,
    ProviderTraceRepository,
    TableMismatchError,
)
from provider_trace_store.migrations import VERSION_TABLE, include_name, scripts_config, upgrade
from provider_trace_store.migrations.indexes import missing_indexes
from provider_trace_store.tables.models import metadata
from tests.support.constants import PATIENCE

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

    from tests.support.servers import Database

pytestmark = pytest.mark.every_server

ROWS = 100_000

# The tables as existing deployments have them: their index names, their nullable created_at, their foreign key.
HOST = """
CREATE TABLE organizations (id varchar PRIMARY KEY, name varchar);
INSERT INTO organizations VALUES ('org-1', 'One'), ('org-2', 'Two');
CREATE TABLE alembic_version (version_num varchar(32) NOT NULL PRIMARY KEY);
INSERT INTO alembic_version VALUES ('host-revision');
"""
TELEMETRY_COLUMNS = """, agent_id varchar, agent_tags json, call_type varchar, run_id varchar, source varchar,
    org_id varchar, user_id varchar, compaction_settings json, llm_config json"""
FULL = """
CREATE TABLE provider_traces (
    id varchar NOT NULL PRIMARY KEY, request_json json NOT NULL, response_json json NOT NULL, step_id varchar,
    created_at timestamptz DEFAULT now(), updated_at timestamptz DEFAULT now(),
    is_deleted boolean NOT NULL DEFAULT false, _created_by_id varchar, _last_updated_by_id varchar,
    organization_id varchar NOT NULL REFERENCES organizations (id){telemetry}
);
CREATE INDEX ix_step_id ON provider_traces (step_id);
"""
METADATA = """
CREATE TABLE provider_trace_metadata (
    id varchar NOT NULL, step_id varchar, agent_id varchar, agent_tags json, call_type varchar, run_id varchar,
    source varchar, org_id varchar, user_id varchar, created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz DEFAULT now(), is_deleted boolean NOT NULL DEFAULT false, _created_by_id varchar,
    _last_updated_by_id varchar, organization_id varchar NOT NULL REFERENCES organizations (id),
    PRIMARY KEY (created_at, id)
);
CREATE UNIQUE INDEX ix_provider_trace_metadata_id ON provider_trace_metadata (id);
CREATE INDEX ix_provider_trace_metadata_step_id ON provider_trace_metadata (step_id);
"""
OLD_ROWS = """
INSERT INTO provider_traces (id, request_json, response_json, step_id, created_at, organization_id)
SELECT 'provider_trace-' || lpad(to_hex(n), 8, '0') || '-0000-4000-8000-000000000000',
    json_build_object('model', 'gpt-4o', 'n', n), '{"choices": [ {"index": 0} ]}', 'step-' || n / 2,
    timestamptz '2025-01-01 00:00+00' + n * interval '1 second', 'org-1'
FROM generate_series(1, :rows) n
"""
OLD_METADATA_ROWS = """
INSERT INTO provider_trace_metadata (id, step_id, created_at, organization_id)
SELECT id, step_id, created_at, organization_id FROM provider_traces
"""
FIRST_ID = "provider_trace-00000001-0000-4000-8000-000000000000"


def full_table(*, telemetry: bool = True) -> str:
    return FULL.format(telemetry=TELEMETRY_COLUMNS if telemetry else "")


def prepare(engine: Engine, *scripts: str, rows: int = ROWS) -> None:
    with engine.begin() as connection:
        for script in (HOST, *scripts):
            connection.execute(text(script), {"rows": rows} if ":rows" in script else {})


def fingerprint(connection: Connection, table: str) -> tuple[object, ...]:
    """Return what changes when a row is written, moved or rewritten, or an index or foreign key is touched."""
    rows = connection.execute(
        text(
            f"SELECT count(*), md5(string_agg(id || created_at || request_json::text || xmin || ctid, '' ORDER BY id)) "  # noqa: S608  (a constant)
            f"FROM {table}"
            if table == "provider_traces"
            else f"SELECT count(*), md5(string_agg(id || created_at || xmin || ctid, '' ORDER BY id)) FROM {table}"  # noqa: S608  (a constant)
        )
    ).one()
    relations = connection.execute(
        text(
            "SELECT relname, oid, relfilenode FROM pg_class WHERE oid = CAST(:table AS regclass) OR oid IN "
            "(SELECT indexrelid FROM pg_index WHERE indrelid = CAST(:table AS regclass)) ORDER BY oid"
        ),
        {"table": table},
    ).all()
    keys = connection.execute(
        text("SELECT oid, conname FROM pg_constraint WHERE conrelid = CAST(:table AS regclass) ORDER BY oid"),
        {"table": table},
    ).all()
    return tuple(rows), tuple(map(tuple, relations)), tuple(map(tuple, keys))


def test_year_old_tables_are_adopted_as_they_are(empty_postgres: Database, caplog: pytest.LogCaptureFixture) -> None:
    engine = empty_postgres.engine()
    prepare(engine, full_table(), METADATA, OLD_ROWS, OLD_METADATA_ROWS)
    tables = ("provider_traces", "provider_trace_metadata")
    with engine.connect() as connection:
        before = [fingerprint(connection, table) for table in tables]
    with caplog.at_level(logging.INFO, "provider_trace_store"), engine.connect() as connection:
        upgrade(connection)
    with engine.connect() as connection:
        assert [fingerprint(connection, table) for table in tables] == before
        assert connection.scalars(text("SELECT version_num FROM alembic_version")).all() == ["host-revision"]
    lines = [record.getMessage() for record in caplog.records if record.name == "provider_trace_store.migrations"]
    # Once each when they are adopted, and once each for the indexes of the reads. Then the packs, and their column.
    assert [line.split(":")[0] for line in lines] == [
        *["provider_traces", "provider_trace_metadata"] * 2,
        "provider_trace_packs",
        "provider_trace_metadata",
    ]
    assert "adopted" in lines[0]
    statements = [statement for line in lines for statement in line.splitlines()[1:]]
    assert (
        "CREATE INDEX CONCURRENTLY ix_provider_traces_organization_id_created_at_id "
        "ON provider_traces (organization_id, created_at, id);"
    ) in statements
    with engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        for statement in statements:
            connection.execute(text(statement))
    with engine.connect() as connection:
        assert [index for table in metadata.tables.values() for index in missing_indexes(connection, table)] == []
    old_rows_are_read_and_new_ones_written(engine)


def old_rows_are_read_and_new_ones_written(engine: Engine) -> None:
    with Session(engine) as session:
        repository = ProviderTraceRepository(session, organization_id="org-1")
        old = repository.get(FIRST_ID)
        assert old is not None
        assert old.request_json == {"model": "gpt-4o", "n": 1}
        assert old.response_json == {"choices": [{"index": 0}]}
        assert [trace.request_json["n"] for trace in repository.list_by_step_id("step-1")] == [2, 3]
        # Other white space in the stored JSON is the same content.
        again = repository.create(old)
        assert again == old
        with pytest.raises(ProviderTraceConflictError):
            repository.create(old.model_copy(update={"response_json": {}}))
        new = ProviderTrace(request_json={"text": "\0"}, response_json={}, run_id="run-1", llm_config={"a": 1})
        assert repository.create(new) == new
        session.commit()
        assert repository.get(new.id) == new


def test_writers_notice_nothing(empty_postgres: Database) -> None:
    """A writer that commits all the time, and one with an open transaction, go on while the tables are adopted."""
    engine = empty_postgres.engine()
    prepare(engine, full_table(), METADATA, OLD_ROWS)
    started, stop = threading.Event(), threading.Event()
    written = 0

    def write() -> None:
        nonlocal written
        with engine.connect() as connection:
            while not stop.is_set():
                connection.execute(text("UPDATE provider_traces SET source = 'x' WHERE id = :id"), {"id": FIRST_ID})
                connection.commit()
                written += 1
                started.set()

    with engine.connect() as open_one:
        open_one.execute(text("UPDATE provider_traces SET source = 'y' WHERE step_id = 'step-7'"))
        thread = threading.Thread(target=write)
        thread.start()
        assert started.wait(PATIENCE)
        with engine.connect() as connection:
            upgrade(connection, lock_timeout=0.2)
        stop.set()
        # A writer that waits for a lock waits for the open transaction, which ends only after this.
        thread.join(PATIENCE)
        is_waiting = thread.is_alive()
        open_one.commit()
    assert not is_waiting
    assert written > 0


def test_only_the_first_table_is_there(empty_postgres: Database) -> None:
    engine = empty_postgres.engine()
    prepare(engine, full_table(), OLD_ROWS, rows=100)
    with engine.connect() as connection:
        upgrade(connection)
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM provider_trace_metadata")) == 0
    old_rows_are_read_and_new_ones_written(engine)


def test_telemetry_columns_are_added_without_a_rewrite(
    empty_postgres: Database, caplog: pytest.LogCaptureFixture
) -> None:
    engine = empty_postgres.engine()
    prepare(engine, full_table(telemetry=False), OLD_ROWS)
    with engine.connect() as connection:
        before = fingerprint(connection, "provider_traces")
    with caplog.at_level(logging.INFO, "provider_trace_store"), engine.connect() as connection:
        upgrade(connection)
    with engine.connect() as connection:
        assert fingerprint(connection, "provider_traces") == before
    assert "added agent_id, agent_tags, call_type, run_id" in caplog.text
    old_rows_are_read_and_new_ones_written(engine)


def test_columns_of_the_base_are_added_with_their_defaults(empty_postgres: Database) -> None:
    engine = empty_postgres.engine()
    script = full_table()
    for line in ("created_at timestamptz DEFAULT now(), ", "is_deleted boolean NOT NULL DEFAULT false, "):
        script = script.replace(line, "")
    prepare(engine, script)
    with engine.begin() as connection:
        insert = (
            "INSERT INTO provider_traces (id, request_json, response_json, organization_id) "
            "VALUES (:id, '{}', '{}', 'org-1')"
        )
        connection.execute(text(insert), {"id": FIRST_ID})
    with engine.connect() as connection:
        upgrade(connection)
    with engine.begin() as connection:
        connection.execute(text(insert), {"id": FIRST_ID.replace("1", "2")})
        rows = connection.execute(
            text("SELECT is_deleted, created_at IS NULL AS undated FROM provider_traces ORDER BY id")
        ).all()
    assert [tuple(row) for row in rows] == [(False, True), (False, False)]


def test_empty_table_gets_its_missing_indexes(empty_postgres: Database) -> None:
    engine = empty_postgres.engine()
    prepare(engine, full_table(), METADATA)
    with engine.connect() as connection:
        upgrade(connection)
    with engine.connect() as connection:
        names = {index["name"] for index in inspect(connection).get_indexes("provider_trace_metadata")}
    assert "ix_provider_trace_metadata_organization_id_created_at_id" in names


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("ALTER TABLE provider_traces DROP COLUMN request_json", "no column request_json"),
        ("ALTER TABLE provider_traces ALTER COLUMN request_json TYPE jsonb", "request_json is JSONB, not json"),
        ("ALTER TABLE provider_traces ALTER COLUMN step_id TYPE varchar(20)", r"step_id is VARCHAR\(20\)"),
        ("ALTER TABLE provider_traces ALTER COLUMN step_id SET NOT NULL", "step_id is NOT NULL"),
        ("ALTER TABLE provider_traces ALTER COLUMN created_at TYPE timestamp", "created_at is TIMESTAMP"),
        ("ALTER TABLE provider_traces ADD COLUMN hosts integer NOT NULL", "column hosts is not of ours"),
        ("ALTER TABLE provider_traces DROP CONSTRAINT provider_traces_pkey", r"primary key is \(\), not \(id\)"),
        (
            "ALTER TABLE provider_traces RENAME TO other; CREATE VIEW provider_traces AS SELECT * FROM other",
            "a view or a foreign table",
        ),
    ],
)
def test_table_that_is_something_else_stops_the_upgrade(empty_postgres: Database, change: str, problem: str) -> None:
    engine = empty_postgres.engine()
    prepare(engine, full_table(), change)
    with engine.connect() as connection, pytest.raises(TableMismatchError, match=problem):
        upgrade(connection)
    with engine.connect() as connection:
        assert not inspect(connection).has_table(VERSION_TABLE)


def test_additions_of_a_host_are_kept(empty_postgres: Database) -> None:
    engine = empty_postgres.engine()
    prepare(
        engine,
        full_table(),
        METADATA,
        "ALTER TABLE provider_traces ADD COLUMN hosts integer NOT NULL DEFAULT 0, ADD COLUMN note text",
    )
    with engine.connect() as connection:
        upgrade(connection)
    with Session(engine) as session:
        trace = ProviderTrace(request_json={}, response_json={})
        assert ProviderTraceRepository(session, organization_id="org-1").create(trace) == trace


class HostBase(DeclarativeBase):
    """The host application's own tables."""

    metadata = MetaData()


class Organization(HostBase):
    """A host's tenant."""

    __tablename__ = "organizations"
    id: Mapped[str] = mapped_column(String, primary_key=True)
    name: Mapped[str | None] = mapped_column(String)


class User(HostBase):
    """A host's user."""

    __tablename__ = "users"
    id: Mapped[str] = mapped_column(String, primary_key=True)
    organization_id: Mapped[str] = mapped_column(ForeignKey("organizations.id"))


def test_host_and_package_leave_each_other_alone(empty_postgres: Database) -> None:
    """In both directions, on adopted tables: the host's autogenerate is empty, and so is ours."""
    engine = empty_postgres.engine()
    prepare(engine, full_table(), METADATA)
    with engine.begin() as connection:
        HostBase.metadata.create_all(connection)
        upgrade(connection)
    with engine.begin() as connection:
        context = MigrationContext.configure(connection, opts={"include_name": include_name})
        assert compare_metadata(context, HostBase.metadata) == []
    with engine.begin() as connection:
        config = scripts_config()
        config.attributes.update(connection=connection, schema=None, drop_data=False)
        command.check(config)
