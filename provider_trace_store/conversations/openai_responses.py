"""OpenAI's Responses API: a list of items, of which messages, calls, results and reasoning are four types."""

from __future__ import annotations

from typing import Any, Final

from provider_trace_store.conversations.bodies import Body
from provider_trace_store.conversations.model import Message, Part
from provider_trace_store.conversations.parts import message_of, parts_of
from provider_trace_store.conversations.values import brief, is_empty, items, mapping, text, without

_MISTRAL: Final = "conversation.response"
_ASSISTANT: Final = ("_call", "reasoning")


def read_request(request: dict[str, Any]) -> Body | None:
    """Return the instructions and the input of a request, or None if it has another form."""
    given = request.get("input")
    if given is None and any(
        "type" in mapping(item) or "role" in mapping(item) for item in items(request.get("inputs"))
    ):
        return Body("responses", read_items(request["inputs"]), without(request, "inputs"))
    instructions = request.get("instructions")
    if not isinstance(given, str | list | tuple) and not isinstance(instructions, str):
        return None
    system = (Message("system", parts_of(instructions)),) if not is_empty(instructions) else ()
    messages = (Message("user", parts_of(given)),) if isinstance(given, str) else read_items(given)
    return Body("responses", system + messages, without(request, "input", "instructions"))


def read_response(response: dict[str, Any]) -> Body | None:
    """Return the output of a response, or None if it has another form."""
    for name in ("output", "outputs"):
        output = response.get(name)
        # Of `outputs`, only Mistral's conversations have this form.
        if isinstance(output, list | tuple) and (name == "output" or response.get("object") == _MISTRAL):
            return Body("responses", read_items(output, "assistant"), without(response, name))
    return None


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
    if not fields or kind in {"", "message", "message.input", "message.output"}:
        return message_of(without(fields, "type") if fields else item, role)
    if kind == "function.result":
        return Message("tool", (Part("result", brief(fields.get("result")), "", text(fields.get("tool_call_id"))),))
    if kind.endswith("_output"):
        return Message("tool", parts_of(item))
    if kind.endswith(_ASSISTANT):
        return Message("assistant", parts_of(item))
    return Message(text(fields.get("role")) or role, parts_of(item))
