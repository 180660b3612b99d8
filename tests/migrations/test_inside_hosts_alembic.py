"""Upgrades inside of a host's own Alembic: in a revision or in `env.py`, run or printed."""

from __future__ import annotations

import io
import re
import sqlite3
from typing import TYPE_CHECKING, Final

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import inspect, text
from sqlalchemy.schema import CreateSchema

from provider_trace_store import MigrationError
from provider_trace_store.migrations import VERSION_TABLE, current, downgrade, upgrade
from tests.support.batches import run_script
from tests.support.constants import HEAD, OUR_TABLES
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Connection

    from tests.support.servers import Database

RECIPES: Final = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "migrations.md").read_text("utf-8"), re.DOTALL)
PLAIN: Final = """
from alembic import context

def run(connection):
    {before}
    context.configure(connection=connection, **context.config.attributes["options"])
    with context.begin_transaction():
        {within}
        context.run_migrations()
        {behind}
    {after}

from provider_trace_store.migrations import current, upgrade

if context.is_offline_mode():
    context.configure(dialect_name=context.config.attributes["dialect"], literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
else:
    run(context.config.attributes["connection"])
"""
REVISION: Final = """
import sqlalchemy as sa
from alembic import context, op
from provider_trace_store.migrations import downgrade as take_back, upgrade as migrate

revision, down_revision, branch_labels, depends_on = {revision!r}, {down!r}, None, None

def upgrade():
    {up}

def downgrade():
    {back}
"""
FIRST: Final = (
    "op.create_table('host_one', sa.Column('id', sa.Integer, primary_key=True)); migrate(op.get_bind()); "
    "op.add_column('host_one', sa.Column('more', sa.String)); context.get_context(); {last}"
)
FIRST_BACK: Final = "take_back(op.get_bind(), 'base'); op.drop_table('host_one')"
SECOND: Final = "migrate(op.get_bind()); op.create_table('host_two', sa.Column('id', sa.Integer, primary_key=True))"
HOST_TABLES: Final = {"host_one", "host_two", "alembic_version"}


class Host:
    """A host application with an Alembic environment of its own.

    Args:
        folder: where its scripts are.
        last: the last statement of its first revision.
        places: what its `env.py` does around its migrations: `before`, `within`, `behind`, `after`.
    """

    def __init__(self, folder: Path, last: str = "pass", **places: str) -> None:
        (folder / "versions").mkdir()
        done = dict.fromkeys(("before", "within", "behind", "after"), "pass") | places
        (folder / "env.py").write_text(PLAIN.format(**done), "utf-8")
        first = REVISION.format(revision="h1", down=None, up=FIRST.format(last=last), back=FIRST_BACK)
        (folder / "versions" / "h1.py").write_text(first, "utf-8")
        second = REVISION.format(revision="h2", down="h1", up=SECOND, back="op.drop_table('host_two')")
        (folder / "versions" / "h2.py").write_text(second, "utf-8")
        self.printed = io.StringIO()
        self.config = Config(output_buffer=self.printed)
        self.config.set_main_option("script_location", str(folder))
        self.config.attributes["options"] = {}

    def upgrade(self, connection: Connection, revision: str = "head") -> None:
        """Do what `alembic upgrade` does."""
        self.config.attributes["connection"] = connection
        command.upgrade(self.config, revision)

    def downgrade(self, connection: Connection) -> None:
        """Do what `alembic downgrade base` does."""
        self.config.attributes["connection"] = connection
        command.downgrade(self.config, "base")


def tables_of(database: Database) -> set[str]:
    with database.engine().connect() as connection:
        return set(inspect(connection).get_table_names()) - {VERSION_TABLE}


def heads_of(database: Database) -> list[str]:
    with database.engine().connect() as connection:
        return list(connection.scalars(text("SELECT version_num FROM alembic_version")))


@pytest.mark.parametrize("per_migration", [False, True])
def test_in_a_revision(empty_database: Database, tmp_path: Path, per_migration: bool) -> None:
    host = Host(tmp_path)
    host.config.attributes["options"] = {"transaction_per_migration": per_migration}
    with empty_database.engine().connect() as connection:
        host.upgrade(connection)
    assert tables_of(empty_database) == HOST_TABLES | OUR_TABLES
    assert heads_of(empty_database) == ["h2"]
    with empty_database.engine().connect() as connection:
        assert "more" in {column["name"] for column in inspect(connection).get_columns("host_one")}
        assert current(connection) == HEAD
        connection.rollback()
        host.downgrade(connection)
    assert tables_of(empty_database) == {"alembic_version"}


async def test_in_a_revision_of_an_asynchronous_host(empty_database: Database, tmp_path: Path) -> None:
    host = Host(tmp_path)
    async with empty_database.async_engine().connect() as connection:
        await connection.run_sync(host.upgrade)
    assert tables_of(empty_database) == HOST_TABLES | OUR_TABLES
    assert heads_of(empty_database) == ["h2"]


