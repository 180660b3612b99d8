"""Chat completions: OpenAI, and Groq, Mistral, DeepSeek, OpenRouter, Hugging Face, vLLM; also Cohere and Ollama."""

from __future__ import annotations

from typing import Any

from provider_trace_store.conversations.bodies import Body
from provider_trace_store.conversations.model import Message, Part
from provider_trace_store.conversations.parts import message_of, parts_of
from provider_trace_store.conversations.values import brief, first, items, mapping, text, without


def read_request(request: dict[str, Any]) -> Body | None:
    """Return the messages of a request, or None if it has another form; Cohere's first chat has `message`."""
    if isinstance(request.get("messages"), list | tuple):
        messages = tuple(message_of(message) for message in request["messages"])
        return Body("chat", messages, without(request, "messages"))
    if isinstance(request.get("message"), str):
        system = parts_of(text(request.get("preamble")))
        history = tuple(message_of(message) for message in items(request.get("chat_history")))
        messages = ((Message("system", system),) if system else ()) + history
        asked = Message("user", parts_of(request["message"]))
        results = tuple(
            Message("tool", (Part("result", brief(mapping(item).get("outputs")), first(mapping(call), "name")),))
            for item in items(request.get("tool_results"))
            for call in [mapping(item).get("call")]
        )
        rest = without(request, "message", "chat_history", "preamble", "tool_results")
        return Body("cohere", (*messages, asked, *results), rest)
    return None


def read_response(response: dict[str, Any]) -> Body | None:
    """Return the messages of all choices of a response, or None if it has another form."""
    if isinstance(response.get("choices"), list | tuple):
        choices = [mapping(choice) for choice in response["choices"]]
        messages = tuple(_choice(choice, index, len(choices)) for index, choice in enumerate(choices))
        ends = [first(choice, "finish_reason", "stop_reason") for choice in choices]
        rest = without(response, "choices")
        if any(ends):
            rest["finish_reason"] = ends[0] if len(ends) == 1 else ends
        return Body("chat", messages, rest)
    message = response.get("message")
    if isinstance(message, dict) and ("content" in message or "tool_calls" in message):
        form = "ollama" if "done" in response else "cohere"
        return Body(form, (message_of(message, "assistant"),), without(response, "message"))
    return None


def _choice(choice: dict[str, Any], index: int, count: int) -> Message:
    if "message" in choice or "delta" in choice:
        found = message_of(choice.get("message", choice.get("delta")), "assistant")
    else:
        found = Message("assistant", parts_of(text(choice.get("text"))))
    filtered = choice.get("error")
    parts = found.parts
    if isinstance(filtered, dict):
        parts = (*parts, Part("error", first(filtered, "message", "code")))
    role = found.role if count == 1 else f"{found.role} (choice {index + 1} of {count})"
    return Message(role, parts)
