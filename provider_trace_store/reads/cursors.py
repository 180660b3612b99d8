"""Cursors: the position at which a page ended, as a short text that only the same query accepts."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, NamedTuple
from uuid import UUID

from provider_trace_store.errors import InvalidCursorError
from provider_trace_store.schemas import EARLIEST, ID_PREFIX, LATEST, text_problem

if TYPE_CHECKING:
    from collections.abc import Sequence

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_CHECK_BYTES: Final = 8
_MOMENT_BYTES: Final = 8
# An entry of a PostgreSQL index, and so an id, has this many bytes at most.
_MAX_BYTES: Final = 2704
# Bits of the content's first byte: the id is this package's prefix and a UUID; the date is text.
_IS_UUID: Final = 1
_IS_TEXT: Final = 2


class Position(NamedTuple):
    """The position of a page's last row.

    Args:
        stored_at: the row's date, as `moments.comparable` returns it.
        trace_id: the row's id.
    """

    stored_at: datetime | str
    trace_id: str


def to_text(position: Position, query: Sequence[str | None]) -> str:
    """Return the cursor of a position: URL-safe text, of 44 characters for an id of this package.

    A cursor is not a secret, and a client may forge one: the statement of the next page limits it to the organization.

    Args:
        position: the position at which the page ended.
        query: the arguments that the page was asked for; a page with other arguments refuses the cursor.
    """
    flags, trace_id = _packed(position.trace_id)
    if isinstance(position.stored_at, str):
        flags |= _IS_TEXT
        moment = position.stored_at.encode()
        moment = len(moment).to_bytes(_MOMENT_BYTES, "big") + moment
    else:
        moment = ((position.stored_at - _EPOCH) // _MICROSECOND).to_bytes(_MOMENT_BYTES, "big", signed=True)
    content = bytes([flags]) + moment + trace_id
    return urlsafe_b64encode(_check(content, query) + content).rstrip(b"=").decode()


def from_text(cursor: object, query: Sequence[str | None]) -> Position:
    """Return the position of a cursor.

    Args:
        cursor: the text that `to_text` returned.
        query: the arguments that the next page is asked for.

    Raises:
        InvalidCursorError: the cursor is damaged, or of another query.
    """
    try:
        return _position(cursor, query)
    except (ValueError, IndexError, OverflowError):
        pass
    # Raised outside of the `except` block: a chained error could hold text that the client sent.
    raise InvalidCursorError


def _position(cursor: object, query: Sequence[str | None]) -> Position:
    if not isinstance(cursor, str):
        raise ValueError  # noqa: TRY004  (the caller handles all damage in one way)
    whole = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    # The decoder ignores characters that are not Base64.
    if urlsafe_b64encode(whole).rstrip(b"=").decode() != cursor:
        raise ValueError
    content = whole[_CHECK_BYTES:]
    if whole[:_CHECK_BYTES] != _check(content, query):
        raise ValueError
    # A client can compute the check, so the content is checked, too.
    flags, start, rest = content[0], content[1 : 1 + _MOMENT_BYTES], content[1 + _MOMENT_BYTES :]
    stored_at: datetime | str
    if flags & _IS_TEXT:
        size = int.from_bytes(start, "big")
        stored_at, rest = rest[:size].decode(), rest[size:]
    else:
        stored_at = _EPOCH + int.from_bytes(start, "big", signed=True) * _MICROSECOND
        if not EARLIEST <= stored_at <= LATEST:
            raise ValueError
    position = Position(stored_at, f"{ID_PREFIX}{UUID(bytes=rest)}" if flags & _IS_UUID else rest.decode())
    if any(text_problem(part, _MAX_BYTES) for part in position if isinstance(part, str)):
        raise ValueError
    return position


def _packed(trace_id: str) -> tuple[int, bytes]:
    try:
        uuid = UUID(trace_id.removeprefix(ID_PREFIX))
    except ValueError:
        uuid = None
    if uuid is None or f"{ID_PREFIX}{uuid}" != trace_id:
        return 0, trace_id.encode()
    return _IS_UUID, uuid.bytes


def _check(content: bytes, query: Sequence[str | None]) -> bytes:
    digest = blake2b(content, digest_size=_CHECK_BYTES, person=b"trace cursor")
    for part in query:
        # The length comes first: without it, two queries could give the same bytes.
        encoded = b"" if part is None else part.encode("utf-8", "surrogatepass")
        digest.update(b"-" if part is None else b"%d:" % len(encoded))
        digest.update(encoded)
    return digest.digest()
