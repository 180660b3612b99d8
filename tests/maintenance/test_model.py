"""Packing, unpacking and erasure against a plain model: random writes between them, and all reads after each."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from provider_trace_store import (
    ProviderTrace,
    ProviderTraceConflictError,
    ProviderTraceMetadata,
    ProviderTraceRepository,
)
from provider_trace_store.maintenance import erase, pack, unpack, verify_packs
from tests.support.examples import examples
from tests.support.spaces import shared_database

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from tests.support.servers import Database

__all__ = ["shared_database"]

MIDNIGHT: Final = datetime(2026, 3, 29, tzinfo=UTC)
NUMBERS: Final = 8
TENANTS: Final = 2
RUNS: Final = (None, "run-0", "run-1")
# An example takes about a second: all reads follow each step.
EXAMPLES: Final = examples(8)


def fields(number: int) -> dict[str, Any]:
    """Return the metadata that a trace of this number always has; some dates are equal."""
    return {
        "created_at": MIDNIGHT + timedelta(hours=12 * (number // 2 % 3)),
        "run_id": RUNS[number % 3],
        "step_id": None if number % 4 == 0 else f"step-{number % 2}",
        "agent_id": f"agent-{number % 2}",
        "source": None if number % 4 == 1 else "source",
    }


@dataclass
class Stored:
    """A row of the model: the version of its content, and whether it is deleted."""

    version: int
    is_deleted: bool = False


@dataclass
class Tenant:
    """The rows of one organization. `packed` shares no id with the two others."""

    full: dict[int, Stored] = field(default_factory=dict)
    packed: dict[int, Stored] = field(default_factory=dict)
    metadata: dict[int, Stored] = field(default_factory=dict)

    def create(self, number: int, version: int, *, metadata_only: bool) -> str:
        """Create a trace; return the outcome."""
        rows = self.metadata if metadata_only else self.full
        stored = self.packed.get(number) or rows.get(number)
        if stored is None:
            rows[number] = Stored(version)
            return "created"
        # A row of metadata does not depend on the version: only the response does.
        same = metadata_only or stored.version == version
        return "unchanged" if same and not stored.is_deleted else "conflict"

    def mark(self, number: int, *, is_deleted: bool) -> bool:
        """Delete or restore a trace; return whether a row changed."""
        rows = [rows[number] for rows in (self.full, self.packed, self.metadata) if number in rows]
        changed = [row for row in rows if row.is_deleted != is_deleted]
        for row in changed:
            row.is_deleted = is_deleted
        return bool(changed)

    def pack(self) -> int:
        """Pack all full traces, the deleted ones too; their rows of metadata are replaced."""
        packed = len(self.full)
        for number, row in self.full.items():
            self.packed[number] = row
            self.metadata.pop(number, None)
        self.full = {}
        return packed

    def unpack(self) -> int:
        """Move all packed traces back."""
        unpacked = len(self.packed)
        self.full |= self.packed
        self.packed = {}
        return unpacked

    def erase(self, numbers: list[int]) -> set[int]:
        """Remove traces; return those that existed."""
        return {
            number
            for number in numbers
            if [rows.pop(number) for rows in (self.full, self.packed, self.metadata) if number in rows]
        }

    def whole(self) -> dict[int, int]:
        """Return the versions of the visible whole traces, oldest first."""
        rows = {number: row.version for number, row in (self.full | self.packed).items() if not row.is_deleted}
        return dict(sorted(rows.items(), key=lambda item: (fields(item[0])["created_at"], item[0])))

    def visible(self) -> dict[int, str]:
        """Return where the metadata of the visible traces is, oldest first."""
        places = (("metadata", self.metadata), ("packed", self.packed), ("full", self.full))
        found = {number: place for place, rows in places for number, row in rows.items() if not row.is_deleted}
        return dict(sorted(found.items(), key=lambda item: (fields(item[0])["created_at"], item[0])))


tenants = st.integers(0, TENANTS - 1)
numbers = st.integers(0, NUMBERS - 1)
versions = st.sampled_from([0, 0, 0, 1])
sent = st.tuples(numbers, versions)
steps = st.one_of(
    st.tuples(st.just("create"), tenants, sent, st.booleans()),
    st.tuples(st.just("create_many"), tenants, st.lists(sent, min_size=1, max_size=8), st.booleans()),
    st.tuples(st.sampled_from(["delete", "restore"]), tenants, numbers),
    st.tuples(st.just("pack"), tenants),
    st.tuples(st.just("pack"), tenants),
    st.tuples(st.just("unpack"), tenants),
    st.tuples(st.just("erase"), tenants, st.lists(numbers, min_size=1, max_size=3)),
)
histories = st.lists(steps, min_size=4, max_size=10)


class Play:
    """A history, played on the repositories of two organizations and on the model.

    Args:
        engine: of a database that other examples use, too.
        session: on this engine. It is committed after each step: maintenance opens its own connections.
    """

    def __init__(self, engine: Engine, session: Session) -> None:
        self.engine = engine
        self.session = session
        self.mark = uuid4().hex[:7]
        self.tenants = [Tenant() for _ in range(TENANTS)]
        for tenant in range(TENANTS):
            self.create_many(tenant, [(number, 0) for number in range(0, NUMBERS, 2)], metadata_only=False)
        self.pack(0)

    def organization(self, tenant: int) -> str:
        return f"org-{self.mark}-{tenant}"

    def repository(self, tenant: int, *, metadata_only: bool = False) -> ProviderTraceRepository:
        return ProviderTraceRepository(
            self.session, organization_id=self.organization(tenant), metadata_only=metadata_only
        )

    def id(self, tenant: int, number: int) -> str:
        return f"provider_trace-{self.mark}{tenant}-0000-7000-8000-{number:012x}"

    def trace(self, tenant: int, number: int, version: int) -> ProviderTrace:
        messages = [f"message {place} " * 20 for place in range(number + 1)]
        return ProviderTrace(
            id=self.id(tenant, number),
            request_json={"tenant": tenant, "messages": messages},
            response_json={"version": version},
            llm_config={"number": number} if number % 2 else None,
            **fields(number),
        )

    def create(self, tenant: int, given: tuple[int, int], metadata_only: bool) -> None:
        trace = self.trace(tenant, *given)
        repository = self.repository(tenant, metadata_only=metadata_only)
        if self.tenants[tenant].create(*given, metadata_only=metadata_only) == "conflict":
            with pytest.raises(ProviderTraceConflictError):
                repository.create(trace)
        else:
            assert repository.create(trace).id == trace.id

    def create_many(self, tenant: int, given: list[tuple[int, int]], metadata_only: bool) -> None:
        expected = Counter(self.tenants[tenant].create(*each, metadata_only=metadata_only) for each in given)
        traces = [self.trace(tenant, *each) for each in given]
        result = self.repository(tenant, metadata_only=metadata_only).create_many(traces)
        assert (result.created, result.unchanged) == (expected["created"], expected["unchanged"])
        assert len(result.rejected) == expected["conflict"]

    def delete(self, tenant: int, number: int) -> None:
        changed = self.repository(tenant).delete(self.id(tenant, number))
        assert changed == self.tenants[tenant].mark(number, is_deleted=True)

    def restore(self, tenant: int, number: int) -> None:
        changed = self.repository(tenant).restore(self.id(tenant, number))
        assert changed == self.tenants[tenant].mark(number, is_deleted=False)

    def pack(self, tenant: int) -> None:
        self.session.commit()
        report = pack(
            self.engine, older_than=timedelta(0), idle=timedelta(0), organization_id=self.organization(tenant)
        )
        assert report.traces == self.tenants[tenant].pack()
        assert not any(report.skipped.values())

    def unpack(self, tenant: int) -> None:
        self.session.commit()
        report = unpack(self.engine, organization_id=self.organization(tenant))
        assert (report.traces, report.pruned) == (self.tenants[tenant].unpack(), 0)

    def erase(self, tenant: int, given: list[int]) -> None:
        self.session.commit()
        # The ids of the other organization have no effect.
        ids = [self.id(owner, number) for owner in range(TENANTS) for number in given]
        report = erase(self.engine, ids, organization_id=self.organization(tenant))
        assert set(report.erased) == {self.id(tenant, number) for number in self.tenants[tenant].erase(given)}
        assert report.damaged == ()

    def check(self, tenant: int) -> None:
        """Compare all reads of an organization with the model."""
        repository, model = self.repository(tenant), self.tenants[tenant]
        whole = [self.trace(tenant, *item) for item in model.whole().items()]
        by_id = {trace.id: trace for trace in whole}
        visible = {
            self.id(tenant, number): (ProviderTraceMetadata.from_trace(self.trace(tenant, number, 0)), place)
            for number, place in model.visible().items()
        }
        for number in range(NUMBERS):
            trace_id = self.id(tenant, number)
            assert _content(repository.get(trace_id)) == by_id.get(trace_id)
            assert _placed(repository.get_metadata(trace_id)) == visible.get(trace_id)
            assert repository.get(self.id(1 - tenant, number)) is None
            assert repository.get_metadata(self.id(1 - tenant, number)) is None
        for step_id in ("step-0", "step-1"):
            expected = [trace for trace in whole if trace.step_id == step_id]
            assert [_content(trace) for trace in repository.list_by_step_id(step_id)] == expected
            assert _content(repository.get_by_step_id(step_id)) == (expected[-1] if expected else None)
        for run_id in ("run-0", "run-1"):
            found = _walked(repository.list_by_run_id, run_id)
            assert [_content(trace) for trace in found] == [trace for trace in whole if trace.run_id == run_id]
        assert [_placed(item) for item in _walked(repository.list_metadata, order="oldest")] == [*visible.values()]
        assert [_placed(item) for item in _walked(repository.list_metadata)] == [*visible.values()][::-1]
        for name in ("source", "agent_id"):
            assert repository.count_by(name) == Counter(getattr(item, name) for item, _ in visible.values())
        assert repository.count_by_day() == Counter(item.created_at.date() for item, _ in visible.values())


def _content(trace: ProviderTrace | None) -> ProviderTrace | None:
    """Return the trace without the time of its last deletion or restoring."""
    return trace and trace.model_copy(update={"updated_at": None})


def _placed(item: ProviderTraceMetadata | None) -> tuple[ProviderTraceMetadata, str | None] | None:
    return None if item is None else (item.model_copy(update={"updated_at": None}), item.stored_as)


def _walked(a_page: Any, *arguments: Any, **options: Any) -> list[Any]:
    """Return the items of all pages of two."""
    found: list[Any] = []
    cursor = None
    while True:
        page = a_page(*arguments, limit=2, cursor=cursor, **options)
        found += page.items
        cursor = page.next_cursor
        if cursor is None:
            return found


def test_any_history_with_packs_reads_as_the_model(database: Database) -> None:
    engine = create_engine(database.url, connect_args=database.connect_args)

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(histories)
    def check(history: list[tuple[Any, ...]]) -> None:
        with Session(engine) as session:
            play = Play(engine, session)
            for name, tenant, *arguments in history:
                getattr(play, name)(tenant, *arguments)
                play.check(tenant)
                session.commit()
            for tenant in range(TENANTS):
                play.check(tenant)

    try:
        check()
        assert not verify_packs(engine).problems
    finally:
        engine.dispose()
