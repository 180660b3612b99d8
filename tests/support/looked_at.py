"""An invented run of an agent, and the page that shows what the commands for looking at traces print of it."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from provider_trace_store import ProviderTrace

if TYPE_CHECKING:
    from collections.abc import Callable

_START: Final = datetime(2026, 5, 4, 9, 30, tzinfo=UTC)
_SYSTEM: Final = "You help customers of a bicycle shop. Look an order up before you answer."
_TOOL: Final = {
    "type": "function",
    "function": {
        "name": "find_order",
        "description": "Find an order by its number.",
        "parameters": {"type": "object", "properties": {"number": {"type": "string"}}},
    },
}
_BLOCK: Final = re.compile(r"^```console\n\$ (provider-trace-store [^\n]*)\n.*?^```$", re.MULTILINE | re.DOTALL)


def an_invented_run() -> list[ProviderTrace]:
    """Return three calls of an agent, and calls of other types on two days."""
    asked: list[dict[str, Any]] = [
        {"role": "system", "content": _SYSTEM},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Where is order 1044? The photo shows my receipt."},
                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{'QUJD' * 4000}"}},
            ],
        },
    ]
    call = {"id": "call_1", "type": "function", "function": {"name": "find_order", "arguments": '{"number": "1044"}'}}
    calls = {"role": "assistant", "content": None, "tool_calls": [call]}
    found = {"role": "tool", "tool_call_id": "call_1", "content": '{"state": "sent", "parcel": "LX-9"}'}
    answer = {"role": "assistant", "content": "Order 1044 was sent. The number of the parcel is LX-9."}
    thanks = {"role": "user", "content": "Thanks! Please write that in French."}
    french = {"role": "assistant", "content": "La commande 1044 est partie. Le colis porte le numéro LX-9."}
    run = [
        _a_call(1, asked, calls, temperature=0.2),
        _a_call(2, [*asked, calls, found], answer, temperature=0.2),
        _a_call(3, [*asked, calls, found, answer, thanks], french, temperature=0.7),
    ]
    request = {"model": "m-embed", "input": ["bell", "brake"]}
    response = {"object": "list", "data": [{"embedding": [0.5] * 8}, {"embedding": [0.25] * 8}]}
    others = [
        ProviderTrace(
            id=f"provider_trace-{number:08x}",
            request_json=request,
            response_json=response,
            call_type="embedding",
            source="search",
            created_at=_START + timedelta(hours=9 * (number - 16)),
        )
        for number in range(16, 20)
    ]
    return [*run, *others]


def _a_call(number: int, messages: list[dict[str, Any]], answer: dict[str, Any], temperature: float) -> ProviderTrace:
    end = "tool_calls" if answer.get("tool_calls") else "stop"
    return ProviderTrace(
        id=f"provider_trace-{number:08x}",
        request_json={"model": "m-large", "temperature": temperature, "tools": [_TOOL], "messages": messages},
        response_json={
            "model": "m-large-2026",
            "choices": [{"index": 0, "finish_reason": end, "message": answer}],
            "usage": {"prompt_tokens": 300 + 40 * number, "completion_tokens": 21 + number},
        },
        agent_id="agent-shop",
        run_id="run-7",
        step_id=f"step-{number}",
        call_type="agent_step",
        source="backend",
        created_at=_START + timedelta(seconds=4 * number),
    )


def filled(page: str, run: Callable[..., str]) -> str:
    """Return a page with the output of each of its commands below the command.

    Args:
        page: the page; each block of the language `console` begins with a command.
        run: runs the command with its arguments, and returns its output.
    """

    def block(found: re.Match[str]) -> str:
        _, *arguments = found[1].split()
        return f"```console\n$ {found[1]}\n{run(*arguments)}```"

    return _BLOCK.sub(block, page)
