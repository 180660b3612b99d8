"""Streamed responses that are stored as their events: put together to the response that they stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from provider_trace_store.conversations.stream_pieces import (
    from_anthropic,
    from_chat,
    from_cohere,
    from_converse,
    from_gemini,
    from_ollama,
    from_responses,
    from_texts,
)
from provider_trace_store.conversations.values import items, mapping, parsed, text, without

if TYPE_CHECKING:
    from collections.abc import Iterable

# The fields under which hosts keep events.
_PLACES: Final = ("stream", "events", "chunks", "stream_events", "body", "text", "data", "raw")


def whole(response: dict[str, Any]) -> dict[str, Any] | None:
    """Return the response that a body streams, or None if the body has no events.

    Args:
        response: a body: event text (`data: …`), JSON lines, or a list of events under one of the usual fields.
    """
    return _whole(response, _PLACES)


def whole_of_any_field(response: dict[str, Any]) -> dict[str, Any] | None:
    """Return the response that a field of a body streams, whatever the field's name; None if there is none.

    Args:
        response: a body that no format fits.
    """
    return _whole(response, [name for name in response if name not in _PLACES])


def _whole(response: dict[str, Any], places: Iterable[str]) -> dict[str, Any] | None:
    for place in places:
        if events := _events(response.get(place)):
            found = _merged(events)
            if found is not None:
                return {**without(response, place), **found}
    return None


def _events(value: object) -> list[dict[str, Any]]:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, list | tuple):
        return [event for item in value if (event := _event(item))]
    if not isinstance(value, str) or not value.lstrip().startswith(("data:", "event:", ":", "id:", "{", "[")):
        return []
    if value.lstrip().startswith("["):
        return [item for item in items(parsed(value)) if isinstance(item, dict)]
    found: list[dict[str, Any]] = []
    for block in value.replace("\r\n", "\n").replace("\r", "\n").split("\n\n"):
        lines = block.split("\n")
        data = [line[5:].lstrip(" ") for line in lines if line.startswith("data:")]
        texts = ["\n".join(data)] if data else [line for line in lines if line.startswith("{")]
        whole_block = parsed(texts[0]) if len(texts) == 1 else None
        lines_read = [whole_block] if isinstance(whole_block, dict) else map(parsed, data or texts)
        found += [read for read in lines_read if isinstance(read, dict)]
    return found


def _event(item: object) -> dict[str, Any]:
    if isinstance(item, str):
        item = parsed(item.removeprefix("data:").strip())
    fields = mapping(item)
    inner = fields.get("data")
    if isinstance(chunk := mapping(fields.get("chunk")).get("bytes"), str | bytes):
        # An event of InvokeModelWithResponseStream.
        return mapping(parsed(chunk.decode("utf-8", "replace") if isinstance(chunk, bytes) else chunk))
    if set(fields) <= {"event", "data", "id"} and isinstance(inner, str | dict):
        return mapping(parsed(inner) if isinstance(inner, str) else inner)
    return fields


def _merged(events: list[dict[str, Any]]) -> dict[str, Any] | None:  # noqa: PLR0911  (one for each format)
    kinds = {text(event.get("type")) for event in events}
    keys = {key for event in events for key in event}
    if any(kind.startswith("response.") for kind in kinds):
        return from_responses(events)
    if {"message_start", "content_block_start", "content_block_delta"} & kinds:
        return from_anthropic(events)
    if "choices" in keys:
        return from_chat(events)
    if "candidates" in keys:
        return from_gemini(events)
    if {"messageStart", "contentBlockDelta", "contentBlockStart"} & keys:
        return from_converse(events)
    if {"message-start", "content-delta", "tool-call-start"} & kinds:
        return from_cohere(events)
    if any(isinstance(event.get("message"), dict) and "done" in event for event in events):
        return from_ollama(events)
    if found := from_texts(events):
        return found
    return next(({"error": event["error"]} for event in events if "error" in event), None)
