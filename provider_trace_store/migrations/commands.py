"""The migrations on a connection of the host's: upgrade, downgrade, and which revision the tables are at."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext

from provider_trace_store.migrations.autogenerate import VERSION_TABLE
from provider_trace_store.migrations.locking import DEFAULT_LOCK_TIMEOUT, migration_transaction

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

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

    It joins the transaction of the connection where one is open, which then commits or rolls back; otherwise
    it commits its own. Concurrent upgrades of one database queue up, and all but the first find nothing to do.

    Args:
        connection: of any role that may create tables; with `AsyncConnection.run_sync`, asynchronous, too.
        revision: a revision of `alembic history`, or `head`.
        schema: where the tables are; by default what the connection's `schema_translate_map` says for None,
            else the connection's default schema. It must exist.
        lock_timeout: how long a statement may wait for a table's lock, in seconds above 0, or 0 for ever.

    Raises:
        TableMismatchError: a table under one of our names is something else.
        MigrationLockError: a lock was not to be had in time.
        MigrationError: the connection is in autocommit mode, or the database is not in UTF-8.
    """
    with _exclusively(connection, schema, lock_timeout) as config:
        command.upgrade(config, revision)


def downgrade(
    connection: Connection,
    revision: str,
    *,
    schema: str | None = None,
    lock_timeout: float = DEFAULT_LOCK_TIMEOUT,
    drop_data: bool = False,
) -> None:
    """Take the package's tables back to a revision; `base` drops them.

    Args:
        connection: as for `upgrade`.
        revision: a revision of `alembic history`, or `base`.
        schema: as for `upgrade`.
        lock_timeout: as for `upgrade`.
        drop_data: whether a table that has rows may be dropped.

    Raises:
        TableNotEmptyError: a table that would be dropped has rows.
        MigrationLockError: a lock was not to be had in time.
        MigrationError: the connection is in autocommit mode.
    """
    with _exclusively(connection, schema, lock_timeout, drop_data=drop_data) as config:
        command.downgrade(config, revision)


def current(connection: Connection, *, schema: str | None = None) -> str | None:
    """Return the revision that the tables are at, or None where they were never migrated.

    Args:
        connection: as for `upgrade`.
        schema: as for `upgrade`.
    """
    schema = schema or _translated_schema(connection)
    options = {"version_table": VERSION_TABLE, "version_table_schema": schema}
    return MigrationContext.configure(connection, opts=options).get_current_revision()


def scripts_config() -> Config:
    """Return an Alembic configuration of the package's scripts, wherever the package is installed."""
    installed = _PACKAGE / "_alembic"
    scripts = installed if installed.is_dir() else _PACKAGE.parent / "alembic"
    config = Config()
    config.set_main_option("script_location", str(scripts).replace("%", "%%"))
    return config


@contextmanager
def _exclusively(
    connection: Connection, schema: str | None, lock_timeout: float, *, drop_data: bool = False
) -> Iterator[Config]:
    config = scripts_config()
    config.attributes.update(
        connection=connection,
        schema=schema or _translated_schema(connection),
        drop_data=drop_data,
    )
    with migration_transaction(connection, lock_timeout):
        yield config


def _translated_schema(connection: Connection) -> str | None:
    options: Mapping[str, Any] = connection.get_execution_options()
    translations: Mapping[str | None, str | None] = options.get("schema_translate_map") or {}
    return translations.get(None)
