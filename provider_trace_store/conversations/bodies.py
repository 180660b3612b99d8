"""What a reader of a wire format returns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from provider_trace_store.conversations.model import Message


class Body(NamedTuple):
    """A body that a reader recognized.

    Args:
        form: the wire format.
        messages: its messages.
        rest: the fields that the messages do not show.
    """

    form: str
    messages: tuple[Message, ...]
    rest: dict[str, Any]
