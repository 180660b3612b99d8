"""Rows to insert: made from traces, with checked texts, encoded documents and a known size."""

from __future__ import annotations

from datetime import UTC, datetime
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from provider_trace_store.codec import TooLargeError, encode_utf8, same_document
from provider_trace_store.errors import (
    InvalidIdentifierError,
    InvalidLimitError,
    TraceEncodingError,
    TraceTooLargeError,
    named,
)
from provider_trace_store.schemas import MAX_INDEXED_BYTES, text_problem
from provider_trace_store.tables.models import DOCUMENTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sqlalchemy import Row as StoredRow

    from provider_trace_store.schemas import BaseProviderTrace, ProviderTrace, ProviderTraceMetadata

DEFAULT_MAX_BODY_BYTES: Final = 64 * 2**20
# A row has up to five documents. A message of PostgreSQL's protocol and a row of SQLite hold about 10^9 bytes.
LARGEST_MAX_BODY_BYTES: Final = 190 * 2**20

# The largest text of a column. Names and ids are short; the limit keeps drivers from running out of memory.
_MAX_TEXT_BYTES: Final = DEFAULT_MAX_BODY_BYTES

MOMENTS: Final = frozenset({"created_at", "updated_at"})
# The fields that do not describe the recorded call: two rows that differ only in these have the same content.
NOT_CONTENT: Final = frozenset({"created_by_id", "last_updated_by_id", "updated_at"})
_REQUIRED: Final = frozenset({"id", "request_json", "response_json"})
# Makes a `Row` faster than `Row(…)`: NamedTuple's own `__new__` is a function in Python.
_new_row: Final = tuple.__new__
_NOT_AWARE: Final = "is not a datetime with a time zone"
_NOT_TEXT: Final = "is not text"
# The bytes that a row takes for dates, flags, lengths and the header of its tuple.
_OVERHEAD: Final = 128


class Row(NamedTuple):
    """The values that an INSERT of a trace writes.

    It is a tuple because it must be made fast: up to thousands a second, while the recorded requests wait.

    Args:
        trace_id: the id of the trace.
        values: a value for each of `RowLayout.fields`, in that order; documents are their stored text in UTF-8.
        size: the approximate size of the row when it is sent, in bytes.
    """

    trace_id: str
    values: list[Any]
    size: int

    def __repr__(self) -> str:
        return f"<Row {named(self.trace_id)}, {self.size} bytes>"


def row_size(values: Iterable[Any]) -> int:
    """Return the approximate size of a row with these values when it is sent, in bytes."""
    return _OVERHEAD + sum([len(value) for value in values if type(value) is str or type(value) is bytes])


class RowLayout:
    """The fields of a table's rows, their order in `Row.values`, and the comparison of two rows.

    Args:
        schema: the schema of the table's traces: the table has its fields.
    """

    def __init__(self, schema: type[ProviderTrace | ProviderTraceMetadata]) -> None:
        fields = schema.model_fields
        self.texts = tuple(name for name in fields if name not in DOCUMENTS | MOMENTS)
        documents = tuple(name for name in fields if name in DOCUMENTS)
        # The fields that a trace has, in the order of `Row.values`. Texts come first: all of them are checked at once.
        given = (*self.texts, *documents, "created_at", "updated_at")
        self.fields = (*given, "organization_id", "is_deleted")
        self.values_of = itemgetter(*given)
        # Indexes in `Row.values`; `documents` has pairs of an index and the field's name.
        self.moments = (given.index("created_at"), given.index("updated_at"))
        self.documents = tuple(enumerate(documents, start=len(self.texts)))
        self.actors = (given.index("created_by_id"), given.index("last_updated_by_id"))
        # The fields that the writer copies when a trace is submitted, those with immutable values first.
        self.immutable = (*self.texts, "created_at", "updated_at")
        self.immutable_of = itemgetter(*self.immutable)
        self.copied = (*self.immutable, *documents)
        # The fields that must be equal in two rows of the same content; documents are compared separately.
        self.compared = tuple(name for name in self.fields if name not in NOT_CONTENT | DOCUMENTS)
        self._compared_of = itemgetter(*(self.fields.index(name) for name in self.compared))

    def has_same_texts(self, row: Row, stored: StoredRow[Any]) -> bool:
        """Say whether a stored row has the same organization and content as a row, and is not deleted.

        Documents are not compared: `has_same_documents` does that.

        Args:
            row: the row.
            stored: the stored row; the fields that `compared` names are its first columns, in that order.
        """
        return bool(self._compared_of(row.values) == stored[: len(self.compared)])

    def has_same_documents(self, row: Row, stored: StoredRow[Any]) -> bool:
        """Say whether a stored row, whose documents are read as text, has the same documents as a row."""
        return all(same_document(getattr(stored, name), row.values[place]) for place, name in self.documents)

    def has_documents(self, row: Row) -> bool:
        """Say whether a row has a document that is not None."""
        return any(row.values[place] is not None for place, _ in self.documents)


