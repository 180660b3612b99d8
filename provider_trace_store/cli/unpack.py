"""`provider-trace-store unpack` and `verify`: the way back from packs, and the check of all of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

import typer

from provider_trace_store.cli.migrate import Schema, Url  # noqa: TC001  (typer reads the annotations)
from provider_trace_store.cli.output import say
from provider_trace_store.cli.progress import MB, DryRun, Json, Organization, Pause, Rate, display, run_job
from provider_trace_store.errors import shown
from provider_trace_store.maintenance import unpack as run_unpack
from provider_trace_store.maintenance import verify_packs

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from provider_trace_store.maintenance import UnpackReport, VerifyReport

# The findings that are printed without --json.
_SHOWN: Final = 100


def unpack(
    *,
    organization: Organization = None,
    rate: Rate = None,
    pause: Pause = 0.0,
    dry_run: DryRun = False,
    as_json: Json = False,
    url: Url = None,
    schema: Schema = None,
) -> None:
    """Move packed traces back into provider_traces, byte for byte. Exits with status 1 if a pack had to stay.

    It can be stopped at any moment: each pack is one transaction, and the same command goes on.

    Example: provider-trace-store unpack --organization org-1 --rate 20
    """

    def job(engine: Engine) -> None:
        with display() as show:
            report = run_unpack(
                engine, organization_id=organization, rate=rate, pause=pause, dry_run=dry_run, on_progress=show
            )
        say(json.dumps(report.as_json()) if as_json else _unpacked(report))
        if report.failures:
            raise typer.Exit(1)

    run_job(url, schema, job)


def verify(*, organization: Organization = None, as_json: Json = False, url: Url = None, schema: Schema = None) -> None:
    """Read all packs and report damage by id, never content. Exits with status 1 if there is any.

    Example: provider-trace-store verify --json
    """

    def job(engine: Engine) -> None:
        with display() as show:
            report = verify_packs(engine, organization_id=organization, on_progress=show)
        say(json.dumps(report.as_json()) if as_json else _verified(report))
        if report.problems:
            raise typer.Exit(1)

    run_job(url, schema, job)


def _unpacked(report: UnpackReport) -> str:
    would = "would unpack" if report.is_dry_run else "unpacked"
    text = f"{report.raw_bytes / MB:.1f} MB of text"
    lines = [f"{would} {report.traces} traces of {report.packs} packs: {text}, time: {report.seconds:.1f} s"]
    if report.pruned:
        lines.append(f"not restored: {report.pruned} traces whose metadata was deleted for good")
    for failure in report.failures:
        damaged = "".join(f"\n  damaged: {shown(trace_id)}" for trace_id in failure.trace_ids)
        lines.append(f"pack {failure.pack_id} stays: {failure.problem}{damaged}")
    return "\n".join(lines)


def _verified(report: VerifyReport) -> str:
    text = f"{report.raw_bytes / MB:.1f} MB of text"
    lines = [
        f"read {report.packs} packs, {text}: {report.traces} traces are as they were written",
        f"problems: {report.problems}, time: {report.seconds:.1f} s",
    ]
    for finding in report.findings[:_SHOWN]:
        trace = "" if finding.trace_id is None else f", trace {shown(finding.trace_id)}"
        lines.append(f"pack {finding.pack_id}{trace}: {finding.problem}")
    if report.problems > _SHOWN:
        lines.append(f"and {report.problems - _SHOWN} more; --json lists up to 10,000")
    return "\n".join(lines)
