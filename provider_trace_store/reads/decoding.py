"""Rows as traces: the values that a driver returned, and errors for rows that cannot be read.

Another program may have written a row: text that is not JSON or not a date, or, on SQLite, a value of any type in any
column. Such a row has an error with its id, and does not affect the others.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, TypeVar

from provider_trace_store.codec import decode
from provider_trace_store.errors import TraceDecodingError
from provider_trace_store.schemas import STORED_AS_KEY, ProviderTrace, ProviderTraceMetadata
from provider_trace_store.tables.kinds import FULL, METADATA
from provider_trace_store.tables.models import DOCUMENTS
from provider_trace_store.tables.moments import NO_DATE, moment_of
from provider_trace_store.tables.rows import MOMENTS

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

_Trace = TypeVar("_Trace", ProviderTrace, ProviderTraceMetadata)

_log: Final = logging.getLogger(__name__)
# TraceDecodingError is a ValueError, too.
_UNREADABLE: Final = (TypeError, ValueError, OverflowError)
_TEXTS: Final = frozenset(FULL.layout.texts)
# Sets an attribute without Pydantic's validation.
_set: Final = object.__setattr__


class Readable(NamedTuple, Generic[_Trace]):
    """Traces, and the errors of those rows of the same result that cannot be read."""

    traces: list[_Trace]
    unreadable: list[TraceDecodingError]


def log_unreadable(errors: Collection[TraceDecodingError]) -> tuple[str, ...]:
    """Log that a result leaves out traces, because their rows cannot be read, and return their ids."""
    for error in errors:
        _log.warning("a trace is left out of a result: %s", error)
    return tuple(error.trace_id or "" for error in errors)


def readable_metadata(rows: Sequence[Sequence[Any]], dialect: str) -> Readable[ProviderTraceMetadata]:
    """Return the metadata of the rows that can be read; arguments as for `metadata_of`.

    Args:
        rows: the rows.
        dialect: SQLAlchemy's name of the database. A column of SQLite may hold values of any type.
    """
    try:
        if dialect == "sqlite":
            for row in rows:
                _check_texts(METADATA.fields, row)
        return Readable(metadata_of(rows), [])
    except _UNREADABLE:
        pass  # look for the rows
    found: Readable[ProviderTraceMetadata] = Readable([], [])
    for row in rows:
        path = _unreadable_field(METADATA.fields, row)
        if path is None:
            found.traces.extend(metadata_of([row]))
        else:
            found.unreadable.append(_error_of(METADATA.fields, row, path))
    return found


def whole_of(values: dict[str, Any], packed: Collection[str] = ()) -> ProviderTrace:
    """Return the whole trace of a row; TraceDecodingError if a value cannot be read.

    Args:
        values: the values of `FULL.fields` by their names, as the driver returns them.
        packed: the names of the documents that come from a pack: their values are bytes of text in UTF-8.
    """
    fields = tuple(values)
    row = tuple(values.values())
    try:
        _check_texts(fields, row)
        for name in FULL.documents:
            stored = values[name]
            values[name] = decode(stored) if name in packed and stored is not None else _document(stored)
        created_at, updated_at = values["created_at"], values["updated_at"]
        values["created_at"] = NO_DATE if created_at is None else moment_of(created_at)
        values["updated_at"] = None if updated_at is None else moment_of(updated_at)
        return _built(ProviderTrace, values, set(values))
    except _UNREADABLE:
        pass  # raised below, so that the error of the value is not chained
    raise _error_of(fields, row, _unreadable_field(fields, row, packed))


def _check_texts(fields: Sequence[str], row: Sequence[Any]) -> None:
    """Raise TypeError if a value of a column of text is neither text nor None."""
    "".join([value for name, value in zip(fields, row, strict=False) if name in _TEXTS and value is not None])


def _document(stored: object) -> Any:  # noqa: ANN401  (a document is of any type)
    if isinstance(stored, bytes):
        raise ValueError  # noqa: TRY004  (all values that cannot be read have one error)
    # SQLite stores the text of a number as a number.
    return None if stored is None else decode(str(stored))


def _unreadable_field(fields: Sequence[str], row: Sequence[Any], packed: Collection[str] = ()) -> str | None:
    """Return the first field whose value cannot be read, or None."""
    for name, value in zip(fields, row, strict=False):
        try:
            if value is None:
                continue
            if name in MOMENTS:
                moment_of(value)
            elif name in packed:
                decode(value)
            elif name in DOCUMENTS:
                _document(value)
            elif not isinstance(value, str):
                return name
        except _UNREADABLE:
            return name
    return None


def _error_of(fields: Sequence[str], row: Sequence[Any], path: str | None) -> TraceDecodingError:
    trace_id = row[fields.index("id")]
    return TraceDecodingError(trace_id if isinstance(trace_id, str) else None, path)


def metadata_of(rows: Sequence[Sequence[Any]]) -> list[ProviderTraceMetadata]:
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
    tags = _document(text)
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
