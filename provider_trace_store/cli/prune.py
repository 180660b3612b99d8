"""`provider-trace-store prune`: deletes what is too old."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from provider_trace_store.cli.migrate import Schema, Url  # noqa: TC001  (typer reads the annotations)
from provider_trace_store.cli.output import say
from provider_trace_store.cli.progress import (
    DryRun,
    Json,
    Organization,
    Pause,
    RowRate,
    checked_duration,
    display,
    run_job,
)
from provider_trace_store.maintenance import Prunable
from provider_trace_store.maintenance import prune as run_prune
from provider_trace_store.maintenance.durations import parse_duration

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from provider_trace_store.maintenance import PrunedTable, RetentionReport

OlderThan = Annotated[
    str, typer.Option(callback=checked_duration, metavar="AGE", help="Delete what is older: 30d, 12h, 90m.")
]
TableName = Annotated[Prunable, typer.Option("--table", help="What to prune.")]
Detach = Annotated[bool, typer.Option("--detach", help="Detach old partitions, and keep their tables.")]
Vacuum = Annotated[bool, typer.Option("--vacuum", help="Run VACUUM of the tables afterwards.")]


def prune(
    *,
    older_than: OlderThan,
    table: TableName = "full",
    organization: Organization = None,
    rate: RowRate = None,
    pause: Pause = 0.0,
    vacuum: Vacuum = False,
    detach: Detach = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    url: Url = None,
    schema: Schema = None,
) -> None:
    """Delete full traces, packed bodies or metadata that are too old, in batches by date or by whole partitions.

    It can be stopped at any moment and run again: each batch is one transaction.

    Example, once a day: provider-trace-store prune --older-than 30d --table full --pause 0.1 --vacuum
    """

    def job(engine: Engine) -> None:
        with display() as show:
            report = run_prune(
                engine,
                older_than=parse_duration(older_than),
                table=table,
                organization_id=organization,
                rate=rate,
                pause=pause,
                vacuum=vacuum,
                detach=detach,
                dry_run=dry_run,
                on_progress=show,
            )
        say(json.dumps(report.as_json()) if as_json else _described(report, is_kept=detach))
        if report.packs is not None and report.packs.failures:
            raise typer.Exit(1)

    run_job(url, schema, job)


def _described(report: RetentionReport, *, is_kept: bool) -> str:
    verb = "would delete" if report.is_dry_run else "deleted"
    lines: list[str] = []
    if report.full is not None:
        lines += _lines(f"{verb} {report.full.rows} full traces", report.full, is_kept=is_kept)
    if report.packs is not None:
        packs = report.packs
        lines.append(
            f"{verb} the bodies of {packs.traces} packed traces: {packs.packs_dropped} packs dropped, "
            f"{packs.packs_rewritten} rewritten"
        )
        lines += [f"pack {failure.pack_id} stays: {failure.problem}" for failure in packs.failures]
    if report.metadata is not None:
        lines += _lines(f"{verb} {report.metadata.rows} rows of metadata", report.metadata, is_kept=is_kept)
    return "\n".join(lines)


def _lines(first: str, pruned: PrunedTable, *, is_kept: bool) -> list[str]:
    lines = [first, *(f"  {day}: {rows}" for day, rows in pruned.days.items())]
    verb = "detached" if is_kept else "dropped"
    for partition in pruned.partitions:
        rows = "of an interrupted run" if partition.rows is None else f"rows: {partition.rows}"
        lines.append(f"  partition {partition.name}, {verb} as a whole, {rows}")
    if pruned.packed:
        lines.append(f"  stay: {pruned.packed} rows of packed traces")
    if pruned.undated:
        lines.append(f"  stay: {pruned.undated} rows without a date")
    return lines
