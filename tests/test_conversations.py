"""Bodies of further wire formats read as conversations: what they say is text, and not JSON of an unknown form."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest

from provider_trace_store.conversations import read_exchange

ASKED: Final[dict[str, Any]] = {"model": "m", "messages": [{"role": "user", "content": "question"}]}
INPUT: Final[dict[str, Any]] = {"model": "m", "input": "question"}
CONTENTS: Final[dict[str, Any]] = {"contents": [{"role": "user", "parts": [{"text": "question"}]}]}
ANSWER: Final[dict[str, Any]] = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "answer"}}]}
EVENTS: Final = 'data: {"choices": [{"index": 0, "delta": {"content": "answer"}}]}\n\ndata: [DONE]\n\n'


def lines(*events: dict[str, Any]) -> dict[str, Any]:
    return {"stream": "".join(f"{json.dumps(event)}\n" for event in events)}


def item(**fields: object) -> dict[str, Any]:
    return {"object": "response", "output": [fields]}


def candidate(**part: object) -> dict[str, Any]:
    return {"candidates": [{"content": {"role": "model", "parts": [part]}}]}


# Name, request, response, a text of the answer.
CALLS: Final[tuple[tuple[str, dict[str, Any], dict[str, Any], str], ...]] = (
    ("a proxy's wrapping", {"url": "u", "json": ASKED}, {"status_code": 200, "json": ANSWER}, "answer"),
    ("arguments of a call", {"args": [], "kwargs": ASKED}, {"response": ANSWER}, "answer"),
    ("a line of a batch", {"custom_id": "1", "body": ASKED}, {"response": {"body": ANSWER}}, "answer"),
    ("events under another name", ASKED, {"sse_text": EVENTS}, "answer"),
    ("chunks under another name", ASKED, {"pieces": [{"choices": [{"delta": {"content": "answer"}}]}]}, "answer"),
    (
        "LiteLLM, thinking only",
        ASKED,
        {"choices": [{"message": {"content": None, "thinking_blocks": [{"type": "thinking", "thinking": "answer"}]}}]},
        "answer",
    ),
    ("an SDK's exception", ASKED, {"exception": "TimeoutError: slow"}, "TimeoutError: slow"),
    ("AWS' error", ASKED, {"Error": {"Code": "ThrottlingException", "Message": "slow"}}, "slow"),
    ("tools of a server", INPUT, item(type="mcp_list_tools", tools=[{"name": "a"}, {"name": "b"}]), "a, b"),
    ("a question to the user", INPUT, item(type="mcp_approval_request", name="f", arguments='{"a": 1}'), "a: 1"),
    ("a sealed summary", INPUT, item(type="compaction", encrypted_content="abc"), "(encrypted, 3 characters)"),
    (
        "a job of a batch",
        {"requests": [{"params": ASKED}]},
        {"id": "b1", "type": "batch", "status": "new"},
        "batch b1: new",
    ),
    (
        "a result of a batch",
        ASKED,
        {"result": {"message": {"role": "assistant", "content": [{"text": "answer"}]}}},
        "answer",
    ),
    ("Gemini, code", CONTENTS, candidate(executable_code={"language": "PYTHON", "code": "1 + 1"}), "1 + 1"),
    ("Gemini, its result", CONTENTS, candidate(code_execution_result={"output": "2"}), "2"),
    ("Gemini, wrapped", {"project": "p", "request": CONTENTS}, {"response": candidate(text="answer")}, "answer"),
    (
        "Vertex, images",
        {"instances": [{"prompt": "question"}]},
        {"predictions": [{"bytesBase64Encoded": "QUJD", "mimeType": "image/png"}]},
        "image, image/png, 3 bytes",
    ),
    ("Nova, images", {"textToImageParams": {"text": "question"}}, {"images": ["QUJD"]}, "image, 3 bytes"),
    ("Stability", {"text_prompts": [{"text": "question"}]}, {"artifacts": [{"base64": "QUJD"}]}, "image, 3 bytes"),
    (
        "Converse, sealed",
        ASKED,
        {"output": {"message": {"content": [{"reasoningContent": {"redactedContent": b"abc"}}]}}},
        "(encrypted, 3 bytes)",
    ),
    ("AI21", {"prompt": "question"}, {"completions": [{"data": {"text": "answer"}}]}, "answer"),
    (
        "InvokeModel, streamed",
        {"prompt": "question"},
        {"chunks": [{"chunk": {"bytes": '{"generation": "answer"}'}}]},
        "answer",
    ),
    (
        "a guardrail",
        {"content": [{"text": {"text": "question"}}]},
        {"action": "NONE", "assessments": []},
        "guardrail: NONE",
    ),
    ("a knowledge base", {"input": {"text": "question"}}, {"output": {"text": "answer"}, "citations": []}, "answer"),
    (
        "Cohere, a call",
        {"message": "question", "tool_results": [{"call": {"name": "f"}, "outputs": [1]}]},
        {"text": "", "tool_calls": [{"name": "f", "parameters": {"a": 1}}]},
        "a: 1",
    ),
    ("Cohere, classes", {"inputs": ["question"]}, {"classifications": [{"input": "q", "prediction": "p"}]}, "q: p"),
    ("Mistral, OCR", {"document": {"document_url": "http://question"}}, {"pages": [{"markdown": "answer"}]}, "answer"),
    (
        "Mistral, a conversation",
        {"inputs": [{"type": "message.input", "role": "user", "content": "question"}]},
        {"object": "conversation.response", "outputs": [{"type": "function.call", "name": "f", "arguments": {"a": 1}}]},
        "a: 1",
    ),
    ("Ollama, generate", {"prompt": "question"}, {"response": "answer", "thinking": "Hm", "done": True}, "answer"),
    ("Ollama, pieces", {"prompt": "question"}, lines({"response": "ans"}, {"response": "wer", "done": True}), "answer"),
    (
        "Ollama, pieces of a chat",
        ASKED,
        lines({"message": {"content": "ans"}, "done": False}, {"message": {"content": "wer"}, "done": True}),
        "answer",
    ),
    ("LangChain", ASKED, {"generations": [[{"text": "answer"}]]}, "answer"),
    ("speech", INPUT, {"audio": "QUJD"}, "audio, 3 bytes"),
)


@pytest.mark.parametrize(("name", "request_json", "response_json", "answer"), CALLS, ids=[call[0] for call in CALLS])
def test_a_call_reads_as_a_conversation(
    name: str, request_json: dict[str, Any], response_json: dict[str, Any], answer: str
) -> None:
    exchange = read_exchange(request_json, response_json)
    assert exchange.is_conversation, name
    assert any("question" in part.text for message in exchange.request for part in message.parts)
    assert answer in [part.text for message in exchange.response for part in message.parts]


def test_a_document_of_unknown_form_stays_json() -> None:
    exchange = read_exchange({"url": "u"}, {"results": {"channels": []}})
    assert (exchange.form, exchange.is_conversation) == ("json", False)
    assert not read_exchange(ASKED, {"response": {"path": "/echo"}}).is_conversation
