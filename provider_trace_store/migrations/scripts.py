"""The package's scripts, and Alembic's context to run them on a connection or as SQL, without Alembic's `env.py`."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO

from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from provider_trace_store.errors import MigrationError
from provider_trace_store.migrations.autogenerate import VERSION_TABLE, schema_metadata
from provider_trace_store.migrations.locking import offline_frame
from provider_trace_store.migrations.operations import operations_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from alembic.runtime.migration import RevisionStep
    from sqlalchemy import Connection
    from sqlalchemy.engine import Dialect

    Steps = Callable[[ScriptDirectory, str, Any], list[RevisionStep]]

_PACKAGE: Final = Path(__file__).parents[1]


def up(scripts: ScriptDirectory, revision: str, heads: Any) -> list[RevisionStep]:  # noqa: ANN401  # as Alembic's own signature
    """Return the steps from the database's revisions up to a revision."""
    return scripts._upgrade_revs(revision, heads)  # noqa: SLF001  # Alembic's cookbook names it; there is no other way


def down(scripts: ScriptDirectory, revision: str, heads: Any) -> list[RevisionStep]:  # noqa: ANN401  # as Alembic's own signature
    """Return the steps from the database's revisions down to a revision."""
    return scripts._downgrade_revs(revision, heads)  # noqa: SLF001  # as above


def scripts_config() -> Config:
    """Return an Alembic configuration that finds the package's scripts, in a checkout as in an installed wheel."""
    installed = _PACKAGE / "_alembic"
    scripts = installed if installed.is_dir() else _PACKAGE.parent / "alembic"
    config = Config()
    config.set_main_option("script_location", str(scripts).replace("%", "%%"))
    return config


def revisions(scripts: ScriptDirectory) -> list[str]:
    """Return the revisions that this version of the package knows, the newest first."""
    return [script.revision for script in scripts.walk_revisions()]


def options(schema: str | None, *, drop_data: bool, drop_adopted: Collection[str] = ()) -> dict[str, Any]:
    """Return the options of Alembic's context: our own version table, and one transaction for all revisions.

    Args:
        schema: the schema of the tables; None for the connection's default.
        drop_data: whether a downgrade may drop tables that have rows.
        drop_adopted: the tables that a downgrade may drop although no migration is known to have created them.
    """
    return {
        "target_metadata": schema_metadata(schema),
        "version_table": VERSION_TABLE,
        "version_table_schema": schema,
        "include_schemas": schema is not None,
        "transactional_ddl": True,
        "drop_data": drop_data,
        "drop_adopted": drop_adopted,
    }


class Scripts:
    """The scripts, and the step from one revision to another in a schema.

    Args:
        steps: `up` or `down`.
        revision: the revision to migrate to.
        schema: the schema of the tables; None for the connection's default.
        drop_data: as for `options`.
        drop_adopted: as for `options`.
    """

    def __init__(
        self,
        steps: Steps,
        revision: str,
        schema: str | None,
        *,
        drop_data: bool = False,
        drop_adopted: Collection[str] = (),
    ) -> None:
        self._scripts = ScriptDirectory.from_config(scripts_config())
        self._steps = steps
        self._revision = revision
        self._options = {
            **options(schema, drop_data=drop_data, drop_adopted=drop_adopted),
            "script": self._scripts,
            "fn": lambda heads, _context: steps(self._scripts, revision, heads),
        }

    def heads(self, connection: Connection) -> tuple[str, ...]:
        """Return the revision of the tables; empty if they were never migrated."""
        return MigrationContext.configure(connection, opts=self._options).get_current_heads()

    def has_steps(self, heads: tuple[str, ...]) -> bool:
        """Return whether tables with these revisions are at another one than the one to migrate to.

        Raises:
            MigrationError: this version of the package does not know the revision of the tables, or the revision to
                migrate to is a range.
        """
        if ":" in self._revision:
            raise MigrationError("a range FROM:TO is for printed SQL (--sql) only: name the revision to migrate to")
        known = revisions(self._scripts)
        if unknown := [head for head in heads if head not in known]:
            raise MigrationError(
                f"the tables are at revision {unknown[0]}, which a newer version of provider_trace_store made; nothing "
                "was changed: install that version"
            )
        return bool(self._steps(self._scripts, self._revision, heads))

    def are_newest(self, heads: tuple[str, ...]) -> bool:
        """Return whether these are the newest revisions."""
        return heads == tuple(self._scripts.get_heads())

    def run(self, connection: Connection) -> None:
        """Run the scripts on a connection; the caller holds the locks of `run_exclusively`."""
        context = MigrationContext.configure(connection, opts=self._options)
        with operations_of(context):
            context.run_migrations()

    def print(
        self, dialect: Dialect, output: TextIO, starting: str | None, lock_timeout: float, *, nested: bool = False
    ) -> None:
        """Print the scripts as SQL.

        Args:
            dialect: of the database, with `named` parameters.
            output: where to print.
            starting: the revision that the database has; None if it was never migrated.
            lock_timeout: how long a statement of the script may wait for a table lock, in seconds.
            nested: whether the SQL is part of a script of the host, in whose transaction it runs.
        """
        sql = {"as_sql": True, "output_buffer": output, "literal_binds": True, "starting_rev": starting}
        context = MigrationContext.configure(dialect=dialect, opts={**self._options, **sql})
        before, after = offline_frame(dialect.name, lock_timeout, nested=nested)
        with operations_of(context), nullcontext() if nested else context.begin_transaction():
            for statement in before:
                context.execute(statement)
            context.run_migrations()
            for statement in after:
                context.execute(statement)
