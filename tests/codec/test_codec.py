from __future__ import annotations

import copy
import json
import sys
import tracemalloc
from collections import Counter, OrderedDict, defaultdict
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn
from uuid import UUID
from zoneinfo import ZoneInfo

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from pydantic_core import from_json
from sqlalchemy import (
    Column,
    Integer,
    MetaData,
    Table,
    Text,
    create_engine,
    insert,
    literal_column,
    select,
    text,
    union_all,
)
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.schema import CreateTable

from provider_trace_store.codec import (
    Encoded,
    TooLargeError,
    decode,
    encode,
    encode_utf8,
    from_json_form,
    json_form,
    same_document,
    text_keys,
)
from provider_trace_store.codec.encoder import Encoder
from provider_trace_store.codec.forms import MAX_DEPTH, MAX_LONG_DIGITS
from provider_trace_store.errors import TraceDecodingError, TraceEncodingError
from provider_trace_store.tables.types import ExactJSON
from tests.support.constants import SECRET
from tests.support.documents import SECRET_NUMBER, Unstorable, documents, same, texts, unstorable, values
from tests.support.examples import examples

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

BERLIN = ZoneInfo("Europe/Berlin")


class Color(StrEnum):
    """A subclass of `str` that compares as `str` does."""

    RED = "red"


class Level(IntEnum):
    """A subclass of `int` that compares as `int` does."""

    HIGH = 3


class OldColor(str, Enum):  # noqa: UP042  (what hosts wrote before StrEnum)
    """A text enumeration as hosts wrote it before `StrEnum`."""

    RED = "red"


class Point(NamedTuple):
    """A subclass of `tuple` that compares as `tuple` does."""

    x: int
    y: int


class Odd(Enum):
    """An enumeration whose values JSON knows and whose members compare otherwise."""

    ONE = 1


class Hashed(str):
    """Equal as text, but not found under the same key."""

    __slots__ = ()

    def __hash__(self) -> int:
        return 1


def roundtrip(document: object) -> Any:
    return decode(encode(document))


def nested(levels: int, wrap: Callable[[Any], Any], innermost: Any) -> Any:
    for _ in range(levels):
        innermost = wrap(innermost)
    return innermost


def with_stack_left(frames: int, call: Callable[[], Any]) -> Any:
    """Call something with so many frames left below Python's limit."""
    depth, frame = 0, sys._getframe()
    while frame.f_back:
        depth, frame = depth + 1, frame.f_back

    def descend(levels: int) -> Any:
        return call() if levels <= 0 else descend(levels - 1)

    return descend(sys.getrecursionlimit() - depth - frames)


def refuse_constant(name: str) -> NoReturn:
    raise AssertionError(name)


@pytest.fixture
def lowest_digits_limit() -> Iterator[None]:
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(640)
    yield
    sys.set_int_max_str_digits(before)


# What is stored reads back equal


@settings(max_examples=examples(250))
@given(documents())
def test_a_document_reads_back_the_same(document: dict[str, Any]) -> None:
    assert same(roundtrip(document), document)


@given(values())
def test_a_value_of_any_kind_reads_back_the_same(value: Any) -> None:
    assert same(roundtrip(value), value)


@given(documents())
def test_bytes_read_like_text(document: dict[str, Any]) -> None:
    assert same(decode(encode(document).encode()), document)


NOT_QUITE_JSON: list[Any] = [
    "\0",
    "\ud800",
    "\udfff\ud800",
    "\ud83d\ude00",
    "\U0001f600",
    "\ud83d\U0001f600\ude00",
    "\ud83d\ud83d\ude00\ude00",
    "\U0010ffff\ufeff\u2028",
    0,
    -(2**63),
    2**64 - 1,
    2**64,
    10**640 - 1,
    10**640,
    -(10**640),
    10**4300,
    -(10**10_000),
    0.0,
    -0.0,
    5e-324,
    1.7976931348623157e308,
    0.1 + 0.2,
    1e16,
    float("nan"),
    float("inf"),
    float("-inf"),
    b"",
    bytes(range(256)),
    (),
    (1, (2, [()])),
    [],
    {},
    [[], {}, [[]], None, True, False],
    {"": "", "\0": 1, "\ud800": 2, "é": 3},
    {"\ud83d\ude00": 1, "\U0001f600": 2},
]


