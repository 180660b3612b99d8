"""`provider-trace-store erase`: removes traces for good, for privacy."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Annotated, Final

import typer

from provider_trace_store.cli.migrate import Schema, Url  # noqa: TC001  (typer reads the annotations)
from provider_trace_store.cli.output import USAGE, say, say_error
from provider_trace_store.cli.progress import DryRun, Json, Pause, check_can_ask, display, is_confirmed, run_job
from provider_trace_store.errors import shown
from provider_trace_store.maintenance import erase_matching

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from provider_trace_store.maintenance import ErasureReport

# The ids of damaged traces that are printed without --json.
_SHOWN: Final = 100


def erase(
    *,
    organization: Annotated[str, typer.Option(metavar="ORG", help="The organization that owns the traces.")],
    user: Annotated[str | None, typer.Option(metavar="USER", help="Only the traces of this user: slow.")] = None,
    agent: Annotated[str | None, typer.Option(metavar="AGENT", help="Only the traces of this agent.")] = None,
    run: Annotated[str | None, typer.Option(metavar="RUN", help="Only the traces of this run.")] = None,
    trace: Annotated[str | None, typer.Option(metavar="TRACE", help="Only this trace.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Erase without a question.")] = False,
    pause: Pause = 0.0,
    dry_run: DryRun = False,
    as_json: Json = False,
    url: Url = None,
    schema: Schema = None,
) -> None:
    """Remove traces for good, from all tables and packs. Exits with status 1 if some had to stay.

    It can be stopped at any moment, and the same command goes on.
    Example: provider-trace-store erase --organization org-1 --user user-7 --dry-run
    """
    if sum(value is not None for value in (user, agent, run, trace)) > 1:
        say_error("choose one of --user, --agent, --run and --trace")
        raise typer.Exit(USAGE)
    check_can_ask("erase", is_asking=not (yes or dry_run))

    def job(engine: Engine) -> None:
        with display() as show:
            action = partial(
                erase_matching,
                engine,
                organization_id=organization,
                user_id=user,
                agent_id=agent,
                run_id=run,
                trace_id=trace,
                on_progress=show,
            )
            report = action(dry_run=True) if dry_run or not yes else action(pause=pause)
        if report.is_dry_run and not dry_run:
            typer.echo(_described(report), err=True)
            if not is_confirmed("Erase them for good?"):
                say_error("nothing was erased")
                raise typer.Exit(1)
            with display() as show:
                report = action(pause=pause, on_progress=show)
        say(json.dumps(report.as_json()) if as_json else _described(report))
        if report.damaged:
            raise typer.Exit(1)

    run_job(url, schema, job)


def _described(report: ErasureReport) -> str:
    rows = f"{report.full_rows} full and {report.metadata_rows} metadata rows"
    if report.is_dry_run:
        return f"would erase {rows}; packs with some of them: {report.packs_touched}"
    packs = f"packs rewritten: {report.packs_rewritten}, dropped: {report.packs_dropped}"
    lines = [f"erased {rows}; {packs}, time: {report.seconds:.1f} s"]
    if report.damaged:
        lines.append(f"{len(report.damaged)} traces stay in damaged packs: run `provider-trace-store verify`")
        lines += [f"  damaged: {shown(trace_id)}" for trace_id in report.damaged[:_SHOWN]]
    return "\n".join(lines)
