"""The command `provider-trace-store`."""

import logging

import typer

from provider_trace_store.cli.migrate import migrate
from provider_trace_store.cli.pack import pack
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
app.command()(pack)
app.command()(unpack)
app.command()(verify)
app.command()(export)
app.command("import")(import_)


@app.callback()
def log() -> None:
    """Stores every call that an LLM backend makes to a model provider."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("provider_trace_store").setLevel(logging.INFO)
