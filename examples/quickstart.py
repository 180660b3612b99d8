"""Records a run of an agent in full and as metadata, and shows what each of the two is for.

    python examples/quickstart.py

The database is the one that PROVIDER_TRACE_STORE_DATABASE_URL names, or else the SQLite file
provider_traces.db in the current directory. Every start records a run of its own. The tables are printed
by Rich, which comes with the extra `cli`.
"""

from __future__ import annotations

import os
import sys
from base64 import b64encode
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

from rich import box
from rich.console import Console
from rich.panel import Panel
from rich.pretty import Pretty
from rich.table import Table
from sqlalchemy import ColumnElement, LargeBinary, cast, create_engine, func, make_url, select
from sqlalchemy.orm import Session

from provider_trace_store import (
    ProviderTrace,
    ProviderTraceMetadata,
    ProviderTraceMetadataRecord,
    ProviderTraceRecord,
    ProviderTraceRepository,
    StoreSettings,
    TraceWriter,
)
from provider_trace_store.migrations import upgrade

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine

ORGANIZATION = "org-quickstart"
AGENT = "agent-support"

# A pipe has no width of its own, and Rich would wrap at 80 columns.
console = Console(width=None if sys.stdout.isatty() else 100, highlight=False)


class Call(NamedTuple):
    """One call to a model provider, as the agent would make it."""

    provider: str
    call_type: str
    request: dict[str, Any]
    response: dict[str, Any]


def calls_of_the_agent() -> Iterator[Call]:
    """Yield the calls of one run: a customer sends a screenshot, and the agent answers.

    No provider is called. Between them, the bodies hold what JSON has and what it lacks.
    """
    screenshot = "data:image/png;base64," + b64encode(os.urandom(60_000)).decode()
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "You help customers of a shop."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "My order shows this. Where is it?"},
                {"type": "image_url", "image_url": {"url": screenshot}},
            ],
        },
    ]
    tool_call = {
        "id": "call-1",
        "type": "function",
        "function": {"name": "find_order", "arguments": '{"order": 4711}'},
    }
    yield Call(
        "openai",
        "agent_step",
        {"model": "gpt-4o", "messages": messages},
        {
            "choices": [
                {"message": {"role": "assistant", "tool_calls": [tool_call]}, "finish_reason": "tool_calls"},
            ],
            "usage": {"prompt_tokens": 1204, "completion_tokens": 18},
        },
    )
    # The next request repeats the conversation, as requests of agents do.
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "call-1", "content": "at customs"}]}
    yield Call(
        "anthropic",
        "agent_step",
        {"model": "claude-sonnet-4-5", "messages": [*messages, result]},
        {
            "content": [
                {"type": "thinking", "thinking": "Say so.", "signature": b64encode(os.urandom(600)).decode()},
                {"type": "text", "text": "It is at customs 📦"},
            ],
            "stop_reason": "end_turn",
        },
    )
    # A client library that returns bytes, and a probability of zero.
    yield Call(
        "gemini",
        "classification",
        {"model": "gemini-2.5-pro", "contents": [{"role": "user", "parts": [{"text": "Is the customer angry?"}]}]},
        {
            "candidates": [
                {
                    "content": {"parts": [{"text": "No", "thought_signature": os.urandom(300)}]},
                    "avg_logprobs": float("-inf"),
                }
            ]
        },
    )
    # A NUL character, and an answer that the token limit cut in the middle of an emoji.
    yield Call(
        "vllm",
        "summarization",
        {"model": "qwen3-32b", "prompt": "Summarize: \0", "logprobs": 1},
        {"choices": [{"text": "Order 4711 \0 \ud83d", "finish_reason": "length"}]},
    )


def traces_of_a_run(source: str) -> list[ProviderTrace]:
    """Return the calls of one run as traces."""
    run_id = f"run-{uuid4()}"
    return [
        ProviderTrace(
            request_json=call.request,
            response_json=call.response,
            step_id=f"{run_id}-step-{number}",
            run_id=run_id,
            agent_id=AGENT,
            agent_tags=["demo", call.provider],
            call_type=call.call_type,
            source=source,
            llm_config={"model": call.request["model"], "model_endpoint_type": call.provider},
        )
        for number, call in enumerate(calls_of_the_agent(), start=1)
    ]


def record(engine: Engine, traces: list[ProviderTrace], *, metadata_only: bool) -> None:
    """Give traces to a writer, as a backend would after each call, and wait until they are stored."""
    with TraceWriter(engine, metadata_only=metadata_only) as writer:
        for trace in traces:
            writer.submit(trace, organization_id=ORGANIZATION)
        writer.flush(timeout=30)
        table = ProviderTraceMetadataRecord if metadata_only else ProviderTraceRecord
        console.print(f"{writer.stats.stored} traces stored in {table.__tablename__}")


