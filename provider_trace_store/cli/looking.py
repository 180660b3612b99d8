"""The options and the connection of the commands that look at the traces of one organization."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from provider_trace_store.cli.output import reporting, say
from provider_trace_store.database.drivers import sqlstate_of
from provider_trace_store.errors import InvalidArgumentError, MaintenanceError
from provider_trace_store.maintenance.durations import parse_duration
from provider_trace_store.migrations.target import connected, database_url
from provider_trace_store.reads.filters import TraceFilters
from provider_trace_store.repository import ProviderTraceRepository
from provider_trace_store.schemas import ID_PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable

    from provider_trace_store.schemas import ProviderTrace, ProviderTraceMetadata

Tenant = Annotated[str, typer.Option("--organization", metavar="ORG", help="The organization whose traces are read.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]
Full = Annotated[bool, typer.Option("--full", help="Fold no text.")]


def moment(value: str | None) -> datetime | None:
    """Return the moment of an option: an age such as `2h`, a date, or a date with time and zone; the callback of typer.

    Args:
        value: the value of the option. A time without a zone is in UTC.
    """
    if value is None:
        return None
    if re.fullmatch(r"\s*[0-9]+[dhms]\s*", value):
        try:
            return datetime.now(UTC) - parse_duration(value)
        except InvalidArgumentError as error:
            raise typer.BadParameter(error.reason) from None
    try:
        found = datetime.fromisoformat(value.strip())
    except ValueError:
        raise typer.BadParameter("must be an age such as 2h or 7d, or a date such as 2026-05-01T10:00Z") from None
    return found if found.utcoffset() is not None else found.replace(tzinfo=UTC)


def checked_moment(value: str | None) -> str | None:
    """Return the value of an option if `moment` reads it; the callback of `typer.Option`."""
    moment(value)
    return value


Since = Annotated[
    str | None,
    typer.Option(callback=checked_moment, metavar="TIME", help="Only traces since then: 2h, 7d, 2026-05-01."),
]
Until = Annotated[
    str | None, typer.Option(callback=checked_moment, metavar="TIME", help="Only traces before: 2h, 7d, 2026-05-01.")
]
Run = Annotated[str | None, typer.Option("--run", metavar="ID", help="Only traces of this run.")]
Step = Annotated[str | None, typer.Option("--step", metavar="ID", help="Only traces of this step.")]
Agent = Annotated[str | None, typer.Option("--agent", metavar="ID", help="Only traces of this agent.")]
Tag = Annotated[str | None, typer.Option("--tag", metavar="TAG", help="Only traces whose agent has this tag.")]
CallType = Annotated[str | None, typer.Option("--call-type", metavar="TYPE", help="Only traces of this type.")]
Source = Annotated[str | None, typer.Option("--source", metavar="NAME", help="Only traces of this service.")]
User = Annotated[str | None, typer.Option("--user", metavar="ID", help="Only traces of this user.")]


def filters_of(
    *,
    since: str | None = None,
    until: str | None = None,
    run: str | None = None,
    step: str | None = None,
    agent: str | None = None,
    tag: str | None = None,
    call_type: str | None = None,
    source: str | None = None,
    user: str | None = None,
) -> TraceFilters:
    """Return the filters of a read; the arguments are the values of the options."""
    return TraceFilters(
        since=moment(since),
        until=moment(until),
        run_id=run,
        step_id=step,
        agent_id=agent,
        agent_tag=tag,
        call_type=call_type,
        source=source,
        user_id=user,
    )


def look(
    url: str | None, schema: str | None, organization: str, action: Callable[[ProviderTraceRepository, Session], None]
) -> None:
    """Read the traces of an organization; exit with status 1 after an error, 130 after Ctrl-C.

    Args:
        url: the value of `--url`.
        schema: the value of `--schema`.
        organization: the value of `--organization`.
        action: reads and prints.
    """

    def run() -> None:
        with connected(database_url(url)) as connection:
            translated = {"schema_translate_map": {None: schema}} if schema else {}
            problem = None
            with Session(connection.execution_options(**translated)) as session:
                try:
                    action(ProviderTraceRepository(session, organization_id=organization), session)
                except SQLAlchemyError as error:
                    problem = _reason(error)
            if problem:
                raise MaintenanceError(problem)

    reporting(run)


def trace_of(repository: ProviderTraceRepository, trace_id: str) -> ProviderTrace:
    """Return a whole trace.

    Args:
        repository: reads the organization.
        trace_id: the id, with or without its prefix.

    Raises:
        MaintenanceError: there is no such trace, or only its metadata was stored.
    """
    full_id = trace_id if trace_id.startswith(ID_PREFIX) else f"{ID_PREFIX}{trace_id}"
    if (trace := repository.get(full_id)) is not None:
        return trace
    if repository.get_metadata(full_id) is not None:
        raise MaintenanceError("the trace was stored as metadata, without its bodies: `list --json` shows its fields")
    raise MaintenanceError("this organization has no such trace: see --organization, and `list` for the ids")


def say_json(value: object) -> None:
    """Print a value as JSON on one line, in ASCII: every output can encode it, and no terminal acts on it."""
    say(json.dumps(value))


def fields_of(item: ProviderTraceMetadata) -> dict[str, Any]:
    """Return the metadata of a trace for `--json`: its JSON form, and where the trace is stored."""
    return {**item.model_dump(mode="json"), "stored_as": item.stored_as}


def time_of(value: datetime, *, with_day: bool = True) -> str:
    """Return a moment in UTC, to the second."""
    return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S" if with_day else "%H:%M:%S")


def _reason(error: SQLAlchemyError) -> str:
    """Return why a read failed, without the driver's text, which may hold content."""
    state = sqlstate_of(error)
    kind = type(getattr(error, "orig", None) or error).__name__
    code = f"SQLSTATE {state}" if state else kind
    return (
        f"the traces could not be read ({code}): see that `provider-trace-store migrate current` says head, that the "
        "role may read the tables, and that the server runs"
    )
