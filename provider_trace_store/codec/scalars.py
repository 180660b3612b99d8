"""The special forms of values that JSON lacks and that one text describes: dates, times, decimals, UUIDs."""

from __future__ import annotations

import re
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

if TYPE_CHECKING:
    from collections.abc import Callable

# RFC 9557: the name of a time zone stands behind the date in brackets, and a key of one's own begins with `_`.
_ZONED: Final = re.compile(r"([^\[\]]+)(?:\[([^\[\]=]+)\])?(\[_fold=1\])?")
_SECONDS: Final = re.compile(r"(-?)(\d{1,20})\.(\d{6})")
_TINY_OFFSET: Final = re.compile(r"([+-])00:00:00\.(\d{6})$")
_MICROSECOND: Final = timedelta(microseconds=1)


class Scalar(NamedTuple):
    """A type with a special form whose content is one text.

    Args:
        name: the name of the form.
        to_text: returns the text of a value; raises ValueError if the value would not read back equal.
        from_text: returns the value of a text; returns None, or raises ValueError, ArithmeticError or OverflowError,
            for a text that `to_text` never returns.
    """

    name: str
    to_text: Callable[[Any], str]
    from_text: Callable[[str], Any]


def restored_scalar(scalar: Scalar, content: object) -> Any:  # noqa: ANN401  (a value of any of the types)
    """Return the value of a form's content, or None if the content is not one that `encode` writes."""
    if type(content) is not str:
        return None
    try:
        return scalar.from_text(content)
    except (ValueError, ArithmeticError, OverflowError):
        return None


def _text_of_moment(value: Any) -> str:  # noqa: ANN401  (a datetime or a time)
    kind = datetime if isinstance(value, datetime) else time
    zone = value.tzinfo
    key = zone.key if isinstance(zone, ZoneInfo) else None
    text = kind.isoformat(value) + (f"[{key}]" if key else "") + ("[_fold=1]" if value.fold else "")
    if zone is not None:
        restored = _moment_of(kind, text)
        # Two equal times of a zone whose clock shows them twice compare as different, unless the zone is one object.
        if restored is None or not (restored == value or getattr(restored.tzinfo, "key", None) == key is not None):
            raise ValueError
    return text


def _moment_of(kind: type[datetime | time], text: str) -> datetime | time | None:
    parts = _ZONED.fullmatch(text)
    if parts is None:
        return None
    fixed = kind.fromisoformat(parts[1]).replace(fold=1 if parts[3] else 0)
    if offset := _TINY_OFFSET.search(parts[1]):
        # `fromisoformat` takes an offset of less than a second for UTC.
        fixed = fixed.replace(tzinfo=timezone(int(offset[1] + offset[2]) * _MICROSECOND))
    if kind.isoformat(fixed) != parts[1]:  # type: ignore[arg-type]  # `fixed` is of this kind
        return None
    if parts[2] is None:
        return fixed
    if isinstance(fixed, datetime) == (fixed.tzinfo is None):
        return None
    try:
        zoned = fixed.replace(tzinfo=ZoneInfo(parts[2]))
    except (KeyError, ValueError, OSError):
        return fixed  # this machine does not know the zone: the instant is the same
    # The rules of a zone can change after a date was stored: the instant stays.
    return zoned if zoned.utcoffset() == fixed.utcoffset() else fixed


def _date_of(text: str) -> date | None:
    value = date.fromisoformat(text)
    return value if date.isoformat(value) == text else None


def _text_of_duration(value: timedelta) -> str:
    seconds, microseconds = divmod(abs(value // _MICROSECOND), 10**6)
    return f"{'-' if value < timedelta() else ''}{seconds}.{microseconds:06d}"


def _duration_of(text: str) -> timedelta | None:
    parts = _SECONDS.fullmatch(text)
    if parts is None:
        return None
    value = int(parts[2] + parts[3]) * _MICROSECOND
    value = -value if parts[1] else value
    return value if _text_of_duration(value) == text else None


def _text_of_decimal(value: Decimal) -> str:
    # The context of the host's thread decides about the letter of the exponent.
    return Decimal.__str__(value).replace("e", "E")


def _decimal_of(text: str) -> Decimal | None:
    value = Decimal(text)
    return value if _text_of_decimal(value) == text else None


def _uuid_of(text: str) -> UUID | None:
    value = UUID(text)
    return value if UUID.__str__(value) == text else None


# `datetime` stands before `date`, whose subclass it is.
SCALARS: Final[dict[type, Scalar]] = {
    datetime: Scalar("datetime", _text_of_moment, lambda text: _moment_of(datetime, text)),
    date: Scalar("date", date.isoformat, _date_of),
    time: Scalar("time", _text_of_moment, lambda text: _moment_of(time, text)),
    timedelta: Scalar("timedelta", _text_of_duration, _duration_of),
    Decimal: Scalar("decimal", _text_of_decimal, _decimal_of),
    UUID: Scalar("uuid", UUID.__str__, _uuid_of),
}
