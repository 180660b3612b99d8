"""The commands on a host's connection: upgrade the tables, downgrade them, and read their revision."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext

from provider_trace_store.migrations.autogenerate import VERSION_TABLE
from provider_trace_store.migrations.locking import DEFAULT_LOCK_TIMEOUT, migration_transaction
from provider_trace_store.migrations.placement import check_placement
from provider_trace_store.migrations.sqlite_file import usable_file

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from sqlalchemy import Connection

_PACKAGE: Final = Path(__file__).parents[1]


def upgrade(
    connection: Connection,
    revision: str = "head",
    *,
    schema: str | None = None,
    lock_timeout: float = DEFAULT_LOCK_TIMEOUT,
) -> None:
    """Migrate the package's tables to a revision, the newest by default.

    If a transaction is open on the connection, the upgrade joins it, and the caller commits or rolls back. Otherwise
    the upgrade commits its own transaction. Concurrent upgrades of one database wait for each other, and all but the
    first find nothing to do.

    Args:
        connection: a connection whose role may create tables. For an asynchronous one:
            `await connection.run_sync(upgrade)`.
        revision: a revision that `alembic history` lists, or `head`.
        schema: the schema of the tables, which must exist. By default the one that the connection's
            `schema_translate_map` has for None, else the connection's default schema.
        lock_timeout: how long a statement may wait for a table lock, in seconds; 0 waits without a limit.

    Raises:
        TableMismatchError: a table has the name of one of ours, but other columns or another primary key.
        MigrationLockError: a table lock could not be acquired within `lock_timeout`.
        MigrationError: the connection is in autocommit mode, the database's encoding is not UTF-8, the schema does not
            exist, or the search path leads to the tables of another schema.
    """
    with _exclusively(connection, schema, lock_timeout) as config:
        command.upgrade(config, revision)


def downgrade(  # noqa: PLR0913  # each is an option of the command, too
    connection: Connection,
    revision: str,
    *,
    schema: str | None = None,
    lock_timeout: float = DEFAULT_LOCK_TIMEOUT,
    drop_data: bool = False,
    drop_adopted: Collection[str] = (),
) -> None:
    """Take the package's tables back to an earlier revision; `base` drops them.

    Transactions and concurrent calls are handled as in `upgrade`.

    Args:
        connection: as for `upgrade`; its role must own the tables.
        revision: a revision that `alembic history` lists, or `base`.
        schema: as for `upgrade`.
        lock_timeout: as for `upgrade`.
        drop_data: whether to drop tables that have rows, too.
        drop_adopted: the names of tables to drop although no migration is known to have created them, without a schema:
            `provider_traces`, `provider_trace_metadata`.

    Raises:
        AdoptedTableError: a table that would be dropped was adopted, and `drop_adopted` does not name it.
        TableNotEmptyError: a table that would be dropped has rows, or row-level security may hide some, and
            `drop_data` is False.
        MigrationLockError: a table lock could not be acquired within `lock_timeout`.
        MigrationError: the connection is in autocommit mode.
    """
    with _exclusively(connection, schema, lock_timeout, drop_data=drop_data, drop_adopted=drop_adopted) as config:
        command.downgrade(config, revision)


def current(connection: Connection, *, schema: str | None = None) -> str | None:
    """Return the revision of the tables, or None if they were never migrated.

    Args:
        connection: as for `upgrade`.
        schema: as for `upgrade`.

    Raises:
        MigrationError: the schema does not exist, or the search path leads to the tables of another schema.
    """
    schema = schema or _translated_schema(connection)
    check_placement(connection, schema)
    options = {"version_table": VERSION_TABLE, "version_table_schema": schema}
    with usable_file(connection.engine.url):
        return MigrationContext.configure(connection, opts=options).get_current_revision()


def scripts_config() -> Config:
    """Return an Alembic configuration that finds the package's scripts, in a checkout as in an installed wheel."""
    installed = _PACKAGE / "_alembic"
    scripts = installed if installed.is_dir() else _PACKAGE.parent / "alembic"
    config = Config()
    config.set_main_option("script_location", str(scripts).replace("%", "%%"))
    return config


@contextmanager
def _exclusively(
    connection: Connection,
    schema: str | None,
    lock_timeout: float,
    *,
    drop_data: bool = False,
    drop_adopted: Collection[str] = (),
) -> Iterator[Config]:
    """Run a block while no other migration of the database runs, with the configuration for Alembic's commands."""
    config = scripts_config()
    config.attributes.update(
        connection=connection,
        schema=schema or _translated_schema(connection),
        drop_data=drop_data,
        drop_adopted=drop_adopted,
    )
    with migration_transaction(connection, lock_timeout):
        yield config


def _translated_schema(connection: Connection) -> str | None:
    options: Mapping[str, Any] = connection.get_execution_options()
    translations: Mapping[str | None, str | None] = options.get("schema_translate_map") or {}
    return translations.get(None)
