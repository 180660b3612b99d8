"""What the command prints and how it ends: output that cannot be written is an error, and no password is shown."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import TYPE_CHECKING, Final, NoReturn

import typer

from provider_trace_store.errors import ProviderTraceStoreError
from provider_trace_store.migrations.target import spelled

if TYPE_CHECKING:
    from collections.abc import Callable

_NAME: Final = "provider-trace-store"
# The options, by the names that the errors of the package give them.
_OPTIONS: Final = {
    "url": "--url",
    "schema": "--schema",
    "lock_timeout": "--lock-timeout",
    "tries": "--tries",
    "older_than": "--older-than",
    "idle": "--idle",
    "rate": "--rate",
    "pause": "--pause",
    "max_lag": "--max-lag",
    "resume_at": "--resume-at",
    "spool": "--spool",
    "since": "--since",
    "until": "--until",
    "drop_data=True": "--drop-data",
    "drop_adopted=[TABLE]": "--drop-adopted TABLE",
    "drop_tables": "--drop-table",
}
# Exit statuses; docs/commands.md lists them all.
USAGE: Final = 2
NEEDS_OPERATOR: Final = 3
INTERRUPTED: Final = 130  # what a shell reports for a command that Ctrl-C ended


class _Closed(io.TextIOBase):
    """Takes the place of a standard output that was closed before the command began."""

    def write(self, _text: str) -> NoReturn:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))


def run_command(app: Callable[[], object]) -> NoReturn:
    """Run the command line, and exit with its status; 1 if the output could not be written.

    Args:
        app: parses the arguments and runs the command.
    """
    if sys.stdout is None:
        sys.stdout = _Closed()
    for stream in (sys.stdout, sys.stderr):
        # In a locale without the character that is printed, such as C.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    refuse_misplaced_urls(sys.argv[1:])
    status: object = 0
    try:
        try:
            app()
        except SystemExit as end:
            status = end.code
        sys.stdout.flush()
    except OSError as error:
        status = 1
        # The interpreter would try to write the rest once more, and fail with a traceback.
        sys.stdout = None
        # A reader that has seen enough, such as `head`, closes the pipe.
        if error.errno != errno.EPIPE:
            say_error(f"the output could not be written: {error.strerror}")
    sys.exit(status)  # type: ignore[arg-type]  # as it was raised


def refuse_misplaced_urls(arguments: list[str]) -> None:
    """Exit if an argument looks like a URL, or a part of one, and is not the value of `--url`.

    The message about an unexpected argument would repeat it with its password.

    Args:
        arguments: those of the command line.
    """
    for before, argument in zip(["", *arguments], arguments, strict=False):
        if before == "--url" or argument.startswith("--url="):
            continue
        if "://" in argument or "password=" in argument or ("@" in argument and before != "--schema"):
            say_error("an argument looks like a part of a database URL: write it as --url 'URL', in quotation marks")
            sys.exit(USAGE)


def say(line: str) -> None:
    """Print a line of the result."""
    typer.echo(line)


def say_error(message: str) -> None:
    """Print an error on standard error, with the options as the command spells them."""
    typer.echo(f"{_NAME}: {spelled(message, _OPTIONS)}", err=True)


def reporting(
    action: Callable[[], None], *, interrupted: Callable[[], str] = lambda: "interrupted; nothing was changed"
) -> None:
    """Run an action; exit with status 1 after an error of the package, which is printed, and 130 after Ctrl-C.

    Args:
        action: what the command does.
        interrupted: what to print after Ctrl-C.
    """
    try:
        action()
    except ProviderTraceStoreError as error:
        say_error(str(error))
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        say_error(interrupted())
        raise typer.Exit(INTERRUPTED) from None
