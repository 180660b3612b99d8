"""The application that `tests/writer/test_app_servers.py` runs in each server: it submits traces and never closes.

What varies comes from the environment: where the writer is made (`TRACES_MADE`: `import`, `lifespan` or `request`), the
database and the spool.
"""

from __future__ import annotations

import logging
import os
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import create_engine

from provider_trace_store import TraceWriter
from tests.support.constants import ORG
from tests.support.traces import a_trace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
MADE: Final = os.environ["TRACES_MADE"]
_writers: Final[list[TraceWriter]] = []


def submit(numbers: range) -> None:
    """Submit traces, by a writer that sends nothing by itself before the test ends the server."""
    if not _writers:
        make_writer()
    for number in numbers:
        _writers[0].submit(a_trace(number), organization_id=ORG)


def make_writer() -> None:
    """Make the writer of this process; no one closes it."""
    spool = os.environ.get("TRACES_SPOOL")
    _writers.append(
        TraceWriter(
            create_engine(os.environ["TRACES_DATABASE"]), spool_dir=spool or None, batch_age=3600, close_timeout=30
        )
    )


def _range_of(path: str) -> range:
    """Return the range that a path such as `/10/30` names."""
    _, first, last = path.split("/")
    return range(int(first), int(last))


@asynccontextmanager
async def _lifespan(_: object) -> AsyncIterator[None]:
    make_writer()
    yield


async def asgi(scope: dict[str, Any], receive: Callable[[], Any], send: Callable[[dict[str, Any]], Any]) -> None:
    """Answer a request when its traces are submitted."""
    if scope["type"] == "lifespan":
        if MADE != "lifespan":
            return
        async with _lifespan(None):
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["path"] != "/":
        submit(_range_of(scope["path"]))
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


async def asgi_in_a_thread(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Do as `asgi`, with the writer made and used in another thread than the server's, as a `def` endpoint does."""
    import asyncio  # noqa: PLC0415  (only here)

    if scope["type"] == "http" and scope["path"] != "/":
        await asyncio.to_thread(submit, _range_of(scope["path"]))
        scope = {**scope, "path": "/"}
    await asgi(scope, receive, send)


def wsgi(environ: dict[str, Any], start_response: Callable[[str, list[tuple[str, str]]], object]) -> Iterable[bytes]:
    """Answer a request when its traces are submitted."""
    if environ["PATH_INFO"] != "/":
        submit(_range_of(environ["PATH_INFO"]))
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]


if MADE == "import":
    make_writer()
