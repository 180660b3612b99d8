"""Traces to write: conversations that grow, as agents have them. The same seed gives the same bodies."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import cycle, islice
from random import Random
from typing import TYPE_CHECKING, Any, Final

import orjson

from benchmarks import prose
from provider_trace_store import ProviderTrace

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

TURNS: Final = 10
# Of a trace's average size: the system prompt and the tools, which every request repeats from the first one on.
_FIXED: Final = 0.25
# What comes on top of the text, in bytes: keys and ids of a turn's messages, and of a response.
_MESSAGES: Final = 230
_RESPONSE: Final = 480
# Line breaks, quotes and backslashes take two bytes in JSON: a share of the text, found by measuring.
_ESCAPES: Final = 1.035
_SMALL: Final = 10_000
_TOOLS: Final = ("search_orders", "read_file", "run_query", "send_mail")
_MODEL: Final = "gpt-5.1-2026-09-30"
_LLM_CONFIG: Final = {
    "model": _MODEL,
    "model_endpoint_type": "openai",
    "context_window": 128_000,
    "max_tokens": 16_384,
    "temperature": 0.7,
    "parallel_tool_calls": False,
    "put_inner_thoughts_in_kwargs": False,
}
_START: Final = datetime(2026, 11, 23, 9, tzinfo=UTC)


@dataclass(frozen=True)
class Exchange:
    """The two bodies of one call as the wire carries them.

    Args:
        request: JSON in UTF-8.
        response: JSON in UTF-8.
        conversation: which one, from 0.
        turn: which call of it, from 0 to `TURNS - 1`.
    """

    request: bytes
    response: bytes
    conversation: int
    turn: int

    @property
    def size(self) -> int:
        """Both bodies, in bytes."""
        return len(self.request) + len(self.response)


def exchanges(size: int, count: int, *, seed: int = 1) -> list[Exchange]:
    """Return the calls of conversations that go on side by side, one turn of each after the other.

    Args:
        size: of both bodies of one call on average over whole conversations, in bytes; from 5,000.
        count: how many calls; a multiple of `TURNS`, as each conversation is whole.
        seed: of all that is random.

    Raises:
        ValueError: `count` is no multiple of `TURNS`.
    """
    if count % TURNS:
        raise ValueError(f"a conversation has {TURNS} turns, of which {count} is no multiple")
    conversations = [list(_conversation(size, number, Random(f"{seed}/{number}"))) for number in range(count // TURNS)]
    return [turn for turns in zip(*conversations, strict=True) for turn in turns]


def parsed(exchanges: Iterable[Exchange]) -> list[dict[str, Any]]:
    """Return the arguments of a trace for each call, with documents that share nothing, as a client has them."""
    return [_arguments(exchange) for exchange in exchanges]


def repeated(calls: Sequence[dict[str, Any]], count: int) -> Iterator[ProviderTrace]:
    """Yield traces with new ids.

    Args:
        calls: what `parsed` returned; they repeat where there are fewer than `count`.
        count: how many traces.
    """
    for number, arguments in enumerate(islice(cycle(calls), count)):
        yield _trace(arguments, number)


def generated(exchanges: Sequence[Exchange], count: int) -> Iterator[ProviderTrace]:
    """Yield traces with new ids, each parsed when its turn comes, as an importer reads them.

    Args:
        exchanges: they repeat where there are fewer than `count`.
        count: how many traces.
    """
    for number, exchange in enumerate(islice(cycle(exchanges), count)):
        yield _trace(_arguments(exchange), number)


def _trace(arguments: dict[str, Any], number: int) -> ProviderTrace:
    return ProviderTrace(**arguments, created_at=_START + timedelta(microseconds=1_237 * number))


def _arguments(exchange: Exchange) -> dict[str, Any]:
    conversation = f"{exchange.conversation:08x}-5c1d-4f3e-9a52-0f6e7d8c9b0a"
    return {
        "request_json": orjson.loads(exchange.request),
        "response_json": orjson.loads(exchange.response),
        "step_id": f"step-{conversation}-{exchange.turn}",
        "agent_id": f"agent-{conversation}",
        "agent_tags": ["support", "tier:2"],
        "call_type": "agent_step",
        "run_id": f"run-{conversation}",
        "source": "backend",
        "org_id": "org-5f0c2c1e-benchmark",
        "user_id": f"user-{exchange.conversation % 100}",
        "llm_config": dict(_LLM_CONFIG),
    }


def _conversation(size: int, number: int, random: Random) -> Iterator[Exchange]:
    """Yield the calls of one conversation: each request repeats all messages and adds what came since."""
    fixed = int(size * _FIXED)
    # The average call stands in the middle of the conversation: half of the turns lie behind it.
    step = (size - fixed - _RESPONSE) / ((TURNS + 1) / 2)
    text = (step - _MESSAGES) / _ESCAPES
    tools = [_tool(random, name) for name in (_TOOLS if size > _SMALL else _TOOLS[:1])]
    prompt = prose.answer(random, max(1, fixed - len(orjson.dumps(tools)) - 150))
    messages: list[dict[str, Any]] = [{"role": "system", "content": prompt}]
    # A call is its request and its response: one message of this conversation and the reply to it.
    given, written = int(text * 0.55), int(text * 0.45)
    for turn in range(TURNS):
        if turn:
            call = messages[-1]["tool_calls"][0]["id"]
            messages.append({"role": "tool", "tool_call_id": call, "content": prose.tool_output(random, given)})
        else:
            messages.append({"role": "user", "content": prose.answer(random, given)})
        request = {"model": _MODEL, "messages": messages, "tools": tools, "temperature": 0.7, "stream": False}
        reply = _reply(random, written)
        body = orjson.dumps(request)
        yield Exchange(body, orjson.dumps(_response(random, reply, len(body))), number, turn)
        messages.append(reply)


def _tool(random: Random, name: str) -> dict[str, Any]:
    properties = {key: {"type": "string", "description": prose.sentence(random)} for key in ("query", "page")}
    parameters = {"type": "object", "properties": properties, "required": ["query"]}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def _reply(random: Random, size: int) -> dict[str, Any]:
    arguments = orjson.dumps({"query": prose.sentence(random), "page": random.randrange(9)}).decode()
    call = {"name": random.choice(_TOOLS), "arguments": arguments}
    return {
        "role": "assistant",
        "content": prose.answer(random, max(1, size - len(arguments))),
        "tool_calls": [{"id": f"call_{random.randbytes(12).hex()}", "type": "function", "function": call}],
    }


def _response(random: Random, reply: dict[str, Any], request_size: int) -> dict[str, Any]:
    prompt, completion = request_size // 4, len(reply["content"]) // 4
    return {
        "id": f"chatcmpl-{random.randbytes(14).hex()}",
        "object": "chat.completion",
        "created": int(_START.timestamp()),
        "model": _MODEL,
        "choices": [{"index": 0, "message": reply, "logprobs": None, "finish_reason": "tool_calls"}],
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": prompt // 2, "audio_tokens": 0},
        },
        "service_tier": "default",
        "system_fingerprint": "fp_9b0a5c1d4f",
    }
