"""Durations as operators write them (`30d`, `12h`, `90m`, `45s`, `0d`), and the moments of a range."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from provider_trace_store.errors import InvalidArgumentError

if TYPE_CHECKING:
    from datetime import datetime

_FORM: Final = re.compile(r"([0-9]{1,9})([dhms])", re.ASCII)
_UNITS: Final = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds"}
# A moment that far before now must be a date.
_LONGEST: Final = timedelta(days=100 * 366)


def parse_duration(text: str, name: str = "duration") -> timedelta:
    """Return the duration of a text such as `30d`.

    Args:
        text: a whole number and one of the units d, h, m and s.
        name: the argument that has the text, for the error.

    Raises:
        InvalidArgumentError: the text has another form, or the duration is longer than a hundred years.
    """
    found = _FORM.fullmatch(text.strip())
    if found is None:
        raise InvalidArgumentError(name, "must be a whole number and a unit, such as 30d, 12h, 90m or 0d")
    return checked_duration(timedelta(**{_UNITS[found[2]]: int(found[1])}), name)


def checked_duration(duration: timedelta, name: str) -> timedelta:
    """Return a duration that a moment can lie before now.

    Args:
        duration: any duration.
        name: the argument that has it, for the error.

    Raises:
        InvalidArgumentError: the duration is negative, or longer than a hundred years.
    """
    if not timedelta() <= duration <= _LONGEST:
        raise InvalidArgumentError(name, "must not be negative, and at most a hundred years")
    return duration


def check_zone(moment: datetime | None, name: str) -> None:
    """Check that a moment of a range has a time zone.

    Args:
        moment: the moment; None for an open range.
        name: the argument that has it, for the error.

    Raises:
        InvalidArgumentError: it has none.
    """
    if moment is not None and moment.utcoffset() is None:
        raise InvalidArgumentError(name, "must have a time zone")
