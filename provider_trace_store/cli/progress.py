"""The options and the progress display that all commands for operators share."""

from __future__ import annotations

import shlex
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from provider_trace_store.cli.output import USAGE, reporting, say_error
from provider_trace_store.errors import InvalidArgumentError
from provider_trace_store.maintenance.durations import parse_duration
from provider_trace_store.migrations.target import connected, database_url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Engine

    from provider_trace_store.maintenance.progress import Progress

MB: Final = 1_000_000
_BETWEEN_LINES: Final = 5.0  # seconds

Organization = Annotated[str | None, typer.Option(metavar="ORG", help="Only the traces of this organization.")]
Rate = Annotated[float | None, typer.Option(metavar="MB/S", min=0.001, help="The most MB of raw text a second.")]
RowRate = Annotated[float | None, typer.Option("--rate", metavar="ROWS/S", min=0.001, help="The most rows a second.")]
Pause = Annotated[float, typer.Option(metavar="SECONDS", min=0, help="A pause after each transaction.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Change nothing, and report what the command would do.")]
Json = Annotated[bool, typer.Option("--json", help="Print the report as one JSON object.")]


def checked_duration(value: str) -> str:
    """Return the value of an option if it is a duration; the callback of `typer.Option`.

    Args:
        value: such as `30d`; `parse_duration` reads it.
    """
    try:
        parse_duration(value)
    except InvalidArgumentError as error:
        raise typer.BadParameter(error.reason) from None
    return value


def check_can_ask(command: str, *, is_asking: bool) -> None:
    """Exit with the status of wrong usage if a command would ask, and standard input is not a terminal.

    Args:
        command: the name of the command.
        is_asking: whether neither `--yes` nor `--dry-run` is given.
    """
    if is_asking and not sys.stdin.isatty():
        say_error(f"{command} asks before it deletes, and standard input is not a terminal: add --yes or --dry-run")
        raise typer.Exit(USAGE)


def is_confirmed(question: str) -> bool:
    """Ask on the terminal, and return whether the answer is yes.

    Args:
        question: the question.
    """
    try:
        return typer.confirm(question, err=True)
    except typer.Abort:  # Ctrl-C has one exit status in all commands
        raise KeyboardInterrupt from None


def run_job(
    url: str | None,
    schema: str | None,
    job: Callable[[Engine], None],
    *,
    resume_at: Callable[[], str | None] = lambda: None,
) -> None:
    """Run a command of maintenance on the tables of a database; exit with status 1 after an error, 130 after Ctrl-C.

    Args:
        url: the value of `--url`.
        schema: the value of `--schema`.
        job: runs the command.
        resume_at: returns the value of `--resume-at` that the command goes on with after Ctrl-C; None for a command
            that finds its place by itself.
    """

    def run() -> None:
        # Tries the connection first, for an error that says what to correct.
        with connected(database_url(url)) as connection:
            translated = {"schema_translate_map": {None: schema}} if schema else {}
            job(connection.engine.execution_options(**translated))

    def interrupted() -> str:
        again = _again(sys.argv[1:], resume_at())
        return f"stopped after a transaction; what was done stays. Go on with: {again}"

    reporting(run, interrupted=interrupted)


@contextmanager
def display() -> Iterator[Callable[[Progress], None]]:
    """Return what shows progress on standard error: a bar on a terminal, elsewhere a line every five seconds."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from rich.console import Console  # noqa: PLC0415  (slow to import)
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn  # noqa: PLC0415
    from rich.progress import Progress as Bar  # noqa: PLC0415

    columns: Any = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None, figures="")

        def show(progress: Progress) -> None:
            bar.update(
                task,
                description=progress.command,
                completed=progress.done,
                total=progress.total,
                figures=_figures(progress),
            )

        yield show


class _Lines:
    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        if time.monotonic() - self._last < _BETWEEN_LINES:
            return
        self._last = time.monotonic()
        of = "" if progress.total is None else f" of about {progress.total}"
        left = "" if progress.seconds_left is None else f", {progress.seconds_left:.0f} s left"
        at = f", at {progress.resume_at}" if progress.resume_at else ""
        typer.echo(f"{progress.command}: {progress.done}{of} {progress.unit}, {_figures(progress)}{left}{at}", err=True)


def _figures(progress: Progress) -> str:
    if not progress.raw_bytes:  # of a command that reads no document
        return f"{progress.per_second:.0f} {progress.unit}/s"
    saved = "" if progress.saved_bytes is None else f", {progress.saved_bytes / MB:.1f} MB saved"
    return f"{progress.bytes_per_second / MB:.1f} MB/s{saved}"


def _again(arguments: list[str], resume_at: str | None) -> str:
    """Return the command line that goes on; a URL in it may have a password.

    Args:
        arguments: those of this command.
        resume_at: as `run_job` takes it.
    """
    shown: list[str] = []
    # The value to write in place of the next argument; an empty one for an argument to leave out.
    instead: str | None = None
    for argument in arguments:
        if instead is not None:
            shown += [instead] if instead else []
            instead = None
        elif argument.startswith("--url="):
            shown.append("--url=URL")
        elif resume_at is not None and argument == "--resume-at":
            instead = ""
        elif resume_at is None or not argument.startswith("--resume-at="):
            instead = "URL" if argument == "--url" else None
            shown.append(shlex.quote(argument))
    if resume_at is not None:
        shown += ["--resume-at", shlex.quote(resume_at)]
    return " ".join(["provider-trace-store", *shown])
