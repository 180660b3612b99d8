"""Strategies of hypothesis: documents that can be stored, most of them odd, and documents that cannot."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from ipaddress import IPv4Address
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final
from zoneinfo import ZoneInfo

from hypothesis import strategies as st

from tests.support.constants import SECRET

if TYPE_CHECKING:
    from collections.abc import Callable

SECRET_NUMBER: Final = 918273645918273645


class Choice(Enum):
    """An enumeration that is neither text nor a number."""

    ONE = SECRET


class Loud(str):
    """A subclass of `str` with its own comparison: it would not read back equal."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Loud) and str(self) == str(other)

    __hash__ = str.__hash__


@dataclass
class Record:
    """A dataclass."""

    value: str = SECRET


class Custom:
    """An object of a host's own class."""

    def __repr__(self) -> str:
        return SECRET


_PIECES: Final = (
    *("\ud83d", "\ude00", "\ud800", "\udfff", "\U0001f600", "\U0010ffff", "\0", "\x7f", "\u2028", "\ufeff"),
    *("$pts:", "$", "$$pts:", '"', "\\", "\\u0000", "\n", "é", "e\u0301", "a", "{", "]"),
)
_FORM_NAMES: Final = ("float", "bytes", "int", "tuple", "str", "dict", "datetime", "decimal", "unknown", "")


def texts() -> st.SearchStrategy[str]:
    """Any text: NUL, lone surrogates and pairs of them, astral characters, what looks like our own forms."""
    return st.one_of(
        st.text(max_size=8),
        st.text(st.characters(), max_size=8),
        st.lists(st.sampled_from(_PIECES), max_size=6).map("".join),
    )


def keys() -> st.SearchStrategy[str]:
    """Any key, those of our own forms among them."""
    names = st.sampled_from(_FORM_NAMES)
    ours = st.builds(lambda dollars, name: f"{'$' * dollars}pts:{name}", st.integers(1, 4), names)
    return st.one_of(texts(), ours)


def integers() -> st.SearchStrategy[int]:
    """Any integer, those at the borders of 64 bits, of 640 digits and of 4,300 digits among them."""
    # As base and exponent: hypothesis prints what it samples from, and Python does not print 4,301 digits.
    borders = st.sampled_from([(2, 53), (2, 63), (2, 64), (10, 640), (10, 4300), (10, 5000)])
    signs = st.sampled_from([1, -1])
    near = st.builds(lambda sign, border, step: sign * (pow(*border) + step), signs, borders, st.integers(-2, 2))
    return st.one_of(st.integers(), near)


def moments() -> list[st.SearchStrategy[Any]]:
    """Datetimes and times: naive, of a fixed offset, of a named zone, with `fold`, also where a clock skips an hour."""
    offsets = st.timedeltas(timedelta(hours=-23), timedelta(hours=23)).map(timezone)
    zones = st.none() | offsets | st.sampled_from(["Europe/Berlin", "America/New_York", "Asia/Kathmandu"]).map(ZoneInfo)
    folds = st.sampled_from([0, 1])
    summer, winter = datetime(2026, 3, 29), datetime(2026, 10, 25)  # noqa: DTZ001  (they get zones below)
    hours = timedelta(hours=5)
    near = st.datetimes(summer, summer + hours) | st.datetimes(winter, winter + hours)
    return [
        st.builds(lambda value, zone, fold: value.replace(tzinfo=zone, fold=fold), values, zones, folds)
        for values in (near | st.datetimes(), st.times())
    ]


