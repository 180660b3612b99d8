"""The events of each wire format, put together."""

from __future__ import annotations

from typing import Any, Final

from provider_trace_store.conversations.values import first, items, mapping, parsed, text

_Event = dict[str, Any]
_PIECES: Final = ("outputText", "generation", "completion", "text", "response")


def from_responses(events: list[_Event]) -> _Event:
    """Return the response of OpenAI's Responses API: its last event has all of it, or the ended items are joined."""
    found: _Event = {}
    done: list[Any] = []
    texts: dict[str, list[str]] = {}
    for event in events:
        response = mapping(event.get("response"))
        found = response or found
        if text(event.get("type")) == "response.output_item.done":
            done.append(event.get("item"))
        elif text(event.get("type")) == "response.output_text.delta":
            texts.setdefault(text(event.get("item_id")), []).append(text(event.get("delta")))
        elif event.get("type") == "error":
            found = {**found, "error": event.get("error", event.get("message"))}
    if items(found.get("output")):
        return found
    ended = {text(mapping(item).get("id")) for item in done}
    rest = [
        {"type": "message", "role": "assistant", "content": "".join(pieces)}
        for item_id, pieces in texts.items()
        if item_id not in ended
    ]
    return {**found, "output": done + rest}


def from_anthropic(events: list[_Event]) -> _Event:  # noqa: C901  (a branch for each type of event)
    """Return the message of Anthropic's events."""
    message: _Event = {"type": "message", "role": "assistant"}
    blocks: dict[Any, _Event] = {}
    pieces: dict[Any, dict[str, list[str]]] = {}
    for event in events:
        kind = event.get("type")
        index = _index(event.get("index"))
        if kind == "message_start":
            message |= mapping(event.get("message"))
        elif kind == "content_block_start":
            blocks[index] = dict(mapping(event.get("content_block")))
        elif kind == "content_block_delta":
            for name, value in mapping(event.get("delta")).items():
                if name != "type" and isinstance(value, str):
                    pieces.setdefault(index, {}).setdefault(name, []).append(value)
        elif kind == "message_delta":
            message |= mapping(event.get("delta"))
            message["usage"] = {**mapping(message.get("usage")), **mapping(event.get("usage"))}
        elif kind == "error":
            message["error"] = event.get("error")
    for index, fields in pieces.items():
        block = blocks.setdefault(index, {"type": "text"})
        for name, values in fields.items():
            if name == "partial_json":
                block["input"] = _arguments("".join(values))
            else:
                block[name] = text(block.get(name)) + "".join(values)
    return {**message, "content": list(blocks.values())}


def from_chat(events: list[_Event]) -> _Event:
    """Return the response of the chunks of chat completions."""
    found: _Event = {}
    choices: dict[Any, _Event] = {}
    for event in events:
        found |= {name: value for name, value in event.items() if name != "choices" and value is not None}
        for item in items(event.get("choices")):
            choice = mapping(item)
            kept = choices.setdefault(_index(choice.get("index")), {"message": {"role": "assistant"}})
            _add_delta(kept["message"], mapping(choice.get("delta")) or mapping(choice.get("message")))
            if piece := text(choice.get("text")):
                kept["message"]["content"] = text(kept["message"].get("content")) + piece
            kept |= {"finish_reason": choice["finish_reason"]} if choice.get("finish_reason") else {}
    for choice in choices.values():
        _join(choice["message"])
    return {**found, "choices": list(choices.values())}


def _add_delta(message: _Event, delta: _Event) -> None:
    for name, value in delta.items():
        if name == "tool_calls":
            _add_calls(message, value)
        elif name in {"role", "name"}:
            message[name] = text(value) or message.get(name)
        elif isinstance(value, str):
            message.setdefault(f"+{name}", []).append(value)
        elif isinstance(value, list | tuple):
            _add_listed(message, name, value)


def _add_listed(message: _Event, name: str, value: list[Any] | tuple[Any, ...]) -> None:
    """Add parts of content: Mistral streams thinking as a list, and prose as text."""
    if name == "content":
        for item in value:
            fields = mapping(item)
            inner = [*items(fields.get("thinking")), fields]
            kind = "reasoning_content" if "thinking" in fields else name
            message.setdefault(f"+{kind}", []).extend(text(mapping(piece).get("text")) for piece in inner)
        return
    kept = message.setdefault(name, [])
    if isinstance(kept, list):
        kept.extend(value)


def _add_calls(message: _Event, value: object) -> None:
    calls = message.setdefault("+calls", {})
    for position, item in enumerate(items(value)):
        call = mapping(item)
        function = mapping(call.get("function"))
        kept = calls.setdefault(_index(call.get("index", position)), {"function": {"name": "", "arguments": []}})
        kept["id"] = text(call.get("id")) or kept.get("id", "")
        kept["function"]["name"] += text(function.get("name"))
        arguments = function.get("arguments")
        kept["function"]["arguments"].append(arguments if isinstance(arguments, str) else "")


def _join(message: _Event) -> None:
    for name in [name for name in message if name.startswith("+")]:
        pieces = message.pop(name)
        if name == "+calls":
            for call in pieces.values():
                call["function"]["arguments"] = "".join(call["function"]["arguments"])
            message["tool_calls"] = list(pieces.values())
        else:
            message[name[1:]] = "".join(pieces)


