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
    "images",
    "document",
    "text_prompts",
    "queries",
)
_MEDIA: Final = {"file": "file", "document": "document", "images": "image"}
# Lists whose items have fields of several names.
_LISTED: Final = frozenset({"instances", "text_prompts", "queries"})
_WRAPPED: Final = (
    "singleEmbeddingParams",
    "segmentedEmbeddingParams",
    "textToImageParams",
    "imageVariationParams",
    "inPaintingParams",
    "outPaintingParams",
    "textToVideoParams",
    "session",
    "displayName",
    "tokens",
)
_VECTORS: Final = ("embeddings", "embedding", "data", "predictions")
_IMAGE: Final = frozenset({"url", "b64_json", "base64", "bytesBase64Encoded"})
_ERRORS: Final = ("error", "Error", "detail", "message", "errorMessage", "exception", "error_str", "error_message")
_FOUND: Final = frozenset({"url", "title", "content", "index", "relevance_score"})
_SCORES: Final = ("relevance_score", "relevanceScore", "score")
_IMAGES: Final = ("data", "images", "artifacts", "predictions")
_STATES: Final = ("status", "processing_status", "state")
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
    for read in _READERS:
        if (parts := read(response)) is not None:
            role = "error" if read is _error else "output"
            return Body("output", (Message(role, tuple(parts)),), without(response, *_SHOWN[read.__name__]))
    return None


_SHOWN: Final = {
    "_error": _ERRORS,
    "_vectors": _VECTORS,
    "_moderation": ("results",),
    "_images": _IMAGES,
    "_sound": ("audio", "audioContent"),
    "_pages": ("pages",),
    "_classes": ("classifications",),
    "_guardrail": ("action", "outputs"),
    "_job": ("object", "type", "id", "request_id", *_STATES),
    "_search": ("results", "answer"),
    "_count": (*_COUNTS, "token_strings"),
    "_session": (),
    "_transcript": ("text", "segments", "words"),
}


def _input_parts(name: str, value: object) -> tuple[Part, ...]:
    if name in _MEDIA:
        return tuple(media_part(_MEDIA[name], item) for item in items(value) or [value])
    if name in _LISTED:
        return tuple(Part("text", outline(item)) for item in items(value))
    if name == "requests":
        return tuple(
            part for item in items(value) for part in _input_parts("content", mapping(item).get("content", item))
        )
    if isinstance(value, dict):
        for inner in ("parts", "messages"):
            if inner in value:
                listed = [mapping(item).get("content", item) for item in items(value[inner])]
                return parts_of(listed)
        return tuple(Part("text", brief(field)) for field in value.values() if not is_empty(field))
    is_tokens = bool(items(value)) and all(type(item) is int for item in items(value))
    return (Part("text", f"{len(items(value)):,} tokens"),) if is_tokens else parts_of(value)


def _error(response: dict[str, Any]) -> list[Part] | None:
    for name in _ERRORS:
        value = response.get(name)
        if is_empty(value):
            continue
        fields = mapping(value)
        message = first(fields, "message", "Message", "detail") or (value if isinstance(value, str) else outline(value))
        kind = first(fields, "type", "status", "code", "Code")
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
    for name in _IMAGES:
        listed = items(response.get(name))
        if listed and all(isinstance(item, str) or _IMAGE & mapping(item).keys() for item in listed):
            return [media_part("image", {"data": item} if isinstance(item, str) else item) for item in listed]
    return None


def _search(response: dict[str, Any]) -> list[Part] | None:
    results = [mapping(result) for result in items(response.get("results"))]
    if not results or not all(_FOUND & result.keys() for result in results):
        return None
    parts = [Part("text", text(response.get("answer")))] if text(response.get("answer")) else []
    for result in results:
        head = " ".join(piece for piece in (first(result, "title"), first(result, "url")) if piece)
        if not head:
            score = next((result[each] for each in _SCORES if each in result), None)
            head = f"result {brief(result.get('index'))}: {brief(score)}"
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


def _sound(response: dict[str, Any]) -> list[Part] | None:
    found = response.get("audio", response.get("audioContent"))
    return [media_part("audio", {"data": found})] if isinstance(found, str | bytes) and found else None


def _pages(response: dict[str, Any]) -> list[Part] | None:
    pages = [first(mapping(page), "markdown", "text") for page in items(response.get("pages"))]
    return [Part("text", page) for page in pages if page] or None


def _classes(response: dict[str, Any]) -> list[Part] | None:
    found = [mapping(item) for item in items(response.get("classifications"))]
    return [Part("text", f"{first(one, 'input')}: {first(one, 'prediction')}") for one in found] or None


def _guardrail(response: dict[str, Any]) -> list[Part] | None:
    if "assessments" not in response:
        return None
    texts = [first(mapping(item), "text") for item in items(response.get("outputs"))]
    return [Part("text", f"guardrail: {first(response, 'action')}"), *(Part("text", each) for each in texts if each)]


def _job(response: dict[str, Any]) -> list[Part] | None:
    """Return what is known of work that goes on after the call, such as a batch."""
    name = first(response, "id", "request_id")
    state = first(response, *_STATES)
    if not name or not (state or "request_id" in response):
        return None
    return [Part("text", f"{first(response, 'object', 'type') or 'request'} {name}: {state or 'accepted'}")]


_READERS: Final = (
    _error,
    _vectors,
    _moderation,
    _images,
    _search,
    _count,
    _session,
    _sound,
    _pages,
    _classes,
    _guardrail,
    _job,
    _transcript,
)
