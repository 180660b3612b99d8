"""`provider-trace-store status`: the state of the tables, and what needs the operator."""

from __future__ import annotations

import json
import shutil
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from provider_trace_store.cli.migrate import Schema, Url  # noqa: TC001  (typer reads the annotations)
from provider_trace_store.cli.output import NEEDS_OPERATOR, say
from provider_trace_store.cli.progress import Json, run_job
from provider_trace_store.maintenance import status as status_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from sqlalchemy import Engine

    from provider_trace_store.maintenance import StatusReport, TableStatus

Spool = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Also the spool directory of a writer, which is only read.")
]
_UNITS: Final = ("B", "kB", "MB", "GB", "TB")
_STEP: Final = 1000
_PLAIN: Final = 10  # from this value on, without a decimal


def status(*, spool: Spool = None, as_json: Json = False, url: Url = None, schema: Schema = None) -> None:
    """Show the tables' sizes, dates, indexes and packs. Exits with status 3 if something needs the operator.

    It reads no large table, takes the locks of a SELECT, and can be run at any time.

    Example: provider-trace-store status --spool /var/lib/app/spool
    """

    def job(engine: Engine) -> None:
        report = status_of(engine, spool=spool)
        if as_json:
            say(json.dumps(report.as_json()))
        else:
            say("\n".join(_lines(report, shutil.get_terminal_size().columns)))
        if report.needs:
            raise typer.Exit(NEEDS_OPERATOR)

    run_job(url, schema, job)


def _lines(report: StatusReport, width: int) -> Iterator[str]:
    where = "" if report.schema is None else f", schema {report.schema}"
    yield f"{report.server}{where}"
    at_head = " (head)" if report.revision == report.head else f" (the newest is {report.head})"
    yield f"revision {report.revision or 'base'}{at_head}"
    if report.default_compression is not None:
        yield f"default compression {report.default_compression}, lz4 {'' if report.has_lz4 else 'not '}available"
    if report.free_bytes is not None:
        yield f"file {_size(report.file_bytes)}, {_size(report.free_bytes)} of it free for new rows"
    yield ""
    yield from _table([_column(table) for table in report.tables], width)
    notes = _notes(report)
    if notes:
        yield ""
        yield from (line for note in notes for line in textwrap.wrap(note, max(width, 20), break_long_words=False))
    yield ""
    if not report.needs:
        yield "nothing needs the operator"
        return
    yield "needs the operator:"
    yield from (f"- {need}" for need in report.needs)
    # Ready to paste: each statement on a line of its own, in the order in which they must run.
    yield from (f"{statement};" for index in report.indexes for statement in index.statements)


def _notes(report: StatusReport) -> list[str]:
    notes = []
    if any(table.rows is not None and not table.has_exact_rows for table in report.tables):
        is_server = report.file_bytes is None and report.default_compression is not None
        by = "the server's statistics" if is_server else "the first and the last row number, an upper bound"
        notes.append(f"~ estimated by {by}")
    if any(table.dates.source == "statistics" for table in report.tables):
        notes.append("* from a sample: the true range can be wider")
    if report.packed is not None and report.packed.traces:
        full = next((table.rows or 0 for table in report.tables if table.name == "provider_traces"), 0)
        packed = report.packed
        share = 100 * packed.traces / (packed.traces + full)
        about = "~" if packed.is_estimated else ""
        notes.append(
            f"packed: {about}{packed.traces} traces ({share:.0f} % of the whole ones) in {about}{packed.packs} packs, "
            f"{_size(packed.raw_bytes)} of text"
        )
    if (spool := report.spool) is not None:
        rejected = "not readable" if spool.rejected is None else spool.rejected
        notes.append(f"spool {spool.directory}: {spool.files} files, {_size(spool.file_bytes)}; rejected: {rejected}")
    return notes


def _column(table: TableStatus) -> list[tuple[str, str]]:
    """Return the name of a table and its figures, each with its label."""
    if not table.exists:
        return [("", table.name), ("rows", "no such table")]
    about = "" if table.has_exact_rows or not table.rows else "~"
    mark = "*" if table.dates.source == "statistics" else ""
    rows = [
        ("", table.name),
        ("rows", "not known: run ANALYZE" if table.rows is None else f"{about}{table.rows:,}"),
        ("oldest", _moment(table.dates.oldest, mark)),
        ("newest", _moment(table.dates.newest, mark)),
    ]
    if table.heap_bytes is None:
        return rows
    return [
        *rows,
        ("heap", _size(table.heap_bytes)),
        ("TOAST", _size(table.toast_bytes)),
        ("indexes", _size(table.index_bytes)),
        ("partitions", str(table.partitions or "-")),
        ("compression", "/".join(sorted(set((table.compression or {}).values()))) or "-"),
        ("dead rows", f"{table.dead_rows:,}"),
        ("last VACUUM", _moment(table.last_vacuum)),
        ("autovacuum", _moment(table.last_autovacuum)),
        ("last ANALYZE", _moment(table.last_analyze)),
    ]


def _table(columns: Sequence[list[tuple[str, str]]], width: int) -> Iterator[str]:
    """Yield the columns beside each other, or below each other where they are wider than the terminal."""
    labels = list(dict.fromkeys(label for column in columns for label, _ in column))
    first = max(map(len, labels))
    cells = [dict(column) for column in columns]
    widths = [max(map(len, column.values())) for column in cells]
    if first + sum(2 + size for size in widths) <= width:
        for label in labels:
            parts = (column.get(label, "").rjust(size) for column, size in zip(cells, widths, strict=True))
            yield "  ".join([label.ljust(first), *parts]).rstrip()
        return
    for column in columns:
        yield column[0][1]
        yield from (f"  {label.ljust(first)}  {value}" for label, value in column[1:])


def _size(size: int | None) -> str:
    value = float(size or 0)
    unit, *larger = _UNITS
    while larger and value >= _STEP:
        value /= _STEP
        unit, *larger = larger
    return f"{value:.0f} {unit}" if unit == "B" or value >= _PLAIN else f"{value:.1f} {unit}"


def _moment(moment: datetime | None, mark: str = "") -> str:
    return "-" if moment is None else f"{moment:%Y-%m-%d %H:%M}{mark}"
