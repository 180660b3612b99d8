"""Anthropic's messages, also through Bedrock and Vertex."""

from __future__ import annotations

from typing import Any

from provider_trace_store.conversations.bodies import Body
from provider_trace_store.conversations.model import Message
from provider_trace_store.conversations.parts import message_of, parts_of
from provider_trace_store.conversations.values import is_empty, text, without


def read_request(request: dict[str, Any]) -> Body | None:
    """Return the system prompt and the messages of a request, or None if it has another form."""
    given = request.get("messages")
    if not isinstance(given, list | tuple) or not ({"system", "anthropic_version"} & request.keys()):
        return None
    system = request.get("system")
    before = () if is_empty(system) else (Message("system", parts_of(system)),)
    return Body(
        "anthropic", (*before, *(message_of(message) for message in given)), without(request, "messages", "system")
    )


def read_response(response: dict[str, Any]) -> Body | None:
    """Return the message of a response, or None if it has another form."""
    content = response.get("content")
    if isinstance(content, list | tuple) and (response.get("type") == "message" or "role" in response):
        message = Message(text(response.get("role")) or "assistant", parts_of(content))
        return Body("anthropic", (message,), without(response, "content", "role", "type"))
    return None