@pytest.mark.parametrize("value", NOT_QUITE_JSON, ids=lambda value: type(value).__name__)
@pytest.mark.usefixtures("lowest_digits_limit")
def test_values_that_json_lacks_read_back_the_same_under_the_lowest_digits_limit(value: Any) -> None:
    for document in (value, {"value": value}, [value, "\ud800"], (value,), {"\ud83d\ude00": value}):
        assert same(roundtrip(document), document)


@pytest.mark.parametrize(
    ("document", "stored"),
    [
        ({"a": float("nan")}, {"a": {"$pts:float": "NaN"}}),
        ({"a": float("-inf")}, {"a": {"$pts:float": "-Infinity"}}),
        ({"a": b"\xff\xfe"}, {"a": {"$pts:bytes": "//4="}}),
        ({"a": 16**600}, {"a": {"$pts:int": "1" + 600 * "0"}}),
        ({"a": -(16**600)}, {"a": {"$pts:int": "-1" + 600 * "0"}}),
        ({"a": (1, ())}, {"a": {"$pts:tuple": [1, {"$pts:tuple": []}]}}),
        ({"a": "x\ud83d\ude00y"}, {"a": {"$pts:str": ["x\ud83d", "\ude00y"]}}),
        ({"\ud83d\ude00": 1, "b": 2}, {"$pts:dict": [[{"$pts:str": ["\ud83d", "\ude00"]}, 1], ["b", 2]]}),
        ({"a": Decimal("1E+2")}, {"a": {"$pts:decimal": "1E+2"}}),
        ({"a": UUID(int=1)}, {"a": {"$pts:uuid": "00000000-0000-0000-0000-000000000001"}}),
        ({"a": date(2026, 1, 2)}, {"a": {"$pts:date": "2026-01-02"}}),
        ({"a": time(3, 4, fold=1)}, {"a": {"$pts:time": "03:04:00[_fold=1]"}}),
        ({"a": timedelta(days=-1, microseconds=5)}, {"a": {"$pts:timedelta": "-86399.999995"}}),
        ({"a": datetime(2026, 1, 2, 3, 4, 5, 6, UTC)}, {"a": {"$pts:datetime": "2026-01-02T03:04:05.000006+00:00"}}),
        ({"a": datetime(2026, 1, 2)}, {"a": {"$pts:datetime": "2026-01-02T00:00:00"}}),  # noqa: DTZ001  (naive)
        (
            {"a": datetime(2026, 1, 2, tzinfo=timezone(timedelta(microseconds=-5)))},
            {"a": {"$pts:datetime": "2026-01-02T00:00:00-00:00:00.000005"}},
        ),
        (
            {"a": datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=1)},
            {"a": {"$pts:datetime": "2026-10-25T02:30:00+01:00[Europe/Berlin][_fold=1]"}},
        ),
        ({"$pts:datetime": "2026-01-02T00:00:00"}, {"$$pts:datetime": "2026-01-02T00:00:00"}),
        ({"$pts:float": "NaN"}, {"$$pts:float": "NaN"}),
        ({"$$pts:anything": 1}, {"$$$pts:anything": 1}),
        ({"$pts:float": "NaN", "b": 2}, {"$pts:float": "NaN", "b": 2}),
        ({"a": "$pts:float", "$ptsfloat": 1}, {"a": "$pts:float", "$ptsfloat": 1}),
    ],
)
def test_the_stored_form_is_the_documented_one(document: Any, stored: Any) -> None:
    assert json.loads(encode(document)) == stored
    assert same(roundtrip(document), document)


def test_a_plain_document_is_stored_as_plain_json() -> None:
    document = {"messages": [{"role": "user", "content": "naïve 😀\n"}], "n": [1, 1.5, -0.0, True, None]}

    assert json.loads(encode(document)) == document
    assert json.loads(encode({"a": "\ud800\0", "b": 2**70})) == {"a": "\ud800\0", "b": 2**70}


