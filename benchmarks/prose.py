"""Text as agents send and receive it: prose, code, logs and tables, from a seed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

_SUBJECTS: Final = (
    "the customer’s invoice",
    "the nightly export",
    "our staging cluster",
    "the retry queue",
    "the second migration",
    "the façade of the payment service",
    "the naïve cache",
    "the user’s “quoted” address",
    "東京の注文",
    "the Zürich office",
    "the background worker",
    "the audit log",
    "the search index",
    "the mobile client",
    "the rate limiter",
    "the données brutes",
)
_VERBS: Final = (
    "drops",
    "returns",
    "blocks",
    "rewrites",
    "duplicates",
    "validates",
    "postpones",
    "measures",
    "renames",
    "restores",
    "archives",
    "compares",
    "encrypts",
    "overlooks",
    "schedules",
    "summarizes",
)
_OBJECTS: Final = (
    "every third record",
    "the oldest batch",
    "a partial response",
    "the wrong time zone",
    "two conflicting totals",
    "an expired token",
    "the missing column",
    "more memory than expected",
    "the plan’s last step",
    "a stale snapshot",
    "the delivery window",
    "an empty page",
    "the German translation",
    "the configuration file",
    "a deadlock",
    "café receipts",
)
_SENTENCES: Final = (
    "I looked at this again: {subject} {verb} {object} whenever the load goes above {number} requests a second.",
    "According to the documentation, {subject} should not be touched while it {verb} {object}.",
    "- [ ] check whether {subject} {verb} {object} (ticket #{number})",
    'The test "it {verb} {object}" failed {number} times in a row, and {subject} was the only thing in common.',
    "Could you please explain why {subject} {verb} {object}? The user has been waiting since {number} minutes ago.",
    "To summarize: {subject} {verb} {object}; nothing else has changed since version 2.{number}.",
    "**Note**: before you continue, make sure that {subject} never {verb} {object} — see section {number}.",
    "If {subject} {verb} {object}, call the tool again with `page={number}` and compare both results.",
)
_CODE: Final = (
    (
        "def {name}_{number}(session: Session, limit: int = {number}) -> list[Row]:\n"
        '    """Return the newest rows of {name}."""\n'
        "    statement = select({name}).where({name}.c.is_deleted == false()).limit(limit)\n"
        "    return list(session.execute(statement))\n"
    ),
    (
        "class {name}Error(RuntimeError):\n"
        '    """Raised when the {name} takes more than {number} seconds."""\n\n'
        "    def __init__(self, seconds: float) -> None:\n"
        '        super().__init__(f"{name} took {{seconds}} s, more than {number} s")\n'
    ),
    (
        "if (response.status === {number}) {{\n"
        '    console.warn("{name} was refused", {{ attempt, "retry-after": {number} }});\n'
        "    return await this.{name}(attempt + 1);\n"
        "}}\n"
    ),
)
_NAMES: Final = ("orders", "invoices", "shipments", "customers", "sessions", "payments", "refunds", "exports")
# Of an answer's lines, blocks of code.
_CODE_SHARE: Final = 0.15


def sentence(random: Random) -> str:
    """Return one sentence."""
    return random.choice(_SENTENCES).format(
        subject=random.choice(_SUBJECTS),
        verb=random.choice(_VERBS),
        object=random.choice(_OBJECTS),
        number=random.randrange(2, 500),
    )


def code(random: Random) -> str:
    """Return a block of code in a fence."""
    return f"```\n{random.choice(_CODE).format(name=random.choice(_NAMES), number=random.randrange(2, 500))}```"


def log_line(random: Random) -> str:
    """Return a line of a log, as a tool returns it."""
    return (
        f"2026-11-{random.randrange(1, 29):02}T10:{random.randrange(60):02}:{random.randrange(60):02}.000Z\tINFO\t"
        f'{random.randbytes(8).hex()}\t"{random.choice(_NAMES)}" done in {random.randrange(900)} ms'
    )


def table_row(random: Random) -> str:
    """Return a row of a table, as a tool returns it."""
    return (
        f'{{"id": "{random.randbytes(8).hex()}", "name": "{random.choice(_NAMES)}", "status": "open", '
        f'"total": {random.randrange(100_000) / 100}, "owner": "{random.choice(_SUBJECTS)}"}}'
    )


def answer(random: Random, size: int) -> str:
    """Return what a model writes: sentences and code, of `size` bytes."""
    return _filled(size, lambda: code(random) if random.random() < _CODE_SHARE else sentence(random))


def tool_output(random: Random, size: int) -> str:
    """Return what a tool gives back: a log or a table, of `size` bytes."""
    line = random.choice((log_line, table_row))
    return _filled(size, lambda: line(random))


def _filled(size: int, line: Callable[[], str]) -> str:
    lines: list[str] = []
    length = 0
    while length < size:
        lines.append(line())
        length += len(lines[-1].encode()) + 1
    return "\n".join(lines).encode()[:size].decode(errors="ignore")
