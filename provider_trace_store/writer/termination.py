"""Signals that would end this process by their default action, before its writers are closed.

SIGTERM has no handler in a new process, and ends it at once. Servers such as uvicorn set handlers while they serve,
restore the default action when they have shut down, and raise the signal again: no `atexit` hook runs. A handler of the
host's stays in place. This module sees the moment in which that handler is removed, because the list of handlers holds
its last reference, and sets a handler of its own if the default action is to follow.
"""

from __future__ import annotations

import signal
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

# Python itself makes a KeyboardInterrupt of SIGINT, which leads to an ordinary exit. Some hosts restore its default.
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class Termination:
    """Calls a function instead of the default action of SIGTERM and SIGINT.

    Args:
        end: called with the signal's number and the interrupted frame, in the main thread.
    """

    def __init__(self, end: Callable[[int, FrameType | None], None]) -> None:
        self._end = end
        self._is_on = False
        self._watched: dict[int, weakref.ref[object]] = {}

    def watch(self) -> None:
        """Look at the handlers of this process, and set one in the place of the default action.

        Only the main thread can set one; in other threads this notices when the host's handler is removed.
        """
        self._is_on = True
        for number in _SIGNALS:
            self._look(number)

    def stop(self) -> None:
        """Let the default action end the process again."""
        self._is_on = False
        self._watched.clear()
        for number in _SIGNALS:
            if signal.getsignal(number) == self._handle:
                self._set(number, signal.SIG_DFL)

    def _look(self, number: int) -> None:
        if not self._is_on:
            return
        if signal.getsignal(number) is signal.SIG_DFL:
            # A new object each time, so that its removal is seen, too.
            self._set(number, self._handle)
        handler = signal.getsignal(number)
        if callable(handler) and not isinstance(handler, signal.Handlers):
            # Not every object can be referred to weakly.
            with suppress(TypeError):
                self._watched[number] = weakref.ref(handler, lambda _: self._look(number))

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._end(number, frame)

    @staticmethod
    def _set(number: int, handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
        # Only the main thread may set a handler.
        with suppress(ValueError):
            signal.signal(number, handler)
