"""Runs the migrations: on a connection that the caller passes in, on the database of a URL, or as printed SQL.

Options with `-x`: `url=URL`, `schema=NAME`, `lock-timeout=SECONDS`, `drop-data=yes`,
`drop-adopted=TABLE` (several with commas).
"""

from __future__ import annotations

import logging
from logging.config import fileConfig
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alembic import context
from alembic.util import CommandError
from sqlalchemy import NullPool, create_engine, make_url

from provider_trace_store.errors import MigrationError
from provider_trace_store.migrations.autogenerate import VERSION_TABLE, compare_filters, schema_metadata
from provider_trace_store.migrations.locking import DEFAULT_LOCK_TIMEOUT, migration_transaction, offline_preamble
from provider_trace_store.migrations.placement import check_placement
from provider_trace_store.migrations.sqlite_file import usable_file
from provider_trace_store.settings import StoreSettings, psycopg_url

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection

OPTIONS = {"url", "schema", "lock-timeout", "drop-data", "drop-adopted"}

config = context.config
logger = logging.getLogger("provider_trace_store.migrations")


def options() -> dict[str, str]:
    """Return the `-x` options, and refuse unknown ones: a typo in an option could cost data."""
    given = context.get_x_argument(as_dictionary=True)
    if unknown := sorted(given.keys() - OPTIONS):
        raise CommandError(f"unknown option -x {', '.join(unknown)}: use one of {', '.join(sorted(OPTIONS))}")
    return given


def lock_timeout() -> float:
    """Return how long a statement may wait for a table lock, in seconds; 0 means without a limit."""
    given = options().get("lock-timeout", str(DEFAULT_LOCK_TIMEOUT))
    try:
        seconds = float(given)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 1_000_000:  # noqa: PLR2004  # written so that nan is refused, too
        raise CommandError("-x lock-timeout must be a number of seconds, such as 5 or 0.5; 0 waits without a limit")
    return seconds


def database_url() -> URL:
    """Return the URL from `-x url=` or the environment, and log the database's name without its password."""
    settings = StoreSettings()
    try:
        url = make_url(psycopg_url(options().get("url", settings.database_url)))
    except ValueError as error:
        raise CommandError(f"-x url {error}") from None
    # Without the query, which may also hold a password.
    shown = url.set(query={}).render_as_string(hide_password=True)
    if "url" not in options() and "database_url" not in settings.model_fields_set:
        path = Path(url.database or "").resolve()
        shown += f" ({path}), because neither PROVIDER_TRACE_STORE_DATABASE_URL nor -x url= names a database"
    logger.info("database: %s", shown)
    return url


def configure(schema: str | None, *, drop_data: bool, **target: Any) -> None:  # noqa: ANN401  # as Alembic's own signature
    """Configure Alembic's context: the package's own version table, and one transaction for all revisions."""
    context.configure(
        **target,
        target_metadata=schema_metadata(schema),
        version_table=VERSION_TABLE,
        version_table_schema=schema,
        include_schemas=schema is not None,
        transactional_ddl=True,
        drop_data=drop_data,
        drop_adopted=drop_adopted(),
    )


def drop_adopted() -> list[str]:
    """Return the tables that a downgrade may drop although no migration is known to have created them."""
    if passed is not None:
        return list(config.attributes.get("drop_adopted", ()))
    return [name.strip() for name in options().get("drop-adopted", "").split(",") if name.strip()]


def run_on(connection: Connection, schema: str | None, *, drop_data: bool) -> None:
    """Run the migrations on a connection; the caller holds the lock of `migration_transaction`."""
    check_placement(connection, schema)
    include_name, include_object = compare_filters(connection, schema)
    configure(
        schema,
        drop_data=drop_data,
        connection=connection,
        include_name=include_name,
        include_object=include_object,
    )
    with context.begin_transaction():
        context.run_migrations()


def run_online() -> None:
    """Run the migrations on the database that the options or the environment name."""
    schema = options().get("schema")
    timeout = lock_timeout()
    engine = create_engine(database_url(), poolclass=NullPool)
    try:
        with usable_file(engine.url), engine.connect() as connection, migration_transaction(connection, timeout):
            run_on(connection, schema, drop_data=options().get("drop-data") == "yes")
    except MigrationError as error:
        raise CommandError(str(error)) from None
    finally:
        engine.dispose()


def run_offline() -> None:
    """Print the migrations as SQL, for `psql` or `sqlite3`."""
    url = database_url()
    configure(
        options().get("schema"),
        drop_data=options().get("drop-data") == "yes",
        url=url,
        literal_binds=True,
        dialect_opts={"paramstyle": "named"},
    )
    try:
        with context.begin_transaction():
            for statement in offline_preamble(url.get_dialect().name, lock_timeout()):
                context.execute(statement)
            context.run_migrations()
    except MigrationError as error:
        raise CommandError(str(error)) from None


# A passed connection means that a host's process runs the migrations, whose logging must stay as it is.
passed: Connection | None = config.attributes.get("connection")
if passed is None and config.config_file_name is not None:
    fileConfig(config.config_file_name, disable_existing_loggers=False)

if context.is_offline_mode():
    run_offline()
elif passed is not None:
    run_on(passed, config.attributes["schema"], drop_data=config.attributes["drop_data"])
else:
    run_online()
