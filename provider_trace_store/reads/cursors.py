"""Where a page ended, as a short text that only the query which made it accepts."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, NamedTuple
from uuid import UUID

from provider_trace_store.errors import InvalidCursorError
from provider_trace_store.schemas import ID_PREFIX, text_problem
from provider_trace_store.tables.moments import moment_of

if TYPE_CHECKING:
    from collections.abc import Sequence

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_CHECK_BYTES: Final = 8
_MOMENT_BYTES: Final = 8
# No index of PostgreSQL's holds a longer id.
_MAX_BYTES: Final = 2704
# Of the first byte of the content.
_IS_UUID: Final = 1
_IS_TEXT: Final = 2


class Position(NamedTuple):
    """The last row of a page.

    Args:
        stored_at: its date, in UTC; or the text that SQLite compares, where that is of another writer's form.
        trace_id: its id.
    """

    stored_at: datetime | str
    trace_id: str


def to_text(position: Position, query: Sequence[str | None]) -> str:
    """Return the cursor of a position: URL-safe text, of 44 characters for an id of this package.

    It is no secret and protects nothing: whoever reads on is held to the organization by the query itself.

    Args:
        position: where the page ended.
        query: what the page was asked for; only the same reads on.
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
        cursor: what `to_text` returned.
        query: what the next page is asked for.

    Raises:
        InvalidCursorError: it is damaged, or of another query.
    """
    try:
        return _position(cursor, query)
    except (ValueError, IndexError, OverflowError):
        pass
    # Outside of the handler, so that nothing that holds what a client sent is chained.
    raise InvalidCursorError


def _position(cursor: object, query: Sequence[str | None]) -> Position:
    if not isinstance(cursor, str):
        raise ValueError  # noqa: TRY004  (to the caller all damage is the same)
    whole = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    # Base64's decoder passes over what is not of its alphabet.
    if urlsafe_b64encode(whole).rstrip(b"=").decode() != cursor:
        raise ValueError
    content = whole[_CHECK_BYTES:]
    if whole[:_CHECK_BYTES] != _check(content, query):
        raise ValueError
    # The check is no proof: whoever reads this module can make one.
    flags, start, rest = content[0], content[1 : 1 + _MOMENT_BYTES], content[1 + _MOMENT_BYTES :]
    stored_at: datetime | str
    if flags & _IS_TEXT:
        size = int.from_bytes(start, "big")
        stored_at, rest = rest[:size].decode(), rest[size:]
        moment_of(stored_at)  # ValueError if it is not a date: a read of the row would fail, too
    else:
        stored_at = _EPOCH + int.from_bytes(start, "big", signed=True) * _MICROSECOND
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
        # With its length, so that no two queries give the same bytes.
        encoded = b"" if part is None else part.encode("utf-8", "surrogatepass")
        digest.update(b"-" if part is None else b"%d:" % len(encoded))
        digest.update(encoded)
    return digest.digest()
