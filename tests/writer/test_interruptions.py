"""An exception of a signal's handler in any line of `submit`, `flush` and `close`, each line in turn."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dis import opmap
from linecache import getline
from typing import TYPE_CHECKING, Any, Final

import pytest
from sqlalchemy import NullPool, create_engine

from provider_trace_store import TraceWriter, migrations
from tests.support.constants import ORG
from tests.support.paths import ROOT
from tests.support.traces import a_trace, trace_id
from tests.support.writers import assert_accounted, ids_in

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import FrameType

OURS: Final = tuple(str(ROOT / "provider_trace_store" / name) for name in ("writer", "spool"))
START: Final = threading.Thread.start.__code__


class Interrupt(BaseException):
    """What the handler of a signal raises."""


class At:
    """Raises `Interrupt` at the N-th line of the package, or of `Thread.start`, that this thread runs."""

    def __init__(self, line: int) -> None:
        self._left = line
        self.was_reached = False

    def run(self, act: Callable[[], object]) -> bool:
        """Do something, and return whether it was not interrupted."""
        sys.settrace(self._enter)
        try:
            act()
        except Interrupt:
            return False
        finally:
            sys.settrace(None)
        return True

    def _enter(self, frame: FrameType, event: str, _: object) -> Any:
        is_ours = frame.f_code.co_filename.startswith(OURS) or frame.f_code is START
        return self._line if event == "call" and is_ours else None

    def _line(self, frame: FrameType, event: str, _: object) -> Any:
        # The interpreter runs no handler between the body of a `with` and its exit, where tracing sees the line again.
        is_with = getline(frame.f_code.co_filename, frame.f_lineno).lstrip().startswith("with ")
        # It runs none at a NOP, such as that of `try:`, which no clause covers.
        is_nothing = frame.f_code.co_code[frame.f_lasti] == opmap["NOP"]
        if event == "line" and not self.was_reached and not is_with and not is_nothing:
            self._left -= 1
            if self._left < 0:
                self.was_reached = True
                raise Interrupt
        return self._line


@pytest.fixture
def url(tmp_path: Path) -> str:
    made = f"sqlite:///{tmp_path / 'traces.db'}"
    with create_engine(made, poolclass=NullPool).begin() as connection:
        migrations.upgrade(connection)
    return made


# Between the opening of a file and the step that keeps the connection, nothing can close it; Python 3.13 warns of that.
@pytest.mark.filterwarnings("ignore:unclosed database:ResourceWarning")
@pytest.mark.parametrize(
    ("durability", "what"),
    [
        ("memory", "first submit"),
        pytest.param("memory", "submit", marks=pytest.mark.once),
        pytest.param("memory", "flush", marks=pytest.mark.once),
        pytest.param("memory", "close", marks=pytest.mark.once),
        pytest.param("spool", "first submit", marks=pytest.mark.once),
        pytest.param("spool", "submit", marks=pytest.mark.once),
        pytest.param("spool", "flush", marks=pytest.mark.once),
        ("spool", "close"),
    ],
)
def test_no_line_loses_a_trace_or_a_count(url: str, tmp_path: Path, what: str, durability: str) -> None:
    # In a thread of its own: Python takes the exception of a traced `except` line for one that is still being handled,
    # until the thread ends.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(_interrupt_each_line, url, tmp_path, what, durability).result()


def _interrupt_each_line(url: str, tmp_path: Path, what: str, durability: str) -> None:
    line = 0
    options: dict[str, Any] = {"handle_sigterm": False, "batch_age": 3600}
    while True:
        at = At(line)
        options["spool_dir"] = tmp_path / f"spool-{line}" if durability == "spool" else None
        writer = TraceWriter(create_engine(url, poolclass=NullPool), **options)
        returned: list[int] = []

        def submit(
            number: int, at: At | None = None, writer: TraceWriter = writer, returned: list[int] = returned
        ) -> None:
            trace = a_trace(number)

            def act() -> None:
                writer.submit(trace, organization_id=ORG)

            if at is None:
                act()
                returned.append(number)
            elif at.run(act):
                returned.append(number)

        first = line * 10
        for number in range(first, first + 3):
            is_chosen = number == {"first submit": first, "submit": first + 1}.get(what)
            submit(number, at if is_chosen else None)
        if what == "flush":
            at.run(lambda writer=writer: writer.flush(10))  # type: ignore[misc]  # called at once
        assert_accounted(writer.stats)
        if what == "close":
            at.run(lambda writer=writer: writer.close(10))  # type: ignore[misc]  # called at once
        else:
            assert writer.flush(10), (line, writer.stats)
            expected = {trace_id(number) for number in returned}
            assert expected <= set(ids_in(create_engine(url).url)), (line, returned)
        writer.close(10)
        stats = writer.stats
        assert_accounted(stats)
        assert stats.queued == 0
        assert len(returned) <= stats.accepted <= 3, (line, stats)
        assert {trace_id(number) for number in returned} <= set(ids_in(create_engine(url).url)), (line, stats)
        assert not [
            one for one in threading.enumerate() if one.is_alive() and one.name == "provider_trace_store.writer"
        ]
        if not at.was_reached:
            assert line > 10
            return
        line += 1
