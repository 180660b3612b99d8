"""Tables that would break a promise of the package: refused, or adopted with a warning."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import pytest
from sqlalchemy import event, inspect, text
from sqlalchemy.dialects import sqlite
from sqlalchemy.orm import Session

from provider_trace_store import ProviderTraceRepository, TableMismatchError
from provider_trace_store.migrations import VERSION_TABLE, downgrade, upgrade
from provider_trace_store.migrations.indexes import missing_indexes
from provider_trace_store.tables.models import metadata
from tests.support.batches import run_script
from tests.support.constants import ORG
from tests.support.traces import a_trace

if TYPE_CHECKING:
    from tests.support.servers import Database

pytestmark = pytest.mark.every_server

SQLITE: Final = pytest.mark.parametrize("empty_database", ["sqlite"], indirect=True)
# What only a server with ICU can really make; the catalogue says the same.
VAGUE: Final = (
    'CREATE COLLATION vague FROM "C"',
    "UPDATE pg_collation SET collisdeterministic = false WHERE collname = 'vague'",
)
EQUAL: Final = "collation that takes different texts for equal"


def make_tables(database: Database) -> None:
    with database.engine().begin() as connection:
        metadata.create_all(connection)


def make_sqlite_tables(database: Database, column: str, declaration: str) -> None:
    """Create the tables as the models say, with another declaration of one column of provider_traces."""
    make_tables(database)
    with database.engine().begin() as connection:
        script = str(connection.scalar(text("SELECT sql FROM sqlite_master WHERE name = 'provider_traces'")))
        changed = "\n".join(f"{declaration}," if line.split()[:1] == [column] else line for line in script.splitlines())
        assert changed != script
        connection.execute(text("DROP TABLE provider_traces"))
        connection.execute(text(changed))


def refusal_of(database: Database) -> str:
    with database.engine().connect() as connection:
        with pytest.raises(TableMismatchError) as refused:
            upgrade(connection)
        connection.rollback()
        assert not inspect(connection).has_table(VERSION_TABLE)
    return str(refused.value)


@pytest.mark.parametrize("column", ["id", "organization_id", "step_id", "run_id", "agent_id"])
@pytest.mark.parametrize(
    ("scripts", "type_"),
    [
        ((), "name"),
        ((), '"char"'),
        ((), "char(80)"),
        ((), "varchar(200)"),
        (("CREATE DOMAIN label AS varchar",), "label"),
        (("CREATE TYPE label AS ENUM ('a')",), "label"),
        (("CREATE SCHEMA other", 'CREATE DOMAIN other."text" AS varchar'), 'other."text"'),
    ],
    ids=["name", "quoted char", "char", "varchar(n)", "domain", "enum", "a domain called text"],
)
def test_a_type_that_changes_or_mixes_up_texts_is_refused(
    empty_postgres: Database, column: str, scripts: tuple[str, ...], type_: str
) -> None:
    make_tables(empty_postgres)
    change = f"ALTER TABLE provider_traces ALTER COLUMN {column} TYPE {type_} USING {column}::text::{type_}"
    run_script(empty_postgres, *scripts, change.replace(":", "\\:"))
    assert f"its column {column} is " in refusal_of(empty_postgres)


@pytest.mark.parametrize(
    ("column", "type_"),
    [
        ("created_at", "timestamptz(3)"),
        ("updated_at", "timestamptz(0)"),
        ("created_at", "timestamp"),
        ("request_json", "jsonb"),
        ("request_json", "text"),
        ("id", "uuid USING NULL::uuid"),
        ("is_deleted", "integer USING 0"),
    ],
)
def test_a_type_that_does_not_keep_values_is_refused(empty_postgres: Database, column: str, type_: str) -> None:
    make_tables(empty_postgres)
    run_script(
        empty_postgres,
        f"ALTER TABLE provider_traces ALTER COLUMN {column} DROP DEFAULT",
        f"ALTER TABLE provider_traces ALTER COLUMN {column} TYPE {type_}".replace("::", "\\:\\:"),
    )
    assert f"its column {column} is " in refusal_of(empty_postgres)


def test_text_and_microseconds_are_as_good(empty_postgres: Database) -> None:
    make_tables(empty_postgres)
    changes = ("id TYPE text", 'organization_id TYPE text COLLATE "C"', "created_at TYPE timestamptz(6)")
    run_script(empty_postgres, *(f"ALTER TABLE provider_traces ALTER COLUMN {change}" for change in changes))
    with empty_postgres.engine().connect() as connection:
        upgrade(connection)


@pytest.mark.parametrize("column", ["id", "organization_id", "source"])
def test_a_nondeterministic_collation_is_refused(empty_postgres: Database, column: str) -> None:
    make_tables(empty_postgres)
    run_script(empty_postgres, *VAGUE, f"ALTER TABLE provider_traces ALTER COLUMN {column} TYPE text COLLATE vague")
    assert f"its column {column} has a {EQUAL}" in refusal_of(empty_postgres)


@SQLITE
@pytest.mark.parametrize("collation", ["NOCASE", "nocase", "RTRIM"])
@pytest.mark.parametrize("column", ["organization_id", "step_id", "agent_id"])
def test_a_collation_of_sqlite_is_refused(empty_database: Database, column: str, collation: str) -> None:
    make_sqlite_tables(empty_database, column, f"{column} VARCHAR COLLATE {collation}")
    said = refusal_of(empty_database)
    assert f"its column {column} has a {EQUAL}" in said
    assert collation.upper() in said.upper()


@SQLITE
@pytest.mark.parametrize(
    ("declaration", "problem"),
    [
        ("id VARCHAR COLLATE NOCASE NOT NULL", EQUAL),
        ("id VARCHAR NOT NULL UNIQUE ON CONFLICT REPLACE", "ON CONFLICT REPLACE"),
        ("id VARCHAR NOT NULL ON CONFLICT IGNORE", "ON CONFLICT IGNORE"),
        ("id VARCHAR AS ('a') STORED", "its column id is generated"),
        ("id INTEGER NOT NULL", "its column id is INTEGER"),
    ],
)
def test_an_id_that_sqlite_compares_or_replaces_is_refused(
    empty_database: Database, declaration: str, problem: str
) -> None:
    key = "" if "AS (" in declaration else ", PRIMARY KEY (id)"
    with empty_database.engine().begin() as connection:
        connection.execute(text(sqlite_table(declaration, key)))
    assert problem in refusal_of(empty_database)


def sqlite_table(of_id: str, key: str) -> str:
    """Return the statement that creates provider_traces with another declaration of its id and its key."""
    columns = (
        of_id if column.name == "id" else f"{column.name} {column.type.compile(sqlite.dialect())}"
        for column in metadata.tables["provider_traces"].columns
    )
    return f"CREATE TABLE provider_traces ({', '.join(columns)}{key})"


@SQLITE
def test_a_primary_key_with_a_collation_of_its_own_is_refused(empty_database: Database) -> None:
    run_script(empty_database, sqlite_table("id VARCHAR", ", PRIMARY KEY (id COLLATE NOCASE)"))
    assert f"its primary key has a {EQUAL}: NOCASE for id" in refusal_of(empty_database)


@SQLITE
def test_a_collation_of_the_hosts_own_is_refused(empty_database: Database) -> None:
    engine = empty_database.engine()
    event.listen(engine, "connect", lambda driver, _: driver.create_collation("hosts", lambda *_: 0))
    with engine.begin() as connection:
        connection.execute(text(sqlite_table("id VARCHAR COLLATE hosts", ", PRIMARY KEY (id)")))
    for known in (engine, empty_database.engine()):
        with known.connect() as connection, pytest.raises(TableMismatchError, match=f"its column id has a {EQUAL}"):
            upgrade(connection)


@SQLITE
def test_a_name_in_other_letters_is_refused(empty_database: Database) -> None:
    run_script(empty_database, sqlite_table("id VARCHAR", ", PRIMARY KEY (id)").replace("provider_t", "Provider_T"))
    assert "it is named Provider_Traces, in other letters; rename it" in refusal_of(empty_database)


@SQLITE
def test_columns_in_other_letters_are_the_same_columns(empty_database: Database) -> None:
    run_script(empty_database, sqlite_table("ID VARCHAR", ", PRIMARY KEY (ID)").replace("step_id", "STEP_ID"))
    with empty_database.engine().connect() as connection:
        upgrade(connection)
    with Session(empty_database.engine()) as session, session.begin():
        trace = a_trace(1)
        assert ProviderTraceRepository(session, organization_id=ORG).create(trace) == trace


@SQLITE
def test_an_index_with_another_collation_does_not_count(empty_database: Database) -> None:
    make_tables(empty_database)
    run_script(
        empty_database,
        "DROP INDEX ix_provider_traces_run_id",
        "CREATE INDEX hosts ON provider_traces (run_id COLLATE NOCASE)",
    )
    with empty_database.engine().connect() as connection:
        found = missing_indexes(connection, metadata.tables["provider_traces"])
    assert [index.name for index in found] == ["ix_provider_traces_run_id"]


@pytest.mark.parametrize(
    "definition",
    [
        '(run_id COLLATE "C")',
        "(run_id text_pattern_ops)",
        "(run_id) WHERE run_id IS NOT NULL",
        "(lower(run_id))",
        "USING hash (run_id)",
        "(run_id DESC)",
    ],
)
def test_an_index_that_does_not_serve_does_not_count(empty_postgres: Database, definition: str) -> None:
    make_tables(empty_postgres)
    run_script(
        empty_postgres,
        "DROP INDEX ix_provider_traces_run_id",
        f"CREATE INDEX hosts ON provider_traces {definition}",
    )
    with empty_postgres.engine().connect() as connection:
        found = missing_indexes(connection, metadata.tables["provider_traces"])
    assert [index.name for index in found] == ["ix_provider_traces_run_id"]


@pytest.mark.parametrize(
    ("scripts", "problem"),
    [
        (
            (
                "ALTER TABLE provider_traces DROP CONSTRAINT provider_traces_pkey",
                "ALTER TABLE provider_traces ADD PRIMARY KEY (id) DEFERRABLE",
            ),
            "constraint provider_traces_pkey is deferrable",
        ),
        (
            ("ALTER TABLE provider_traces ADD CONSTRAINT once UNIQUE (step_id) DEFERRABLE INITIALLY DEFERRED",),
            "constraint once is deferrable",
        ),
        (("CREATE RULE lost AS ON INSERT TO provider_traces DO INSTEAD NOTHING",), "its rule lost"),
        (("CREATE RULE kept AS ON DELETE TO provider_traces DO INSTEAD NOTHING",), "its rule kept"),
        (
            (
                "ALTER TABLE provider_traces DROP COLUMN source",
                "ALTER TABLE provider_traces ADD COLUMN source varchar GENERATED ALWAYS AS ('a') STORED",
            ),
            "its column source is generated",
        ),
        (
            (
                "ALTER TABLE provider_traces RENAME TO old",
                "CREATE TABLE provider_traces (LIKE old INCLUDING DEFAULTS) PARTITION BY HASH (id)",
                "CREATE TABLE part PARTITION OF provider_traces FOR VALUES WITH (MODULUS 1, REMAINDER 0)",
                "ALTER TABLE ONLY provider_traces ADD PRIMARY KEY (id)",
            ),
            "is not valid, so an id could be stored twice",
        ),
        (
            ("CREATE DOMAIN needed AS int NOT NULL", "ALTER TABLE provider_traces ADD COLUMN hosts needed"),
            "its column hosts is not of ours",
        ),
    ],
)
def test_a_key_or_a_rule_that_breaks_a_promise_is_refused(
    empty_postgres: Database, scripts: tuple[str, ...], problem: str
) -> None:
    make_tables(empty_postgres)
    run_script(empty_postgres, *scripts)
    assert problem in refusal_of(empty_postgres)


def warnings_of(database: Database, caplog: pytest.LogCaptureFixture) -> list[str]:
    with caplog.at_level(logging.WARNING, "provider_trace_store"), database.engine().connect() as connection:
        upgrade(connection)
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


@pytest.mark.parametrize(
    ("scripts", "risk"),
    [
        (("ALTER TABLE provider_traces SET UNLOGGED",), "is UNLOGGED"),
        (
            (
                "CREATE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
                "CREATE TRIGGER skipping BEFORE INSERT ON provider_traces FOR EACH ROW EXECUTE FUNCTION skip()",
            ),
            "the trigger skipping before each row",
        ),
        (
            (
                "CREATE TABLE tenants (id varchar PRIMARY KEY)",
                "ALTER TABLE provider_traces ADD CONSTRAINT key FOREIGN KEY (run_id) REFERENCES tenants DEFERRABLE",
                "ALTER TABLE provider_traces ALTER CONSTRAINT key DEFERRABLE INITIALLY DEFERRED",
            ),
            "the deferred constraint key",
        ),
        (
            (
                "ALTER TABLE provider_traces RENAME TO old",
                "CREATE TABLE provider_traces (LIKE old INCLUDING DEFAULTS, PRIMARY KEY (id)) PARTITION BY HASH (id)",
                "CREATE UNLOGGED TABLE p0 PARTITION OF provider_traces FOR VALUES WITH (MODULUS 2, REMAINDER 0)",
                "CREATE TABLE p1 PARTITION OF provider_traces FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
                "DROP TABLE old",
            ),
            "is UNLOGGED (p0)",
        ),
        (("ALTER TABLE provider_traces ENABLE ROW LEVEL SECURITY",), "row-level security"),
        (("CREATE TABLE child () INHERITS (provider_traces)",), "the inheritance child child"),
    ],
)
def test_a_risk_is_logged(
    empty_postgres: Database, caplog: pytest.LogCaptureFixture, scripts: tuple[str, ...], risk: str
) -> None:
    make_tables(empty_postgres)
    run_script(empty_postgres, *scripts)
    (line,) = warnings_of(empty_postgres, caplog)
    assert line.startswith("provider_traces: ")
    assert risk in line


@SQLITE
def test_a_risk_of_sqlite_is_logged(empty_database: Database, caplog: pytest.LogCaptureFixture) -> None:
    make_tables(empty_database)
    run_script(
        empty_database,
        "CREATE TRIGGER skipping BEFORE INSERT ON provider_traces BEGIN SELECT RAISE(IGNORE); END",
    )
    (line,) = warnings_of(empty_database, caplog)
    assert "the trigger skipping before each row" in line


def test_tables_of_the_models_are_adopted_without_a_warning(
    empty_database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    make_tables(empty_database)
    assert warnings_of(empty_database, caplog) == []


def test_the_owner_is_told_of_a_column_that_was_added(
    empty_database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    make_tables(empty_database)
    run_script(
        empty_database,
        "DROP INDEX ix_provider_traces_run_id",
        "ALTER TABLE provider_traces DROP COLUMN run_id",
    )
    (line,) = warnings_of(empty_database, caplog)
    assert "provider_traces: was adopted, and got the columns run_id. The migrations of an application" in line


def test_the_owner_is_told_of_a_table_that_was_created_beside_his(
    empty_database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    with empty_database.engine().begin() as connection:
        metadata.tables["provider_traces"].create(connection)
    (line,) = warnings_of(empty_database, caplog)
    assert "provider_trace_metadata: was created beside provider_traces, which was adopted. The migrations" in line


def test_nobody_is_told_of_tables_that_are_ours(empty_database: Database, caplog: pytest.LogCaptureFixture) -> None:
    assert warnings_of(empty_database, caplog) == []


def test_a_table_adopted_by_an_old_release_is_checked_before_its_indexes(postgres: Database) -> None:
    with Session(postgres.engine()) as session, session.begin():
        ProviderTraceRepository(session, organization_id=ORG).create(a_trace(1))
    with postgres.engine().connect() as connection:
        downgrade(connection, "0002")
    run_script(postgres, "ALTER TABLE provider_traces ALTER COLUMN run_id TYPE char(9)")
    with postgres.engine().connect() as connection, pytest.raises(TableMismatchError, match="run_id is CHAR"):
        upgrade(connection)
