"""Traces to write: conversations that grow with each call, as an agent's do. A seed gives the same bodies each time."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import cycle, islice
from random import Random
from typing import Any, Final

import orjson

from provider_trace_store import ProviderTrace


def _list(text: str) -> tuple[str, ...]:
    return tuple(" ".join(item.split()) for item in text.split(";"))


TURNS: Final = 10
# Share of a trace's average size: the system prompt and the tools, which every request of a conversation repeats.
_FIXED: Final = 0.25
# Bytes besides the text: keys and ids of a turn's messages, and of a response.
_MESSAGES, _RESPONSE = 230, 480
# Line breaks, quotes and backslashes take two bytes in JSON; measured.
_ESCAPES: Final = 1.035
_SMALL: Final = 10_000
_TOOLS: Final = ("search_orders", "read_file", "run_query", "send_mail")
_MODEL: Final = "gpt-5.1-2026-09-30"
_LLM_CONFIG: Final = orjson.loads(
    f'{{"model": "{_MODEL}", "model_endpoint_type": "openai", "context_window": 128000, "max_tokens": 16384,'
    ' "temperature": 0.7, "parallel_tool_calls": false, "put_inner_thoughts_in_kwargs": false}'
)
_START: Final = datetime(2026, 11, 23, 9, tzinfo=UTC)
_SUBJECTS: Final = _list("""
    the customer’s invoice; the nightly export; our staging cluster; the retry queue; the second migration;
    the façade of the payment service; the naïve cache; the user’s “quoted” address; 東京の注文; the Zürich office;
    the background worker; the audit log; the search index; the mobile client; the rate limiter; the données brutes
""")
_VERBS: Final = _list("""
    drops; returns; blocks; rewrites; duplicates; validates; postpones; measures; renames; restores; archives;
    compares; encrypts; overlooks; schedules; summarizes
""")
_OBJECTS: Final = _list("""
    every third record; the oldest batch; a partial response; the wrong time zone; two conflicting totals;
    an expired token; the missing column; more memory than expected; the plan’s last step; a stale snapshot;
    the delivery window; an empty page; the German translation; the configuration file; a deadlock; café receipts
""")
_NAMES: Final = _list("orders; invoices; shipments; customers; sessions; payments; refunds; exports")
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
    '''def {name}_{number}(session: Session, limit: int = {number}) -> list[Row]:
    """Return the newest rows of {name}."""
    statement = select({name}).where({name}.c.is_deleted == false()).limit(limit)
    return list(session.execute(statement))
''',
    '''class {name}Error(RuntimeError):
    """Raised when the {name} takes more than {number} seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"{name} took {{seconds}} s, more than {number} s")
