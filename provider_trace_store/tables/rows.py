"""A trace on its way into a table: checked, its documents encoded once, its size known."""

from __future__ import annotations

from datetime import UTC, datetime
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from provider_trace_store.codec import encode_utf8, same_document
from provider_trace_store.errors import (
    InvalidIdentifierError,
    InvalidLimitError,
    TraceEncodingError,
    TraceTooLargeError,
)
from provider_trace_store.schemas import MAX_INDEXED_BYTES, text_problem
from provider_trace_store.tables.models import DOCUMENTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sqlalchemy import Row as StoredRow

    from provider_trace_store.schemas import BaseProviderTrace, ProviderTrace, ProviderTraceMetadata

DEFAULT_MAX_BODY_BYTES: Final = 64 * 2**20
# A row has five documents, and a message of PostgreSQL's protocol and a row of SQLite's end at 10^9 bytes.
LARGEST_MAX_BODY_BYTES: Final = 190 * 2**20

# What names an agent or a user is short: this only keeps a row's other columns from exhausting a driver.
_MAX_TEXT_BYTES: Final = DEFAULT_MAX_BODY_BYTES

MOMENTS: Final = frozenset({"created_at", "updated_at"})
# Who wrote a row, and when it was changed, is not part of the call that the row records.
NOT_CONTENT: Final = frozenset({"created_by_id", "last_updated_by_id", "updated_at"})
_REQUIRED: Final = frozenset({"id", "request_json", "response_json"})
# Without the function that NamedTuple puts before it.
_new_row: Final = tuple.__new__
_NO_MOMENT: Final = "is no datetime with a time zone"
# What a row takes besides its documents and texts: dates, flags, lengths, a tuple's header.
_OVERHEAD: Final = 128


class Row(NamedTuple):
    """What an INSERT of a trace writes.

    A tuple, as thousands are made a second, each while the request it records is waiting.

    Args:
        trace_id: the trace.
        values: one for each of `RowLayout.fields`; documents as their stored text in UTF-8.
        size: about what it takes on the wire, in bytes.
    """

    trace_id: str
    values: list[Any]
    size: int

    def __repr__(self) -> str:
        return f"<Row {self.trace_id}, {self.size} bytes>"


def row_size(values: Iterable[Any]) -> int:
    """Return about what a row's values take on the wire, in bytes."""
    return _OVERHEAD + sum([len(value) for value in values if type(value) is str or type(value) is bytes])


class RowLayout:
    """Which columns a table's rows have, in which order, and what makes two rows the same.

    Args:
        schema: which of a trace's fields the table has.
    """

    def __init__(self, schema: type[ProviderTrace | ProviderTraceMetadata]) -> None:
        fields = schema.model_fields
        self.texts = tuple(name for name in fields if name not in DOCUMENTS | MOMENTS)
        documents = tuple(name for name in fields if name in DOCUMENTS)
        # Texts stand first, so that they are checked all at once.
        given = (*self.texts, *documents, "created_at", "updated_at")
        self.fields = (*given, "organization_id", "is_deleted")
        self.values_of = itemgetter(*given)
        self.moments = (given.index("created_at"), given.index("updated_at"))
        self.immutable = (*self.texts, "created_at", "updated_at")
        self.immutable_of = itemgetter(*self.immutable)
        self.copied = (*self.immutable, *documents)
        self.documents = tuple(enumerate(documents, start=len(self.texts)))
        self.actors = (given.index("created_by_id"), given.index("last_updated_by_id"))
        self.compared = tuple(name for name in self.fields if name not in NOT_CONTENT | DOCUMENTS)
        self._compared_of = itemgetter(*(self.fields.index(name) for name in self.compared))

    def has_same_texts(self, row: Row, stored: StoredRow[Any]) -> bool:
        """Say whether a stored row is of this organization, not deleted, and has the same content but documents.

        Args:
            row: the new one.
            stored: its first columns are those that `compared` names.
        """
        return bool(self._compared_of(row.values) == stored[: len(self.compared)])

    def has_same_documents(self, row: Row, stored: StoredRow[Any]) -> bool:
        """Say whether the documents of a stored row, which come as text, are the same."""
        return all(same_document(getattr(stored, name), row.values[place]) for place, name in self.documents)

    def has_documents(self, row: Row) -> bool:
        """Say whether a row has any document."""
        return any(row.values[place] is not None for place, _ in self.documents)


class RowMaker:
    """Makes the rows of one table of one organization from traces.

    Args:
        layout: of the table.
        organization_id: who owns the rows.
        actor_id: who writes, where a trace does not say so itself.
        max_body_bytes: the largest document, in bytes of its stored text.

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
        self._max_body_bytes = max_body_bytes

    def make(self, trace: BaseProviderTrace) -> Row:
        """Return a trace's row.

        Args:
            trace: it may have more fields than the table.

        Raises:
            TraceEncodingError: it holds something that cannot be stored exactly.
            TraceTooLargeError: one of its documents is larger than `max_body_bytes`, or a text than 64 MiB.
        """
        return self.make_from(trace.__dict__)

    def make_from(self, given: Mapping[str, Any]) -> Row:
        """Return the row of a trace's fields; errors as `make`."""
        layout = self.layout
        try:
            found = layout.values_of(given)
        except KeyError:
            found = ()
        if not found:
            # The schema has checked the trace, unless the object was made around it; the same below.
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
                encoded = values[place] = _encoded(name, document, trace_id)
                if len(encoded) > self._max_body_bytes:
                    raise TraceTooLargeError(name, len(encoded), self._max_body_bytes, trace_id)
                size += len(encoded)
        created_at, updated_at = found[-2:]
        if not _is_aware(created_at):
            raise TraceEncodingError("created_at", _NO_MOMENT, trace_id)
        if updated_at is not None and not _is_aware(updated_at):
            raise TraceEncodingError("updated_at", _NO_MOMENT, trace_id)
        return _new_row(Row, (trace_id, values, size))

    def _checked_size(self, texts: tuple[Any, ...]) -> int:
        """Return the bytes that the texts take; all at once, as nearly all traces are in order."""
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
            if problem := text_problem(text) if isinstance(text, str) else "is no text":
                break
        return TraceEncodingError(name, problem or "is no text", texts[0])


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
        # At the ends of what `datetime` can hold, in UTC it would be outside.
        return False


def _encoded(name: str, document: object, trace_id: str) -> bytes:
    try:
        return encode_utf8(document, name)
    except TraceEncodingError as error:
        problem = error
    raise TraceEncodingError(problem.path, problem.reason, trace_id)
