"""`provider-trace-store migrate`: runs Alembic on the package's scripts, for operators without a checkout."""

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
    typer.Option(
        help="URL of the database. Default: PROVIDER_TRACE_STORE_DATABASE_URL, or ./provider_traces.db (SQLite)."
    ),
]
Schema = Annotated[str | None, typer.Option(help="Schema of the tables. Default: the connection's default schema.")]
LockTimeout = Annotated[
    float,
    typer.Option(
        min=0, max=1_000_000, help="Seconds that a statement may wait for a table lock; 0 waits without a limit."
    ),
]
Sql = Annotated[bool, typer.Option("--sql", help="Print the SQL, for psql or sqlite3, instead of running it.")]


@migrate.command()
def upgrade(
    revision: Annotated[str, typer.Argument(help="A revision that `history` lists; FROM:TO with --sql.")] = "head",
    *,
    url: Url = None,
    schema: Schema = None,
    lock_timeout: LockTimeout = DEFAULT_LOCK_TIMEOUT,
    sql: Sql = False,
) -> None:
    """Create or adopt the tables, and upgrade them to a revision."""
    config = _config({"url": url, "schema": schema, "lock-timeout": str(lock_timeout)})
    _run(lambda: command.upgrade(config, revision, sql=sql))


@migrate.command()
def downgrade(
    revision: Annotated[str, typer.Argument(help="A revision that `history` lists, or `base`; FROM:TO with --sql.")],
    *,
    url: Url = None,
    schema: Schema = None,
    lock_timeout: LockTimeout = DEFAULT_LOCK_TIMEOUT,
    drop_data: Annotated[bool, typer.Option("--drop-data", help="Also drop tables that have rows.")] = False,
    drop_adopted: Annotated[
        list[str] | None,
        typer.Option(metavar="TABLE", help="Also drop this table, which was adopted. Repeat it for several tables."),
    ] = None,
    sql: Sql = False,
) -> None:
    """Take the tables back to an earlier revision; a table with rows is dropped only with --drop-data."""
    config = _config(
        {
            "url": url,
            "schema": schema,
            "lock-timeout": str(lock_timeout),
            "drop-data": "yes" if drop_data else None,
            "drop-adopted": ",".join(drop_adopted) if drop_adopted else None,
        }
    )
    _run(lambda: command.downgrade(config, revision, sql=sql))


@migrate.command()
def current(*, url: Url = None, schema: Schema = None) -> None:
    """Show the revision of the tables."""
    _run(lambda: command.current(_config({"url": url, "schema": schema})))


@migrate.command()
def history() -> None:
    """List the revisions."""
    _run(lambda: command.history(_config({})))


def _config(options: dict[str, str | None]) -> Config:
    config = scripts_config()
    # The form in which `alembic -x name=value` passes its arguments on.
    config.cmd_opts = Namespace(x=[f"{name}={value}" for name, value in options.items() if value is not None])
    return config


def _run(action: Callable[[], None]) -> None:
    """Run an Alembic command; print an error that an operator can act on as one line, and exit with status 1."""
    try:
        action()
    except (CommandError, SQLAlchemyError, ValidationError) as error:
        typer.echo(f"provider-trace-store: {error}", err=True)
        raise typer.Exit(1) from None
