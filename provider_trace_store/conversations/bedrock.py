"""Bedrock: Converse, and the bodies that InvokeModel passes to models of other vendors (Titan, Llama, …)."""

from __future__ import annotations

from typing import Any, Final

from provider_trace_store.conversations.bodies import Body
from provider_trace_store.conversations.model import Message, Part
from provider_trace_store.conversations.parts import message_of, parts_of
from provider_trace_store.conversations.values import first, is_empty, items, mapping, parsed, text, without

_CONVERSE: Final = frozenset(
    {"inferenceConfig", "toolConfig", "additionalModelRequestFields", "guardrailConfig", "modelId", "schemaVersion"}
)
_PROMPTS: Final = ("inputText", "prompt", "inputs", "text")
_ANSWERS: Final = (
    "generation",
    "completion",
    "outputText",
    "generated_text",
    "output_text",
    "text",
    "completions",
    "response",
    "summary",
)
_LISTS: Final = ("results", "outputs", "generations", "completions", "data")


def unwrapped(body: dict[str, Any]) -> dict[str, Any]:
    """Return the model's body of a call of InvokeModel, which an SDK has as text under `body`; else the body itself."""
    inner = body.get("body")
    if isinstance(inner, bytes):
        inner = inner.decode("utf-8", "replace")
    if isinstance(inner, str):
        inner = parsed(inner)
    return {**without(body, "body"), **inner} if isinstance(inner, dict) else body


def read_request(request: dict[str, Any]) -> Body | None:
    """Return the system prompt and the messages of a request, or None if it has another form."""
    given = request.get("messages")
    system = request.get("system")
    if isinstance(given, list | tuple) and (_CONVERSE & request.keys() or _is_keyed(system)):
        before = () if is_empty(system) else (Message("system", parts_of(system)),)
        messages = (*before, *(message_of(message) for message in given))
        return Body("bedrock converse", messages, without(request, "messages", "system"))
    name = next((name for name in _PROMPTS if isinstance(request.get(name), str)), None)
    if name is None:
        return None
    return Body("prompt", (Message("user", parts_of(request[name])),), without(request, name))


def read_response(response: dict[str, Any]) -> Body | None:
    """Return the message of a response, or None if it has another form."""
    output = mapping(response.get("output"))
    if isinstance(output.get("message"), dict):
        return Body("bedrock converse", (message_of(output["message"], "assistant"),), without(response, "output"))
    found = first(response, *_ANSWERS)
    name = next((name for name in _ANSWERS if name in response), "")
    if not found:
        name = next((name for name in _LISTS if items(response.get(name))), "")
        # LangChain has a list of generations for each prompt, AI21 the text under `data`.
        listed = [one for item in items(response.get(name)) for one in items(item) or [item]]
        texts = [
            first(mapping(item), *_ANSWERS) or first(mapping(mapping(item).get("data")), "text") for item in listed
        ]
        found = "\n".join(piece for piece in texts if piece)
    if not found and text(output.get("text")):
        name, found = "output", output["text"]  # Bedrock's RetrieveAndGenerate
    used = [name]
    message = Message("assistant", parts_of(found))
    if thinking := text(response.get("thinking")):
        # Ollama's `generate`.
        message = Message("assistant", (Part("thinking", thinking), *message.parts))
        used.append("thinking")
    if calls := items(response.get("tool_calls")):
        # Cohere's first chat.
        message = Message("assistant", message.parts + message_of({"tool_calls": calls}).parts)
        used.append("tool_calls")
    return Body("prompt", (message,), without(response, *used)) if message.parts else None


def _is_keyed(system: object) -> bool:
    return any(isinstance(part, dict) and "type" not in part and text(part.get("text")) for part in items(system))
