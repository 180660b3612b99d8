"""A host's own Alembic project beside the package: its `--autogenerate` proposes nothing for the package's tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy.schema import CreateSchema

from provider_trace_store.migrations import upgrade
from tests.support.batches import run_script

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.servers import Database

# The recipe of docs/migrations.md, with filters of the host's own, and with the package's tables mapped by the host.
ENV: Final = """
from alembic import context
from sqlalchemy import Column, ForeignKey, Integer, MetaData, String, Table

from provider_trace_store import migrations as traces

SCHEMA, IS_MAPPED, IS_FILTERED = context.config.attributes["case"]
target_metadata = MetaData()
Table("users", target_metadata, Column("id", Integer, primary_key=True))
if IS_MAPPED:
    # As a host may map them: with columns and indexes of its own, and a table that refers to one of them.
    Table(
        "provider_traces",
        target_metadata,
        Column("id", String, primary_key=True),
        Column("hosts_own", String, index=True),
        schema=SCHEMA,
    )
    Table("provider_trace_metadata", target_metadata, Column("id", String, primary_key=True), schema=SCHEMA)


def include_name(name, type_, parent_names):
    if type_ == "table" and name.startswith("tmp_"):
        return False
    return not IS_FILTERED or traces.include_name(name, type_, parent_names)


def include_object(item, name, type_, reflected, compare_to):
    if type_ == "table" and name.startswith("old_"):
        return False
    return not IS_FILTERED or traces.include_object(item, name, type_, reflected, compare_to)


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=target_metadata,
    include_schemas=SCHEMA is not None,
    include_name=include_name,
    include_object=include_object,
)
with context.begin_transaction():
    context.run_migrations()
"""
TEMPLATE: Final = """
revision = ${repr(up_revision)}
down_revision = None


def upgrade():
    ${upgrades if upgrades else "pass"}
"""


def proposal(database: Database, folder: Path, schema: str | None, *, is_mapped: bool, is_filtered: bool) -> str:
    """Return the body of the `upgrade` that `alembic revision --autogenerate` writes in a host's project."""
    (folder / "versions").mkdir(parents=True)
    (folder / "env.py").write_text(ENV)
    (folder / "script.py.mako").write_text(TEMPLATE)
    config = Config()
    config.set_main_option("script_location", str(folder))
    config.set_main_option("path_separator", "os")
    with database.engine().connect() as connection:
        config.attributes.update(connection=connection, case=(schema, is_mapped, is_filtered))
        command.revision(config, autogenerate=True)
    (script,) = (folder / "versions").glob("*.py")
    lines = script.read_text().partition("upgrade():")[2].splitlines()
    return "\n".join(stripped for line in lines if (stripped := line.strip()) and not stripped.startswith("#"))


def prepare(database: Database, schema: str | None) -> None:
    if schema:
        with database.engine().begin() as connection:
            connection.execute(CreateSchema(schema))
    with database.engine().connect() as connection:
        upgrade(connection, schema=schema)
    run_script(
        database,
        "CREATE TABLE users (id integer NOT NULL PRIMARY KEY)",
        "CREATE TABLE tmp_a (id integer)",
        "CREATE TABLE old_a (id integer)",
    )


@pytest.mark.parametrize("is_mapped", [False, True], ids=["not mapped", "mapped"])
def test_nothing_is_proposed(empty_database: Database, tmp_path: Path, is_mapped: bool) -> None:
    prepare(empty_database, None)
    assert proposal(empty_database, tmp_path / "with", None, is_mapped=is_mapped, is_filtered=True) == "pass"
    without = proposal(empty_database, tmp_path / "without", None, is_mapped=is_mapped, is_filtered=False)
    assert "provider_trace" in without
    assert "tmp_a" not in without
    assert "old_a" not in without


@pytest.mark.parametrize("is_mapped", [False, True], ids=["not mapped", "mapped"])
@pytest.mark.parametrize("schema", ["traces", "Odd $$ 'x"])
def test_nothing_is_proposed_in_a_schema(
    empty_postgres: Database, tmp_path: Path, is_mapped: bool, schema: str
) -> None:
    prepare(empty_postgres, schema)
    assert proposal(empty_postgres, tmp_path / "with", schema, is_mapped=is_mapped, is_filtered=True).split() == [
        "pass"
    ]
    assert "provider_trace" in proposal(
        empty_postgres, tmp_path / "without", schema, is_mapped=is_mapped, is_filtered=False
    )


def test_nothing_is_proposed_before_the_tables_are_there(empty_database: Database, tmp_path: Path) -> None:
    run_script(empty_database, "CREATE TABLE users (id integer NOT NULL PRIMARY KEY)")
    assert proposal(empty_database, tmp_path / "with", None, is_mapped=True, is_filtered=True) == "pass"
    assert "provider_traces" in proposal(empty_database, tmp_path / "without", None, is_mapped=True, is_filtered=False)
