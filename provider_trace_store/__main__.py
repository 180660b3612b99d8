"""The command `provider-trace-store`, which says what is missing where its library is not installed."""

from __future__ import annotations

import sys
from importlib.util import find_spec


def main() -> None:
    """Run the command; without Typer, say how to install it and exit with status 1."""
    if find_spec("typer") is None:
        sys.exit("provider-trace-store needs Typer: pip install 'provider_trace_store[cli]'")
    # Not at the top: without Typer the line above is all that can be said.
    from provider_trace_store.cli import app  # noqa: PLC0415

    app()


if __name__ == "__main__":
    main()
