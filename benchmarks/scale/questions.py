"""The reads that are measured at each size; a fixed seed draws other arguments for each call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from random import Random
from typing import Any, Final, Literal, NamedTuple

from sqlalchemy import text
from sqlalchemy.orm import Session

from benchmarks.data import rows as layouts
from benchmarks.scale import tables
from provider_trace_store import ProviderTraceRepository

PAGE: Final = 100
_COUNTED: Final = 5_000
_WEEK: Final = timedelta(days=7)
_MONTH: Final = timedelta(days=30)
# Ranges begin between these parts of the period, so a month ends within it.
_PAST: Final = (0.1, 0.6)
_BIG: Final = tables.organization(tables.LARGEST)


class Call(NamedTuple):
    """One call of a method of an organization's repository."""

    organization: str
    method: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Question:
    """A kind of call."""

    name: str
    title: str
    draw: Callable[[Drawer], Call]
    kind: Literal["page", "count"] = "page"  # the limits are those of a page
    grows: bool = False  # whether the number of rows that it reads grows with the table


@dataclass(frozen=True)
class Drawer:
    """Draws values from a table of a number of rows: with the same seed, the same ones."""

    session: Session
    rows: int
    random: Random

    def moment(self, low: float = 0.0, high: float = 1.0) -> Any:
        """Return a time between two parts of the period."""
        return tables.BEGIN + tables.PERIOD * self.random.uniform(low, high)

    def range(self, width: timedelta) -> dict[str, Any]:
        """Return the filters of a range of time."""
        since = self.moment(*_PAST)
        return {"since": since, "until": since + width}

    def value(self, column: str, table: str = layouts.METADATA.table) -> str:
        """Return a value of a column, from a row of the largest tenant that is not the busy agent's."""
        found = self.session.execute(
            text(
                f"SELECT {column} FROM {table} WHERE organization_id = :organization AND created_at >= :moment"
                " AND agent_id <> :busy ORDER BY organization_id, created_at, id LIMIT 1"
            ),
            {"organization": _BIG, "moment": self.moment(0.0, 0.9), "busy": tables.BUSY_AGENT},
        )
        return str(found.scalar_one())


def questions() -> list[Question]:
    """Return all questions, in the order of the tables."""
    by_day, by_agent = "`count_by_day`, ", "`count_by('agent_id')`, "
    some, month = f"{_COUNTED:,} traces", "a month of the largest tenant"
    return [
        Question("newest-large", "newest page, largest tenant", lambda _: _page()),
        Question("newest-small", "newest page, a small tenant", _newest_of_small),
        Question("deep", "page deep in the past, by `until`", _deep),
        Question("next", "page deep in the past, by cursor", _next),
        Question(
            "deep-oldest", "the same, oldest first", lambda draw: _page(since=draw.moment(*_PAST), order="oldest")
        ),
        Question("run", "page of a run", lambda draw: _page(run_id=draw.value("run_id"))),
        Question("step", "page of a step", lambda draw: _page(step_id=draw.value("step_id"))),
        Question("agent", "page of an agent in a week", _of_agent_in_week),
        Question("agent-all", "newest page of an agent, without a range", _of_agent),
        Question(
            "agent-busy",
            "page of the busy agent in a week",
            lambda draw: _page(agent_id=tables.BUSY_AGENT, **draw.range(_WEEK)),
        ),
        Question("call-type", "page of a call type (1 of 20)", lambda draw: _deep(draw, call_type="summarization")),
        Question("tag", "page of a tag (1 of 30)", _of_tag),
        Question("run-full", "`list_by_run_id`: 20 whole traces of 20 KB", _whole),
        Question("days", by_day + some, lambda draw: _days(draw, _some(draw)), "count"),
        Question("agents", by_agent + some, lambda draw: _agents(draw, _some(draw)), "count"),
        Question("days-month", by_day + month, lambda draw: _days(draw, _MONTH), "count", grows=True),
        Question("agents-month", by_agent + month, lambda draw: _agents(draw, _MONTH), "count", grows=True),
    ]


def _page(organization: str = _BIG, **filters: Any) -> Call:
    return Call(organization, "list_metadata", {"limit": PAGE} | filters)


def _newest_of_small(draw: Drawer) -> Call:
    return _page(tables.organization(draw.random.choice(tables.SMALL_WITH_A_PAGE)))


def _deep(draw: Drawer, **filters: str) -> Call:
    return _page(until=draw.moment(0.2, 0.7), **filters)


def _next(draw: Drawer) -> Call:
    """Draw the page after a page deep in the past."""
    before = _deep(draw).arguments
    repository = ProviderTraceRepository(draw.session, organization_id=_BIG)
    return _page(**before, cursor=repository.list_metadata(**before).next_cursor)


def _of_agent(draw: Drawer, **filters: Any) -> Call:
    return _page(agent_id=draw.value("agent_id"), **filters)


def _of_agent_in_week(draw: Drawer) -> Call:
    return _of_agent(draw, **draw.range(_WEEK))


def _of_tag(draw: Drawer) -> Call:
    return _deep(draw, agent_tag=tables.tags(draw.random.randrange(tables.TAGS))[-1])


def _whole(draw: Drawer) -> Call:
    return Call(_BIG, "list_by_run_id", {"run_id": draw.value("run_id", layouts.FULL.table), "limit": 20})


def _some(draw: Drawer) -> timedelta:
    """Return the width of a range with about `_COUNTED` traces."""
    return tables.PERIOD * min(0.3, _COUNTED / tables.traces_of(tables.LARGEST, draw.rows))


def _days(draw: Drawer, width: timedelta) -> Call:
    return Call(_BIG, "count_by_day", draw.range(width))


def _agents(draw: Drawer, width: timedelta) -> Call:
    return Call(_BIG, "count_by", {"field": "agent_id", **draw.range(width)})
