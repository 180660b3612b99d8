"""`provider-trace-store migrate`: Alembic on the package's scripts, for operators who have only the wheel."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Annotated

import typer
from alembic import command
from alembic.util import CommandError
from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError

from provider_trace_store.migrations import DEFAULT_LOCK_TIMEOUT, scripts_config

if TYPE_CHECKING:
    from collections.abc import Callable

    from alembic.config import Config

migrate = typer.Typer(help="Create, adopt and change the tables.", no_args_is_help=True)
Url = Annotated[
    str | None,
    typer.Option(help="The database; else PROVIDER_TRACE_STORE_DATABASE_URL, else ./provider_traces.db (SQLite)."),
]
Schema = Annotated[str | None, typer.Option(help="Where the tables are; else the connection's default.")]
LockTimeout = Annotated[
    float, typer.Option(min=0, max=1_000_000, help="Seconds to wait for a table's lock; 0 for ever.")
]
Sql = Annotated[bool, typer.Option("--sql", help="Print the SQL for psql instead of running it.")]


@migrate.command()
def upgrade(
    revision: Annotated[str, typer.Argument(help="A revision of `history`; FROM:TO with --sql.")] = "head",
    *,
    url: Url = None,
    schema: Schema = None,
    lock_timeout: LockTimeout = DEFAULT_LOCK_TIMEOUT,
    sql: Sql = False,
) -> None:
    """Create or adopt the tables, and bring them to a revision."""
    config = _config({"url": url, "schema": schema, "lock-timeout": str(lock_timeout)})
    _run(lambda: command.upgrade(config, revision, sql=sql))


@migrate.command()
def downgrade(
    revision: Annotated[str, typer.Argument(help="A revision of `history`, or `base`; FROM:TO with --sql.")],
    *,
    url: Url = None,
    schema: Schema = None,
    lock_timeout: LockTimeout = DEFAULT_LOCK_TIMEOUT,
    drop_data: Annotated[bool, typer.Option("--drop-data", help="Drop tables that have rows, too.")] = False,
    sql: Sql = False,
) -> None:
    """Take the tables back to a revision; one that has rows is dropped only with --drop-data."""
    config = _config(
        {
            "url": url,
            "schema": schema,
            "lock-timeout": str(lock_timeout),
            "drop-data": "yes" if drop_data else None,
        }
    )
    _run(lambda: command.downgrade(config, revision, sql=sql))


@migrate.command()
def current(*, url: Url = None, schema: Schema = None) -> None:
    """Show the revision that the tables are at."""
    _run(lambda: command.current(_config({"url": url, "schema": schema})))


@migrate.command()
def history() -> None:
    """List the revisions."""
    _run(lambda: command.history(_config({})))


def _config(options: dict[str, str | None]) -> Config:
    config = scripts_config()
    # What `alembic -x name=value` makes of its arguments.
    config.cmd_opts = Namespace(x=[f"{name}={value}" for name, value in options.items() if value is not None])
    return config


def _run(action: Callable[[], None]) -> None:
    """Run an Alembic command; what an operator can mend is one line and status 1, not a traceback."""
    try:
        action()
    except (CommandError, SQLAlchemyError, ValidationError) as error:
        typer.echo(f"provider-trace-store: {error}", err=True)
        raise typer.Exit(1) from None