@given(documents())
def test_the_stored_text_is_standard_json_in_utf_8(document: dict[str, Any]) -> None:
    stored = encode(document)

    json.loads(stored, parse_constant=refuse_constant)
    assert stored.encode().decode() == stored
    assert "\0" not in stored


@given(documents())
def test_equal_documents_have_one_stored_text(document: dict[str, Any]) -> None:
    assert encode(document) == encode(copy.deepcopy(document)) == encode(roundtrip(document))


@given(st.lists(st.one_of(texts(), values()), min_size=2, max_size=6))
def test_documents_that_differ_have_texts_that_differ(drawn: list[Any]) -> None:
    for one in drawn:
        for other in drawn:
            assert same(one, other) == (encode([one]) == encode([other]))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0),
        (1, True),
        (0.0, -0.0),
        ((), []),
        (b"", ""),
        (float("nan"), None),
        (float("nan"), {"$pts:float": "NaN"}),
        ({"$pts:float": "NaN"}, {"$$pts:float": "NaN"}),
        ((1,), {"$pts:tuple": [1]}),
        ("\ud83d\ude00", "\U0001f600"),
        ("\ud83d\ude00", {"$pts:str": ["\ud83d", "\ude00"]}),
        ({"\ud83d\ude00": 1}, {"$pts:dict": [["\ud83d\ude00", 1]]}),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    ],
)
def test_look_alikes_are_not_confused(one: Any, other: Any) -> None:
    assert encode(one) != encode(other)
    assert same(roundtrip(one), one)
    assert same(roundtrip(other), other)


@given(documents())
def test_the_exact_writer_and_the_fast_one_store_documents_that_read_alike(document: dict[str, Any]) -> None:
    assert same(decode(Encoder("document").write(document)), decode(encode(document)))


def test_subclasses_that_compare_like_json_read_back_equal_and_as_plain_types() -> None:
    moved = OrderedDict(a=1, b=2)
    moved.move_to_end("a")
    document = {
        Color.RED: [Color.RED, Level.HIGH, OldColor.RED, Point(1, 2)],
        "ordered": moved,
        "default": defaultdict(list, a=[1]),
    }

    stored = roundtrip(document)

    assert stored == document
    expected = {"red": ["red", 3, "red", (1, 2)], "ordered": {"b": 2, "a": 1}, "default": {"a": [1]}}
    assert same(stored, expected)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_the_parser_reads_a_float_to_the_last_bit(value: float) -> None:
    assert same(from_json(repr(value)), value)


@given(st.from_regex(r"-?(0|[1-9][0-9]{0,30})\.[0-9]{1,40}(e[+-]?[0-9]{1,3})?", fullmatch=True))
def test_the_parser_reads_the_decimals_of_other_writers_as_python_does(literal: str) -> None:
    assert same(from_json(literal), float(literal))


# What cannot be stored is refused


@settings(max_examples=examples(125))
@given(unstorable())
def test_an_unstorable_value_is_refused_with_its_path_and_without_the_value(drawn: Unstorable) -> None:
    with pytest.raises(TraceEncodingError) as caught:
        encode(drawn.document, "request_json")

    error = caught.value
    if len(drawn.path) < 60:
        assert error.path == "request_json" + drawn.path
    assert error.reason == drawn.reason
    assert error.trace_id is None
    assert error.__cause__ is None
    assert error.__context__ is None
    shown = f"{error!s} {error!r}"
    assert SECRET not in shown
    assert str(SECRET_NUMBER) not in shown


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (PurePosixPath("a"), "a PurePosixPath"),
        (Odd.ONE, "an Odd"),
        (Counter(a=1), "a Counter"),
        (orjson.Fragment(b"1"), "a Fragment"),
        (object(), "an object"),
        ({Hashed("a"): 1}, "a key of type Hashed"),
        ({b"a": 1}, "a key of type bytes"),
    ],
)
def test_subclasses_that_the_fast_writer_would_take_by_value_are_refused(value: Any, reason: str) -> None:
    with pytest.raises(TraceEncodingError) as caught:
        encode({"a": [value]})

    assert caught.value.reason == reason


