"""Values of documents of unknown form: each function takes a value of any type, and none of them recurses."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_SHORT: Final = 100


def mapping(value: object) -> dict[str, Any]:
    """Return a value if it is a dict, and otherwise an empty dict."""
    return value if isinstance(value, dict) else {}


def items(value: object) -> Sequence[Any]:
    """Return a value if it is a list or a tuple, and otherwise an empty tuple."""
    return value if isinstance(value, list | tuple) else ()


def text(value: object) -> str:
    """Return a value if it is text, and otherwise an empty text."""
    return value if isinstance(value, str) else ""


def first(source: dict[str, Any], *names: str) -> str:
    """Return the first field that is text and not empty; an empty text if there is none."""
    return next((found for name in names if (found := text(source.get(name)))), "")


def without(source: dict[str, Any], *names: str) -> dict[str, Any]:
    """Return a dict without some fields."""
    return {key: value for key, value in source.items() if key not in names}


def is_empty(value: object) -> bool:
    """Return whether a value is None, or a text, a list or a dict without content."""
    return value is None or (isinstance(value, str | list | tuple | dict) and not value)


def parsed(value: str) -> Any:  # noqa: ANN401  (a document is of any type)
    """Return the value of a JSON text, or None if it is not JSON, or nested too deeply to be read."""
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return None


def canonical(value: object) -> str:
    """Return a text that is equal for equal values only."""
    try:
        return json.dumps(value, sort_keys=True, default=repr, ensure_ascii=False)
    except (ValueError, TypeError, RecursionError):
        return pretty(value)


def brief(value: object) -> str:
    """Return a value as JSON: on one line if it is short, and otherwise on several."""
    if isinstance(value, str):
        return value
    try:
        line = json.dumps(value, default=repr, ensure_ascii=False)
    except (ValueError, TypeError, RecursionError):
        return pretty(value)
    return line if len(line) <= _SHORT else pretty(value)


def outline(value: object) -> str:
    """Return the arguments of a call: a line for each field, and the lines of a longer text below its name."""
    if not isinstance(value, dict):
        return brief(value)
    lines: list[str] = []
    for key, field in value.items():
        shown = brief(field)
        lines.append(f"{key}:\n{_indented(shown)}" if "\n" in shown else f"{key}: {shown}")
    return "\n".join(lines)


def pretty(value: object) -> str:
    """Return a value of any depth as indented JSON."""
    return "".join(_pieces(value))


def _indented(block: str) -> str:
    return "\n".join(f"  {line}" for line in block.split("\n"))


# The indentation of a deeper value stops growing: a document nested 100,000 times would take gigabytes of spaces.
_DEEPEST: Final = 40


def _pieces(value: object) -> Iterator[str]:
    # What is left of each open container, and the bracket that closes it.
    stack: list[tuple[Iterator[tuple[str, object]], str]] = []
    label, pending = "", value
    while True:
        yield label
        if isinstance(pending, dict) and pending:
            yield "{"
            stack.append((iter([(f"{_scalar(key)}: ", field) for key, field in pending.items()]), "}"))
            separator = ""
        elif isinstance(pending, list | tuple) and pending:
            yield "["
            stack.append((iter([("", item) for item in pending]), "]"))
            separator = ""
        else:
            yield _scalar(pending)
            separator = ","
        while stack and (found := next(stack[-1][0], None)) is None:
            _, end = stack.pop()
            yield f"\n{_margin(stack)}{end}"
            separator = ","
        if not stack:
            return
        label, pending = found[0], found[1]  # type: ignore[index]  # the loop ended at an entry
        yield f"{separator}\n{_margin(stack)}"


def _margin(stack: Sequence[object]) -> str:
    return "  " * min(len(stack), _DEEPEST)


def _scalar(value: object) -> str:
    if isinstance(value, bytes):
        return f"<{len(value):,} bytes>"
    try:
        return json.dumps(value, default=repr, ensure_ascii=False)
    except (ValueError, TypeError):
        return "<a value that is not JSON>"