def show_page(repository: ProviderTraceRepository, run_id: str) -> None:
    """Print what happened in a run; no body is read for it."""
    table = Table(title="What happened in the run", title_justify="left", box=box.SIMPLE)
    for heading in ("created at (UTC)", "step", "call", "provider", "stored as"):
        table.add_column(heading, no_wrap=True)
    for item in repository.list_metadata(run_id=run_id, order="oldest", limit=20).items:
        step = (item.step_id or "").removeprefix(f"{run_id}-")
        provider = (item.agent_tags or [""])[-1]
        table.add_row(f"{item.created_at:%Y-%m-%d %H:%M:%S}", step, item.call_type, provider, item.stored_as)
    console.print(table)
    console.print("Each trace is in both tables here, to compare their sizes: a page shows it once, as full.\n")


def show_exchange(repository: ProviderTraceRepository, trace_id: str) -> None:
    """Print the request and the response of one trace, long texts cut off."""
    trace = repository.get(trace_id)
    if trace is None:
        sys.exit(f"{trace_id} is not there")
    for title, body in (("sent", trace.request_json), ("received", trace.response_json)):
        console.print(Panel(Pretty(body, max_string=60, indent_size=2), title=title, title_align="left"))
    console.print(f"[dim]{trace.id}: long texts are shortened here, and stored whole[/dim]\n")


def check(repository: ProviderTraceRepository, traces: list[ProviderTrace]) -> None:
    """Compare what is read back with what was sent."""
    for trace in traces:
        assert repository.get(trace.id) == trace  # noqa: S101  (what this example is to prove)
        assert repository.get_metadata(trace.id) == ProviderTraceMetadata.from_trace(trace)  # noqa: S101
    console.print(f"{len(traces)} of {len(traces)} traces read back equal to what was sent\n")


def stored_bytes(record: type[ProviderTraceRecord | ProviderTraceMetadataRecord], backend: str) -> ColumnElement[Any]:
    """Return the size of all values in the rows, in bytes: compressed on PostgreSQL, as stored on SQLite."""
    columns = record.__table__.columns
    if backend == "postgresql":
        sizes = (func.pg_column_size(column) for column in columns)
    else:
        sizes = (func.length(cast(column, LargeBinary)) for column in columns)
    return func.sum(sum(func.coalesce(size, 0) for size in sizes))


def show_sizes(session: Session) -> None:
    """Print the rows and bytes of this organization in both tables, and a sentence that compares them."""
    table = Table(title="Size of all runs so far, without indexes", title_justify="left", box=box.SIMPLE)
    table.add_column("table", no_wrap=True)
    for heading in ("rows", "bytes", "bytes a trace"):
        table.add_column(heading, justify="right", no_wrap=True)
    average = []
    for record_type in (ProviderTraceRecord, ProviderTraceMetadataRecord):
        size = stored_bytes(record_type, session.get_bind().dialect.name)
        statement = select(func.count(), size).where(record_type.organization_id == ORGANIZATION)
        rows, in_bytes = session.execute(statement).one()
        average.append(in_bytes / rows)
        table.add_row(record_type.__tablename__, f"{rows:,}", f"{in_bytes:,}", f"{average[-1]:,.0f}")
    console.print(table)
    whole, metadata = average
    console.print(
        f"The request and response bodies make the difference: {1 - metadata / whole:.1%} of a whole trace. Keep the "
        f"bodies for as long as you may need to see an exchange, and the metadata, {whole / metadata:,.0f} times "
        "smaller, for years."
    )


def main() -> None:
    """Migrate, record, read back, show."""
    settings = StoreSettings()
    engine = create_engine(settings.database_url)
    console.print(f"database: {make_url(settings.database_url).set(query={})!r}", markup=False)
    with engine.connect() as connection:
        upgrade(connection)

    traces = traces_of_a_run(settings.source or "quickstart")
    # A backend uses one of the two settings. Both are used here, so that the tables can be compared.
    record(engine, traces, metadata_only=False)
    record(engine, traces, metadata_only=True)

    with Session(engine) as session:
        repository = ProviderTraceRepository(session, organization_id=ORGANIZATION)
        check(repository, traces)
        show_page(repository, str(traces[0].run_id))
        show_exchange(repository, traces[0].id)
        show_sizes(session)
    engine.dispose()


if __name__ == "__main__":
    main()