def test_a_cycle_through_several_containers_is_refused() -> None:
    document: dict[str, Any] = {"messages": [{}]}
    document["messages"][0]["parent"] = document

    with pytest.raises(TraceEncodingError) as caught:
        encode(document, "request_json")

    assert caught.value.path == "request_json.messages[0].parent"


def test_one_container_in_two_places_is_no_cycle() -> None:
    shared = [{"a": (1,)}]

    assert same(roundtrip({"a": shared, "b": shared}), {"a": [{"a": (1,)}], "b": [{"a": (1,)}]})


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("content", "body.content"),
        ("tool_calls", "body.tool_calls"),
        (SECRET, "body.<key 1>"),
        ("alice", "body.<key 1>"),
        ("sk_live_4711", "body.<key 1>"),
        ("naïve\n\ud800", "body.<key 1>"),
        ("a" * 1000, "body.<key 1>"),
    ],
)
def test_only_a_key_that_names_a_field_of_a_provider_stands_in_the_path(key: str, path: str) -> None:
    with pytest.raises(TraceEncodingError) as caught:
        encode({"other": 1, key: set()}, "body")

    assert caught.value.path == path
    assert f": {path}: a set; " in str(caught.value)


def test_a_deep_path_is_cut_in_the_middle() -> None:
    with pytest.raises(TraceEncodingError) as caught:
        encode(nested(150, lambda value: [value], {"text": {"type": set()}}), "body")

    assert caught.value.path == "body[0][0][0][0][0][0]…[0][0][0][0].text.type"


@pytest.mark.parametrize("key", [1, True, None, 1.5])
def test_a_key_that_json_would_write_as_text_is_refused_with_the_remedy_and_converted_on_demand(key: Any) -> None:
    document = {"scores": ({key: [{key: 1}]},)}

    with pytest.raises(TraceEncodingError, match=r"provider_trace_store\.text_keys\(document\) and send") as caught:
        encode(document)
    converted = text_keys(document)

    assert caught.value.reason == f"a key of type {type(key).__name__}"
    assert converted == {"scores": ({text_of(key): [{text_of(key): 1}]},)}
    assert same(roundtrip(converted), converted)
    assert document == {"scores": ({key: [{key: 1}]},)}


def text_of(key: Any) -> str:
    return json.dumps({key: 1}).split('"')[1]


def test_two_keys_that_become_the_same_text_are_refused() -> None:
    with pytest.raises(TraceEncodingError, match="two keys of a dict become the same text"):
        text_keys({1: SECRET, "1": SECRET})


def test_text_keys_copies_a_shared_container_once_and_refuses_what_is_too_deep() -> None:
    doubled = nested(60, lambda value: [value, value], {1: 1})
    copied = text_keys(doubled)

    assert copied[0] is copied[1]
    with pytest.raises(TraceEncodingError, match="nested too deeply"):
        text_keys(nested(100_000, lambda value: [value], 1))


# A bound on the size


def shared(levels: int, wrap: Callable[[Any], Any]) -> Any:
    return nested(levels, wrap, [])


MANY: dict[str, Callable[[], Any]] = {
    "dicts": lambda: shared(60, lambda value: {"a": value, "b": value}),
    "lists": lambda: shared(60, lambda value: [value, value]),
    "tuples": lambda: shared(60, lambda value: (value, value)),
    "ordered": lambda: shared(60, lambda value: OrderedDict(a=value, b=value)),
    "mixed": lambda: {"nan": float("nan"), "many": shared(60, lambda value: [value, (value, b"")])},
    "text": lambda: {"a": "x" * 2**27},
    "texts": lambda: {"a": ["x" * 10**6] * 10**5},
    "bytes": lambda: {"a": [b"x" * 10**6] * 10**5},
    "integers": lambda: {"a": [10**10_000] * 10**5},
    "pairs": lambda: {"a": ["\ud83d\ude00" * 10**5] * 10**4},
    "references": lambda: {"a": [None] * 10**8},
    "wide": lambda: [[0] * 10**5] * 10**6,
}


