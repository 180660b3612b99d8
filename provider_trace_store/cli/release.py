"""`provider-trace-store release`: leaves a host's tables to the host."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from provider_trace_store.cli.migrate import LockTimeout, Schema, Tries, Url  # noqa: TC001  (typer reads the annotations)
from provider_trace_store.cli.output import say, say_error
from provider_trace_store.cli.progress import DryRun, Json, check_can_ask, is_confirmed, run_job
from provider_trace_store.maintenance import release as run_release
from provider_trace_store.migrations import DEFAULT_LOCK_TIMEOUT, DEFAULT_TRIES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine

    from provider_trace_store.maintenance import ReleasedTable, ReleaseReport


def release(
    *,
    drop_table: Annotated[
        list[str] | None,
        typer.Option(metavar="TABLE", help="Also drop this table, which a migration created, with its rows."),
    ] = None,
    keep_columns: Annotated[
        bool, typer.Option("--keep-columns", help="Keep the columns that migrations added, with their values.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Release without a question.")] = False,
    lock_timeout: LockTimeout = DEFAULT_LOCK_TIMEOUT,
    tries: Tries = DEFAULT_TRIES,
    dry_run: DryRun = False,
    as_json: Json = False,
    url: Url = None,
    schema: Schema = None,
) -> None:
    """Undo an adoption: our version table, indexes and columns go, the host's tables and rows stay.

    It can be stopped at any moment, and the same command goes on. `migrate upgrade` adopts the tables again.

    Example, what would go: provider-trace-store release --dry-run
    """
    check_can_ask("release", is_asking=not (yes or dry_run))

    def job(engine: Engine) -> None:
        action = partial(
            run_release,
            engine,
            drop_tables=drop_table or (),
            keep_columns=keep_columns,
            lock_timeout=lock_timeout,
            tries=tries,
        )
        report = action(dry_run=dry_run or not yes)
        if not dry_run and not yes and report.statements:
            typer.echo(_described(report), err=True)
            if not is_confirmed("Release the tables?"):
                say_error("nothing was changed")
                raise typer.Exit(1)
            report = action()
        say(json.dumps(report.as_json()) if as_json else _described(report))

    run_job(url, schema, job)


def _described(report: ReleaseReport) -> str:
    lines = [line for table in report.tables for line in _lines(table, is_dry_run=report.is_dry_run)]
    if not report.statements:
        return "\n".join(["nothing to release", *lines])
    if report.is_dry_run:
        return "\n".join(["would run:", *(f"  {statement};" for statement in report.statements), *lines])
    return "\n".join([f"released, statements: {len(report.statements)}, time: {report.seconds:.1f} s", *lines])


def _lines(table: ReleasedTable, *, is_dry_run: bool) -> Iterator[str]:
    if table.is_dropped:
        yield f"{table.name}: {'would go' if is_dry_run else 'went'} with its rows"
        return
    origin = "adopted" if table.is_adopted else "created by a migration; --drop-table drops it"
    yield f"{table.name} ({origin}): stays with its rows"
    if table.columns:
        yield f"  columns {'that would go' if is_dry_run else 'that went'}: {', '.join(table.columns)}"
    for each in table.stays:
        yield f"  stays: {each}"
