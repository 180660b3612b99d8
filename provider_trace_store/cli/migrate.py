"""`provider-trace-store migrate`: runs the package's scripts, for operators without a checkout."""

from __future__ import annotations

from functools import partial
from io import StringIO
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from alembic.script import ScriptDirectory
from alembic.util import CommandError

from provider_trace_store import migrations
from provider_trace_store.cli.output import reporting, say
from provider_trace_store.errors import MigrationError
from provider_trace_store.migrations import DEFAULT_LOCK_TIMEOUT, DEFAULT_TRIES, scripts_config
from provider_trace_store.migrations.locking import Patience
from provider_trace_store.migrations.scripts import Scripts, down, revisions, up
from provider_trace_store.migrations.target import connected, database_url

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from sqlalchemy import Connection

    from provider_trace_store.migrations.scripts import Steps

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
Tries = Annotated[
    int, typer.Option(min=1, max=1_000, help="How often to try while a table lock is not free, with growing pauses.")
]
Sql = Annotated[bool, typer.Option("--sql", help="Print the SQL, for psql or sqlite3, instead of running it.")]
_UPGRADE: Final = "provider-trace-store migrate upgrade"
# `-1` is a revision, not an option. What else begins with a dash is refused by `_revision`.
_RELATIVE: Final = {"ignore_unknown_options": True}


def _revision(value: str) -> str:
    if value.startswith("-") and not value[1:].isdigit():
        raise typer.BadParameter(f"no such option: {value.partition('=')[0]}")
    return value


@migrate.command(context_settings=_RELATIVE)
def upgrade(
    revision: Annotated[
        str,
        typer.Argument(callback=_revision, help="A revision that `history` lists, or +1; FROM:TO with --sql."),
    ] = "head",
    *,
    url: Url = None,
    schema: Schema = None,
    lock_timeout: LockTimeout = DEFAULT_LOCK_TIMEOUT,
    tries: Tries = DEFAULT_TRIES,
    sql: Sql = False,
) -> None:
    """Create or adopt the tables, and upgrade them to a revision.

    Example: provider-trace-store migrate upgrade --url postgresql://user@host/database
    """
    patience = partial(Patience, schema, lock_timeout, tries)
    if sql:
        reporting(lambda: _print(up, revision, url, patience()))
        return

    def run(connection: Connection) -> None:
        migrations.upgrade(connection, revision, schema=schema, lock_timeout=lock_timeout, tries=tries)

    reporting(partial(_run, url, run))


@migrate.command(context_settings=_RELATIVE)
def downgrade(
    revision: Annotated[
        str,
        typer.Argument(callback=_revision, help="A revision that `history` lists, `base`, or -1; FROM:TO with --sql."),
    ],
    *,
    url: Url = None,
    schema: Schema = None,
    lock_timeout: LockTimeout = DEFAULT_LOCK_TIMEOUT,
    tries: Tries = DEFAULT_TRIES,
    drop_data: Annotated[bool, typer.Option("--drop-data", help="Also drop tables that have rows.")] = False,
    drop_adopted: Annotated[
        list[str] | None,
        typer.Option(metavar="TABLE", help="Also drop this table, which was adopted. Repeat it for several tables."),
    ] = None,
    sql: Sql = False,
) -> None:
    """Take the tables back to an earlier revision; a table with rows is dropped only with --drop-data.

    Example, one step: provider-trace-store migrate downgrade -1
    """
    if sql:
        patience = partial(Patience, schema, lock_timeout, tries)
        reporting(lambda: _print(down, revision, url, patience(), drop_data=drop_data, drop_adopted=drop_adopted or ()))
        return

    def run(connection: Connection) -> None:
        migrations.downgrade(
            connection,
            revision,
            schema=schema,
            lock_timeout=lock_timeout,
            tries=tries,
            drop_data=drop_data,
            drop_adopted=drop_adopted or (),
        )

    reporting(partial(_run, url, run))


@migrate.command()
def current(*, url: Url = None, schema: Schema = None) -> None:
    """Show the revision of the tables; `base` if there is none.

    Example: provider-trace-store migrate current --schema traces
    """

    def show(connection: Connection) -> None:
        known = revisions(ScriptDirectory.from_config(scripts_config()))
        revision = migrations.current(connection, schema=schema)
        if revision is None:
            say(f"base (the tables were never migrated, or taken back: run `{_UPGRADE}`)")
        elif revision not in known:
            say(f"{revision} (not known to this version of the package: install a newer one)")
        elif revision == known[0]:
            say(f"{revision} (head)")
        else:
            say(f"{revision} (the newest is {known[0]}: run `{_UPGRADE}`)")

    reporting(partial(_run, url, show))


@migrate.command()
def history() -> None:
    """List the revisions.

    Example: provider-trace-store migrate history
    """
    for script in ScriptDirectory.from_config(scripts_config()).walk_revisions():
        head = " (head)" if script.is_head else ""
        say(f"{script.down_revision or '<base>'} -> {script.revision}{head}, {script.doc}")


def _run(url: str | None, action: Callable[[Connection], None]) -> None:
    with connected(database_url(url)) as connection:
        action(connection)


def _print(  # each is an option of the command
    steps: Steps,
    revision: str,
    url: str | None,
    patience: Patience,
    *,
    drop_data: bool = False,
    drop_adopted: Collection[str] = (),
) -> None:
    """Print a script; a range of revisions begins with that of the database."""
    starting, _, to = revision.rpartition(":")
    if steps is down and not starting:
        raise MigrationError("a downgrade with --sql needs a range FROM:TO, such as head:base")
    dialect: Any = database_url(url).get_dialect()
    scripts = Scripts(steps, to, patience.schema, drop_data=drop_data, drop_adopted=drop_adopted)
    # A script that ends in the middle must not be printed.
    script = StringIO()
    try:
        scripts.print(dialect(paramstyle="named"), script, starting or None, patience.lock_timeout)
    except CommandError as error:
        problem = str(error)
    else:
        say(script.getvalue().rstrip("\n"))
        return
    raise MigrationError(problem)