@pytest.mark.parametrize("name", MANY)
@pytest.mark.parametrize("limit", [1000, 64 * 2**20])
def test_a_document_whose_text_would_be_too_large_is_refused_before_the_text_is_made(name: str, limit: int) -> None:
    document = MANY[name]()

    tracemalloc.start()
    try:
        with pytest.raises(TooLargeError) as caught:
            encode_utf8(document, limit=limit)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert caught.value.size > limit
    assert peak < 64 * 2**20


@given(documents())
def test_the_limit_is_the_size_of_the_text_to_the_byte(document: dict[str, Any]) -> None:
    size = len(encode(document).encode())

    assert encode_utf8(document, limit=size).decode() == encode(document)
    with pytest.raises(TooLargeError):
        encode_utf8(document, limit=size - 1)


# The JSON form


@given(documents())
def test_the_json_form_is_json_for_every_writer_and_reads_back_the_same(document: dict[str, Any]) -> None:
    form = json_form(document)
    text = json.dumps(form, allow_nan=False, ensure_ascii=False).encode()

    assert same(from_json_form(json.loads(text)), document)
    assert same(from_json_form(form), document)
    assert json.loads(text) == form


def test_the_json_form_of_a_plain_document_is_the_document() -> None:
    document = {"messages": [{"content": "naïve 😀"}]}

    assert json_form(document) is document


# Nesting

NESTINGS: dict[str, tuple[Callable[[Any], Any], int]] = {
    "lists": (lambda value: [value], 1),
    "dicts": (lambda value: {"a": value}, 1),
    "lists, written exactly": (lambda value: ["\ud800", value], 1),
    "look-alikes": (lambda value: {"$pts:tuple": value}, 1),
    "tuples": (lambda value: (value,), 2),
}


