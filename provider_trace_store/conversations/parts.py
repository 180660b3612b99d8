"""The parts of a message, in the forms of all wire formats: a part says by its `type` or by its only key what it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from provider_trace_store.conversations.media import media_part
from provider_trace_store.conversations.model import Message, Part
from provider_trace_store.conversations.values import (
    brief,
    canonical,
    first,
    is_empty,
    items,
    mapping,
    outline,
    parsed,
    pretty,
    text,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

# A result of a tool has parts, which have parts: a deeper one is shown as JSON.
_DEEPEST: Final = 6
_TEXTS: Final = frozenset({"text", "input_text", "output_text", "summary_text", "refusal", "input_text_delta"})
_THOUGHTS: Final = frozenset(
    {"thinking", "reasoning", "reasoning_text", "redacted_thinking", "reasoning.text", "reasoning.summary"}
)
# Calls of tools whose type has another ending; the last two are Mistral's.
_CALLS: Final = frozenset({"function", "mcp_approval_request", "function.call", "tool.execution"})
_NESTED: Final = frozenset(
    {
        "compaction",
        "message",
        "tool_reference",
        "tool_addition",
        "additional_tools",
        "mcp_list_tools",
        "mcp_approval_response",
        "item_reference",
        "reference",
    }
)
_INNER: Final = ("summary", "content", "thinking")
_ARGUMENTS: Final = ("arguments", "args", "input", "parameters", "action", "code", "queries")
_MEDIA: Final = (
    ("image", ("image", "image_url", "input_image", "inline_image", "output_image")),
    ("audio", ("audio", "input_audio", "output_audio", "audio_url")),
    ("video", ("video", "video_url", "input_video")),
    ("document", ("document", "document_url")),
    (
        "file",
        ("file", "input_file", "file_url", "container_upload", "inlineData", "inline_data", "fileData", "file_data"),
    ),
)
_MEDIA_KINDS: Final = {name: kind for kind, names in _MEDIA for name in names}


def parts_of(content: object, depth: int = 0) -> tuple[Part, ...]:
    """Return the parts of the content of a message.

    Args:
        content: text, a part, or a list of both, in any wire format.
        depth: how many parts it is inside of.
    """
    if is_empty(content):
        return ()
    if isinstance(content, str):
        return (Part("text", content),)
    if isinstance(content, list | tuple):
        return (
            tuple(part for item in content for part in parts_of(item, depth + 1))
            if depth < _DEEPEST
            else _data(content)
        )
    if isinstance(content, dict):
        return tuple(_part(content, depth + 1)) if depth < _DEEPEST else _data(content)
    return (Part("text", brief(content)),)


def message_of(value: object, role: str = "") -> Message:
    """Return a message, in the form of any wire format that has `role` and `content` or `parts`.

    Args:
        value: the message; text is the content of a message of the default role.
        role: the role of a message that has none.
    """
    if not isinstance(value, dict):
        return Message(role or "user", parts_of(value))
    parts = [*_thoughts(value)]
    parts += () if parts else parts_of([block for block in items(value.get("thinking_blocks")) if mapping(block)])
    role = first(value, "role", "type", "author") or role or "user"
    content = value.get("content", value.get("parts", value.get("text", value.get("message"))))
    inner = parts_of(content)
    call_id = first(value, "tool_call_id", "call_id")
    if role in {"tool", "function"} or call_id:
        name = first(value, "name", "tool_name")
        results = [part for part in inner if part.kind == "text"]
        parts.append(Part("result", "\n".join(part.text for part in results), name, call_id))
        parts += [part for part in inner if part.kind != "text"]
    else:
        parts += inner
    if refusal := text(value.get("refusal")):
        parts.append(Part("text", refusal, "refusal"))
    for call in items(value.get("tool_calls")):
        parts += _call(mapping(call)) if isinstance(call, dict) else _data(call)
    if isinstance(function := value.get("function_call"), dict):
        parts += _call(function)
    for name in ("images", "audio"):
        field = value.get(name)
        parts += [media_part(name.rstrip("s"), item) for item in (items(field) or [field]) if isinstance(item, dict)]
    known = parts or {"content", "parts", "text", "message"} & value.keys() or value.keys() <= {"role"}
    return Message(role, tuple(parts) if known else _data(value))


def _thoughts(value: dict[str, Any]) -> Iterator[Part]:
    for name in ("reasoning_content", "reasoning", "thinking", "tool_plan", "thought"):
        field = value.get(name)
        if isinstance(field, str) and field:
            yield Part("thinking", field)
            return
    for detail in items(value.get("reasoning_details")):
        fields = mapping(detail)
        if thought := first(fields, "text", "summary"):
            yield Part("thinking", thought)
        elif isinstance(fields.get("data"), str):
            yield Part("thinking", f"(encrypted, {len(fields['data']):,} characters)")


def _part(part: dict[str, Any], depth: int) -> Iterator[Part]:
    kind = text(part.get("type"))
    if kind in _THOUGHTS or "reasoningContent" in part or part.get("thought") is True:
        yield from _thinking(part, depth)
    elif kind in _MEDIA_KINDS:
        yield media_part(_MEDIA_KINDS[kind], part)
    elif kind in _TEXTS or (isinstance(part.get("text"), str) and not kind.endswith(("_call", "_result"))):
        yield from _prose(part, kind)
    elif kind.endswith(("tool_use", "_call", "tool-call")) or kind in _CALLS:
        yield from _call(part)
        if not is_empty(outputs := part.get("outputs", part.get("results"))):
            yield from _result(part, outputs, depth)
    elif kind.endswith(("_result", "_output", "tool-result")):
        yield from _result(part, part.get("content", part.get("output", part.get("tools", _rest(part)))), depth)
    elif kind in _NESTED:
        yield from _nested(part, kind, depth)
    else:
        yield from _keyed(part, depth)


def _prose(part: dict[str, Any], kind: str) -> Iterator[Part]:
    prose = first(part, "text", "refusal")
    if prose:
        yield Part("text", prose, "refusal" if kind == "refusal" else "")
    sources = [first(mapping(item), "url", "title", "document_title") for item in items(part.get("citations"))]
    sources += [first(mapping(item), "url", "title") for item in items(part.get("annotations"))]
    if named := [source for source in dict.fromkeys(sources) if source]:
        yield Part("text", "\n".join(named), "sources")


def _thinking(part: dict[str, Any], depth: int) -> Iterator[Part]:
    source = mapping(part.get("reasoningContent")) or part
    source = mapping(source.get("reasoningText")) or source
    thought = first(source, "thinking", "text", "reasoning_text")
    inner = (
        []
        if thought
        else [part for name in ("summary", "content", "thinking") for part in parts_of(source.get(name), depth)]
    )
    thought = thought or "\n".join(part.text for part in inner if part.kind in {"text", "thinking"})
    sealed = first(source, "encrypted_content", "data", "redactedContent", "signature", "thoughtSignature")
    if thought:
        yield Part("thinking", thought)
    elif sealed:
        yield Part("thinking", f"(encrypted, {len(sealed):,} characters)")
    elif isinstance(redacted := source.get("redactedContent"), bytes):
        yield Part("thinking", f"(encrypted, {len(redacted):,} bytes)")
    elif not part.keys() & {"summary", "content", "thinking", "text", "reasoningContent"}:
        yield from _data(part)


def _call(call: dict[str, Any]) -> Iterator[Part]:
    inner = mapping(call.get("function")) or mapping(call.get("custom")) or call
    name = first(inner, "name", "server_name", "tool") or first(call, "name", "type") or "tool"
    arguments = next(
        (
            inner[key]
            for key in ("arguments", "args", "input", "parameters", "action", "code", "queries")
            if key in inner
        ),
        None,
    )
    if isinstance(arguments, str):
        value = parsed(arguments)
        arguments = value if isinstance(value, dict) else arguments
    shown = "" if is_empty(arguments) else outline(arguments)
    yield Part("call", shown, name, first(call, "call_id", "id", "toolUseId"))


def _result(part: dict[str, Any], content: object, depth: int) -> Iterator[Part]:
    inner = parts_of(content, depth)
    name = first(part, "name", "tool_name") or text(part.get("type")).removesuffix("_call")
    name = "" if name in {"tool_result", "function_call_output", "toolResult"} else name
    failed = part.get("is_error") is True or part.get("status") == "error"
    if isinstance(content, dict) and all(piece.kind == "data" for piece in inner):
        inner = (Part("text", outline(content)),)
    texts = [piece.text for piece in inner if piece.kind in {"text", "data", "result", "error"}]
    shown = "\n".join(texts)
    call_id = first(part, "tool_use_id", "toolUseId", "call_id", "id")
    yield Part("result", f"(error) {shown}" if failed else shown, name, call_id)
    yield from (piece for piece in inner if piece.kind in {"media", "call", "thinking"})


def _nested(part: dict[str, Any], kind: str, depth: int) -> Iterator[Part]:
    if kind in {"compaction", "message"}:
        inner = parts_of(part.get("content"), depth)
        if not inner and (sealed := first(part, "encrypted_content")):
            inner = (Part("text", f"(encrypted, {len(sealed):,} characters)"),)
        yield from (
            Part(piece.kind, piece.text, piece.name or kind) if piece.kind == "text" else piece for piece in inner
        )
        return
    if kind == "mcp_approval_response":
        yield Part("text", "approved" if part.get("approve") is True else "denied", kind)
        return
    if kind in {"item_reference", "reference"}:
        yield Part("text", first(part, "id") or brief(part.get("reference_ids")), kind)
        return
    names = [first(mapping(tool), "name", "type") for tool in items(part.get("tools"))]
    yield Part("text", first(part, "tool_name") or ", ".join(names) or brief(part.get("tool")), kind)


def _keyed(part: dict[str, Any], depth: int) -> Iterator[Part]:  # noqa: C901  (a branch for each key)
    """Yield a part of Gemini or of Bedrock, whose key says what it is; anything else is data."""
    known = False
    for name, value in part.items():
        fields = mapping(value)
        if name in {"functionCall", "function_call", "toolUse", "toolCall"} and fields:
            yield from _call(fields)
        elif name in {"functionResponse", "function_response"} and fields:
            yield from _result(fields, fields.get("response", fields), depth)
        elif name in {"toolResult", "toolResponse"} and fields:
            yield from _result(fields, fields.get("content", fields.get("response")), depth)
        elif name == "text" and fields:
            yield from parts_of(fields.get("text"), depth)
        elif name == "json":
            yield Part("text", brief(value))
        elif name in {"executableCode", "executable_code"} and fields:
            yield Part("call", text(fields.get("code")), f"code ({text(fields.get('language')) or 'any language'})")
        elif name in {"codeExecutionResult", "code_execution_result"} and fields:
            yield Part("result", first(fields, "output", "outcome"), "code")
        elif name in _MEDIA_KINDS and (fields or isinstance(value, str)):
            kind = _MEDIA_KINDS[name]
            yield media_part(kind, value)
        elif name in {"cachePoint", "cache_control", "guardContent", "citationsContent", "searchResult"}:
            yield from _beside(name, fields, depth)
        else:
            continue
        known = True
    if not known and not part.keys() <= {"thoughtSignature", "thought_signature", "text"}:
        yield from _data(part)


def _beside(name: str, fields: dict[str, Any], depth: int) -> Iterator[Part]:
    if name in {"guardContent", "citationsContent", "searchResult"}:
        yield from parts_of(fields.get("text", fields.get("content")), depth)


def _rest(part: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in part.items() if key not in {"type", "tool_use_id", "call_id", "id"}}


def _data(value: object) -> tuple[Part, ...]:
    kind = text(mapping(value).get("type"))
    return (Part("data", pretty(value), kind, key=hash(canonical(value))),)
