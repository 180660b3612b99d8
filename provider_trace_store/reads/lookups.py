"""Reads of a trace, and of a step's: rows of a session as traces, for one organization."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, TypeVar

from provider_trace_store.codec import decode
from provider_trace_store.reads import statements
from provider_trace_store.schemas import STORED_AS_KEY, ProviderTrace, ProviderTraceMetadata, text_problem
from provider_trace_store.tables.ids import look_up
from provider_trace_store.tables.kinds import FULL
from provider_trace_store.tables.moments import NO_DATE, moment_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import Connection, Result, Select
    from sqlalchemy.orm import Session

_Trace = TypeVar("_Trace", ProviderTrace, ProviderTraceMetadata)

# Pydantic's own validates.
_set: Final = object.__setattr__


class Reader:
    """Reads the rows of one organization on a session of the host's.

    Args:
        session: the host's.
        organization_id: whose rows.
    """

    def __init__(self, session: Session, organization_id: str) -> None:
        self._session = session
        self.organization_id = organization_id

    @property
    def connection(self) -> Connection:
        """The session's connection to the tables."""
        return self._session.connection(bind_arguments={"mapper": FULL.record})

    @cached_property
    def dialect(self) -> str:
        """SQLAlchemy's name of the database."""
        return self.connection.dialect.name

    def execute(self, statement: Select[Any], **parameters: Any) -> Result[Any]:  # noqa: ANN401  (of each column's type)
        """Execute a read, within the organization."""
        return self.connection.execute(statement, parameters | {"organization_id": self.organization_id})

    def get(self, trace_id: str) -> ProviderTrace | None:
        """Return the whole trace of an id, or None."""
        if text_problem(trace_id):
            return None
        return next(iter(self._whole(statements.by_id(), trace_id=trace_id)), None)

    def get_by_step_id(self, step_id: str) -> ProviderTrace | None:
        """Return the newest whole trace of a step, or None."""
        if text_problem(step_id):
            return None
        return next(iter(self._whole(statements.newest_by_step_id(), step_id=step_id)), None)

    def list_by_step_id(self, step_id: str) -> list[ProviderTrace]:
        """Return the whole traces of a step, oldest first."""
        if text_problem(step_id):
            return []
        return self._whole(statements.by_step_id(), step_id=step_id)

    def get_many(self, trace_ids: Sequence[str]) -> list[ProviderTrace]:
        """Return the whole traces of some ids, in their order, without those that are gone."""
        if not trace_ids:
            return []
        lookup, parameters = look_up(trace_ids, self.dialect)
        found = {trace.id: trace for trace in self._whole(statements.by_ids(lookup), **parameters)}
        return [found[trace_id] for trace_id in trace_ids if trace_id in found]

    def get_metadata(self, trace_id: str) -> ProviderTraceMetadata | None:
        """Return the metadata of an id, of whichever table, or None."""
        if text_problem(trace_id):
            return None
        row = self.execute(statements.metadata_by_id(), trace_id=trace_id).first()
        return None if row is None else metadata_of([row])[0]

    def _whole(self, statement: Select[Any], **parameters: str) -> list[ProviderTrace]:
        traces = []
        for row in self.execute(statement, **parameters):
            values = row._asdict()
            if values["created_at"] is None:
                values["created_at"] = NO_DATE
            traces.append(_built(ProviderTrace, values, set(values)))
        return traces


def metadata_of(rows: Iterable[Sequence[Any]]) -> list[ProviderTraceMetadata]:
    """Return the metadata that rows hold.

    Args:
        rows: of `METADATA.fields` and `stored_as`, as the driver has them.
    """
    # Agents have few tags, and lists of them are decoded once.
    lists: dict[str, list[str]] = {}
    # Pydantic only ever adds to it; one for each trace would cost time and memory.
    fields = set(ProviderTraceMetadata.model_fields)
    return [
        # Name by name, which is faster than a zip.
        _built(
            ProviderTraceMetadata,
            {
                "id": trace_id,
                "step_id": step_id,
                "agent_id": agent_id,
                "agent_tags": None if agent_tags is None else _tags(agent_tags, lists),
                "call_type": call_type,
                "run_id": run_id,
                "source": source,
                "org_id": org_id,
                "user_id": user_id,
                "created_at": NO_DATE if created_at is None else moment_of(created_at),
                "created_by_id": created_by_id,
                "last_updated_by_id": last_updated_by_id,
                "updated_at": None if updated_at is None else moment_of(updated_at),
                STORED_AS_KEY: stored_as,
            },
            fields,
        )
        for (
            trace_id,
            step_id,
            agent_id,
            agent_tags,
            call_type,
            run_id,
            source,
            org_id,
            user_id,
            created_at,
            created_by_id,
            last_updated_by_id,
            updated_at,
            stored_as,
        ) in rows
    ]


def _tags(text: str, lists: dict[str, list[str]]) -> Any:  # noqa: ANN401  (another writer's may be anything)
    if text in lists:
        return lists[text].copy()
    tags = decode(text)
    if type(tags) is list and all(type(tag) is str for tag in tags):
        lists[text] = tags.copy()
    return tags


def _built(schema: type[_Trace], values: dict[str, Any], fields: set[str]) -> _Trace:
    """Return a trace of what a row holds.

    It is not validated again: rows of an adopted table may be older than today's rules and must stay readable. What
    `model_construct` does besides, for defaults and aliases, costs time for each row.

    Args:
        schema: the class.
        values: of all of its fields, in their order, and for metadata, under `STORED_AS_KEY`, what `stored_as` returns.
        fields: the names of its fields.
    """
    trace = schema.__new__(schema)
    _set(trace, "__dict__", values)
    _set(trace, "__pydantic_fields_set__", fields)
    _set(trace, "__pydantic_extra__", None)
    _set(trace, "__pydantic_private__", None)
    return trace
