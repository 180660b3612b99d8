"""The conversations of a run, of which a call may go on with any: agents of a run make their calls in between."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from provider_trace_store.conversations import answer_length, common_start, compare_settings, is_same_answer

if TYPE_CHECKING:
    from provider_trace_store.conversations import Exchange, Message, Setting

# The latest calls that a call is compared with.
_KEPT: Final = 8
_SYSTEM: Final = frozenset({"system", "developer"})


class Step(NamedTuple):
    """What a call added to the conversation that it goes on with.

    Args:
        is_first: whether it begins a conversation.
        added: the messages that no call before had; its answer is not among them.
        settings: the settings that it changed.
        summary: how the request is made up, for its header.
    """

    is_first: bool
    added: tuple[Message, ...]
    settings: list[Setting]
    summary: str


class History:
    """The latest calls of a run."""

    def __init__(self) -> None:
        self._calls: deque[Exchange] = deque(maxlen=_KEPT)

    def add(self, exchange: Exchange) -> Step:
        """Return what a call added, and keep it for the next ones.

        Args:
            exchange: the call.
        """
        request = exchange.request
        before = max(reversed(self._calls), key=lambda one: common_start(one.request, request), default=None)
        shared = common_start(before.request, request) if before else 0
        # A system prompt alone is shared by conversations that have nothing else in common.
        if before is None or not any(
            message.role.lower() not in {"system", "developer"} for message in request[:shared]
        ):
            self._calls.append(exchange)
            return Step(is_first=True, added=request, settings=[], summary=f"{len(request):,} messages")
        added, note = request[shared:], ""
        left = len(before.request) - shared
        answer = answer_length(added)
        if not left and answer and is_same_answer(before.response, added[:answer]):
            added, note = added[answer:], ", the answer"
        elif left:
            note = f", {left:,} messages of it left out"
        # The call that was gone on with makes room: two conversations that alternate stay.
        if not left:
            self._calls.remove(before)
        self._calls.append(exchange)
        settings = compare_settings(
            {"model": before.model, **before.settings}, {"model": exchange.model, **exchange.settings}
        )
        summary = f"{shared:,} messages as before{note}, {len(added):,} added"
        return Step(is_first=False, added=added, settings=settings, summary=summary)
