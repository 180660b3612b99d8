"""Runs the migrations: on a connection that was passed in, on a database that is named by URL, or as SQL.

Options by `-x`: `url=`, `schema=`, `lock-timeout=` (seconds), `drop-data=yes`.
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
from provider_trace_store.migrations import (
    DEFAULT_LOCK_TIMEOUT,
    VERSION_TABLE,
    compare_filters,
    migration_transaction,
    offline_preamble,
    schema_metadata,
)
from provider_trace_store.settings import StoreSettings, psycopg_url

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection

OPTIONS = {"url", "schema", "lock-timeout", "drop-data"}

config = context.config
logger = logging.getLogger("provider_trace_store.migrations")


def options() -> dict[str, str]:
    """Return the `-x` options; one that is not known is an error, as a typo in it could cost data."""
    given = context.get_x_argument(as_dictionary=True)
    if unknown := sorted(given.keys() - OPTIONS):
        raise CommandError(f"unknown -x {', '.join(unknown)}; there are {', '.join(sorted(OPTIONS))}")
    return given


def lock_timeout() -> float:
    """Return how long a statement may wait for a table's lock, in seconds."""
    given = options().get("lock-timeout", str(DEFAULT_LOCK_TIMEOUT))
    try:
        seconds = float(given)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 1_000_000:  # noqa: PLR2004  (also refuses nan)
        raise CommandError("-x lock-timeout takes seconds, such as 5 or 0.5; 0 waits for ever")
    return seconds


def database_url() -> URL:
    """Return the URL of `-x url=` or of the environment, and say which database it is, without its password."""
    settings = StoreSettings()
    try:
        url = make_url(psycopg_url(options().get("url", settings.database_url)))
    except ValueError as error:
        raise CommandError(f"-x url {error}") from None
    # A query may hold a password, too.
    shown = url.set(query={}).render_as_string(hide_password=True)
    if "url" not in options() and "database_url" not in settings.model_fields_set:
        path = Path(url.database or "").resolve()
        shown += f" ({path}), as neither PROVIDER_TRACE_STORE_DATABASE_URL nor -x url= names another"
    logger.info("database: %s", shown)
    return url


def configure(schema: str | None, *, drop_data: bool, **target: Any) -> None:  # noqa: ANN401  (as Alembic's)
    """Configure Alembic's context: own version table, own objects only, all or nothing."""
    context.configure(
        **target,
        target_metadata=schema_metadata(schema),
        version_table=VERSION_TABLE,
        version_table_schema=schema,
        include_schemas=schema is not None,
        transactional_ddl=True,
        drop_data=drop_data,
    )


def run_on(connection: Connection, schema: str | None, *, drop_data: bool) -> None:
    """Run on a connection that is in a transaction which no other migration runs beside."""
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
    """Run on the database that the options or the environment name."""
    schema = options().get("schema")
    timeout = lock_timeout()
    engine = create_engine(database_url(), poolclass=NullPool)
    try:
        with engine.connect() as connection, migration_transaction(connection, timeout):
            run_on(connection, schema, drop_data=options().get("drop-data") == "yes")
    except MigrationError as error:
        raise CommandError(str(error)) from None
    finally:
        engine.dispose()


def run_offline() -> None:
    """Print the SQL, for `psql` or `sqlite3`."""
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


# An embedding host has its own logging, and a connection comes only from one.
passed: Connection | None = config.attributes.get("connection")
if passed is None and config.config_file_name is not None:
    fileConfig(config.config_file_name, disable_existing_loggers=False)

if context.is_offline_mode():
    run_offline()
elif passed is not None:
    run_on(passed, config.attributes["schema"], drop_data=config.attributes["drop_data"])
else:
    run_online()
