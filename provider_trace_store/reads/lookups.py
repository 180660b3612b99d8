"""Reads of one trace, of some traces by id, and of the traces of a step, for one organization."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, TypeVar

from provider_trace_store.codec import decode
from provider_trace_store.reads import statements
from provider_trace_store.schemas import STORED_AS_KEY, ProviderTrace, ProviderTraceMetadata, text_problem
from provider_trace_store.tables.ids import lookup_for
from provider_trace_store.tables.kinds import FULL
from provider_trace_store.tables.moments import NO_DATE, moment_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import Connection, Result, Select
    from sqlalchemy.orm import Session

_Trace = TypeVar("_Trace", ProviderTrace, ProviderTraceMetadata)

# Sets an attribute without Pydantic's validation.
_set: Final = object.__setattr__


class Reader:
    """Reads the rows of one organization in a session of the host.

    Args:
        session: the host's session.
        organization_id: the organization that owns the rows.
    """

    def __init__(self, session: Session, organization_id: str) -> None:
        self._session = session
        self.organization_id = organization_id

    @property
    def connection(self) -> Connection:
        """The session's connection to the database that has the tables."""
        return self._session.connection(bind_arguments={"mapper": FULL.record})

    @cached_property
    def dialect(self) -> str:
        """SQLAlchemy's name of the database."""
        return self.connection.dialect.name

    def execute(self, statement: Select[Any], **parameters: Any) -> Result[Any]:  # noqa: ANN401  (of the types of the statement's columns)
        """Execute a statement, whose parameter `:organization_id` is set to the organization.

        Args:
            statement: the statement.
            parameters: the values of its other parameters.
        """
        return self.connection.execute(statement, parameters | {"organization_id": self.organization_id})

    def get(self, trace_id: str) -> ProviderTrace | None:
        """Return the full trace of an id; None if there is none."""
        if text_problem(trace_id):
            return None
        return next(iter(self._full(statements.by_id(), trace_id=trace_id)), None)

    def get_by_step_id(self, step_id: str) -> ProviderTrace | None:
        """Return the newest full trace of a step; None if there is none."""
        if text_problem(step_id):
            return None
        return next(iter(self._full(statements.newest_by_step_id(), step_id=step_id)), None)

    def list_by_step_id(self, step_id: str) -> list[ProviderTrace]:
        """Return the full traces of a step, oldest first."""
        if text_problem(step_id):
            return []
        return self._full(statements.by_step_id(), step_id=step_id)

    def get_many(self, trace_ids: Sequence[str]) -> list[ProviderTrace]:
        """Return the full traces of some ids, in the order of the ids; ids without a trace are left out."""
        if not trace_ids:
            return []
        lookup, parameters = lookup_for(trace_ids, self.dialect)
        found = {trace.id: trace for trace in self._full(statements.by_ids(lookup), **parameters)}
        return [found[trace_id] for trace_id in trace_ids if trace_id in found]

    def get_metadata(self, trace_id: str) -> ProviderTraceMetadata | None:
        """Return the metadata of an id, from the table that has it; None if there is none."""
        if text_problem(trace_id):
            return None
        row = self.execute(statements.metadata_by_id(), trace_id=trace_id).first()
        return None if row is None else metadata_of([row])[0]

    def _full(self, statement: Select[Any], **parameters: str) -> list[ProviderTrace]:
        traces = []
        for row in self.execute(statement, **parameters):
            values = row._asdict()
            if values["created_at"] is None:
                values["created_at"] = NO_DATE
            traces.append(_built(ProviderTrace, values, set(values)))
        return traces


def metadata_of(rows: Iterable[Sequence[Any]]) -> list[ProviderTraceMetadata]:
    """Return the metadata of rows.

    Args:
        rows: rows with the values of `METADATA.fields` and of `stored_as`, as the driver returns them.
    """
    # Few lists of tags are different: each is decoded once.
    lists: dict[str, list[str]] = {}
    # One set for all traces saves time and memory: Pydantic adds names to it, but all of them are in it already.
    fields = set(ProviderTraceMetadata.model_fields)
    return [
        # Each field is named: this is faster than `zip`.
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


def _tags(text: str, lists: dict[str, list[str]]) -> Any:  # noqa: ANN401  (another writer may have stored any document)
    if text in lists:
        return lists[text].copy()
    tags = decode(text)
    if type(tags) is list and all(type(tag) is str for tag in tags):
        lists[text] = tags.copy()
    return tags


def _built(schema: type[_Trace], values: dict[str, Any], fields: set[str]) -> _Trace:
    """Return a trace with the values of a row, without validating it.

    Rows of an adopted table may be older than the rules of the schema, and must stay readable. `model_construct` would
    take longer for each row, because it handles defaults and aliases, too.

    Args:
        schema: the class of the trace.
        values: the values of all fields, in the order of the schema; for metadata also the name of the kind, under
            `STORED_AS_KEY`.
        fields: the names of all fields.
    """
    trace = schema.__new__(schema)
    _set(trace, "__dict__", values)
    _set(trace, "__pydantic_fields_set__", fields)
    _set(trace, "__pydantic_extra__", None)
    _set(trace, "__pydantic_private__", None)
    return trace
