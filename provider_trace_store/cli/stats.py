"""`provider-trace-store stats`: how many traces, by day, call type and source."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from provider_trace_store.cli.looking import (
    Agent,
    CallType,
    Run,
    Since,
    Source,
    Tag,
    Tenant,
    Until,
    filters_of,
    look,
    say_json,
)
from provider_trace_store.cli.migrate import Schema, Url  # noqa: TC001  (typer reads the annotations)
from provider_trace_store.cli.progress import Json  # noqa: TC001  (typer reads the annotations)
from provider_trace_store.cli.terminal import Screen, one_line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.orm import Session

    from provider_trace_store.reads.page_statements import CountField
    from provider_trace_store.repository import ProviderTraceRepository

All = Annotated[bool, typer.Option("--all", help="Show all values of a field, not only the 15 most frequent.")]
_FIELDS: Final[tuple[tuple[CountField, str], ...]] = (
    ("call_type", "call type"),
    ("source", "source"),
    ("agent_id", "agent"),
)
_MOST: Final = 15
_LABEL: Final = 32


def stats(
    *,
    organization: Tenant,
    since: Since = "30d",
    until: Until = None,
    run: Run = None,
    agent: Agent = None,
    tag: Tag = None,
    call_type: CallType = None,
    source: Source = None,
    show_all: All = False,
    as_json: Json = False,
    url: Url = None,
    schema: Schema = None,
) -> None:
    """Count traces by day (UTC), call type, source and agent. It reads the metadata of all that it counts.

    Example: provider-trace-store stats --organization org-1 --since 7d
    """
    filters = filters_of(since=since, until=until, run=run, agent=agent, tag=tag, call_type=call_type, source=source)

    def action(repository: ProviderTraceRepository, _session: Session) -> None:
        days = {day.isoformat(): count for day, count in repository.count_by_day(**filters).items()}
        counts = {name: repository.count_by(name, **filters) for name, _ in _FIELDS}
        if as_json:
            listed = {
                name: [{"value": value, "traces": count} for value, count in found.items()]
                for name, found in counts.items()
            }
            report: dict[str, Any] = {"traces": sum(days.values()), "days": days}
            say_json(report | listed)
            return
        screen = Screen()
        screen.line(f"{sum(days.values()):,} traces", "title")
        _bars(screen, "day (UTC)", days, most=len(days))
        for name, title in _FIELDS:
            found = counts[name]
            if set(found) - {None}:
                _bars(screen, title, found, most=len(found) if show_all else _MOST)
        screen.close()

    look(url, schema, organization, action)


def _bars(screen: Screen, title: str, counts: Mapping[Any, int], most: int) -> None:
    if not counts:
        return
    screen.line()
    screen.line(title, "title")
    shown = [("(none)" if name is None else one_line(name), count) for name, count in list(counts.items())[:most]]
    label = min(max(len(name) for name, _ in shown), max(screen.width // 2, 10), _LABEL)
    figures = max(len(f"{count:,}") for _, count in shown)
    space = max(screen.width - label - figures - 5, 4)
    largest = max(count for _, count in shown)
    for name, count in shown:
        bar = "█" * max(round(count / largest * space), 1)
        cut = name if len(name) <= label else f"{name[: label - 1]}…"
        screen.line(f"{cut:<{label}}  {count:>{figures},}  {bar}")
    if len(counts) > most:
        rest = sum(list(counts.values())[most:])
        screen.line(f"and {len(counts) - most:,} more values, {rest:,} traces: --all shows them", "quiet")