def _lookalikes(values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    contents = st.one_of(
        values,
        st.sampled_from(
            [
                "NaN",
                "Infinity",
                "AAA=",
                "",
                "ff",
                "2026-01-01T00:00:00+00:00",
                "1.0",
                "\\ud800",
                ["\ud83d", "\ude00"],
                [["a", 1]],
                [],
            ]
        ),
    )
    return st.dictionaries(keys(), contents, min_size=1, max_size=1)


def _containers(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.lists(values, max_size=4),
        st.lists(values, max_size=3).map(tuple),
        st.dictionaries(keys(), values, max_size=4),
        _lookalikes(values),
    )


def values() -> st.SearchStrategy[Any]:
    """Any value that can be stored."""
    scalars = st.one_of(
        st.none(),
        st.booleans(),
        integers(),
        st.floats(allow_subnormal=True),
        st.sampled_from([float("nan"), float("inf"), float("-inf"), -0.0, 5e-324, 1e16, 1e22, 0.1]),
        texts(),
        st.binary(max_size=8),
        st.uuids(),
        st.decimals(),
        st.sampled_from([Decimal("1.0"), Decimal("-0E+9"), Decimal("sNaN12"), Decimal("-NaN"), Decimal("-Infinity")]),
        st.dates(),
        st.timedeltas(),
        *moments(),
    )
    return st.recursive(scalars, _containers, max_leaves=12)


def documents() -> st.SearchStrategy[dict[str, Any]]:
    """Any document that can be stored: a dict over everything that the codec takes."""
    return st.one_of(st.dictionaries(keys(), values(), max_size=5), _lookalikes(values()))


@dataclass(frozen=True)
class Unstorable:
    """A document that cannot be stored.

    Args:
        document: the document.
        path: the place of the value that cannot be stored, as errors write it, below the document's name.
        reason: the words of the error for that value.
    """

    document: dict[str, Any]
    path: str
    reason: str


def _cycle() -> list[Any]:
    cycle: list[Any] = []
    cycle.append(cycle)
    return cycle


_MAKERS: Final[dict[str, Callable[[], Any]]] = {
    "a set": lambda: {SECRET},
    "a frozenset": lambda: frozenset({SECRET}),
    "a bytearray": lambda: bytearray(SECRET.encode()),
    "a memoryview": lambda: memoryview(SECRET.encode()),
    "a complex": lambda: complex(SECRET_NUMBER, 1),
    "a Fraction": lambda: Fraction(SECRET_NUMBER),
    "an IPv4Address": lambda: IPv4Address(1),
    "a PurePosixPath": lambda: PurePosixPath(SECRET),
    "a Choice": lambda: Choice.ONE,
    "a Record": Record,
    "a Custom": Custom,
    "a Loud": lambda: Loud(SECRET),
    "a key of type int": lambda: {SECRET_NUMBER: 1},
    "a key of type NoneType": lambda: {None: SECRET},
    "a key of type tuple": lambda: {(SECRET,): 1},
    "a key of type Loud": lambda: {Loud(SECRET): 1},
}
_CYCLE: Final = "a container that holds itself"
# Each way down: what holds the next value, and how errors name the place.
_STEPS: Final[dict[str, Callable[[Any], Any]]] = {
    ".content": lambda value: {"role": "user", "content": value},
    ".<key 0>": lambda value: {SECRET: value},
    ".<key 1>": lambda value: {"role": "user", "\ud83d\ude00": value},
    ".<key 2>": lambda value: {"a": 1, "b": 2, "$pts:float": value},
    ".<key 3>": lambda value: {"a": 1, "b": 2, "c": 3, "": value, "after": SECRET},
    "[0]": lambda value: [value, SECRET],
    "[2]": lambda value: (SECRET, {}, value),
}


@st.composite
def unstorable(draw: st.DrawFn) -> Unstorable:
    """Documents with one value that cannot be stored, and the path of that value."""
    reason = draw(st.sampled_from([*_MAKERS, _CYCLE]))
    steps = draw(st.lists(st.sampled_from(list(_STEPS)), max_size=8))
    value = _cycle() if reason == _CYCLE else _MAKERS[reason]()
    for step in reversed(steps):
        value = _STEPS[step](value)
    others = draw(st.dictionaries(keys().filter(lambda key: key != "body"), values(), max_size=2))
    path = ".body" + "".join(steps) + ("[0]" if reason == _CYCLE else "")
    return Unstorable({**others, "body": value}, path, reason)


def same(one: object, other: object) -> bool:  # noqa: PLR0911  (one return a type)
    """Tell whether two documents are the same to the bit: types, order of keys, sign of zero; NaN is NaN."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return one.hex() == other.hex()
    if isinstance(one, datetime | time) and isinstance(other, datetime | time):
        zones = [value.tzinfo.key if isinstance(value.tzinfo, ZoneInfo) else None for value in (one, other)]
        return zones[0] == zones[1] and repr(one) == repr(other)
    if isinstance(one, Decimal) and isinstance(other, Decimal):
        return str(one) == str(other)
    return one == other
