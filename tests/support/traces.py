"""The traces that the tests write. Nothing here needs pytest or hypothesis: test processes import it at little cost."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

from provider_trace_store import ProviderTrace, ProviderTraceMetadata
from tests.support.constants import MOMENT, SECRET


def trace_id(number: int) -> str:
    """Return an id; ids sort as their numbers do."""
    return f"provider_trace-{number:08x}-0000-7000-8000-000000000000"


def a_trace(number: int, **fields: Any) -> ProviderTrace:
    """Return a trace whose texts hold the secret that no error may show; two numbers give two different traces."""
    defaults: dict[str, Any] = {
        "id": trace_id(number),
        "request_json": {"model": "m-1", "messages": [{"role": "user", "content": f"{SECRET} {number}"}]},
        "response_json": {"text": SECRET, "usage": {"total_tokens": number}},
        "source": SECRET,
        "run_id": f"run-{number}",
        "created_at": MOMENT + timedelta(seconds=number),
    }
    return ProviderTrace(**(defaults | fields))


def every_field(number: int, **fields: Any) -> ProviderTrace:
    """Return a trace that has every field set."""
    defaults: dict[str, Any] = {
        "step_id": "step-1",
        "agent_id": "agent-1",
        "agent_tags": ["b", "a", "", "ü"],
        "call_type": "agent_step",
        "run_id": "run-1",
        "source": "service-1",
        "org_id": "org-of-the-protocol",
        "user_id": "user-1",
        "compaction_settings": {"mode": "sliding", "share": 0.3},
        "llm_config": {"model": "m-1", "temperature": 0.1},
        "created_by_id": "user-2",
        "last_updated_by_id": "user-3",
        "updated_at": MOMENT + timedelta(days=1),
    }
    return a_trace(number, **(defaults | fields))


def a_batch(size: int, first: int = 0) -> list[ProviderTrace]:
    """Return traces of consecutive numbers."""
    return [a_trace(number) for number in range(first, first + size)]


def the_metadata_of(trace: ProviderTrace) -> ProviderTraceMetadata:
    """Return what a read of a trace's metadata must equal."""
    return ProviderTraceMetadata(**{name: getattr(trace, name) for name in ProviderTraceMetadata.model_fields})


_ODD: Final = [
    {"text": "tab\there\nnewline\r\n\\N \\. \\t \\\\ \x7f \x1b \x0b"},
    {"nul": "\0", "lone": "\ud800", "pair": "\ud83d\ude00", "astral": "😀", "line": "\u2028", "bom": "\ufeff"},
    {"nan": float("nan"), "inf": [float("inf"), float("-inf"), -0.0, 5e-324, 1e22], "big": 2**70, "huge": 10**700},
    {"bytes": b"\xff\0\t\n\\", "tuple": (1, (2,)), "$pts:bytes": {"$pts:bytes": "AA=="}},
    {"": "", "\t": None, "\\N": "\\N", "\\.": "\\.", "\n\\.\n": [], "deep": [[[[{"a": {}}]]]]},
    {},
]
_ODD_TEXTS: Final = [
    "",
    "\\N",
    "\\.",
    "\\",
    "\t",
    "\n",
    "\r",
    "\\n",
    "a\\\tb",
    '"',
    "'",
    "é€😀",
    "NULL",
    "\\x41",
    "%s",
    "{}",
]


def odd_traces() -> list[ProviderTrace]:
    """Return traces of odd documents, texts, tags, dates and ids: what a COPY or a codec could get wrong."""
    documents = [
        a_trace(number, request_json=document, response_json=_ODD[number - 1], llm_config=document)
        for number, document in enumerate(_ODD)
    ]
    texts = [
        a_trace(
            100 + number,
            step_id=value,
            agent_id=value,
            agent_tags=[value, "", *_ODD_TEXTS],
            call_type=value,
            run_id=value,
            source=value,
            org_id=value,
            user_id=value,
            created_by_id=value or None,
            last_updated_by_id=value or None,
            updated_at=MOMENT,
        )
        for number, value in enumerate(_ODD_TEXTS)
    ]
    tags: list[list[str] | None] = [None, [], [""], ["\0", "\udfff", "\\N", "\t"]]
    tagged = [a_trace(200 + number, agent_tags=value) for number, value in enumerate(tags)]
    moments = [
        datetime(1, 1, 2, tzinfo=UTC),
        datetime(99, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        datetime(1582, 10, 10, tzinfo=UTC),
        datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        datetime(2000, 1, 1, tzinfo=UTC),
        datetime(9999, 12, 30, 23, 59, 59, 999999, tzinfo=UTC),
    ]
    dated = [a_trace(300 + number, created_at=moment, updated_at=moment) for number, moment in enumerate(moments)]
    nothing_set = [
        ProviderTrace(id=trace_id(400), request_json={}, response_json={}, created_at=MOMENT),
        a_trace(401, compaction_settings={"mode": "sliding"}, llm_config=None, updated_at=None),
    ]
    long_ids = [a_trace(500, id=trace_id(500) + "\\\t\nü" * 100), a_trace(501, id=trace_id(501) + "\\.")]
    return [*documents, *texts, *tagged, *dated, *nothing_set, *long_ids]
