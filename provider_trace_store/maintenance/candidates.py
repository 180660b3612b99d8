"""The traces that can be packed, in groups that packs are made of; no body is read."""

from __future__ import annotations

from collections import defaultdict
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import Integer, String, bindparam, func, literal, or_, select, tuple_

from provider_trace_store.maintenance.walk import END, FIRST, organizations_of
from provider_trace_store.packs.format import PACKED_DOCUMENTS
from provider_trace_store.tables.kinds import FULL
from provider_trace_store.tables.moments import bound_first, moment_of, parameter, raw_date

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime

    from sqlalchemy import ColumnElement, Connection, Row, Select

# A window of heads takes a few MB of memory, and as long to read as a few bodies.
_WINDOW: Final = 10_000
# The runs whose heads one statement reads.
_RUNS: Final = 100
# The heads of runs that wait for their group: a run's calls can lie far behind the window.
_PENDING: Final = 20_000

_COLUMNS: Final = FULL.table.c


class Head(NamedTuple):
    """A trace without its documents.

    Args:
        trace_id: its id.
        run_id: its run; None if it has none.
        agent_id: its agent; None if it has none.
        created_at: its date.
        size: the bytes of its documents as they are stored, about; 0 on SQLite, which would have to read them.
    """

    trace_id: str
    run_id: str | None
    agent_id: str | None
    created_at: datetime
    size: int


class Group(NamedTuple):
    """Traces of one organization and agent that are packed together.

    Args:
        organization_id: the organization.
        agent_id: the agent; None for traces without one.
        runs: the traces of each run, newest first. Traces without a run, and runs of one call, are in a group for each
            day, as if they were one run.
    """

    organization_id: str
    agent_id: str | None
    runs: list[list[Head]]


