"""What two calls differ in: settings, and messages that were added, removed or changed."""

from __future__ import annotations

from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from provider_trace_store.conversations.values import canonical, items, mapping, text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from provider_trace_store.conversations.model import Message

# More comparisons than these take seconds: the differing middles of two conversations then count as replaced.
_MOST_PAIRS: Final = 4_000_000
_ANSWERS: Final = frozenset({"assistant", "model", "chatbot"})


class Change(NamedTuple):
    """A run of messages that two conversations share, or differ in.

    Args:
        kind: `same`, `removed`, `added` or `changed`; a changed run has as many messages before as after.
        before: messages of the first conversation.
        after: messages of the second conversation.
    """

    kind: Literal["same", "removed", "added", "changed"]
    before: tuple[Message, ...]
    after: tuple[Message, ...]


class Setting(NamedTuple):
    """A setting that differs.

    Args:
        name: its path, with dots.
        before: its value in the first call; None if it has none.
        after: its value in the second call; None if it has none.
    """

    name: str
    before: Any
    after: Any


def compare_messages(before: Sequence[Message], after: Sequence[Message]) -> list[Change]:
    """Return the changes that make the second conversation of the first, in order.

    Args:
        before: the messages of the first conversation.
        after: the messages of the second one.
    """
    start = common_start(before, after)
    end = min(common_start(before[::-1], after[::-1]), len(before) - start, len(after) - start)
    changes: list[Change] = []
    if start:
        changes.append(Change("same", tuple(before[:start]), tuple(after[:start])))
    changes += _middle(tuple(before[start : len(before) - end]), tuple(after[start : len(after) - end]))
    if end:
        changes.append(Change("same", tuple(before[len(before) - end :]), tuple(after[len(after) - end :])))
    return changes


def common_start(before: Sequence[Message], after: Sequence[Message]) -> int:
    """Return how many messages at the start are equal."""
    count = 0
    for one, other in zip(before, after, strict=False):
        if one != other:
            break
        count += 1
    return count


def is_same_answer(answer: Sequence[Message], repeated: Sequence[Message]) -> bool:
    """Return whether the first messages of a sequence repeat an answer: the same texts and calls, ids aside."""
    said = list(_essence(answer))
    return bool(said) and said == list(_essence(repeated))


def answer_length(messages: Sequence[Message]) -> int:
    """Return how many messages at the start are answers of the model."""
    return next((n for n, message in enumerate(messages) if message.role.lower() not in _ANSWERS), len(messages))


def compare_settings(before: dict[str, Any], after: dict[str, Any]) -> list[Setting]:
    """Return the settings that differ, sorted by name; those inside of a dict by their path, tools by their name.

    Args:
        before: the settings of the first call.
        after: those of the second one.
    """
    one, other = dict(_leaves(before)), dict(_leaves(after))
    return [
        Setting(name, one.get(name), other.get(name))
        for name in sorted({*one, *other})
        if (name in one) != (name in other) or canonical(one[name]) != canonical(other[name])
    ]


def tool_names(settings: dict[str, Any]) -> list[str]:
    """Return the names of the tools that a request offers."""
    return [name for key in _TOOLS for name, _ in _tools(settings.get(key))]


_TOOLS: Final = ("tools", "functions", "toolConfig")
_DEPTH: Final = 4


def _middle(before: tuple[Message, ...], after: tuple[Message, ...]) -> Iterator[Change]:
    if not before or not after or len(before) * len(after) > _MOST_PAIRS:
        yield from _replaced(before, after)
        return
    for tag, a, b, c, d in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if tag == "equal":
            yield Change("same", before[a:b], after[c:d])
        else:
            yield from _replaced(before[a:b], after[c:d])


def _replaced(before: tuple[Message, ...], after: tuple[Message, ...]) -> Iterator[Change]:
    """Yield pairs of messages with one role as changed, and the others as removed and added."""
    pairs = 0
    for one, other in zip(before, after, strict=False):
        if one.role != other.role:
            break
        pairs += 1
    if pairs:
        yield Change("changed", before[:pairs], after[:pairs])
    if before[pairs:]:
        yield Change("removed", before[pairs:], ())
    if after[pairs:]:
        yield Change("added", (), after[pairs:])


def _essence(messages: Sequence[Message]) -> Iterator[tuple[str, str]]:
    for message in messages:
        for part in message.parts:
            if part.kind in {"text", "call"} and part.text.strip() + part.name:
                yield (part.name if part.kind == "call" else "", part.text.strip())


def _leaves(settings: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    pending: list[tuple[str, Any, int]] = [(name, value, 1) for name, value in settings.items()]
    while pending:
        path, value, depth = pending.pop()
        if path in _TOOLS and (tools := _tools(value)):
            yield from ((f"{path}.{name}", tool) for name, tool in tools)
        elif isinstance(value, dict) and value and depth < _DEPTH:
            pending += [(f"{path}.{name}", field, depth + 1) for name, field in value.items()]
        else:
            yield path, value


def _tools(value: object) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    listed = items(value) or items(mapping(value).get("tools"))
    for tool in listed:
        fields = mapping(tool)
        declared = items(fields.get("functionDeclarations", fields.get("function_declarations")))
        for one in declared or [tool]:
            inner = mapping(one)
            named = mapping(inner.get("function")) or mapping(inner.get("toolSpec")) or inner
            fallback = text(inner.get("type")) or next((key for key in inner if key), "tool")
            found.append((text(named.get("name")) or fallback, one))
    return found