''',
    """if (response.status === {number}) {{
    console.warn("{name} was refused", {{ attempt, "retry-after": {number} }});
    return await this.{name}(attempt + 1);
}}
""",
)
# Share of an answer's lines that are blocks of code.
_CODE_SHARE: Final = 0.15


@dataclass(frozen=True)
class Exchange:
    """The two bodies of one call, JSON in UTF-8, and the numbers of its conversation and of its turn, from 0."""

    request: bytes
    response: bytes
    conversation: int
    turn: int


def exchanges(size: int, count: int, *, seed: int = 1) -> list[Exchange]:
    """Return the calls of whole conversations: the first of each, then the second of each; at least `count` calls.

    Both bodies of a call have `size` bytes on average, from 5,000.
    """
    conversations = [_conversation(size, number, Random(f"{seed}/{number}")) for number in range(-(-count // TURNS))]
    return [turn for turns in zip(*conversations, strict=True) for turn in turns]


def parsed(exchanges: Iterable[Exchange]) -> list[dict[str, Any]]:
    """Return the arguments of a trace for each call; no two calls share a document, as with a real client."""
    return [_arguments(exchange) for exchange in exchanges]


def repeated(calls: Sequence[dict[str, Any]], count: int) -> Iterator[ProviderTrace]:
    """Yield so many traces with new ids; `calls`, the result of `parsed`, are repeated if they are fewer."""
    for number, arguments in enumerate(islice(cycle(calls), count)):
        yield ProviderTrace(**arguments, created_at=_START + timedelta(microseconds=1_237 * number))


def _arguments(exchange: Exchange) -> dict[str, Any]:
    conversation = f"{exchange.conversation:08x}-5c1d-4f3e-9a52-0f6e7d8c9b0a"
    documents = {"request_json": orjson.loads(exchange.request), "response_json": orjson.loads(exchange.response)}
    ids = {"step_id": f"step-{conversation}-{exchange.turn}", "agent_id": f"agent-{conversation}"}
    ids |= {"run_id": f"run-{conversation}", "user_id": f"user-{exchange.conversation % 100}"}
    fixed = {"agent_tags": ["support", "tier:2"], "call_type": "agent_step", "source": "backend"}
    return {**documents, **ids, **fixed, "org_id": "org-5f0c2c1e-benchmark", "llm_config": dict(_LLM_CONFIG)}


def _conversation(size: int, number: int, random: Random) -> Iterator[Exchange]:
    """Yield the calls of one conversation: each request repeats all messages before it and adds the new ones."""
    fixed = int(size * _FIXED)
    # The average call stands in the middle of the conversation: half of the turns lie behind it.
    step = (size - fixed - _RESPONSE) / ((TURNS + 1) / 2)
    text = (step - _MESSAGES) / _ESCAPES
    tools = [_tool(random, name) for name in (_TOOLS if size > _SMALL else _TOOLS[:1])]
    prompt = _answer(random, max(1, fixed - len(orjson.dumps(tools)) - 150))
    messages: list[dict[str, Any]] = [{"role": "system", "content": prompt}]
    # A call adds a request's message and the reply to it.
    given, written = int(text * 0.55), int(text * 0.45)
    for turn in range(TURNS):
        if turn:
            call = messages[-1]["tool_calls"][0]["id"]
            messages.append({"role": "tool", "tool_call_id": call, "content": _tool_output(random, given)})
        else:
            messages.append({"role": "user", "content": _answer(random, given)})
        request = {"model": _MODEL, "messages": messages, "tools": tools, "temperature": 0.7, "stream": False}
        reply = _reply(random, written)
        body = orjson.dumps(request)
        yield Exchange(body, orjson.dumps(_response(random, reply, len(body))), number, turn)
        messages.append(reply)


def _tool(random: Random, name: str) -> dict[str, Any]:
    properties = {key: {"type": "string", "description": _sentence(random)} for key in ("query", "page")}
    parameters = {"type": "object", "properties": properties, "required": ["query"]}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def _reply(random: Random, size: int) -> dict[str, Any]:
    arguments = orjson.dumps({"query": _sentence(random), "page": random.randrange(9)}).decode()
    function = {"name": random.choice(_TOOLS), "arguments": arguments}
    content = _answer(random, max(1, size - len(arguments)))
    call = {"id": f"call_{random.randbytes(12).hex()}", "type": "function", "function": function}
    return {"role": "assistant", "content": content, "tool_calls": [call]}


def _response(random: Random, reply: dict[str, Any], request_size: int) -> dict[str, Any]:
    prompt, completion = request_size // 4, len(reply["content"]) // 4
    usage: dict[str, Any] = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }
    usage["prompt_tokens_details"] = {"cached_tokens": prompt // 2, "audio_tokens": 0}
    head = {"id": f"chatcmpl-{random.randbytes(14).hex()}", "object": "chat.completion"}
    choice = {"index": 0, "message": reply, "logprobs": None, "finish_reason": "tool_calls"}
    told = {"created": int(_START.timestamp()), "model": _MODEL, "choices": [choice], "usage": usage}
    return {**head, **told, "service_tier": "default", "system_fingerprint": "fp_9b0a5c1d4f"}


def _sentence(random: Random) -> str:
    return random.choice(_SENTENCES).format(
        subject=random.choice(_SUBJECTS),
        verb=random.choice(_VERBS),
        object=random.choice(_OBJECTS),
        number=random.randrange(2, 500),
    )


def _answer(random: Random, size: int) -> str:
    return _filled(size, lambda: _code(random) if random.random() < _CODE_SHARE else _sentence(random))


def _tool_output(random: Random, size: int) -> str:
    line = random.choice((_log_line, _table_row))
    return _filled(size, lambda: line(random))


def _code(random: Random) -> str:
    return f"```\n{random.choice(_CODE).format(name=random.choice(_NAMES), number=random.randrange(2, 500))}```"


def _log_line(random: Random) -> str:
    return (
        f"2026-11-{random.randrange(1, 29):02}T10:{random.randrange(60):02}:{random.randrange(60):02}.000Z\tINFO\t"
        f'{random.randbytes(8).hex()}\t"{random.choice(_NAMES)}" done in {random.randrange(900)} ms'
    )


def _table_row(random: Random) -> str:
    return (
        f'{{"id": "{random.randbytes(8).hex()}", "name": "{random.choice(_NAMES)}", "status": "open", '
        f'"total": {random.randrange(100_000) / 100}, "owner": "{random.choice(_SUBJECTS)}"}}'
    )


def _filled(size: int, line: Callable[[], str]) -> str:
    lines: list[str] = []
    length = 0
    while length < size:
        lines.append(line())
        length += len(lines[-1].encode()) + 1
    return "\n".join(lines).encode()[:size].decode(errors="ignore")
