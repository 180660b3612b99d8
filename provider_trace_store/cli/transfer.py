"""`provider-trace-store export` and `import`: traces in a file."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from provider_trace_store.cli.migrate import Schema, Url  # noqa: TC001  (typer reads the annotations)
from provider_trace_store.cli.output import say
from provider_trace_store.cli.progress import MB, Json, Organization, Pause, Rate, display, run_job
from provider_trace_store.errors import shown
from provider_trace_store.maintenance import export_traces as run_export
from provider_trace_store.maintenance import import_traces as run_import

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from provider_trace_store.maintenance import ExportReport, ImportReport


class Format(StrEnum):
    """The formats of an export."""

    jsonl = "jsonl"
    parquet = "parquet"


def checked_moment(value: str | None) -> str | None:
    """Return the value of an option if it is a moment; the callback of `typer.Option`.

    Args:
        value: such as `2026-03-01` or `2026-03-01T12:00:00+01:00`; UTC without a time zone.
    """
    try:
        _moment(value)
    except ValueError:
        raise typer.BadParameter("must be a date, such as 2026-03-01 or 2026-03-01T12:00:00Z") from None
    return value


Target = Annotated[
    Path,
    typer.Argument(
        metavar="FILE",
        help="The new file: .parquet for Parquet, .jsonl for plain lines, any other name for lines in zstd.",
    ),
]
Origin = Annotated[Path, typer.Argument(metavar="FILE", help="A file that export wrote.")]
Since = Annotated[
    str | None, typer.Option(callback=checked_moment, metavar="DATE", help="Only traces from this moment on (UTC).")
]
Until = Annotated[
    str | None, typer.Option(callback=checked_moment, metavar="DATE", help="Only traces before this moment (UTC).")
]
FormatOption = Annotated[Format | None, typer.Option("--format", help="The format; by default the name says it.")]


def export(
    file: Target,
    *,
    since: Since = None,
    until: Until = None,
    organization: Organization = None,
    format_: FormatOption = None,
    rate: Rate = None,
    pause: Pause = 0.0,
    as_json: Json = False,
    url: Url = None,
    schema: Schema = None,
) -> None:
    """Write traces into a file, with the stored text of each document. Exits with status 1 if a row is not readable.

    It can be stopped at any moment: the same command goes on (a Parquet file is begun anew).

    Example: provider-trace-store export march.jsonl.zst --since 2026-03-01 --until 2026-04-01
    """

    def job(engine: Engine) -> None:
        with display() as show:
            report = run_export(
                engine,
                file,
                format=format_.value if format_ else None,
                since=_moment(since),
                until=_moment(until),
                organization_id=organization,
                rate=rate,
                pause=pause,
                on_progress=show,
            )
        say(json.dumps(report.as_json()) if as_json else _exported(report))
        if report.unreadable:
            raise typer.Exit(1)

    run_job(url, schema, job)


def import_(
    file: Origin,
    *,
    rate: Rate = None,
    pause: Pause = 0.0,
    as_json: Json = False,
    url: Url = None,
    schema: Schema = None,
) -> None:
    """Store the traces of an exported file; those that are stored already stay. Exits with status 1 if one is rejected.

    It can be stopped at any moment: the same command goes on.

    Example: provider-trace-store import march.jsonl.zst
    """

    def job(engine: Engine) -> None:
        with display() as show:
            report = run_import(engine, file, rate=rate, pause=pause, on_progress=show)
        say(json.dumps(report.as_json()) if as_json else _imported(report))
        if report.rejected:
            raise typer.Exit(1)

    run_job(url, schema, job)


def _moment(value: str | None) -> datetime | None:
    if value is None:
        return None
    moment = datetime.fromisoformat(value)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


def _exported(report: ExportReport) -> str:
    resumed = f", {report.resumed_rows} of them by an earlier command" if report.resumed_rows else ""
    text, size = (f"{each / MB:.1f} MB" for each in (report.raw_bytes, report.file_bytes))
    lines = [f"exported {report.rows} rows{resumed}: {text} of text, file: {size}, time: {report.seconds:.1f} s"]
    if report.unreadable:
        lines.append(f"not readable, and not in the file: {report.unreadable} rows")
        lines += [f"  {shown(trace_id)}" for trace_id in report.unreadable_ids]
    return "\n".join(lines)


def _imported(report: ImportReport) -> str:
    others = f"{report.unchanged} were stored already, {report.rejected} rejected"
    lines = [f"imported {report.created} of {report.rows} rows: {others}, time: {report.seconds:.1f} s"]
    lines += [f"rejected {shown(each.trace_id)}: {each.reason}" for each in report.rejections]
    return "\n".join(lines)
