"""Runs the migrations for `alembic` in a checkout: on the database of a URL, or as printed SQL.

Options with `-x`: `url=URL`, `schema=NAME`, `lock-timeout=SECONDS`, `tries=NUMBER`, `drop-data=yes`,
`drop-adopted=TABLE` (several with commas). The command `provider-trace-store` and the functions of
`provider_trace_store.migrations` run the scripts without this file.
"""

from __future__ import annotations

from functools import partial
from logging.config import fileConfig
from typing import TYPE_CHECKING, Any, TypeVar

from alembic import context
from alembic.util import CommandError

from provider_trace_store.errors import ProviderTraceStoreError
from provider_trace_store.migrations.autogenerate import compare_filters
from provider_trace_store.migrations.failures import translated
from provider_trace_store.migrations.locking import (
    DEFAULT_LOCK_TIMEOUT,
    DEFAULT_TRIES,
    Patience,
    offline_frame,
    run_exclusively,
)
from provider_trace_store.migrations.operations import operations_of
from provider_trace_store.migrations.placement import check_placement
from provider_trace_store.migrations.scripts import options as context_options
from provider_trace_store.migrations.target import connected, database_url, spelled

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

OPTIONS = {
    "url": "-x url=",
    "schema": "-x schema=",
    "lock_timeout": "-x lock-timeout=",
    "tries": "-x tries=",
    "drop_data=True": "-x drop-data=yes",
    "drop_adopted=[TABLE]": "-x drop-adopted=TABLE",
}
NAMES = sorted(option.removeprefix("-x ").partition("=")[0] for option in OPTIONS.values())

Number = TypeVar("Number", int, float)
config = context.config


def options() -> dict[str, str]:
    """Return the `-x` options, and refuse unknown ones: a typo in an option could cost data."""
    given = context.get_x_argument(as_dictionary=True)
    if unknown := sorted(given.keys() - set(NAMES)):
        # A URL without `url=` is such a name, and may hold a password.
        names = [name if name.replace("-", "_").isidentifier() else "one that is not a name" for name in unknown]
        raise CommandError(f"unknown option -x {', '.join(names)}: use one of {', '.join(NAMES)}")
    return given


def number_of(option: str, kind: Callable[[str], Number], default: Number) -> Number:
    """Return the number that an option gives."""
    try:
        return kind(options().get(option, str(default)))
    except ValueError:
        pass  # the text is not repeated
    raise CommandError(f"-x {option} must be a number, such as {default}")


def patience() -> Patience:
    """Return how long the migration waits for locks."""
    return Patience(
        options().get("schema"),
        number_of("lock-timeout", float, DEFAULT_LOCK_TIMEOUT),
        number_of("tries", int, DEFAULT_TRIES),
    )


def drop_adopted() -> list[str]:
    """Return the tables that a downgrade may drop although no migration is known to have created them."""
    return [name.strip() for name in options().get("drop-adopted", "").split(",") if name.strip()]


def run_on(connection: Connection, schema: str | None, *, drop_data: bool) -> None:
    """Run the migrations on a connection."""
    check_placement(connection, schema)
    filters: dict[str, Any] = dict(
        zip(("include_name", "include_object"), compare_filters(connection, schema), strict=True)
    )
    context.configure(
        connection=connection, **filters, **context_options(schema, drop_data=drop_data, drop_adopted=drop_adopted())
    )
    with context.begin_transaction(), operations_of(context.get_context()):
        context.run_migrations()


def is_migrating() -> bool:
    """Return whether the command changes revisions, and so must not run beside another migration."""
    try:
        context.get_revision_argument()
    except KeyError:
        return False
    except CommandError:
        pass  # a number of steps such as -1
    return True


def run_online() -> None:
    """Run the migrations on the database that the options or the environment name."""
    limits = patience()
    drop_data = options().get("drop-data") == "yes"
    with connected(database_url(options().get("url"))) as connection:
        action = partial(run_on, connection, limits.schema, drop_data=drop_data)
        if is_migrating():
            translated(connection, limits.schema, partial(run_exclusively, connection, action, limits))
        else:
            translated(connection, limits.schema, action)


def run_offline() -> None:
    """Print the migrations as SQL, for `psql` or `sqlite3`."""
    url = database_url(options().get("url"))
    limits = patience()
    context.configure(
        url=url,
        literal_binds=True,
        dialect_opts={"paramstyle": "named"},
        **context_options(limits.schema, drop_data=options().get("drop-data") == "yes", drop_adopted=drop_adopted()),
    )
    before, after = offline_frame(url.get_dialect().name, limits.lock_timeout, nested=False)
    with context.begin_transaction(), operations_of(context.get_context()):
        for statement in before:
            context.execute(statement)
        context.run_migrations()
        for statement in after:
            context.execute(statement)


def run() -> None:
    """Run the migrations; the errors of the package become Alembic's, which it prints as one line."""
    try:
        if context.is_offline_mode():
            run_offline()
        else:
            run_online()
    except ProviderTraceStoreError as error:
        failure = CommandError(spelled(str(error), OPTIONS))
    else:
        return
    raise failure


# A passed connection means that a host's process runs the migrations, whose logging must stay as it is.
passed: Connection | None = config.attributes.get("connection")
if passed is not None and not context.is_offline_mode():
    run_on(passed, config.attributes["schema"], drop_data=config.attributes["drop_data"])
else:
    if config.config_file_name is not None:
        fileConfig(config.config_file_name, disable_existing_loggers=False)
    run()
