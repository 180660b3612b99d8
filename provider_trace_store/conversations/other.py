"""Calls that are not a conversation: embeddings, moderation, images, sound, tokens, searches; and errors."""

from __future__ import annotations

from typing import Any, Final

from provider_trace_store.conversations.bodies import Body
from provider_trace_store.conversations.media import media_part
from provider_trace_store.conversations.model import Message, Part
from provider_trace_store.conversations.parts import parts_of
from provider_trace_store.conversations.values import brief, first, is_empty, items, mapping, outline, text, without

_INPUTS: Final = (
    "input",
    "inputs",
    "texts",
    "inputText",
    "query",
    "prompt",
    "content",
    "requests",
    "documents",
    "file",
    "instances",
)
_WRAPPED: Final = ("singleEmbeddingParams", "segmentedEmbeddingParams", "session", "displayName")
_VECTORS: Final = ("embeddings", "embedding", "data", "predictions")
_IMAGE: Final = frozenset({"url", "b64_json", "base64"})
_FOUND: Final = frozenset({"url", "title", "content", "index", "relevance_score"})
_COUNTS: Final = ("input_tokens", "inputTokens", "totalTokens", "tokens")


def read_request(request: dict[str, Any]) -> Body | None:
    """Return the input of a request as a message of the user, or None if there is none."""
    used = [name for name in _INPUTS if not is_empty(request.get(name))]
    parts: list[Part] = []
    for name in used:
        parts += _input_parts(name, request[name])
    if not parts and (used := [name for name in _WRAPPED if not is_empty(request.get(name))]):
        parts = [Part("text", outline(request[name])) for name in used]
    if not parts:
        return None
    return Body("input", (Message("input", tuple(parts)),), without(request, *used))


def read_response(response: dict[str, Any]) -> Body | None:
    """Return a summary of a response, or None if its form is not known."""
    for read in (_error, _vectors, _moderation, _images, _search, _count, _session, _transcript):
        if (parts := read(response)) is not None:
            role = "error" if read is _error else "output"
            return Body("output", (Message(role, tuple(parts)),), without(response, *_SHOWN[read.__name__]))
    return None


_SHOWN: Final = {
    "_error": ("error", "message", "detail", "errorMessage"),
    "_vectors": _VECTORS,
    "_moderation": ("results",),
    "_images": ("data", "images", "artifacts"),
    "_search": ("results", "answer"),
    "_count": (*_COUNTS, "token_strings"),
    "_session": (),
    "_transcript": ("text", "segments", "words"),
}


def _input_parts(name: str, value: object) -> tuple[Part, ...]:
    if name == "file":
        return (media_part("file", value),)
    if name == "requests":
        return tuple(
            part for item in items(value) for part in _input_parts("content", mapping(item).get("content", item))
        )
    if isinstance(value, dict):
        for inner in ("parts", "messages"):
            if inner in value:
                listed = [mapping(item).get("content", item) for item in items(value[inner])]
                return parts_of(listed)
        inner_texts = [brief(field) for field in value.values() if not is_empty(field)]
        return tuple(Part("text", piece) for piece in inner_texts)
    if items(value) and all(isinstance(item, int) and not isinstance(item, bool) for item in items(value)):
        return (Part("text", f"{len(items(value)):,} tokens"),)
    return parts_of(value)


def _error(response: dict[str, Any]) -> list[Part] | None:
    for name in ("error", "detail", "message", "errorMessage"):
        value = response.get(name)
        if is_empty(value):
            continue
        fields = mapping(value)
        message = first(fields, "message", "detail") or (value if isinstance(value, str) else outline(value))
        kind = first(fields, "type", "status", "code")
        return [Part("error", message, kind)]
    return None


def _vectors(response: dict[str, Any]) -> list[Part] | None:
    for name in _VECTORS:
        value = response.get(name)
        fields = mapping(value)
        listed = fields.get("float", next(iter(fields.values()), None)) if fields else value
        if isinstance(fields.get("values"), list):
            listed = fields["values"]
        if not (rows := items(listed)):
            continue
        if all(isinstance(number, int | float) for number in rows):
            return [Part("text", f"1 vector of {len(rows):,} numbers")]
        sizes = [size for row in rows if (size := _vector_size(row))]
        if len(sizes) == len(rows):
            same = f"{sizes[0]:,} numbers" if len(set(sizes)) == 1 else f"{min(sizes):,} to {max(sizes):,} numbers"
            return [Part("text", f"{len(rows):,} vector{'s' if len(rows) > 1 else ''} of {same}")]
    return None


def _vector_size(row: object) -> int:
    fields = mapping(row)
    value = fields.get("embedding", fields.get("values", fields.get("embeddings", row)))
    if fields and isinstance(value, dict):
        value = value.get("values")
    if isinstance(value, str) and fields:
        return max(len(value) * 3 // 16, 1)  # base64 of numbers of four bytes
    numbers = items(value)
    return len(numbers) if numbers and isinstance(numbers[0], int | float) else 0


def _moderation(response: dict[str, Any]) -> list[Part] | None:
    results = [mapping(result) for result in items(response.get("results"))]
    if not results or not all("flagged" in result or "categories" in result for result in results):
        return None
    parts = []
    for result in results:
        named = [name for name, value in mapping(result.get("categories")).items() if value is True]
        parts.append(Part("text", f"flagged: {', '.join(named)}" if named or result.get("flagged") else "not flagged"))
    return parts


def _images(response: dict[str, Any]) -> list[Part] | None:
    for name in ("data", "images", "artifacts"):
        listed = items(response.get(name))
        if listed and all(
            isinstance(item, str) or {"url", "b64_json", "base64"} & mapping(item).keys() for item in listed
        ):
            return [media_part("image", {"data": item} if isinstance(item, str) else item) for item in listed]
    return None


def _search(response: dict[str, Any]) -> list[Part] | None:
    results = [mapping(result) for result in items(response.get("results"))]
    if not results or not all(
        {"url", "title", "content", "index", "relevance_score"} & result.keys() for result in results
    ):
        return None
    parts = [Part("text", text(response.get("answer")))] if text(response.get("answer")) else []
    for result in results:
        head = " ".join(piece for piece in (first(result, "title"), first(result, "url")) if piece)
        if not head:
            head = f"result {brief(result.get('index'))}: {brief(result.get('relevance_score', result.get('score')))}"
        parts.append(Part("text", "\n".join(piece for piece in (head, first(result, "content")) if piece)))
    return parts


def _count(response: dict[str, Any]) -> list[Part] | None:
    for name in _COUNTS:
        value = response.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            return [Part("text", f"{value:,} tokens")]
        if items(value):
            words = "".join(text(item) for item in items(response.get("token_strings")))
            return [Part("text", f"{len(items(value)):,} tokens"), *([Part("text", words)] if words else [])]
    return None


def _session(response: dict[str, Any]) -> list[Part] | None:
    if isinstance(response.get("session"), dict):
        return [Part("text", f"a session of {first(response['session'], 'model', 'type') or 'a model'}")]
    if name := first(response, "name"):
        return [Part("text", f"created or read: {name}")]
    return None


def _transcript(response: dict[str, Any]) -> list[Part] | None:
    found = text(response.get("text"))
    return [Part("text", found)] if found else None