@pytest.mark.parametrize("nesting", NESTINGS)
def test_nesting_to_the_limit_reads_back_the_same_and_one_level_more_is_refused(nesting: str) -> None:
    wrap, levels = NESTINGS[nesting]
    deepest = nested(MAX_DEPTH // levels, wrap, 1)

    assert same(roundtrip(deepest), deepest)
    with pytest.raises(TraceEncodingError, match=f"nested deeper than {MAX_DEPTH} levels"):
        encode(wrap(deepest))


@pytest.mark.parametrize(
    ("value", "levels"),
    [(float("nan"), 1), (b"", 1), (10**640, 1), ("\ud83d\ude00", 2), ((), 2), ({"\ud83d\ude00": 1}, 5)],
    ids=["float", "bytes", "int", "str", "tuple", "dict"],
)
def test_a_special_form_counts_with_its_levels(value: Any, levels: int) -> None:
    deepest = nested(MAX_DEPTH - levels, lambda inner: [inner], value)

    assert same(roundtrip(deepest), deepest)
    with pytest.raises(TraceEncodingError):
        encode([deepest])


@pytest.mark.parametrize("nesting", NESTINGS)
def test_the_deepest_document_is_written_and_read_on_a_deep_stack(nesting: str) -> None:
    wrap, levels = NESTINGS[nesting]
    deepest = nested(MAX_DEPTH // levels, wrap, 1)

    stored = with_stack_left(60, lambda: roundtrip(deepest))

    assert same(stored, deepest)


def test_an_exhausted_stack_is_an_encoding_error() -> None:
    outcomes: set[type] = set()
    for frames in range(2, 30):
        try:
            with_stack_left(frames, lambda: encode({"a": (1, "\ud83d\ude00", float("nan"))}))
        except (TraceEncodingError, RecursionError) as error:
            outcomes.add(type(error))
        else:
            outcomes.add(str)

    assert {TraceEncodingError, str} <= outcomes


@pytest.mark.parametrize("levels", [201, 400])
def test_a_document_of_another_writer_may_be_nested_deeper(levels: int) -> None:
    document = decode("[" * levels + "]" * levels)

    assert same(document, nested(levels - 1, lambda value: [value], []))


def test_the_parser_that_ignores_the_callers_stack_reads_the_deepest_stored_form() -> None:
    for wrap, levels in (NESTINGS["lists"], NESTINGS["dicts"], NESTINGS["tuples"]):
        assert from_json(encode(nested(MAX_DEPTH // levels, wrap, 1)))


def test_width_is_no_depth() -> None:
    wide = [[(1,), {"\ud83d\ude00": 1}, b""]] * (2 * MAX_DEPTH)

    assert same(roundtrip(wide), wide)


# What other writers stored


@pytest.mark.parametrize(
    ("stored", "document"),
    [
        ('{"$pts:unknown": 1}', {"$pts:unknown": 1}),
        ('{"$pts:float": "nan"}', {"$pts:float": "nan"}),
        ('{"$pts:float": ["NaN"]}', {"$pts:float": ["NaN"]}),
        ('{"$pts:bytes": "AA"}', {"$pts:bytes": "AA"}),
        ('{"$pts:bytes": "AB=="}', {"$pts:bytes": "AB=="}),
        ('{"$pts:bytes": "é"}', {"$pts:bytes": "é"}),
        ('{"$pts:bytes": null}', {"$pts:bytes": None}),
        ('{"$pts:int": "ff"}', {"$pts:int": "ff"}),
        ('{"$pts:int": "x"}', {"$pts:int": "x"}),
        ('{"$pts:int": 1}', {"$pts:int": 1}),
        ('{"$pts:tuple": {}}', {"$pts:tuple": {}}),
        ('{"$pts:str": ["a", "b"]}', {"$pts:str": ["a", "b"]}),
        ('{"$pts:str": ["\\ud83d", 1]}', {"$pts:str": ["\ud83d", 1]}),
        ('{"$pts:str": []}', {"$pts:str": []}),
        ('{"$pts:dict": [["a", 1]]}', {"$pts:dict": [["a", 1]]}),
        ('{"$pts:dict": [[1, 1]]}', {"$pts:dict": [[1, 1]]}),
        ('{"$pts:dict": [[[], 1]]}', {"$pts:dict": [[[], 1]]}),
        (
            '{"$pts:dict": [[{"$pts:str": ["\\ud83d", "\\ude00"]}, 1], [{"$pts:str": ["\\ud83d", "\\ude00"]}, 2]]}',
            {"$pts:dict": [["\ud83d\ude00", 1], ["\ud83d\ude00", 2]]},
        ),
        ('{"$pts:dict": [1]}', {"$pts:dict": [1]}),
        ('{"$pts:str": "a"}', {"$pts:str": "a"}),
        ('{"$pts:datetime": "2026-01-01"}', {"$pts:datetime": "2026-01-01"}),
        (
            '{"$pts:datetime": "2026-01-01T00:00:00[Europe/Berlin]"}',
            {"$pts:datetime": "2026-01-01T00:00:00[Europe/Berlin]"},
        ),
        ('{"$pts:datetime": 1}', {"$pts:datetime": 1}),
        ('{"$pts:decimal": "1_0"}', {"$pts:decimal": "1_0"}),
        ('{"$pts:decimal": "x"}', {"$pts:decimal": "x"}),
        ('{"$pts:uuid": "x"}', {"$pts:uuid": "x"}),
        ('{"$pts:timedelta": "-0.000000"}', {"$pts:timedelta": "-0.000000"}),
        ('{"$pts:timedelta": "99999999999999999999.000000"}', {"$pts:timedelta": "99999999999999999999.000000"}),
        ('{"$pts:float": "NaN", "a": 1}', {"$pts:float": "NaN", "a": 1}),
        ('{"a": NaN, "b": -Infinity}', {"a": float("nan"), "b": float("-inf")}),
        ('{ "a" :\t1e2 }\n', {"a": 100.0}),
        ('{"a": 1e400}', {"a": float("inf")}),
        ("null", None),
    ],
)
def test_a_document_of_another_writer_is_returned_as_it_is(stored: str, document: Any) -> None:
    assert same(decode(stored), document)


@pytest.mark.usefixtures("lowest_digits_limit")
@pytest.mark.parametrize("digits", [640, 641, 4300, 4301, 10_000])
def test_a_long_integer_of_another_writer_is_read_under_any_digits_limit(digits: int) -> None:
    expected = (10**digits - 1) // 9

    assert decode(f'{{"a": {"1" * digits}, "b": -{"1" * digits}}}') == {"a": expected, "b": -expected}


def test_integers_of_another_writer_have_a_largest_number_of_digits() -> None:
    longest = "7" * MAX_LONG_DIGITS
    value = decode(f'{{"a": {longest}}}')["a"]

    assert (value % 10**9, value.bit_length()) == (777777777, 3321928)
    for stored in (f'{{"a": {longest}7}}', f"[{longest[:500_000]}, {longest[:500_001]}]", "7" * 1_600_000):
        with pytest.raises(TraceDecodingError):
            decode(stored)


def test_a_zone_that_this_machine_does_not_know_keeps_the_instant() -> None:
    stored = '{"$pts:datetime": "2026-01-01T00:00:00+03:00[Mars/Olympus]"}'

    assert same(decode(stored), datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=3))))


class Ambiguous(tzinfo):
    """A zone of a host's own whose clock shows an hour twice: as a fixed offset, its times compare as different."""

    def utcoffset(self, value: datetime | None) -> timedelta:
        """Return no offset, or an hour for the second time."""
        return timedelta(hours=value.fold if value else 0)


def test_a_datetime_of_pydantic_reads_back_equal_and_one_that_would_not_is_refused() -> None:
    parsed = TypeAdapter(datetime).validate_python("2026-01-02T03:04:05.6+05:30")

    assert roundtrip([parsed]) == [parsed]
    with pytest.raises(TraceEncodingError, match="neither a ZoneInfo nor a fixed offset"):
        encode([datetime(2026, 1, 1, tzinfo=Ambiguous())])  # type: ignore[abstract]  # Python lets it be made


def test_decimals_and_dates_that_compare_equal_are_different_documents() -> None:
    for one, other in [
        (Decimal("1.0"), Decimal("1.00")),
        (datetime(2026, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))), datetime(2026, 1, 1, tzinfo=UTC)),
    ]:
        assert one == other
        assert same_document(encode([one]), encode([one]))
        assert not same_document(encode([one]) + " ", encode([other]))
    assert same_document(encode([Decimal("sNaN")]) + " ", encode([Decimal("sNaN")]))