class RowMaker:
    """Makes rows of one table, for one organization, from traces.

    Args:
        layout: the layout of the table.
        organization_id: the organization that owns the rows.
        actor_id: the actor that a row gets if its trace names none; None for no actor.
        max_body_bytes: the largest document, in bytes of its stored text, 1 to 190 MiB.

    Raises:
        InvalidIdentifierError: `organization_id` or `actor_id` is not text that a column can hold.
        InvalidLimitError: `max_body_bytes` is out of its range.
    """

    def __init__(
        self,
        layout: RowLayout,
        organization_id: str,
        actor_id: str | None = None,
        max_body_bytes: int = DEFAULT_MAX_BODY_BYTES,
    ) -> None:
        _check_identifier("organization_id", organization_id, MAX_INDEXED_BYTES)
        if actor_id is not None:
            _check_identifier("actor_id", actor_id)
        check_max_body_bytes(max_body_bytes)
        self.layout = layout
        self.organization_id = organization_id
        self._owned = (organization_id, False)
        self._actors = layout.actors if actor_id else ()
        self._actor_id = actor_id
        self.max_body_bytes = max_body_bytes

    def make(self, trace: BaseProviderTrace) -> Row:
        """Return the row of a trace.

        Args:
            trace: the trace; it may have fields that the table does not have.

        Raises:
            TraceEncodingError: a value of the trace cannot be stored exactly.
            TraceTooLargeError: a document is larger than `max_body_bytes`, or a text larger than 64 MiB.
        """
        return self.make_from(trace.__dict__)

    def make_from(self, given: Mapping[str, Any]) -> Row:
        """Return the row of a trace, given its fields by name; raises as `make` does."""
        layout = self.layout
        try:
            found = layout.values_of(given)
        except KeyError:
            found = ()
        if not found:
            # The schema checks each trace, but an object can be made without the schema; the checks below are for
            # such objects, too.
            missing = next(name for name in layout.fields if name not in given)
            raise TraceEncodingError(missing, "is missing", given.get("id"))
        values = [*found, *self._owned]
        trace_id = values[0]
        size = _OVERHEAD + self._checked_size(found[: len(layout.texts)])
        for place in self._actors:
            values[place] = values[place] or self._actor_id
        for place, name in layout.documents:
            document = values[place]
            if document is not None or name in _REQUIRED:
                encoded = values[place] = _encoded(name, document, trace_id, self.max_body_bytes)
                size += len(encoded)
        created_at, updated_at = found[-2:]
        if not _is_aware(created_at):
            raise TraceEncodingError("created_at", _NOT_AWARE, trace_id)
        if updated_at is not None and not _is_aware(updated_at):
            raise TraceEncodingError("updated_at", _NOT_AWARE, trace_id)
        return _new_row(Row, (trace_id, values, size))

    def _checked_size(self, texts: tuple[Any, ...]) -> int:
        """Return the size of the texts, in bytes. They are checked joined: in nearly all traces each text is valid."""
        try:
            joined = "".join([text for text in texts if text is not None])
            size = len(joined) if joined.isascii() else len(joined.encode())
        except (TypeError, UnicodeEncodeError):
            size = None
        if size is None or "\0" in joined or texts[0] is None:
            raise self._text_error(texts)
        if size > _MAX_TEXT_BYTES:
            self._check_sizes(texts)
        return size

    def _check_sizes(self, texts: tuple[Any, ...]) -> None:
        for name, text in zip(self.layout.texts, texts, strict=True):
            size = len((text or "").encode())
            if size > _MAX_TEXT_BYTES:
                raise TraceTooLargeError(name, size, _MAX_TEXT_BYTES, texts[0])

    def _text_error(self, texts: tuple[Any, ...]) -> TraceEncodingError:
        for name, text in zip(self.layout.texts, texts, strict=True):
            if text is None and name not in _REQUIRED:
                continue
            if problem := text_problem(text) if isinstance(text, str) else _NOT_TEXT:
                break
        return TraceEncodingError(name, problem or _NOT_TEXT, texts[0])


def check_max_body_bytes(value: object) -> None:
    """Raise InvalidLimitError if a value is not a whole number in the range of `max_body_bytes`."""
    if type(value) is not int or not 1 <= value <= LARGEST_MAX_BODY_BYTES:
        raise InvalidLimitError("max_body_bytes", 1, LARGEST_MAX_BODY_BYTES)


def _check_identifier(name: str, value: object, max_bytes: int | None = None) -> None:
    if not isinstance(value, str) or not value:
        raise InvalidIdentifierError(name, "must be text that is not empty")
    if problem := text_problem(value, max_bytes):
        raise InvalidIdentifierError(name, problem)


def _is_aware(value: object) -> bool:
    if type(value) is datetime and value.tzinfo is UTC:
        return True
    try:
        return isinstance(value, datetime) and value.astimezone(UTC) is not None and value.utcoffset() is not None
    except OverflowError:
        # Near the least or the largest datetime: in UTC it would be out of range.
        return False


def _encoded(name: str, document: object, trace_id: str, limit: int) -> bytes:
    error: TraceEncodingError | TraceTooLargeError
    try:
        return encode_utf8(document, name, limit)
    except TraceEncodingError as problem:
        error = TraceEncodingError(problem.path, problem.reason, trace_id, remedy=problem.remedy)
    except TooLargeError as problem:
        error = TraceTooLargeError(name, problem.size, limit, trace_id)
    # Outside of the handlers: the error would be chained.
    raise error
