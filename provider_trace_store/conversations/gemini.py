"""Gemini's contents and candidates, also through Vertex."""

from __future__ import annotations

from typing import Any

from provider_trace_store.conversations.bodies import Body
from provider_trace_store.conversations.model import Message, Part
from provider_trace_store.conversations.parts import message_of, parts_of
from provider_trace_store.conversations.values import first, is_empty, items, mapping, without


def read_request(request: dict[str, Any]) -> Body | None:
    """Return the system instruction and the contents of a request, or None if it has another form."""
    if "generateContentRequest" in request:
        request = mapping(request["generateContentRequest"])
    contents = request.get("contents")
    if not isinstance(contents, list | tuple | str | dict):
        return None
    system = request.get("systemInstruction", request.get("system_instruction"))
    parts = parts_of(mapping(system).get("parts") if isinstance(system, dict) else system)
    before = (Message("system", parts),) if parts else ()
    listed = contents if isinstance(contents, list | tuple) else [contents]
    messages = (*before, *(message_of(content) for content in listed))
    return Body("gemini", messages, without(request, "contents", "systemInstruction", "system_instruction"))


def read_response(response: dict[str, Any]) -> Body | None:
    """Return the messages of all candidates of a response, or None if it has another form."""
    candidates = response.get("candidates")
    feedback = mapping(response.get("promptFeedback"))
    if not isinstance(candidates, list | tuple):
        if is_empty(feedback):
            # Such as the last chunk of a stream.
            return Body("gemini", (Message("model", ()),), response) if "usageMetadata" in response else None
        return Body("gemini", (Message("model", (_blocked(feedback),)),), without(response, "promptFeedback"))
    rest = without(response, "candidates")
    messages = []
    for candidate in items(candidates):
        fields = mapping(candidate)
        content = fields.get("content")
        messages.append(message_of(content, "model") if not is_empty(content) else Message("model", ()))
        rest |= {name: value for name, value in fields.items() if name not in {"content", "index"}}
    return Body("gemini", tuple(messages), rest)


def _blocked(feedback: dict[str, Any]) -> Part:
    reason = first(feedback, "blockReasonMessage", "blockReason") or "no reason given"
    return Part("error", f"the prompt was blocked: {reason}")