def from_gemini(events: list[_Event]) -> _Event:
    """Return the response of Gemini's chunks: consecutive texts of one candidate are joined."""
    found: _Event = {}
    kept: dict[Any, _Event] = {}
    for event in events:
        found |= event
        for item in items(event.get("candidates")):
            candidate = mapping(item)
            before = kept.setdefault(_index(candidate.get("index")), {"parts": []})
            content = mapping(candidate.get("content"))
            for part in items(content.get("parts")):
                _add_part(before["parts"], mapping(part))
            before["fields"] = {**before.get("fields", {}), **candidate}
    candidates = [
        {**one.get("fields", {}), "content": {"role": "model", "parts": [_joined(part) for part in one["parts"]]}}
        for one in kept.values()
    ]
    return {**found, "candidates": candidates}


def _add_part(parts: list[_Event], part: _Event) -> None:
    piece = part.get("text")
    if isinstance(piece, str) and parts and "+text" in parts[-1] and parts[-1].get("thought") == part.get("thought"):
        parts[-1]["+text"].append(piece)
    elif isinstance(piece, str):
        parts.append({**part, "+text": [piece]})
    else:
        parts.append(part)


def _joined(part: _Event) -> _Event:
    if "+text" not in part:
        return part
    return {**{name: value for name, value in part.items() if name != "+text"}, "text": "".join(part["+text"])}


def from_converse(events: list[_Event]) -> _Event:
    """Return the response of the events of Bedrock's ConverseStream."""
    role = "assistant"
    found: _Event = {}
    calls: dict[Any, _Event] = {}
    pieces: dict[Any, dict[str, list[str]]] = {}
    order: dict[Any, None] = {}
    for event in events:
        role = first(mapping(event.get("messageStart")), "role") or role
        start = mapping(event.get("contentBlockStart"))
        delta = mapping(event.get("contentBlockDelta"))
        if start or delta:
            order.setdefault(_index((start or delta).get("contentBlockIndex")))
        if call := mapping(mapping(start.get("start")).get("toolUse")):
            calls[_index(start.get("contentBlockIndex"))] = call
        fields = pieces.setdefault(_index(delta.get("contentBlockIndex")), {}) if delta else {}
        for name, value in mapping(delta.get("delta")).items():
            piece = value if isinstance(value, str) else first(mapping(value), "input", "text")
            fields.setdefault(name, []).append(piece)
        found |= mapping(event.get("messageStop"))
        found |= mapping(event.get("metadata"))
    blocks: list[_Event] = []
    for index in order:
        joined = {name: "".join(values) for name, values in pieces.get(index, {}).items()}
        if index in calls:
            blocks.append({"toolUse": {**calls[index], "input": _arguments(joined.get("toolUse", ""))}})
        elif "reasoningContent" in joined:
            blocks.append({"reasoningContent": {"reasoningText": {"text": joined["reasoningContent"]}}})
        else:
            blocks.append({"text": joined.get("text", "")})
    return {**found, "output": {"message": {"role": role, "content": blocks}}}


def from_cohere(events: list[_Event]) -> _Event:
    """Return the response of Cohere's events."""
    message: _Event = {"role": "assistant"}
    end: _Event = {}
    for event in events:
        delta = mapping(mapping(event.get("delta")).get("message"))
        kind = event.get("type")
        if kind == "content-delta":
            for name, value in mapping(delta.get("content")).items():
                kept = "thinking" if name == "thinking" else "content"
                message.setdefault(f"+{kept}", []).append(text(value))
        elif kind == "tool-plan-delta":
            message.setdefault("+tool_plan", []).append(text(delta.get("tool_plan")))
        elif kind in {"tool-call-start", "tool-call-delta"}:
            _add_calls(message, [{**mapping(delta.get("tool_calls")), "index": _index(event.get("index"))}])
        elif kind == "message-end":
            end = mapping(event.get("delta"))
    _join(message)
    return {**end, "message": {**message, "content": message.get("content", "")}}


def from_ollama(events: list[_Event]) -> _Event:
    """Return the response of Ollama's chat, which streams a message of each piece."""
    pieces = [mapping(event.get("message")) for event in events]
    joined = {name: "".join(text(piece.get(name)) for piece in pieces) for name in ("content", "thinking")}
    calls = [call for piece in pieces for call in items(piece.get("tool_calls"))]
    return {**events[-1], "message": {"role": "assistant", **joined, "tool_calls": calls}}


def from_texts(events: list[_Event]) -> _Event | None:
    """Return the joined text of events that have a piece of text each (InvokeModel, Hugging Face), or None."""
    pieces = [first(event, *_PIECES) or first(mapping(event.get("token")), "text") for event in events]
    joined = "".join(pieces)
    return {**events[-1], "completion": joined, "text": joined} if joined else None


def _index(value: object) -> Any:  # noqa: ANN401  (a key of a dict)
    return value if isinstance(value, int | str) else 0


def _arguments(joined: str) -> object:
    value = parsed(joined)
    return value if isinstance(value, dict) else joined
