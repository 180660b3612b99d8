"""The migrations for those who embed or operate the package: run them, and keep a host's Alembic off the tables.

One tree of scripts, in the top-level folder `alembic` of a checkout and in the wheel. `alembic upgrade head`,
`upgrade(connection)` and the command `provider-trace-store migrate` run the same.
"""

from __future__ import annotations

import logging
import time
from contextlib import contextmanager, nullcontext
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Column, Index, MetaData, text
from sqlalchemy.exc import DBAPIError

from provider_trace_store.adoption import missing_indexes
from provider_trace_store.drivers import begin_on_sqlite, in_autocommit, sqlstate_of
from provider_trace_store.errors import MigrationError, MigrationLockError
from provider_trace_store.models import metadata

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from sqlalchemy import Connection
    from sqlalchemy.schema import SchemaItem

    _IncludeName = Callable[[str | None, str, Mapping[str, str | None]], bool]
    _IncludeObject = Callable[[SchemaItem, str | None, str, bool, SchemaItem | None], bool]

VERSION_TABLE: Final = "provider_trace_store_alembic_version"
DEFAULT_LOCK_TIMEOUT: Final = 5.0

# Any number serves, as long as it stays the same: "provider" in ASCII.
_ADVISORY_LOCK: Final = 0x70726F7669646572
_LOCK_NOT_AVAILABLE: Final = "55P03"
# How long a SQLite file may be in another writer's hands; an upgrade takes a fraction of a second.
_SQLITE_PATIENCE: Final = 60.0
_POLL: Final = 0.02

# Alembic's context is global to the process: two databases cannot be migrated at once in one.
_alembic = Lock()

logger: Final = logging.getLogger("provider_trace_store.migrations")


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


def include_name(name: str | None, type_: str, parent_names: Mapping[str, str | None]) -> bool:
    """Say whether autogenerate may look at something by its name: everything but the tables of this package.

    For a host's `env.py`: `context.configure(..., include_name=include_name)`. Without it the host's
    autogenerate would propose to drop the tables that its own metadata does not know.

    Args:
        name: as Alembic passes it; see the documentation of `EnvironmentContext.configure.include_name`.
        type_: as Alembic passes it, `table` among others.
        parent_names: as Alembic passes it.
    """
    del parent_names
    return type_ != "table" or not _is_ours(name)


def scripts_config() -> Config:
    """Return an Alembic configuration of the package's scripts, wherever the package is installed."""
    installed = Path(__file__).parent / "_alembic"
    scripts = installed if installed.is_dir() else Path(__file__).parents[1] / "alembic"
    config = Config()
    config.set_main_option("script_location", str(scripts).replace("%", "%%"))
    return config


def schema_metadata(schema: str | None) -> MetaData:
    """Return what the migrations are compared with: the models' tables, in a schema.

    Args:
        schema: the schema; None for the connection's default.
    """
    if schema is None:
        return metadata
    moved = MetaData()
    for table in metadata.tables.values():
        table.to_metadata(moved, schema=schema)
    return moved


def offline_preamble(dialect: str, lock_timeout: float) -> list[str]:
    """Return what a script of `--sql` begins with: the lock and the limit that an upgrade online has.

    Args:
        dialect: the name of SQLAlchemy's dialect.
        lock_timeout: how long a statement may wait for a table's lock, in seconds; 0 for ever.
    """
    if dialect != "postgresql":
        return []
    return [
        f"DO $$ BEGIN PERFORM pg_advisory_xact_lock({_ADVISORY_LOCK}); END $$",
        f"SET LOCAL lock_timeout = '{round(lock_timeout * 1000)}ms'",
    ]


def compare_filters(connection: Connection, schema: str | None) -> tuple[_IncludeName, _IncludeObject]:
    """Return the filters of this package's own autogenerate: only its own objects, as an adopted table may have them.

    What a host added to an adopted table (a column, an index, a foreign key) is the host's. An index under
    another name serves, and so does the nullable `created_at` of existing deployments.

    Args:
        connection: the database that is compared.
        schema: where the tables are; None for the connection's default.

    Returns:
        Alembic's `include_name` and `include_object`.
    """

    def include_own_name(name: str | None, type_: str, parent_names: Mapping[str, str | None]) -> bool:
        del parent_names
        if type_ == "schema":
            return name == schema
        return type_ != "table" or name in metadata.tables

    def include_own_object(
        item: SchemaItem,
        name: str | None,
        type_: str,
        reflected: bool,  # noqa: FBT001  (Alembic's signature)
        compare_to: SchemaItem | None,
    ) -> bool:
        if reflected and compare_to is None:
            return False
        if isinstance(item, Column) and isinstance(compare_to, Column):
            return not (name == "created_at" and compare_to.nullable and not item.nullable)
        if isinstance(item, Index) and type_ == "index" and not reflected and item.table is not None:
            return item.name in {index.name for index in missing_indexes(connection, item.table)}
        return True

    return include_own_name, include_own_object