class Candidates:
    """Finds the traces to pack.

    Args:
        connection: without a transaction; each statement has one of its own.
        older_than: only traces from before this moment.
        idle_since: only runs whose newest call is from before this moment.
        organization_id: only this organization; None for all.
    """

    def __init__(
        self, connection: Connection, *, older_than: datetime, idle_since: datetime, organization_id: str | None
    ) -> None:
        self._connection = connection
        self._dialect = connection.dialect.name
        self._date = raw_date(_COLUMNS.created_at, self._dialect)
        self._older_than = older_than
        self._idle_since = idle_since
        self._organization_id = organization_id
        # Runs that a later window need not look at again.
        self._done: set[str] = set()
        # The ids of traces that stay in the table, because they were changed, locked or refused.
        self.left: set[str] = set()
        # The traces without a date, or with one that is not readable.
        self.undated = 0

    def count(self) -> int:
        """Return how many traces are old enough; some of them can be of runs that go on."""
        total = 0
        for organization_id in self._organizations():
            statement = select(func.count()).where(*self._in_window())
            total += self._all(statement, {**self._bounds(), "organization_id": organization_id})[0][0]
        return total

    def groups(self) -> Iterator[Group]:
        """Yield the groups; the caller packs each before it asks for the next."""
        for organization_id in self._organizations():
            self._done.clear()
            self.undated += self._count_undated(organization_id)
            for window in self._windows(organization_id):
                yield from self._groups_of(organization_id, window)

    def _organizations(self) -> Iterator[str]:
        if self._organization_id is not None:
            yield self._organization_id
        else:
            yield from organizations_of(self._connection, FULL)

    def _windows(self, organization_id: str) -> Iterator[list[Head]]:
        dates = [self._date, _COLUMNS.id]
        first = self._heads().where(*self._in_window()).order_by(*dates).limit(_WINDOW)
        position = tuple_(parameter("after", self._dialect), bindparam("after_id", type_=String))
        later = first.where(tuple_(*dates) > position)
        values: dict[str, Any] = {**self._bounds(), "organization_id": organization_id}
        rows = self._all(first, values)
        while rows:
            yield self._readable(rows)
            if len(rows) < _WINDOW:
                return
            rows = self._all(later, {**values, "after": rows[-1].created_at, "after_id": rows[-1].id})

    def _groups_of(self, organization_id: str, window: list[Head]) -> Iterator[Group]:
        singles = [head for head in window if head.run_id is None]
        run_ids = [run_id for run_id in dict.fromkeys(head.run_id for head in window) if run_id is not None]
        run_ids = [run_id for run_id in run_ids if run_id not in self._done]
        runs: defaultdict[str | None, list[list[Head]]] = defaultdict(list)
        pending = 0
        for start in range(0, len(run_ids), _RUNS):
            for run in self._runs(organization_id, run_ids[start : start + _RUNS]):
                if len(run) == 1:
                    singles += run
                else:
                    runs[run[0].agent_id].append(run)
                    pending += len(run)
            if pending >= _PENDING:
                yield from (Group(organization_id, agent_id, each) for agent_id, each in runs.items())
                runs.clear()
                pending = 0
        yield from (Group(organization_id, agent_id, each) for agent_id, each in runs.items())
        yield from (Group(organization_id, agent_id, [day]) for agent_id, day in self._days(singles))

    def _runs(self, organization_id: str, run_ids: Sequence[str]) -> Iterator[list[Head]]:
        """Yield the calls of each run that can be packed, newest first; nothing for a run that goes on."""
        self._done.update(run_ids)
        statement = self._heads().where(
            _COLUMNS.organization_id == bindparam("organization_id"),
            _COLUMNS.run_id.in_(run_ids),
            self._date >= parameter("first", self._dialect),
            self._date < parameter("end", self._dialect),
        )
        values = {**self._bounds(), "end": bound_first(END, self._dialect), "organization_id": organization_id}
        values.pop("older_than")
        heads: defaultdict[str | None, list[Head]] = defaultdict(list)
        for head in self._readable(self._all(statement, values), is_counted=False):
            heads[head.run_id].append(head)
        for run in heads.values():
            run.sort(key=_age, reverse=True)
            if run[0].created_at >= self._idle_since:
                continue
            if old := [h for h in run if h.created_at < self._older_than and h.trace_id not in self.left]:
                yield old

    def _days(self, heads: Iterable[Head]) -> Iterator[tuple[str | None, list[Head]]]:
        """Yield single calls of an agent and a day, newest first."""
        days: defaultdict[tuple[str | None, Any], list[Head]] = defaultdict(list)
        for head in sorted(heads, key=_age, reverse=True):
            if head.created_at < self._idle_since:
                days[head.agent_id, head.created_at.date()].append(head)
        yield from ((agent_id, day) for (agent_id, _), day in days.items())

    def _readable(self, rows: Iterable[Row[Any]], *, is_counted: bool = True) -> list[Head]:
        heads = []
        for row in rows:
            try:
                heads.append(Head(row.id, row.run_id, row.agent_id, moment_of(row.created_at), row.size))
            except (ValueError, OverflowError):
                self.undated += is_counted
        return heads

    def _heads(self) -> Select[Any]:
        size: ColumnElement[int] = literal(0, Integer)
        if self._dialect == "postgresql":
            size = reduce(add, (func.coalesce(func.pg_column_size(_COLUMNS[name]), 0) for name in PACKED_DOCUMENTS))
        return select(
            _COLUMNS.id,
            _COLUMNS.run_id,
            _COLUMNS.agent_id,
            self._date.label("created_at"),
            size.label("size"),
        )

    def _in_window(self) -> tuple[ColumnElement[bool], ...]:
        return (
            _COLUMNS.organization_id == bindparam("organization_id"),
            self._date >= parameter("first", self._dialect),
            self._date < parameter("older_than", self._dialect),
        )

    def _bounds(self) -> dict[str, Any]:
        first, older_than = (bound_first(moment, self._dialect) for moment in (FIRST, self._older_than))
        return {"first": first, "older_than": older_than}

    def _count_undated(self, organization_id: str) -> int:
        statement = select(func.count()).where(
            _COLUMNS.organization_id == organization_id,
            or_(
                _COLUMNS.created_at.is_(None),
                self._date < parameter("first", self._dialect),
            ),
        )
        return int(self._all(statement, {"first": bound_first(FIRST, self._dialect)})[0][0])

    def _all(self, statement: Select[Any], values: dict[str, Any] | None = None) -> Sequence[Row[Any]]:
        with self._connection.begin():
            return self._connection.execute(statement, values or {}).all()


def _age(head: Head) -> tuple[datetime, str]:
    return head.created_at, head.trace_id
