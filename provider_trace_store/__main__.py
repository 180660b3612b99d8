"""The entry point of the command `provider-trace-store`; it works without Typer to say how to install it."""

from __future__ import annotations

import sys
from importlib.util import find_spec


def main() -> None:
    """Run the command. If Typer is not installed, print how to install it and exit with status 1."""
    if find_spec("typer") is None:
        sys.exit("provider-trace-store needs Typer: pip install 'provider_trace_store[cli]'")
    # Not at the top of the module: `cli` imports Typer.
    from provider_trace_store.cli import app  # noqa: PLC0415
    from provider_trace_store.cli.output import run_command  # noqa: PLC0415

    run_command(app)


if __name__ == "__main__":
    main()
