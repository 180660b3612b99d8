"""Reads the two bodies of a call as a conversation, whatever the wire format."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from provider_trace_store.conversations import anthropic, bedrock, chat, gemini, openai_responses, other, streams
from provider_trace_store.conversations.model import Exchange, Message, Part
from provider_trace_store.conversations.values import first, is_empty, mapping, pretty, without

if TYPE_CHECKING:
    from collections.abc import Callable

    from provider_trace_store.conversations.bodies import Body

    _Reader = Callable[[dict[str, Any]], Body | None]

# A field such as `messages` belongs to several formats: the more particular ones come first.
_REQUESTS: Final[tuple[_Reader, ...]] = (
    gemini.read_request,
    bedrock.read_request,
    anthropic.read_request,
    chat.read_request,
    openai_responses.read_request,
    other.read_request,
)
_RESPONSES: Final[tuple[_Reader, ...]] = (
    chat.read_response,
    gemini.read_response,
    openai_responses.read_response,
    bedrock.read_response,
    anthropic.read_response,
    other.read_response,
)
# The fields under which hosts and proxies keep a body. Each is looked into where no format fits what is around it.
_WRAPPERS: Final = ("kwargs", "json", "body", "request", "params", "response", "result", "message", "raw_response")
_DEEPEST: Final = 3
# The names of `messages` say nothing about the format, and the response does.
_DECIDED_BY_RESPONSE: Final = {
    "chat": {"anthropic", "bedrock converse", "cohere", "ollama"},
    "bedrock converse": {"anthropic"},
}


def read_exchange(request: dict[str, Any], response: dict[str, Any]) -> Exchange:
    """Return a call as a conversation.

    It never raises: a body that no format fits becomes one message with its JSON.

    Args:
        request: the body of the request; any document.
        response: the body of the response, whole or streamed; any document.
    """
    request, response = mapping(request), mapping(response)
    streamed = streams.whole(response)
    asked = _read(_REQUESTS, bedrock.unwrapped(request))
    answered = _read(_RESPONSES, streamed if streamed is not None else bedrock.unwrapped(response))
    if answered is None:
        streamed = streams.whole_of_any_field(response)
        answered = _read(_RESPONSES, streamed) if streamed is not None else None
    form = asked.form if asked else "json"
    if asked and answered and answered.form in _DECIDED_BY_RESPONSE.get(form, ()):
        form = answered.form
    if form == "responses" and answered and answered.form == "output":
        form = "input"  # such as a request for embeddings: its input has the same name
    model = first(request, "model", "modelId", "model_id") or first(response, "model", "modelVersion")
    model = model or first(streamed or {}, "model", "modelVersion")
    details = dict(answered.rest) if answered else {}
    if error := details.pop("error", None):
        details = {"error": error, **details}
    return Exchange(
        form=form,
        model=model,
        request=asked.messages if asked else _unknown("request", request),
        response=answered.messages if answered else _unknown("response", response),
        settings={name: value for name, value in (asked.rest if asked else {}).items() if name != "model"},
        details=details,
    )


def _read(readers: tuple[_Reader, ...], body: dict[str, Any], depth: int = 0) -> Body | None:
    found = next((found for reader in readers if (found := reader(body)) is not None), None)
    for name in _WRAPPERS if depth < _DEEPEST else ():
        if found is None and (inner := mapping(body.get(name))) and (read := _read(readers, inner, depth + 1)):
            found = read._replace(rest={**without(body, name), **read.rest})
    return found


def _unknown(role: str, body: dict[str, Any]) -> tuple[Message, ...]:
    return () if is_empty(body) else (Message(role, (Part("data", pretty(body)),)),)
