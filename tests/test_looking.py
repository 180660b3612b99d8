"""The commands that look at traces, as an engineer runs them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import unicodedata
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from provider_trace_store import ProviderTrace, ProviderTraceRepository
from provider_trace_store.cli.conversation import show_end, show_messages, show_settings
from provider_trace_store.cli.terminal import Screen
from provider_trace_store.conversations import compare_messages, compare_settings, read_exchange
from provider_trace_store.maintenance import pack
from provider_trace_store.migrations import upgrade
from tests.support.commands import failure_of, run_module, run_on
from tests.support.constants import PATIENCE
from tests.support.looked_at import an_invented_run, filled
from tests.support.paths import ROOT
from tests.support.traces import a_trace, trace_id

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from provider_trace_store.conversations import Message
    from tests.support.servers import Database

VARIABLE: Final = "PROVIDER_TRACE_STORE_DATABASE_URL"
ORG_1: Final = ("--organization", "org-1")
HOSTILE: Final = "\x1b]0;owned\x07\x1b[2J\x9b31m\r\u202e\ud800\x00"


def store(database: Database, traces: Iterable[ProviderTrace], *, metadata_only: bool = False) -> None:
    with Session(database.engine()) as session:
        repository = ProviderTraceRepository(session, organization_id="org-1", metadata_only=metadata_only)
        repository.create_many(list(traces))
        session.commit()


def environment(**variables: str) -> dict[str, str]:
    left_out = {VARIABLE, "PYTEST_CURRENT_TEST", "NO_COLOR", "LC_ALL"}
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    return {**kept, "PYTHONPATH": str(ROOT), "COLUMNS": "80", **variables}


def store_hostile(url: str) -> None:
    engine = create_engine(url)
    with engine.begin() as connection:
        upgrade(connection)
    shown = HOSTILE.replace("\x00", "").replace("\ud800", "")
    message = {"role": HOSTILE, "content": [{"type": "text", "text": HOSTILE}, {"type": HOSTILE, HOSTILE: HOSTILE}]}
    call = {"function": {"name": HOSTILE, "arguments": json.dumps({HOSTILE: HOSTILE})}, "id": HOSTILE}
    body = {"model": HOSTILE, "messages": [message, {"role": "assistant", "tool_calls": [call]}], HOSTILE: HOSTILE}
    hostile = an_invented_run()[0].model_copy(
        update={"request_json": body, "source": shown, "call_type": shown, "step_id": shown, "agent_id": shown}
    )
    with Session(engine) as session, session.begin():
        repository = ProviderTraceRepository(session, organization_id="org-1")
        repository.create_many([hostile, *an_invented_run()[1:]])
    engine.dispose()


def url_of(database: Database) -> dict[str, str]:
    return {VARIABLE: database.url.render_as_string(hide_password=False)}


def test_the_page_shows_what_the_commands_print(database: Database) -> None:
    store(database, an_invented_run())

    def run(*arguments: str) -> str:
        done = run_module(
            "provider_trace_store", *arguments, environment=environment(), added=url_of(database), directory=ROOT
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    page = (ROOT / "docs" / "looking.md").read_text("utf-8")
    assert filled(page, run) == page
    assert pack(database.engine(), older_than=timedelta(), idle=timedelta()).traces
    assert run("run", "run-7", *ORG_1) in page


def test_json_and_raw_are_the_trace(database: Database) -> None:
    trace = a_trace(1, request_json={"text": HOSTILE, "é": b"\xff"}, response_json={"nan": float("inf")})
    store(database, [trace])
    store(database, [a_trace(2, run_id="run-1")], metadata_only=True)
    for command in (("show", trace.id), ("run", "run-1")):
        done = run_on(database, *command, *ORG_1, "--json")
        assert done.returncode == 0, done.stderr
        assert done.stdout.isascii()
        assert ProviderTrace.model_validate_json(done.stdout.splitlines()[0]).request_json == trace.request_json
    raw = json.loads(run_on(database, "show", trace.id, *ORG_1, "--raw").stdout)
    assert raw.keys() == {"request_json", "response_json"}
    listed = [json.loads(line) for line in run_on(database, "list", *ORG_1, "--json").stdout.splitlines()]
    assert [item["stored_as"] for item in listed] == ["metadata", "full"]
    assert "without bodies: 1" in run_on(database, "run", "run-1", *ORG_1).stdout
    assert "without its bodies" in failure_of(run_on(database, "show", trace_id(2), *ORG_1))
    assert "no such trace" in failure_of(run_on(database, "show", trace.id, "--organization", "org-2"))
    assert "no such run" in failure_of(run_on(database, "run", "run-1", "--organization", "org-2"))


def test_a_table_that_is_missing_is_one_line(empty_database: Database) -> None:
    for command in (("list",), ("show", "00000001"), ("stats",), ("tail", "--once")):
        assert "migrate" in failure_of(run_on(empty_database, *command, *ORG_1))


def test_tail_shows_a_new_trace_once_and_ends_with_130(database: Database) -> None:
    first, *others = an_invented_run()
    store(database, [first])
    command = [sys.executable, "-m", "provider_trace_store", "tail", *ORG_1, "--interval", "0.1", "--json"]
    with subprocess.Popen(
        command, env=environment(**url_of(database)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["id"] == first.id
        store(database, others[:2])
        assert [json.loads(process.stdout.readline())["id"] for _ in range(2)] == [one.id for one in others[:2]]
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, rest) == (130, "")
    assert "Traceback" not in errors


@pytest.mark.parametrize("variables", [{"COLUMNS": "40"}, {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}])
def test_hostile_text_and_small_terminals(tmp_path: Path, variables: dict[str, str]) -> None:
    url = f"sqlite:///{tmp_path / 'traces.db'}"
    store_hostile(url)
    for arguments in (("run", "run-7"), ("show", "00000001", "--full"), ("list",), ("stats", "--since", "2026-01-01")):
        done = run_module(
            "provider_trace_store",
            *arguments,
            *ORG_1,
            environment=environment(**variables),
            added={VARIABLE: url},
            directory=ROOT,
        )
        assert done.returncode == 0, done.stderr
        assert not [c for c in done.stdout if c != "\n" and unicodedata.category(c) in {"Cc", "Cf", "Cs"}]
        assert done.stdout.isascii() or "LC_ALL" not in variables
        assert max(map(len, done.stdout.splitlines())) <= 40 or "COLUMNS" not in variables


def test_a_reader_that_has_seen_enough_closes_the_pipe(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'traces.db'}"
    store_hostile(url)
    command = [sys.executable, "-m", "provider_trace_store", "run", "run-7", *ORG_1]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        command,
        env=environment(**{VARIABLE: url}),
        stdout=writer,
        stderr=subprocess.PIPE,
        timeout=PATIENCE,
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr.count(b"\n")) == (1, 1)


NAMES: Final = re.findall(
    r"\S+",
    """messages content role parts text type tool_calls function arguments name input output choices message
    delta index candidates contents system systemInstruction stream data id thinking reasoning summary
    toolUse toolResult response functionCall functionResponse image_url source embedding embeddings results
    error annotations citations tools usage toolConfig events body item toolSpec functionDeclarations
    inlineData reasoningContent contentBlockDelta session url contentBlockStart start requests promptFeedback
    reasoning_details images audio token json file""",
)
KINDS: Final = re.findall(
    r"\S+",
    """text tool_use tool_result thinking message image function_call function_call_output reasoning web_search_call
    user response.output_item.done response.output_text.delta content_block_delta message_start content-delta
    tool-call-delta""",
)
EVENTS: Final = ('data: {"choices":[{"delta":{"content":1,"tool_calls":[{"index":[]}]}}]}\n\n', "data: [", "[{}]", "{")
LEAVES: Final = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.binary(max_size=3),
    st.text(max_size=8),
    st.sampled_from([*KINDS, *EVENTS, HOSTILE, "data:image/png;base64,QQ=="]),
)
FIELDS: Final = st.one_of(st.sampled_from(NAMES), st.text(max_size=3))
DOCUMENTS: Final = st.dictionaries(
    FIELDS,
    st.recursive(
        LEAVES,
        lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(FIELDS, inner, max_size=4)),
        max_leaves=16,
    ),
    max_size=5,
)


def check(one: dict[str, Any], other: dict[str, Any], response: dict[str, Any]) -> None:
    """Render two calls, and see that no control character reaches the terminal and that nothing raises."""
    before, after = read_exchange(one, response), read_exchange(other, response)
    assert before.is_conversation in {True, False}
    assert sum(len(change.after) for change in compare_messages(before.request, after.request)) == len(after.request)
    compare_settings(before.settings, after.settings)
    for is_full in (False, True):
        screen = Screen(is_full=is_full, most=3)
        show_settings(screen, before.settings, is_full=is_full)
        show_messages(screen, (*before.request, *before.response))
        show_end(screen, before, is_full=is_full)
        assert not [line for line in screen.lines if any(unicodedata.category(c) in {"Cc", "Cs"} for c in line)]
        assert is_full <= (not screen.folded_texts)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(DOCUMENTS, DOCUMENTS, DOCUMENTS)
def test_any_document_is_shown(one: dict[str, Any], other: dict[str, Any], response: dict[str, Any]) -> None:
    check(one, other, response)


@pytest.mark.parametrize("key", ["content", "tools", "stream"])
def test_a_document_of_any_depth_is_shown(key: str) -> None:
    deep: Any = "end"
    for level in range(3_000):
        deep = [deep] if level % 2 else {key: deep}
    message = {"role": "user", "content": deep, "tool_calls": [{"function": {"arguments": deep}}]}
    body = {key: [deep], "messages": [message]}
    check(body, {**body, "n": 1}, {"choices": [{"message": {"content": deep}}], "usage": deep})


def said(messages: Iterable[Message]) -> list[tuple[str, str]]:
    return [(part.kind, part.text) for message in messages for part in message.parts]


def events(*chunks: dict[str, Any]) -> dict[str, Any]:
    return {"stream": "".join(f"event: x\ndata: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"}


CHAT: Final = {"messages": [{"role": "user", "content": "Hi"}]}
ITEM: Final = "response.output_item.done"
STREAMS: Final = {
    "chat": events(
        {"choices": [{"index": 0, "delta": {"reasoning_content": "Hm", "content": "Hel"}}]},
        {"choices": [{"index": 0, "delta": {"content": "lo"}, "finish_reason": "stop"}]},
        {"choices": [{"delta": {"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": '{"a"'}}]}}]},
        {"choices": [{"delta": {"tool_calls": [{"index": 0, "function": {"arguments": ": 1}"}}]}}]},
    ),
    "anthropic": events(
        {"type": "message_start", "message": {"role": "assistant", "content": []}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "Hm"}},
        {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "Hello"}},
        {"type": "content_block_start", "index": 2, "content_block": {"type": "tool_use", "name": "f", "input": {}}},
        {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": '{"a": 1}'}},
    ),
    "responses": events(
        {"type": ITEM, "item": {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm"}]}},
        {"type": ITEM, "item": {"type": "message", "content": [{"type": "output_text", "text": "Hello"}]}},
        {"type": ITEM, "item": {"type": "function_call", "name": "f", "arguments": '{"a": 1}'}},
    ),
    "gemini": events(
        {"candidates": [{"content": {"parts": [{"text": "H", "thought": True}]}}]},
        {"candidates": [{"content": {"parts": [{"text": "m", "thought": True}, {"text": "Hello"}]}}]},
        {"candidates": [{"content": {"parts": [{"functionCall": {"name": "f", "args": {"a": 1}}}]}}]},
    ),
    "converse": {
        "events": [
            {"contentBlockDelta": {"contentBlockIndex": 0, "delta": {"reasoningContent": {"text": "Hm"}}}},
            {"contentBlockDelta": {"contentBlockIndex": 1, "delta": {"text": "Hello"}}},
            {"contentBlockStart": {"contentBlockIndex": 2, "start": {"toolUse": {"name": "f", "toolUseId": "1"}}}},
            {"contentBlockDelta": {"contentBlockIndex": 2, "delta": {"toolUse": {"input": '{"a": 1}'}}}},
        ]
    },
}


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_reads_as_the_whole_response(name: str) -> None:
    expected = [("thinking", "Hm"), ("text", "Hello"), ("call", "a: 1")]
    assert said(read_exchange(CHAT, STREAMS[name]).response) == expected
