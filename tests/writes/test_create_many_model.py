"""`create_many` against a plain model of its rules: random batches with duplicates, conflicts and refused rows."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import NullPool, create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from provider_trace_store import (
    AsyncProviderTraceRepository,
    BulkResult,
    ProviderTrace,
    ProviderTraceConflictError,
    ProviderTraceRejectedError,
    ProviderTraceRepository,
    TraceEncodingError,
    TraceTooLargeError,
)
from provider_trace_store.writes import chunks
from tests.support.batches import POISON, both_modes, refuse_poison
from tests.support.constants import MOMENT, ORG, TABLES
from tests.support.examples import examples
from tests.support.traces import a_trace, trace_id

if TYPE_CHECKING:
    import pytest

    from tests.support.servers import Database


LIMIT: Final = 500  # bytes of a body
IDS: Final = 8
OF_ANOTHER: Final = 6  # its id is taken by another organization
DELETED: Final = 7  # its id is taken by a deleted row

# What a trace may be, by name: how it differs from the plain one of its id.
VARIANTS: Final[dict[str, dict[str, Any]]] = {
    "plain": {},
    "other run": {"run_id": "other"},
    "other date": {"created_at": MOMENT - timedelta(days=1)},
    "other body": {"response_json": {"text": "other", "nan": float("nan"), "odd": "\\N\t\0\ud800"}},
    "other writer": {"created_by_id": "other", "last_updated_by_id": "other", "updated_at": MOMENT},
    "poison": POISON,
    "encoding": {},
    "too large": {"request_json": {"text": "x" * LIMIT}},
}
_BODIES: Final = ("request_json", "response_json")


@dataclass(frozen=True)
class Item:
    """One trace of a batch."""

    number: int
    variant: str

    @property
    def trace(self) -> ProviderTrace:
        """The trace."""
        trace = a_trace(self.number, **VARIANTS[self.variant])
        return trace.model_copy(update={"source": "\0"}) if self.variant == "encoding" else trace

    def content(self, *, metadata_only: bool) -> str:
        """What makes it the same call again: which fields differ from the plain trace, of those that count."""
        ignored = {"created_by_id", "last_updated_by_id", "updated_at", *(_BODIES if metadata_only else ())}
        return repr({name: value for name, value in VARIANTS[self.variant].items() if name not in ignored})


@dataclass(frozen=True)
class Call:
    """One call, and what the host does before and after it."""

    items: tuple[Item, ...]
    rows: int
    size: int
    generator: bool
    end: str


@dataclass
class Model:
    """The rules, one trace after the other, as `create` has them."""

    metadata_only: bool
    stored: dict[int, str] = field(default_factory=lambda: {OF_ANOTHER: "of another", DELETED: "deleted"})
    created: int = 0
    unchanged: int = 0
    rejected: Counter[tuple[str, type]] = field(default_factory=Counter)

    def give(self, item: Item) -> None:
        """Give one trace to the model."""
        if error := self._refusal(item):
            self.rejected[trace_id(item.number), error] += 1
        elif item.number in self.stored:
            self.unchanged += 1
        else:
            self.stored[item.number] = item.content(metadata_only=self.metadata_only)
            self.created += 1

    def _refusal(self, item: Item) -> type | None:
        if item.variant == "encoding":
            return TraceEncodingError
        if item.variant == "too large" and not self.metadata_only:
            return TraceTooLargeError
        if item.number in self.stored:
            same = self.stored[item.number] == item.content(metadata_only=self.metadata_only)
            return None if same else ProviderTraceConflictError
        return ProviderTraceRejectedError if item.variant == "poison" else None


items = st.builds(
    Item,
    st.integers(0, IDS - 1),
    # Plain ones and poison are what decides how a batch is taken apart.
    st.sampled_from([*VARIANTS, "plain", "plain", "plain", "plain", "poison"]),
)
calls = st.builds(
    Call,
    st.lists(items, max_size=14).map(tuple),
    st.integers(1, 6),
    st.sampled_from([1, 700, 4 * 2**20]),
    st.booleans(),
    st.sampled_from(["commit", "rollback", "go on"]),
)
histories = st.lists(calls, min_size=1, max_size=4)
always = settings(deadline=None, suppress_health_check=list(HealthCheck))


def prepare(session: Session, *, metadata_only: bool) -> None:
    """Empty the tables but for the rows under which ids are taken."""
    for table in TABLES.values():
        session.execute(text(f"DELETE FROM {table}"))  # noqa: S608  (our own names)
    table = TABLES[metadata_only]
    ProviderTraceRepository(session, organization_id="org-other", metadata_only=metadata_only).create(
        a_trace(OF_ANOTHER)
    )
    ProviderTraceRepository(session, organization_id=ORG, metadata_only=metadata_only).create(a_trace(DELETED))
    session.execute(text(f"UPDATE {table} SET is_deleted = true WHERE id = :id"), {"id": trace_id(DELETED)})  # noqa: S608  (our own names)
    session.commit()


def given_as(call: Call) -> Any:
    traces = [item.trace for item in call.items]
    return iter(traces) if call.generator else traces


def play(call: Call, model: Model, result: BulkResult) -> None:
    """Give the model the same call, and compare what both say."""
    model.created = model.unchanged = 0
    model.rejected = Counter()
    for item in call.items:
        model.give(item)
    assert (result.created, result.unchanged) == (model.created, model.unchanged)
    assert Counter((item.trace_id, type(item.error)) for item in result.rejected) == model.rejected
    assert result.created + result.unchanged + len(result.rejected) == len(call.items)


def assert_rows_equal(session: Session, model: Model) -> None:
    """Compare every row of the table with the model."""
    repository = ProviderTraceRepository(session, organization_id=ORG, metadata_only=model.metadata_only)
    numbers = session.scalars(text(f"SELECT id FROM {TABLES[model.metadata_only]}")).all()  # noqa: S608  (our own names)
    assert sorted(numbers) == sorted(map(trace_id, model.stored))
    for number, content in model.stored.items():
        variants = [
            name
            for name in VARIANTS
            if name != "encoding" and Item(number, name).content(metadata_only=model.metadata_only) == content
        ]
        for name in variants:
            again = repository.create_many([Item(number, name).trace])
            assert (again.created, again.unchanged) == (0, 1)


@both_modes
def test_any_calls_do_what_the_model_does(
    database: Database, metadata_only: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_poison(database)
    engine = create_engine(database.url, connect_args=database.connect_args)

    @settings(always, max_examples=examples(50))
    @given(histories)
    def check(history: list[Call]) -> None:
        with Session(engine) as session:
            prepare(session, metadata_only=metadata_only)
            model = Model(metadata_only)
            repository = ProviderTraceRepository(
                session, organization_id=ORG, metadata_only=metadata_only, max_body_bytes=LIMIT
            )
            committed = dict(model.stored)
            for call in history:
                monkeypatch.setattr(chunks, "MAX_ROWS", call.rows)
                monkeypatch.setattr(chunks, "MAX_BYTES", call.size)
                play(call, model, repository.create_many(given_as(call)))
                if call.end == "commit":
                    session.commit()
                    committed = dict(model.stored)
                elif call.end == "rollback":
                    session.rollback()
                    model.stored = dict(committed)
            assert_rows_equal(session, model)

    try:
        check()
    finally:
        engine.dispose()


@both_modes
def test_any_calls_do_what_the_model_does_asynchronously(
    database: Database, metadata_only: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_poison(database)
    engine = create_engine(database.url, connect_args=database.connect_args, poolclass=NullPool)

    async def run(history: list[Call], async_engine: Any) -> None:
        model = Model(metadata_only)
        async with AsyncSession(async_engine) as session:
            repository = AsyncProviderTraceRepository(
                session, organization_id=ORG, metadata_only=metadata_only, max_body_bytes=LIMIT
            )
            for call in history:
                monkeypatch.setattr(chunks, "MAX_ROWS", call.rows)
                monkeypatch.setattr(chunks, "MAX_BYTES", call.size)
                play(call, model, await repository.create_many(given_as(call)))
            await session.commit()
        with Session(engine) as session:
            assert_rows_equal(session, model)

    with asyncio.Runner() as runner:
        # One loop for all examples keeps the engine's connections alive.
        async_engine = create_async_engine(database.async_url, connect_args=database.connect_args)

        @settings(always, max_examples=examples(5))
        @given(histories)
        def check(history: list[Call]) -> None:
            with Session(engine) as session:
                prepare(session, metadata_only=metadata_only)
            runner.run(run(history, async_engine))

        try:
            check()
        finally:
            runner.run(async_engine.dispose())
