"""The commands on a host's connection: upgrade the tables, downgrade them, and read their revision."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from alembic import context as host
from alembic.runtime.migration import MigrationContext
from alembic.util import CommandError
from sqlalchemy import Connection
from sqlalchemy.engine.mock import MockConnection

from provider_trace_store.database.transactions import in_autocommit
from provider_trace_store.errors import MigrationError
from provider_trace_store.migrations.autogenerate import VERSION_TABLE, schema_metadata
from provider_trace_store.migrations.failures import translated
from provider_trace_store.migrations.indexes import report_missing_indexes
from provider_trace_store.migrations.locking import DEFAULT_LOCK_TIMEOUT, DEFAULT_TRIES, Patience, run_exclusively
from provider_trace_store.migrations.placement import check_placement
from provider_trace_store.migrations.scripts import Scripts, down, up

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

_HEAD: Final = "head"


def upgrade(
    connection: Connection,
    revision: str = _HEAD,
    *,
    schema: str | None = None,
    lock_timeout: float = DEFAULT_LOCK_TIMEOUT,
    tries: int = DEFAULT_TRIES,
) -> None:
    """Migrate the package's tables to a revision, the newest by default.

    If a transaction is open on the connection, the upgrade joins it, and the caller commits or rolls back. Otherwise
    the upgrade commits its own transaction. Concurrent upgrades of one database wait for each other, and all but the
    first find nothing to do. An upgrade that finds nothing to do takes no lock.

    It may run inside of a host's own migration, in a revision with `op.get_bind()` or in `env.py`. Where that migration
    is printed as SQL (`--sql`), so is the upgrade.

    Args:
        connection: a connection whose role may create tables. For an asynchronous one:
            `await connection.run_sync(upgrade)`.
        revision: a revision that `alembic history` lists, or `head`.
        schema: the schema of the tables, which must exist. By default the one that the connection's
            `schema_translate_map` has for None, else the connection's default schema.
        lock_timeout: how long a statement may wait for a table lock, in seconds; 0 waits without a limit. Writers of
            the table wait behind it meanwhile, so it should be short.
        tries: how often the upgrade is tried when a table lock is not free, from 1 to 1000. The pauses between the
            tries grow from 0.5 to 30 s; by default, all take about a minute. If the caller's transaction holds locks
            that block writers, there is one try. The upgrade waits for another migration as long as all tries take.

    Raises:
        TableMismatchError: a table has the name of one of ours, but other columns or another primary key.
        MigrationLockError: a lock was not free in time; the error names the sessions that hold it.
        MigrationError: the connection is in autocommit mode, the database's encoding is not UTF-8, the schema does not
            exist, the search path leads to the tables of another schema, or the database refused the upgrade, for
            example for a missing privilege.
    """
    schema = schema or _translated_schema(connection)
    scripts = Scripts(up, revision, schema)
    if mock := _mock(connection):
        _print(mock, scripts, None, lock_timeout)
        return
    translated(connection, schema, partial(_migrate, connection, scripts, Patience(schema, lock_timeout, tries)))


def downgrade(  # noqa: PLR0913  # the options are keyword-only
    connection: Connection,
    revision: str,
    *,
    schema: str | None = None,
    lock_timeout: float = DEFAULT_LOCK_TIMEOUT,
    tries: int = DEFAULT_TRIES,
    drop_data: bool = False,
    drop_adopted: Collection[str] = (),
) -> None:
    """Take the package's tables back to an earlier revision; `base` drops them.

    Transactions, concurrent calls and a host's own migration are handled as in `upgrade`.

    Args:
        connection: as for `upgrade`; its role must own the tables.
        revision: a revision that `alembic history` lists, `base`, or a number of steps such as `-1`.
        schema: as for `upgrade`.
        lock_timeout: as for `upgrade`.
        tries: as for `upgrade`.
        drop_data: whether to drop tables that have rows, too.
        drop_adopted: the names of tables to drop although no migration is known to have created them, without a schema:
            `provider_traces`, `provider_trace_metadata`.

    Raises:
        AdoptedTableError: a table that would be dropped was adopted, and `drop_adopted` does not name it.
        TableNotEmptyError: a table that would be dropped has rows, or row-level security may hide some, and
            `drop_data` is False.
        MigrationLockError: as for `upgrade`.
        MigrationError: the connection is in autocommit mode, or the database refused the downgrade.
    """
    schema = schema or _translated_schema(connection)
    scripts = Scripts(down, revision, schema, drop_data=drop_data, drop_adopted=drop_adopted)
    if mock := _mock(connection):
        _print(mock, scripts, _HEAD, lock_timeout)
        return
    translated(connection, schema, partial(_migrate, connection, scripts, Patience(schema, lock_timeout, tries)))


def current(connection: Connection, *, schema: str | None = None) -> str | None:
    """Return the revision of the tables, or None if they were never migrated.

    Args:
        connection: as for `upgrade`. If no transaction is open on it, none is open afterwards.
        schema: as for `upgrade`.

    Raises:
        MigrationError: the database did not answer, or refused to, the schema does not exist, or the search path leads
            to the tables of another schema.
    """
    schema = schema or _translated_schema(connection)
    if _mock(connection):
        raise MigrationError("a script of --sql cannot read the revision of a database: run it without --sql")
    options = {"version_table": VERSION_TABLE, "version_table_schema": schema}

    def read() -> str | None:
        with _transaction(connection):
            check_placement(connection, schema)
            return MigrationContext.configure(connection, opts=options).get_current_revision()

    return translated(connection, schema, read)


def _migrate(connection: Connection, scripts: Scripts, patience: Patience) -> None:
    # The look needs no lock, so it does not wait for another migration.
    with _transaction(connection):
        check_placement(connection, patience.schema)
        heads = scripts.heads(connection)
        has_steps = scripts.has_steps(heads)
        if not has_steps and scripts.are_newest(heads):
            report_missing_indexes(connection, schema_metadata(patience.schema).sorted_tables)
    if has_steps:
        run_exclusively(connection, partial(scripts.run, connection), patience)


def _transaction(connection: Connection) -> AbstractContextManager[object]:
    """Return the transaction of a statement that only reads: after an error, that of the caller is usable."""
    if not connection.in_transaction():
        return connection.begin()
    # On SQLite, an error of a statement leaves the transaction usable, and a savepoint would begin one too early.
    if connection.dialect.name != "postgresql" or in_autocommit(connection):
        return nullcontext()
    return connection.begin_nested()


def _print(connection: MockConnection, scripts: Scripts, starting: str | None, lock_timeout: float) -> None:
    """Print the scripts into the script of the host's migration, whose `op.get_bind()` is the connection."""
    output = host.get_context().output_buffer
    # As for the command: the host's dialect would double each percent sign.
    dialect: Any = type(connection.dialect)
    try:
        scripts.print(dialect(paramstyle="named"), output, starting, lock_timeout, nested=True)
    except CommandError as error:
        failure = MigrationError(f"{error}; nothing was printed")
    else:
        return
    raise failure


def _mock(connection: object) -> MockConnection | None:
    """Return the connection if it is that of a host's migration which is printed as SQL."""
    return connection if isinstance(connection, MockConnection) else None


def _translated_schema(connection: object) -> str | None:
    if _mock(connection):
        return None
    if not isinstance(connection, Connection):
        raise TypeError(
            f"the connection must be a sqlalchemy.Connection, not {type(connection).__name__}: pass engine.connect(), "
            "or use `await connection.run_sync(upgrade)` on an asynchronous connection"
        )
    options: Mapping[str, Any] = connection.get_execution_options()
    translations: Mapping[str | None, str | None] = options.get("schema_translate_map") or {}
    return translations.get(None)