@pytest.mark.parametrize(
    "stored",
    ["", " ", "{", '{"a": 1', "[1,]", '"a', '{"' + SECRET, "\ud800", "[" * 100_000, b"\xff", b"\x80\x80{"],
    ids=["empty", "space", "open", "unclosed", "comma", "text", "secret", "surrogate", "deep", "ff", "80"],
)
def test_text_that_is_not_json_is_a_decoding_error_without_the_text(stored: str | bytes) -> None:
    with pytest.raises(TraceDecodingError) as caught:
        decode(stored)

    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert SECRET not in f"{caught.value!s} {caught.value!r}"


@given(st.text())
def test_any_text_is_a_document_or_a_decoding_error(stored: str) -> None:
    try:
        decode(stored)
    except TraceDecodingError:
        with pytest.raises(json.JSONDecodeError):
            json.loads(stored)


# The column type


class Base(DeclarativeBase):
    """The mapped classes of this module."""


class Note(Base):
    """A row with a document."""

    __tablename__ = "notes"

    id: Mapped[int] = mapped_column(primary_key=True)
    body: Mapped[Any] = mapped_column(ExactJSON)


notes = Base.metadata.tables["notes"]
DOCUMENT = {"\ud800": [float("nan"), -0.0, b"\xff", (1,), 2**70, "\0"], "$pts:x": {"$pts:x": "é😀"}}


def wrong(_: object) -> NoReturn:
    raise AssertionError("the engine's own JSON settings were used")


def test_the_column_is_called_json_on_both_databases() -> None:
    for url in ("postgresql+psycopg://", "sqlite://"):
        assert "body JSON" in str(CreateTable(notes).compile(create_engine(url)))


