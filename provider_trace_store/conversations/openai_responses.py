"""OpenAI's Responses API: a list of items, of which messages, calls, results and reasoning are four types."""

from __future__ import annotations

from typing import Any, Final

from provider_trace_store.conversations.bodies import Body
from provider_trace_store.conversations.model import Message
from provider_trace_store.conversations.parts import message_of, parts_of
from provider_trace_store.conversations.values import is_empty, mapping, text, without

_ASSISTANT: Final = ("_call", "reasoning")


def read_request(request: dict[str, Any]) -> Body | None:
    """Return the instructions and the input of a request, or None if it has another form."""
    given = request.get("input")
    instructions = request.get("instructions")
    if not isinstance(given, str | list | tuple) and not isinstance(instructions, str):
        return None
    system = (Message("system", parts_of(instructions)),) if not is_empty(instructions) else ()
    messages = (Message("user", parts_of(given)),) if isinstance(given, str) else read_items(given)
    return Body("responses", system + messages, without(request, "input", "instructions"))


def read_response(response: dict[str, Any]) -> Body | None:
    """Return the output of a response, or None if it has another form."""
    output = response.get("output")
    if not isinstance(output, list | tuple):
        return None
    return Body("responses", read_items(output, "assistant"), without(response, "output"))


def read_items(given: object, role: str = "user") -> tuple[Message, ...]:
    """Return a message for each item of an input or an output.

    Args:
        given: the items.
        role: the role of a message that has none.
    """
    return tuple(_item(item, role) for item in given) if isinstance(given, list | tuple) else ()


def _item(item: object, role: str) -> Message:
    fields = mapping(item)
    kind = text(fields.get("type"))
    if not fields or kind in {"", "message"}:
        return message_of(without(fields, "type") if fields else item, role)
    if kind.endswith("_output"):
        return Message("tool", parts_of(item))
    if kind.endswith(_ASSISTANT):
        return Message("assistant", parts_of(item))
    return Message(text(fields.get("role")) or role, parts_of(item))
