"""Commands of maintenance as processes that are killed and started again."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

from sqlalchemy import NullPool, create_engine, text

from tests.support.constants import PATIENCE
from tests.support.paths import ROOT
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator, Sequence

    from sqlalchemy import URL, Engine

PACK: Final = ("pack", "--older-than", "0d", "--idle", "0d")
_NAME: Final = "chaos-killed"
# A kill comes in this part of the time that the whole command takes, so about two come before everything is done.
_EARLIEST: Final = 0.1
_LATEST: Final = 0.9
# A command that ends before its kill is no kill: so many starts for each kill are the most.
_STARTS: Final = 5
_ENTRY: Final = ("-m", "provider_trace_store")


@contextmanager
def started(
    arguments: Sequence[str], url: URL, name: str, entry: Sequence[str] = _ENTRY
) -> Iterator[subprocess.Popen[str]]:
    """Run a command as a process; it is killed at the end of the block.

    Args:
        arguments: the command and its options.
        url: of the database.
        name: the application's name of its sessions.
        entry: the interpreter's arguments, up to those of the command.
    """
    with subprocess.Popen(
        [sys.executable, *entry, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PGAPPNAME": name,
            "PROVIDER_TRACE_STORE_DATABASE_URL": url.render_as_string(hide_password=False),
        },
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def is_free(engine: Engine) -> bool:
    """Whether no session of an earlier command is left."""
    with engine.connect() as connection:
        statement = text("SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'chaos-%'")
        return not connection.scalar(statement)


def kill_and_go_on(  # noqa: PLR0913  (the command, and when it is killed)
    arguments: Sequence[str],
    url: URL,
    kills: int,
    *,
    chance: random.Random,
    ended: Callable[[], None],
    is_done: Callable[[], bool] = lambda: False,
    entry: Sequence[str] = _ENTRY,
) -> None:
    """Start a command, kill it and start it again, until it was killed often enough; then let it end.

    Args:
        arguments: the command and its options.
        url: of the database.
        kills: how many kills there are.
        chance: draws the moments of the kills.
        ended: called after each run that has done everything, the last one, too: checks the result, and puts everything
            back to where it was before the first run.
        is_done: whether everything was done when a run was killed, so that another run would be refused.
        entry: as for `started`.

    Raises:
        RuntimeError: a run failed, or too many runs ended before they were killed.
    """
    engine = create_engine(url, poolclass=NullPool)
    began = time.monotonic()
    _run(arguments, url, entry, None)
    whole = time.monotonic() - began
    ended()
    killed = 0
    is_first = True
    for _ in range(_STARTS * kills):
        wait_until(partial(is_free, engine))
        if killed == kills:
            break
        began = time.monotonic()
        was_killed = _run(arguments, url, entry, chance.uniform(_EARLIEST, _LATEST) * whole)
        killed += was_killed
        if not was_killed and is_first:
            # The machine was slower when the time was measured.
            whole = time.monotonic() - began
        is_first = not was_killed or is_done()
        if is_first:
            ended()
    else:
        raise RuntimeError(f"{arguments[0]} was killed {killed} times only: give it more rows")
    _run(arguments, url, entry, None)
    ended()


def _run(arguments: Sequence[str], url: URL, entry: Sequence[str], seconds: float | None) -> bool:
    """Run a command, and kill it after a time if it has not ended; return whether it was killed."""
    with started(arguments, url, _NAME, entry) as process:
        try:
            said, _ = process.communicate(timeout=PATIENCE if seconds is None else seconds)
        except subprocess.TimeoutExpired:
            if seconds is None:
                raise
            return True
    if process.returncode:
        raise RuntimeError(f"{arguments[0]} failed: {said[-500:]}")
    return False