@pytest.mark.parametrize("place", ["before", "within", "behind", "after"])
@pytest.mark.parametrize(
    "act", ["upgrade(connection)", "current(connection); upgrade(connection); current(connection)"]
)
def test_in_env_py(empty_database: Database, tmp_path: Path, place: str, act: str) -> None:
    host = Host(tmp_path, **{place: act})
    for _ in range(2):
        with empty_database.engine().connect() as connection:
            host.upgrade(connection)
        assert tables_of(empty_database) == HOST_TABLES | OUR_TABLES
        assert heads_of(empty_database) == ["h2"]


@pytest.mark.parametrize("per_migration", [False, True])
def test_an_error_afterwards_rolls_all_of_it_back(
    empty_postgres: Database, tmp_path: Path, per_migration: bool
) -> None:
    host = Host(tmp_path, "raise RuntimeError('the host fails')")
    host.config.attributes["options"] = {"transaction_per_migration": per_migration}
    with empty_postgres.engine().connect() as connection, pytest.raises(RuntimeError):
        host.upgrade(connection)
    assert tables_of(empty_postgres) <= {"alembic_version"}
    with empty_postgres.engine().connect() as connection:
        assert current(connection) is None


def test_a_host_with_a_schema_a_version_table_and_two_heads(empty_postgres: Database, tmp_path: Path) -> None:
    host = Host(tmp_path)
    other = REVISION.format(revision="other", down=None, up="migrate(op.get_bind(), schema='traces')", back="pass")
    (tmp_path / "versions" / "other.py").write_text(other, "utf-8")
    host.config.attributes["options"] = {"version_table": "host_version", "version_table_schema": "host"}
    engine = empty_postgres.engine()
    with engine.begin() as connection:
        connection.execute(CreateSchema("host"))
        connection.execute(CreateSchema("traces"))
    with engine.connect() as connection:
        host.upgrade(connection, "heads")
        assert set(connection.scalars(text("SELECT version_num FROM host.host_version"))) == {"h2", "other"}
        assert set(inspect(connection).get_table_names("traces")) == {*OUR_TABLES, VERSION_TABLE}
    assert tables_of(empty_postgres) == {"host_one", "host_two"} | OUR_TABLES


@pytest.mark.parametrize("name", ["sqlite", "postgresql"])
def test_a_printed_migration_has_ours_in_it(empty_database: Database, tmp_path: Path, name: str) -> None:
    if empty_database.backend != name:
        return
    host = Host(tmp_path)
    host.config.attributes["dialect"] = name
    command.upgrade(host.config, "h1", sql=True)
    script = host.printed.getvalue()
    if name == "sqlite":
        with sqlite3.connect(str(empty_database.url.database)) as raw:
            raw.executescript(script)
        raw.close()
    else:
        with empty_database.engine(isolation_level="AUTOCOMMIT").connect() as connection:
            connection.exec_driver_sql(script.replace("%", "%%"))
    assert tables_of(empty_database) == {"host_one", "alembic_version"} | OUR_TABLES
    assert heads_of(empty_database) == ["h1"]
    with empty_database.engine().connect() as connection:
        assert current(connection) == HEAD


def test_an_autocommit_block_is_refused_before_anything_is_changed(empty_postgres: Database, tmp_path: Path) -> None:
    host = Host(tmp_path, "pass")
    bare = "\n    with op.get_context().autocommit_block():\n        migrate(op.get_bind())"
    (tmp_path / "versions" / "h1.py").write_text(REVISION.format(revision="h1", down=None, up=bare, back="pass"))
    with empty_postgres.engine().connect() as connection, pytest.raises(MigrationError, match="autocommit"):
        host.upgrade(connection)
    assert not tables_of(empty_postgres) & OUR_TABLES


def test_the_recipe_of_the_page_works(empty_database: Database, tmp_path: Path) -> None:
    recipe = next(recipe for recipe in RECIPES if "op.get_bind()" in recipe)
    host = Host(tmp_path)
    (tmp_path / "versions" / "h3.py").write_text(recipe, "utf-8")
    (tmp_path / "versions" / "h2.py").unlink()
    (tmp_path / "versions" / "h1.py").unlink()
    with empty_database.engine().connect() as connection:
        host.upgrade(connection)
    assert tables_of(empty_database) == {"alembic_version"} | OUR_TABLES
    with empty_database.engine().connect() as connection:
        host.downgrade(connection)
    assert tables_of(empty_database) == {"alembic_version"}


def test_a_downgrade_beside_a_host_in_use_joins_its_transaction(database: Database) -> None:
    run_script(database, "CREATE TABLE host_one (id integer PRIMARY KEY)")
    with database.engine().connect() as connection:
        with connection.begin():
            connection.execute(text("INSERT INTO host_one VALUES (1)"))
            downgrade(connection, "base")
            upgrade(connection)
            connection.get_transaction().rollback()  # type: ignore[union-attr]  # it is open
        assert connection.scalar(text("SELECT count(*) FROM host_one")) == 0
        assert current(connection) == HEAD


def test_neither_the_package_nor_its_scripts_use_the_operations_of_a_host() -> None:
    sources = [*(ROOT / "provider_trace_store").rglob("*.py"), *(ROOT / "alembic" / "versions").glob("*.py")]
    pattern = re.compile(r"from alembic import .*\bop\b|import alembic\.op|from alembic\.op ")
    assert [path for path in sources if pattern.search(path.read_text("utf-8"))] == []
