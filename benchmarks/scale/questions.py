"""What is asked of the repository at each size, each time of another place that a fixed seed draws."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from random import Random
from typing import TYPE_CHECKING, Any, Final, Literal

from benchmarks import raw
from benchmarks.measure import BenchmarkError
from benchmarks.scale import population

if TYPE_CHECKING:
    from collections.abc import Callable

    import psycopg

    from provider_trace_store import ProviderTraceRepository

PAGE: Final = 100
COUNTED: Final = 5_000
_WEEK: Final = timedelta(days=7)
_MONTH: Final = timedelta(days=30)
# A page in the past lies between these parts of the period, a week or month away from its ends.
_PAST: Final = (0.1, 0.6)

Kind = Literal["page", "count"]


@dataclass(frozen=True)
class Call:
    """One call of a method.

    Args:
        organization: whose repository is called.
        method: its name.
        arguments: of the call.
        to_next: whether the page after the one of these arguments is meant.
    """

    organization: str
    method: str
    arguments: dict[str, Any]
    to_next: bool = False

    def prepared(self, repository: ProviderTraceRepository) -> Call:
        """Return the call with the cursor that it goes on from."""
        if not self.to_next:
            return self
        cursor = repository.list_metadata(**self.arguments).next_cursor
        if cursor is None:
            raise BenchmarkError("no next page")
        return Call(self.organization, self.method, self.arguments | {"cursor": cursor})

    def run(self, repository: ProviderTraceRepository) -> Any:  # noqa: ANN401  # whatever the method returns
        """Call the method."""
        return getattr(repository, self.method)(**self.arguments)


@dataclass(frozen=True)
class Question:
    """A kind of call.

    Args:
        name: short, for the picture and the document.
        title: what the table calls it.
        kind: what is promised about it: a `page` stays as fast, and sorts no more than itself.
        draw: draws a call.
        grows: whether it has to do with more rows in a larger table.
    """

    name: str
    title: str
    kind: Kind
    draw: Callable[[Drawer], Call]
    grows: bool = False


class Drawer:
    """Draws places in the table, always the same ones of the same table.

    Args:
        connection: to the table.
        rows: that it has.
        seed: of the draws.
    """

    def __init__(self, connection: psycopg.Connection, rows: int, seed: str) -> None:
        self.rows = rows
        self.random = Random(seed)
        self._connection = connection

    def moment(self, low: float = 0.0, high: float = 1.0) -> Any:  # noqa: ANN401  # datetime or what is added to it
        """Return a moment between two parts of the period."""
        return population.BEGIN + population.PERIOD * self.random.uniform(low, high)

    def small_tenant(self) -> str:
        """Return a small tenant that has a page at any size."""
        return population.organization(self.random.choice(population.SMALL_WITH_A_PAGE))

    def value(self, column: str, tenant: int, *, full: bool = False) -> str:
        """Return what a row has in a column.

        Args:
            column: its name.
            tenant: one of the large ones.
            full: whether of the table of whole traces.
        """
        table = raw.FULL.table if full else raw.METADATA.table
        busy = population.busy_agent()
        [value] = (
            self._connection.execute(
                f"SELECT {column} FROM {table} WHERE organization_id = %s AND created_at >= %s AND agent_id <> %s"  # noqa: S608  (names of our own)
                " ORDER BY organization_id, created_at, id LIMIT 1",
                (population.organization(tenant), self.moment(0.0, 0.9), busy),
            ).fetchone()
            or self._nothing()
        )
        return str(value)

    @staticmethod
    def _nothing() -> tuple[str]:
        raise BenchmarkError("the table is not filled")


def questions() -> list[Question]:
    """Return all, in the order of the table."""
    largest = population.organization(population.LARGEST)
    return [
        Question("newest-large", "newest page, largest tenant", "page", lambda _: _page(largest)),
        Question("newest-small", "newest page, a small tenant", "page", lambda draw: _page(draw.small_tenant())),
        Question("deep", "page deep in the past, by `until`", "page", lambda draw: _deep(largest, draw)),
        Question("next", "page deep in the past, by cursor", "page", lambda draw: _deep(largest, draw, to_next=True)),
        Question("deep-oldest", "the same, oldest first", "page", lambda draw: _oldest(largest, draw)),
        Question("run", "page of a run", "page", lambda draw: _of(draw, "run_id")),
        Question("step", "page of a step", "page", lambda draw: _of(draw, "step_id")),
        Question(
            "agent", "page of an agent in a week", "page", lambda draw: _of(draw, "agent_id", **_range(draw, _WEEK))
        ),
        Question(
            "agent-all",
            "newest page of an agent, without a range",
            "page",
            lambda draw: _of(draw, "agent_id"),
        ),
        Question(
            "agent-busy",
            "page of the busy agent in a week",
            "page",
            lambda draw: _page(largest, agent_id=population.busy_agent(), **_range(draw, _WEEK)),
        ),
        Question(
            "call-type",
            "page of a call type (1 of 20)",
            "page",
            lambda draw: _deep(largest, draw, call_type="summarization"),
        ),
        Question("tag", "page of a tag (1 of 30)", "page", _of_tag),
        Question("run-full", "`list_by_run_id`: 20 whole traces of 20 KB", "page", _whole),
        Question("days", f"`count_by_day`, {COUNTED:,} traces", "count", lambda draw: _count(draw, "count_by_day")),
        Question(
            "agents",
            f"`count_by('agent_id')`, {COUNTED:,} traces",
            "count",
            lambda draw: _count(draw, "count_by", field="agent_id"),
        ),
        Question(
            "days-month",
            "`count_by_day`, a month of the largest tenant",
            "count",
            lambda draw: Call(largest, "count_by_day", _range(draw, _MONTH)),
            grows=True,
        ),
        Question(
            "agents-month",
            "`count_by('agent_id')`, a month of the largest tenant",
            "count",
            lambda draw: Call(largest, "count_by", {"field": "agent_id", **_range(draw, _MONTH)}),
            grows=True,
        ),
    ]


def _page(organization: str, **filters: Any) -> Call:  # noqa: ANN401  # filters of several types
    return Call(organization, "list_metadata", {"limit": PAGE, **filters})


def _deep(organization: str, draw: Drawer, *, to_next: bool = False, **filters: str) -> Call:
    arguments = {"limit": PAGE, "until": draw.moment(0.2, 0.7), **filters}
    return Call(organization, "list_metadata", arguments, to_next)


def _oldest(organization: str, draw: Drawer) -> Call:
    return _page(organization, since=draw.moment(*_PAST), order="oldest")


def _of(draw: Drawer, column: str, **filters: Any) -> Call:  # noqa: ANN401  # filters of several types
    value = draw.value(column, population.LARGEST)
    return _page(population.organization(population.LARGEST), **{column: value}, **filters)


def _of_tag(draw: Drawer) -> Call:
    tag = population.tags(draw.random.randrange(population.TAGS))[-1]
    return _deep(population.organization(population.LARGEST), draw, agent_tag=tag)


def _whole(draw: Drawer) -> Call:
    run = draw.value("run_id", population.LARGEST, full=True)
    return Call(population.organization(population.LARGEST), "list_by_run_id", {"run_id": run, "limit": 20})


def _count(draw: Drawer, method: str, **arguments: str) -> Call:
    width = population.PERIOD * min(0.3, COUNTED / population.traces_of(population.LARGEST, draw.rows))
    return Call(population.organization(population.LARGEST), method, {**arguments, **_range(draw, width)})


def _range(draw: Drawer, width: timedelta) -> dict[str, Any]:
    since = draw.moment(*_PAST)
    return {"since": since, "until": since + width}
