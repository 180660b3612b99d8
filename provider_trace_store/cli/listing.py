"""`provider-trace-store list`, `runs` and `tail`: traces by their metadata."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from provider_trace_store.cli.looking import (
    Agent,
    CallType,
    Json,
    Run,
    Since,
    Source,
    Step,
    Tag,
    Tenant,
    Until,
    User,
    fields_of,
    filters_of,
    look,
    say_json,
    time_of,
)
from provider_trace_store.cli.migrate import Schema, Url  # noqa: TC001  (typer reads the annotations)
from provider_trace_store.cli.table import Column, Table
from provider_trace_store.cli.terminal import Screen, one_line
from provider_trace_store.codec import encode_utf8
from provider_trace_store.schemas import ID_PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.orm import Session

    from provider_trace_store.reads.filters import TraceFilters
    from provider_trace_store.repository import ProviderTraceRepository
    from provider_trace_store.schemas import ProviderTraceMetadata

Limit = Annotated[int, typer.Option("--limit", "-n", min=1, max=1_000_000, help="The most traces to list.")]
Runs = Annotated[int, typer.Option("--limit", "-n", min=1, max=1_000, help="The number of runs.")]
Scan = Annotated[int, typer.Option(min=1, help="The most traces to walk through in search of runs.")]
Sizes = Annotated[bool, typer.Option("--sizes", help="Also read the bodies of the runs, and show their sizes.")]
Interval = Annotated[float, typer.Option(min=0.1, max=3600, metavar="SECONDS", help="The time between two looks.")]
Lines = Annotated[int, typer.Option("--lines", min=0, max=1_000, help="The newest traces to show at the start.")]
Once = Annotated[bool, typer.Option("--once", help="Show the newest traces, and end.")]
# A trace is dated by its client and stored later: `tail` looks so far back for traces with an earlier date.
_LATE: Final = timedelta(seconds=60)
_MB: Final = 1_000_000
_COLUMNS: Final = (
    Column("TIME (UTC)", 19, 19),
    Column("TRACE", 36, 60),
    Column("CALL TYPE", 10, 16),
    Column("AGENT", 10, 24),
    Column("RUN", 10, 24),
    Column("STEP", 8, 20),
    Column("SOURCE", 10, 20),
    Column("STORED", 8, 8),
)


def list_traces(
    *,
    organization: Tenant,
    since: Since = None,
    until: Until = None,
    run: Run = None,
    step: Step = None,
    agent: Agent = None,
    tag: Tag = None,
    call_type: CallType = None,
    source: Source = None,
    user: User = None,
    limit: Limit = 50,
    as_json: Json = False,
    url: Url = None,
    schema: Schema = None,
) -> None:
    """List traces, newest first. STORED is `full` or `packed` (with bodies), or `metadata` (without).

    Example: provider-trace-store list --organization org-1 --since 2h --call-type agent_step
    """
    filters = filters_of(
        since=since,
        until=until,
        run=run,
        step=step,
        agent=agent,
        tag=tag,
        call_type=call_type,
        source=source,
        user=user,
    )

    def action(repository: ProviderTraceRepository, _session: Session) -> None:
        found = repository.iter_metadata(**filters)
        if as_json:
            for item in islice(found, limit):
                say_json(fields_of(item))
            return
        items = list(islice(found, limit + 1))
        screen = Screen()
        Table(screen, _COLUMNS).show([_cells(item) for item in items[:limit]])
        if not items:
            screen.line("no trace of this organization meets the filters")
        elif len(items) > limit:
            screen.line(f"and more: --limit is {limit:,}", "quiet")
        screen.close()

    look(url, schema, organization, action)


def tail(
    *,
    organization: Tenant,
    run: Run = None,
    agent: Agent = None,
    tag: Tag = None,
    call_type: CallType = None,
    source: Source = None,
    user: User = None,
    lines: Lines = 10,
    interval: Interval = 2.0,
    once: Once = False,
    as_json: Json = False,
    url: Url = None,
    schema: Schema = None,
) -> None:
    """Show new traces as they come, until Ctrl-C. A trace whose date is over a minute before the newest is left out.

    Example: provider-trace-store tail --organization org-1 --call-type agent_step
    """
    filters = filters_of(run=run, agent=agent, tag=tag, call_type=call_type, source=source, user=user)

    def action(repository: ProviderTraceRepository, session: Session) -> None:
        table = Table(Screen(), _COLUMNS)
        start = repository.list_metadata(limit=max(lines, 1), **filters).items
        _print(table, list(reversed(start[:lines])), as_json=as_json)
        seen = {item.id for item in start}
        # Traces of the minute before the newest that were not among the lines are old ones.
        newest = max((item.created_at for item in start), default=datetime.now(UTC) - _LATE)
        seen |= {item.id for item in repository.iter_metadata(**_since(filters, newest - _LATE))}
        session.rollback()
        while not once:
            time.sleep(interval)
            recent = list(repository.iter_metadata(order="oldest", **_since(filters, newest - _LATE)))
            session.rollback()  # no transaction stays open between two looks
            _print(table, [item for item in recent if item.id not in seen], as_json=as_json)
            newest = max((item.created_at for item in recent), default=newest)
            seen = {item.id for item in recent}

    look(url, schema, organization, action)


def runs(
    *,
    organization: Tenant,
    since: Since = None,
    until: Until = None,
    agent: Agent = None,
    limit: Runs = 20,
    scan: Scan = 20_000,
    sizes: Sizes = False,
    as_json: Json = False,
    url: Url = None,
    schema: Schema = None,
) -> None:
    """List the runs that made the latest calls, newest first.

    The newest traces are walked until enough runs are seen; then all calls of each are counted, by the index of runs.
    CALLS, FIRST and LAST are of the whole run. BARE counts its calls that were stored without bodies.

    Example: provider-trace-store runs --organization org-1 --limit 10
    """
    filters = filters_of(since=since, until=until, agent=agent)

    def action(repository: ProviderTraceRepository, _session: Session) -> None:
        names: dict[str, None] = {}
        walked = without = 0
        for item in islice(repository.iter_metadata(**filters), scan):
            walked += 1
            without += item.run_id is None
            if item.run_id is not None:
                names.setdefault(item.run_id)
            if len(names) == limit:
                break
        found = (_summary(repository, name, has_sizes=sizes) for name in names)
        if as_json:
            for one in found:
                say_json(one.fields())
            return
        screen = Screen()
        Table(screen, _run_columns(has_sizes=sizes)).show([one.cells() for one in found])
        if not names:
            screen.line("no trace of this organization has a run" if walked else "this organization has no trace")
        if walked == scan:
            screen.line(f"among the newest {walked:,} traces; --scan looks further back", "quiet")
        if without:
            screen.line(f"{without:,} of the {walked:,} traces that were walked have no run", "quiet")
        screen.close()

    look(url, schema, organization, action)


@dataclass
class _Summary:
    run_id: str
    first: datetime
    last: datetime
    calls: int = 0
    bare: int = 0
    size: int | None = None
    agents: dict[str, None] = field(default_factory=dict)

    def cells(self) -> list[str]:
        size = [] if self.size is None else [f"{self.size / _MB:.2f} MB"]
        cells = [time_of(self.last), one_line(self.run_id), f"{self.calls:,}", time_of(self.first), f"{self.bare:,}"]
        return [*cells, *size, ", ".join(map(one_line, self.agents))]

    def fields(self) -> dict[str, Any]:
        dates = {"first": self.first.isoformat(), "last": self.last.isoformat()}
        counts = {"run_id": self.run_id, "calls": self.calls, "calls_without_bodies": self.bare}
        size = {} if self.size is None else {"body_bytes": self.size}
        return {**counts, **dates, **size, "agents": list(self.agents)}


def _run_columns(*, has_sizes: bool) -> tuple[Column, ...]:
    size = (Column("BODIES", 10, 12, is_number=True),) if has_sizes else ()
    columns = (Column("LAST (UTC)", 19, 19), Column("RUN", 24, 60), Column("CALLS", 6, 9, is_number=True))
    return (
        *columns,
        Column("FIRST (UTC)", 19, 19),
        Column("BARE", 5, 9, is_number=True),
        *size,
        Column("AGENTS", 12, 40),
    )


def _summary(repository: ProviderTraceRepository, run_id: str, *, has_sizes: bool) -> _Summary:
    one: _Summary | None = None
    for item in repository.iter_metadata(run_id=run_id):
        one = one or _Summary(run_id, item.created_at, item.created_at)
        one.first = item.created_at
        one.calls += 1
        one.bare += item.stored_as == "metadata"
        if item.agent_id is not None:
            one.agents.setdefault(item.agent_id)
    if one is None:  # the run was deleted since
        return _Summary(run_id, datetime.now(UTC), datetime.now(UTC))
    if has_sizes:
        one.size = sum(_sizes(repository, run_id))
    return one


def _sizes(repository: ProviderTraceRepository, run_id: str) -> Iterator[int]:
    cursor = None
    while True:
        page = repository.list_by_run_id(run_id, limit=20, cursor=cursor)
        for trace in page.items:
            yield sum(len(encode_utf8(body)) for body in (trace.request_json, trace.response_json))
        if (cursor := page.next_cursor) is None:
            return


def _print(table: Table, items: list[ProviderTraceMetadata], *, as_json: bool) -> None:
    if as_json:
        for item in items:
            say_json(fields_of(item))
    elif items:
        table.show([_cells(item) for item in items])
        table.screen.flush()


def _cells(item: ProviderTraceMetadata) -> list[str]:
    names = (item.call_type, item.agent_id, item.run_id, item.step_id, item.source, item.stored_as)
    shown = [one_line(name or "") for name in names]
    return [time_of(item.created_at), one_line(item.id.removeprefix(ID_PREFIX)), *shown]


def _since(filters: TraceFilters, earliest: datetime) -> TraceFilters:
    changed = filters.copy()
    changed["since"] = earliest
    return changed
