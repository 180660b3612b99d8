"""A conversation as lines: headers of calls, messages, their parts, settings and usage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from provider_trace_store.cli.looking import time_of
from provider_trace_store.cli.terminal import one_line
from provider_trace_store.conversations import tool_names
from provider_trace_store.conversations.values import brief, is_empty, mapping

if TYPE_CHECKING:
    from collections.abc import Iterable

    from provider_trace_store.cli.terminal import Screen
    from provider_trace_store.conversations import Exchange, Message, Part
    from provider_trace_store.schemas import ProviderTrace

MARGIN: Final = "  "
_STYLES: Final = {
    "user": "user",
    "human": "user",
    "input": "user",
    "assistant": "assistant",
    "model": "assistant",
    "output": "assistant",
    "tool": "tool",
    "function": "tool",
    "system": "system",
    "developer": "system",
    "error": "error",
}
_TOOLS: Final = ("tools", "functions", "toolConfig")
_ENDS: Final = ("finish_reason", "finishReason", "stop_reason", "stopReason", "status")
_INPUT: Final = ("prompt_tokens", "input_tokens", "inputTokens", "promptTokenCount")
_OUTPUT: Final = ("completion_tokens", "output_tokens", "outputTokens", "candidatesTokenCount")
_MOST_SETTING: Final = 160
_MOST_NAMES: Final = 12


def show_header(screen: Screen, trace: ProviderTrace, exchange: Exchange) -> None:
    """Add who made a call, and when."""
    screen.line(trace.id, "title")
    screen.line(f"{time_of(trace.created_at)} UTC · {described(exchange)}", "quiet")
    names = (
        ("call type", trace.call_type),
        ("agent", trace.agent_id),
        ("run", trace.run_id),
        ("step", trace.step_id),
        ("source", trace.source),
        ("user", trace.user_id),
        ("organization", trace.org_id),
    )
    known = [f"{name} {one_line(value)}" for name, value in names if value]
    known += [f"tags {', '.join(one_line(tag) for tag in trace.agent_tags)}"] if trace.agent_tags else []
    if known:
        screen.line(" · ".join(known), "quiet")


def described(exchange: Exchange) -> str:
    """Return the wire format and the model of a call."""
    return " · ".join(piece for piece in (exchange.form, one_line(exchange.model)) if piece)


def show_settings(screen: Screen, settings: dict[str, Any], title: str = "settings", *, is_full: bool = False) -> None:
    """Add the settings of a request: a line with the short ones; a longer one is folded, tools are named."""
    words: list[str] = []
    for name, value in settings.items():
        if is_empty(value):
            continue
        tools = tool_names({name: value}) if name in _TOOLS else []
        if is_full:
            words.append(f"{name} {brief(value)}")
        elif tools:
            more = f" and {len(tools) - _MOST_NAMES} more" if len(tools) > _MOST_NAMES else ""
            words.append(f"{len(tools)} tool{'s' if len(tools) > 1 else ''}: {', '.join(tools[:_MOST_NAMES])}{more}")
        else:
            shown = brief(value)
            if len(shown) > _MOST_SETTING or "\n" in shown:
                words.append(f"{name} ({len(shown):,} characters)")
                screen.folded_texts += 1
                screen.folded_characters += len(shown)
            else:
                words.append(f"{name} {shown}")
    if words:
        screen.line(f"{title}: {' · '.join(words)}", "quiet")


def show_messages(screen: Screen, messages: Iterable[Message], sign: str = "", style: str = "") -> None:
    """Add messages: the role, and its parts below it.

    Args:
        screen: where to.
        messages: the messages.
        sign: what stands before the role, such as `+`.
        style: the style of all lines; empty for that of the role.
    """
    for message in messages:
        role = style or _STYLES.get(message.role.lower().partition(" ")[0], "title")
        screen.line(f"{sign}{one_line(message.role)}", role)
        if not message.parts:
            screen.line("(empty)", "quiet", MARGIN)
        for part in message.parts:
            _show_part(screen, part, MARGIN, style)


def show_end(screen: Screen, exchange: Exchange, *, is_full: bool = False) -> None:
    """Add the reason of the end and the usage; with `is_full` all other fields of the response, too."""
    words = ending(exchange)
    if words:
        screen.line(" · ".join(words), "quiet")
    if is_full:
        show_settings(screen, exchange.details, "response", is_full=True)
    elif error := exchange.details.get("error"):
        screen.block(f"error: {brief(error)}", "error")


def ending(exchange: Exchange) -> list[str]:
    """Return the reason of the end, and the tokens of a call."""
    words = [
        f"end: {one_line(brief(exchange.details[name]))}" for name in _ENDS if not is_empty(exchange.details.get(name))
    ][:1]
    usage = mapping(exchange.details.get("usage")) or mapping(exchange.details.get("usageMetadata"))
    for names, title in ((_INPUT, "tokens in"), (_OUTPUT, "tokens out")):
        count = next((usage[name] for name in names if isinstance(usage.get(name), int)), None)
        if count is not None:
            words.append(f"{count:,} {title}")
    return words


def _show_part(screen: Screen, part: Part, margin: str, style: str) -> None:
    name = one_line(part.name)
    call_id = f" [{one_line(part.call_id)}]" if part.call_id else ""
    if part.kind == "text":
        if name:
            screen.line(f"({name})", style or "quiet", margin)
        screen.block(part.text, style, margin)
    elif part.kind == "thinking":
        screen.line("(thinking)", style or "quiet", margin)
        screen.block(part.text, style or "quiet", f"{margin}│ ")
    elif part.kind == "call":
        screen.line(f"→ {name}{call_id}", style or "tool", margin)
        if part.text:
            screen.block(part.text, style, margin + MARGIN)
    elif part.kind == "result":
        screen.line(f"result{f' of {name}' if name else ''}{call_id}", style or "tool", margin)
        screen.block(part.text or "(empty)", style, margin + MARGIN)
    elif part.kind == "media":
        screen.line(f"[{part.text}]", style or "title", margin)
    elif part.kind == "error":
        screen.block(f"{name}: {part.text}" if name else part.text, "error", margin)
    else:
        screen.line(f"JSON{f' of type {name}' if name else ''}", style or "quiet", margin)
        screen.block(part.text, style, f"{margin}│ ")
