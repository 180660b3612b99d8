"""`provider-trace-store index`: builds the missing indexes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from provider_trace_store.cli.migrate import LockTimeout, Schema, Tries, Url  # noqa: TC001  (typer reads the annotations)
from provider_trace_store.cli.output import say
from provider_trace_store.cli.progress import DryRun, Json, display, run_job
from provider_trace_store.maintenance import build_indexes
from provider_trace_store.migrations import DEFAULT_LOCK_TIMEOUT, DEFAULT_TRIES

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from provider_trace_store.maintenance import IndexReport


def index(
    *,
    lock_timeout: LockTimeout = DEFAULT_LOCK_TIMEOUT,
    tries: Tries = DEFAULT_TRIES,
    dry_run: DryRun = False,
    as_json: Json = False,
    url: Url = None,
    schema: Schema = None,
) -> None:
    """Build the indexes that the tables lack, one after the other, without blocking writers (CONCURRENTLY).

    It can be stopped at any moment: the same command goes on, and replaces an index that was not completed.

    Example, the statements first: provider-trace-store index --dry-run
    """

    def job(engine: Engine) -> None:
        with display() as show:
            report = build_indexes(engine, lock_timeout=lock_timeout, tries=tries, dry_run=dry_run, on_progress=show)
        say(json.dumps(report.as_json()) if as_json else _described(report))

    run_job(url, schema, job)


def _described(report: IndexReport) -> str:
    if not report.built:
        return "no index is missing"
    if report.is_dry_run:
        return "\n".join(f"{statement};" for statement in report.statements)
    return f"built {', '.join(report.built)}, time: {report.seconds:.1f} s"
