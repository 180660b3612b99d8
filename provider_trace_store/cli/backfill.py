"""`provider-trace-store backfill`: copies the metadata of full traces into the table of metadata."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from provider_trace_store.cli.looking import Since, Until, moment
from provider_trace_store.cli.migrate import Schema, Url  # noqa: TC001  (typer reads the annotations)
from provider_trace_store.cli.output import say
from provider_trace_store.cli.progress import (
    DryRun,
    Json,
    Organization,
    Pause,
    RowRate,
    display,
    run_job,
)
from provider_trace_store.maintenance import backfill as run_backfill

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from provider_trace_store.maintenance import BackfillReport
    from provider_trace_store.maintenance.progress import Progress

MaxLag = Annotated[
    float | None, typer.Option(metavar="SECONDS", min=0, help="Wait while a replica is further behind than this.")
]
ResumeAt = Annotated[
    str | None, typer.Option(metavar="POSITION", help="Begin after this position, which an earlier run printed.")
]


def backfill(
    *,
    since: Since = None,
    until: Until = None,
    organization: Organization = None,
    rate: RowRate = None,
    pause: Pause = 0.0,
    max_lag: MaxLag = None,
    resume_at: ResumeAt = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    url: Url = None,
    schema: Schema = None,
) -> None:
    """Copy the metadata of provider_traces into provider_trace_metadata. The traces stay, and no body is read.

    It can be stopped at any moment and run again: traces that have a row of metadata are left out.

    Example: provider-trace-store backfill --since 90d --rate 20000 --max-lag 5
    """
    position = resume_at

    def job(engine: Engine) -> None:
        with display() as show:

            def note(progress: Progress) -> None:
                nonlocal position
                position = progress.resume_at or position
                show(progress)

            report = run_backfill(
                engine,
                since=moment(since),
                until=moment(until),
                organization_id=organization,
                rate=rate,
                pause=pause,
                max_lag=max_lag,
                resume_at=resume_at,
                dry_run=dry_run,
                on_progress=note,
            )
        say(json.dumps(report.as_json()) if as_json else _described(report))

    run_job(url, schema, job, resume_at=lambda: position)


def _described(report: BackfillReport) -> str:
    if report.is_dry_run:
        lines = [f"would look at {report.traces} traces, and copy the metadata of those that have none"]
    else:
        counts = f"copied the metadata of {report.copied} of {report.traces} traces"
        lines = [f"{counts}; {report.already} had a row of metadata already; time: {report.seconds:.1f} s"]
    if report.undated:
        lines.append(f"not copied: {report.undated} traces without a date")
    return "\n".join(lines)
