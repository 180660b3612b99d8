"""Records calls to several providers in full and as metadata, reads them back, and shows what they take up.

    python examples/quickstart.py

The database is the one that PROVIDER_TRACE_STORE_DATABASE_URL names, or else the SQLite file
provider_traces.db in the current directory. Every run adds traces of its own.
"""

from __future__ import annotations

import os
from base64 import b64encode
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, LargeBinary, cast, create_engine, func, make_url, select
from sqlalchemy.orm import Session

from provider_trace_store import (
    ProviderTrace,
    ProviderTraceMetadata,
    ProviderTraceMetadataRecord,
    ProviderTraceRecord,
    ProviderTraceRepository,
    StoreSettings,
)
from provider_trace_store.migrations import upgrade

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ORGANIZATION = "org-quickstart"


def provider_calls() -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Yield provider, request and response of calls that hold what JSON has and what it lacks."""
    screenshot = "data:image/png;base64," + b64encode(os.urandom(60_000)).decode()
    yield (
        "openai",
        {
            "model": "gpt-4o",
            "messages": [
                {"role": "user", "content": "What does this screenshot show?"},
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": screenshot}}]},
            ],
        },
        {"choices": [{"message": {"role": "assistant", "content": "Noise 🌫️"}, "finish_reason": "stop"}]},
    )
    yield (
        "anthropic",
        {
            "model": "claude-sonnet-4-5",
            "messages": [{"role": "user", "content": "Is 91 prime?"}],
        },
        {
            "content": [
                {"type": "thinking", "thinking": "7 * 13 = 91", "signature": b64encode(os.urandom(600)).decode()},
                {"type": "text", "text": "No."},
            ],
            "stop_reason": "end_turn",
        },
    )
    yield (
        "gemini",
        {"model": "gemini-2.5-pro", "contents": [{"role": "user", "parts": [{"text": "Yes or no?"}]}]},
        {
            "candidates": [
                {
                    "content": {"parts": [{"text": "Yes", "thought_signature": os.urandom(300)}]},
                    "avg_logprobs": float("-inf"),
                }
            ]
        },
    )
    yield (
        "vllm",
        {"model": "qwen3-32b", "prompt": "Repeat: \0", "logprobs": 1},
        # Cut off in the middle of an emoji, as a stop at the token limit may do.
        {"choices": [{"text": "\0 \ud83d", "finish_reason": "length"}]},
    )


def make_traces(source: str) -> Iterator[ProviderTrace]:
    """Yield the calls as the traces of one agent's run."""
    for number, (provider, request, response) in enumerate(provider_calls()):
        yield ProviderTrace(
            request_json=request,
            response_json=response,
            step_id=f"step-{number}",
            agent_id="agent-quickstart",
            agent_tags=["demo", provider],
            call_type="agent_step",
            source=source,
            llm_config={"model": request["model"], "model_endpoint_type": provider},
        )


def size(record: type[ProviderTraceRecord | ProviderTraceMetadataRecord], backend: str) -> ColumnElement[Any]:
    """Return a table's bytes: on PostgreSQL what it takes up with its indexes, on SQLite the sum of its values."""
    if backend == "postgresql":
        return func.pg_total_relation_size(record.__tablename__)
    # SQLite's own view of sizes, `dbstat`, is not part of every build.
    lengths = (func.coalesce(func.length(cast(column, LargeBinary)), 0) for column in record.__table__.columns)
    return func.sum(sum(lengths))


def print_table(*rows: Sequence[object]) -> None:
    """Print rows in aligned columns; the first is the heading."""
    cells = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    cells.insert(1, ["-" * width for width in widths])
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print()


def main() -> None:
    """Migrate, record, read back, show."""
    settings = StoreSettings()
    engine = create_engine(settings.database_url)
    print(f"database: {make_url(settings.database_url).set(query={})!r}\n")
    with engine.connect() as connection:
        upgrade(connection)

    traces = list(make_traces(settings.source or "quickstart"))
    with Session(engine) as session, session.begin():
        full = ProviderTraceRepository(session, organization_id=ORGANIZATION)
        metadata = ProviderTraceRepository(session, organization_id=ORGANIZATION, metadata_only=True)
        for trace in traces:
            full.create(trace)
            metadata.create(trace)

    shown: list[Sequence[object]] = [("id", "step", "provider", "created at (UTC)", "read back")]
    with Session(engine) as session:
        repository = ProviderTraceRepository(session, organization_id=ORGANIZATION)
        for trace in traces:
            assert repository.get(trace.id) == trace  # noqa: S101  (what this example is to prove)
            assert repository.get_metadata(trace.id) == ProviderTraceMetadata.from_trace(trace)  # noqa: S101
            provider = (trace.agent_tags or [""])[-1]
            shown.append((trace.id, trace.step_id, provider, f"{trace.created_at:%Y-%m-%d %H:%M:%S}", "equal"))
        print_table(*shown)
        sizes: list[Sequence[object]] = [("table", "rows", "bytes")]
        for record in (ProviderTraceRecord, ProviderTraceMetadataRecord):
            statement = select(func.count(), size(record, engine.dialect.name)).select_from(record)
            sizes.append((record.__tablename__, *session.execute(statement).one()))
        print_table(*sizes)
    engine.dispose()


if __name__ == "__main__":
    main()
