"""The command `provider-trace-store`."""

import logging
from typing import Annotated

import typer

from provider_trace_store import __version__
from provider_trace_store.cli.backfill import backfill
from provider_trace_store.cli.erase import erase
from provider_trace_store.cli.index import index
from provider_trace_store.cli.listing import list_traces, runs, tail
from provider_trace_store.cli.migrate import migrate
from provider_trace_store.cli.output import say
from provider_trace_store.cli.pack import pack
from provider_trace_store.cli.prune import prune
from provider_trace_store.cli.release import release
from provider_trace_store.cli.show import diff, run, show
from provider_trace_store.cli.stats import stats
from provider_trace_store.cli.status import status
from provider_trace_store.cli.transfer import export, import_
from provider_trace_store.cli.unpack import unpack, verify

__all__ = ["app"]

app = typer.Typer(
    name="provider-trace-store",
    help="Stores every call that an LLM backend makes to a model provider.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(migrate, name="migrate")
app.command()(status)
app.command()(index)
app.command()(backfill)
app.command()(pack)
app.command()(unpack)
app.command()(verify)
app.command()(erase)
app.command()(prune)
app.command()(release)
app.command()(show)
app.command()(run)
app.command()(diff)
app.command("list")(list_traces)
app.command()(runs)
app.command()(tail)
app.command()(stats)
app.command()(export)
app.command("import")(import_)


def _print_version(*, is_wanted: bool) -> None:
    if is_wanted:
        say(f"provider-trace-store {__version__}")
        raise typer.Exit


@app.callback()
def log(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version, and exit.")
    ] = False,
) -> None:
    """Stores every call that an LLM backend makes to a model provider."""
    del version
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("provider_trace_store").setLevel(logging.INFO)