def test_a_bound_document_is_cast_for_postgresql() -> None:
    statement = insert(notes).values(id=1, body={})

    compiled = str(statement.compile(create_engine("postgresql+psycopg://")))
    assert "CAST(CAST(%(body)s AS TEXT) AS JSON)" in compiled


def test_a_selected_or_returned_column_is_text_to_the_driver() -> None:
    inserted = insert(notes).values(id=1, body={}).returning(notes.c.body)

    assert "CAST(notes.body AS TEXT)" in str(select(Note).compile(create_engine("postgresql+psycopg://")))
    assert "CAST(notes.body AS TEXT)" in str(inserted.compile(create_engine("postgresql+psycopg://")))


def test_a_column_reads_back_the_same_whatever_the_engines_json_settings() -> None:
    engine = create_engine("sqlite://", json_serializer=wrong, json_deserializer=wrong)
    with engine.begin() as connection:
        Base.metadata.create_all(connection)
        returned = connection.execute(insert(notes).values(id=1, body=DOCUMENT).returning(notes.c.body))
        many = insert(notes).returning(notes.c.id, notes.c.body)
        bulk = connection.execute(many, [{"id": 2, "body": encode([DOCUMENT])}, {"id": 3, "body": [(1,)]}])
        assert same(returned.scalar_one(), DOCUMENT)
        assert same(sorted((tuple(row) for row in bulk), key=lambda row: row[0]), [(2, [DOCUMENT]), (3, [(1,)])])
    with engine.connect() as connection:
        assert same(connection.execute(select(notes.c.body).where(notes.c.id == 1)).scalar_one(), DOCUMENT)
        first = select(notes.c.id, notes.c.body)
        inner = first.subquery()
        both = connection.execute(union_all(first.where(notes.c.id == 2), first.where(notes.c.id == 1)))
        assert {row.id: same(row.body, DOCUMENT) for row in both} == {1: True, 2: False}
        row = connection.execute(select(inner.c.body).where(inner.c.id == 2)).one()
        assert same(row.body, [DOCUMENT])
    with Session(engine) as session:
        note = session.get(Note, 1)
        assert note is not None
        assert same(note.body, DOCUMENT)
        note.body = {"changed": (1,)}
        session.flush()
        session.refresh(note)
        assert same(note.body, {"changed": (1,)})
    engine.dispose()


def test_none_is_null_and_a_stored_json_null_reads_as_none() -> None:
    engine = create_engine("sqlite://")
    table = Table("nulls", MetaData(), Column("id", Integer, primary_key=True), Column("body", ExactJSON))
    with engine.begin() as connection:
        table.create(connection)
        connection.execute(insert(table), [{"id": 1, "body": None}])
        connection.execute(text("INSERT INTO nulls VALUES (2, 'null')"))
        is_null = select(table.c.id, table.c.body, table.c.body.is_(None).label("is_null"))
        rows = connection.execute(is_null.order_by(table.c.id)).all()
    engine.dispose()

    assert [(row.id, row.body, bool(row.is_null)) for row in rows] == [(1, None, True), (2, None, False)]


async def test_the_asynchronous_sqlite_driver_reads_back_the_same(tmp_path: Path) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'notes.db'}", json_deserializer=wrong)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
        returned = await connection.execute(insert(notes).values(id=1, body=DOCUMENT).returning(notes.c.body))
        assert same(returned.scalar_one(), DOCUMENT)
        assert same((await connection.execute(select(notes.c.body))).scalar_one(), DOCUMENT)
    await engine.dispose()


def test_stored_text_is_bound_as_it_is_and_stays_out_of_messages() -> None:
    stored = encode({"key": SECRET})
    engine = create_engine("sqlite://")
    with engine.begin() as connection:
        Base.metadata.create_all(connection)
        connection.execute(insert(notes).values(id=1, body=stored))
        raw = connection.execute(select(literal_column("body", Text)).select_from(notes)).scalar_one()
        with pytest.raises(Exception, match="UNIQUE") as caught:
            connection.execute(insert(notes).values(id=1, body=stored))
    engine.dispose()

    assert raw == stored
    assert isinstance(stored, Encoded)
    assert SECRET not in f"{stored!r} {caught.value!s} {caught.value!r}"
