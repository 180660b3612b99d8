"""`provider-trace-store pack`: moves old traces into packs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from provider_trace_store.cli.migrate import Schema, Url  # noqa: TC001  (typer reads the annotations)
from provider_trace_store.cli.output import say
from provider_trace_store.cli.progress import (
    MB,
    DryRun,
    Json,
    Organization,
    Pause,
    Rate,
    checked_duration,
    display,
    run_job,
)
from provider_trace_store.maintenance import pack as run_pack
from provider_trace_store.maintenance.durations import parse_duration

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from provider_trace_store.maintenance import PackReport

OlderThan = Annotated[
    str, typer.Option(callback=checked_duration, metavar="AGE", help="Pack traces that are older: 30d, 12h, 90m, 0d.")
]
Idle = Annotated[
    str, typer.Option(callback=checked_duration, metavar="TIME", help="Only of runs that had no call for this time.")
]
Vacuum = Annotated[
    bool, typer.Option("--vacuum", help="Run VACUUM of provider_traces afterwards, so that new rows reuse the space.")
]


def pack(
    *,
    older_than: OlderThan = "7d",
    idle: Idle = "1d",
    organization: Organization = None,
    rate: Rate = None,
    pause: Pause = 0.0,
    vacuum: Vacuum = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    url: Url = None,
    schema: Schema = None,
) -> None:
    """Move old traces from provider_traces into packs, which take a fraction of the disk. Every byte is kept.

    It can be stopped at any moment: each pack is one transaction, and the same command goes on.

    Example, once a day: provider-trace-store pack --older-than 7d --rate 20 --vacuum
    """

    def job(engine: Engine) -> None:
        with display() as show:
            report = run_pack(
                engine,
                older_than=parse_duration(older_than),
                idle=parse_duration(idle),
                organization_id=organization,
                rate=rate,
                pause=pause,
                vacuum=vacuum,
                dry_run=dry_run,
                on_progress=show,
            )
        say(json.dumps(report.as_json()) if as_json else _described(report))

    run_job(url, schema, job)


def _described(report: PackReport) -> str:
    saved = report.stored_bytes_before - report.stored_bytes_after
    would = "would pack about" if report.is_dry_run else "packed"
    sizes = (report.raw_bytes, report.stored_bytes_before, report.stored_bytes_after, saved)
    text, before, after, less = (f"{size / MB:.1f} MB" for size in sizes)
    lines = [
        f"{would} {report.traces} traces into {report.packs} packs: {text} of text",
        f"stored before: {before}, in packs: {after}, saved: {less}, time: {report.seconds:.1f} s",
    ]
    skipped = ", ".join(f"{count} {reason}" for reason, count in report.skipped.items() if count)
    if skipped:
        lines.append(f"left in the table: {skipped}")
    lines += [f"refused, {refusal.traces} traces: {refusal.message}" for refusal in report.refusals]
    if report.traces and not report.is_dry_run and report.space:
        lines.append(f"the space is free for new rows after: {report.space}; (--vacuum runs it)")
    return "\n".join(lines)