@contextmanager
def migration_transaction(connection: Connection, lock_timeout: float) -> Iterator[None]:
    """Run a block in a transaction, or a savepoint of the caller's, that no other migration runs beside.

    The lock is the database's, so it queues processes, threads and tasks alike, and it ends with the
    transaction, so it works behind PgBouncer. It must be taken before Alembic is entered, whose context is
    global to the process.

    Args:
        connection: where the block's statements run.
        lock_timeout: for the block's statements, in seconds; 0 for ever. Waiting for another migration does
            not count.

    Raises:
        MigrationLockError: a table's lock was not to be had in time.
        MigrationError: the connection is in autocommit mode.
    """
    joined = connection.in_transaction()
    failure = None
    try:
        with nullcontext() if joined else connection.begin():
            if in_autocommit(connection):
                raise MigrationError("the connection is in autocommit mode, where a migration could stop half-way")
            _wait_for_sqlite(connection)
            with connection.begin_nested() if joined else nullcontext():
                previous = _lock(connection, lock_timeout, joined=joined)
                _wait_for_alembic(connection)
                try:
                    yield
                finally:
                    _alembic.release()
                if previous is not None and joined:
                    _set_lock_timeout(connection, previous)
    except DBAPIError as error:
        if sqlstate_of(error) != _LOCK_NOT_AVAILABLE:
            raise
        failure = MigrationLockError(
            f"a table's lock was not to be had within {lock_timeout:g} s, and nothing was changed; "
            "run the migration again when traffic is lower, or with a longer lock_timeout"
        )
    if failure:
        raise failure


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


def _lock(connection: Connection, lock_timeout: float, *, joined: bool) -> str | None:
    """Queue behind other migrations, then limit how long a statement waits; return the limit that was there."""
    if connection.dialect.name != "postgresql":
        return None
    if not joined:
        # In a snapshot from before the wait, what the migration before this one did would not be seen.
        connection.execute(text("SET TRANSACTION ISOLATION LEVEL READ COMMITTED"))
    previous = str(connection.scalar(text("SELECT current_setting('lock_timeout')")))
    _set_lock_timeout(connection, "0")
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
    _set_lock_timeout(connection, f"{round(lock_timeout * 1000)}ms")
    return previous


def _set_lock_timeout(connection: Connection, value: str) -> None:
    connection.execute(text("SELECT set_config('lock_timeout', :value, true)"), {"value": value})


def _wait_for_sqlite(connection: Connection) -> None:
    """Take the place of SQLite's only writer, which queues migrations as the advisory lock does elsewhere."""
    deadline = time.monotonic() + _SQLITE_PATIENCE
    while True:
        try:
            begin_on_sqlite(connection, "BEGIN IMMEDIATE")
        except DBAPIError as error:
            # The driver's own patience, 5 s by default, is over. SQLITE_BUSY is 5 (sqlite.org/rescode.html).
            if getattr(error.orig, "sqlite_errorcode", None) != 5 or time.monotonic() > deadline:  # noqa: PLR2004
                raise
        else:
            return


def _wait_for_alembic(connection: Connection) -> None:
    # A task that blocked its thread here would keep the task that holds the lock from running. The statement
    # lets others run: it is what waits in the right way for threads and for tasks.
    pause = "SELECT pg_sleep(0.02)" if connection.dialect.name == "postgresql" else "SELECT 1"
    while not _alembic.acquire(blocking=False):
        connection.execute(text(pause))
        if connection.dialect.name != "postgresql":
            time.sleep(_POLL)


def _translated_schema(connection: Connection) -> str | None:
    options: Mapping[str, Any] = connection.get_execution_options()
    translations: Mapping[str | None, str | None] = options.get("schema_translate_map") or {}
    return translations.get(None)


def _is_ours(table: str | None) -> bool:
    return table == VERSION_TABLE or table in metadata.tables
