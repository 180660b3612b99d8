"""How a statement gets ids: one id as a parameter, several ids as one parameter that is a JSON array."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import orjson
from sqlalchemy import JSON, Text, bindparam, cast, func, select

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy import ColumnElement

    from provider_trace_store.tables.kinds import Kind

# `provider_trace-` and a UUID of 36 characters, in lower case.
_UUID_ID_LENGTH: Final = 51
_UUID_ID_HYPHENS: Final = (14, 23, 28, 33, 38)


class Lookup(NamedTuple):
    """How a statement gets the ids of the rows that it looks up.

    Args:
        dialect: SQLAlchemy's name of the database.
        is_one: whether the parameter is one id; otherwise it is a JSON array of ids.
    """

    dialect: str
    is_one: bool


def lookup_for(trace_ids: Collection[str], dialect: str) -> tuple[Lookup, dict[str, str]]:
    """Return how a statement gets some ids, and the parameter to execute it with.

    Args:
        trace_ids: the ids, at least one; text that a column can hold.
        dialect: SQLAlchemy's name of the database.
    """
    if len(trace_ids) == 1:
        return Lookup(dialect, is_one=True), {"ids": next(iter(trace_ids))}
    # One parameter for any number of ids: SQLite limits the number of parameters, and each takes a driver time.
    return Lookup(dialect, is_one=False), {"ids": orjson.dumps(list(trace_ids)).decode()}


def is_among(kind: Kind, lookup: Lookup) -> ColumnElement[bool]:
    """Return the condition that a row's id is one of those that `lookup_for` made the parameter from.

    Args:
        kind: the table.
        lookup: how the statement gets the ids.
    """
    if lookup.is_one:
        return kind.columns["id"] == each_of(lookup)
    # A subquery, not `= ANY(array)`: with an array that is not constant, a sequential scan compares each row with each
    # element.
    return kind.columns["id"].in_(select(each_of(lookup)))


def each_of(lookup: Lookup) -> ColumnElement[str]:
    """Return the ids that `lookup_for` made the parameter from, as a column: a SELECT of it has a row for each id.

    Args:
        lookup: how the statement gets the ids.
    """
    parameter = bindparam("ids", type_=Text)
    if lookup.is_one:
        return parameter
    if lookup.dialect == "sqlite":
        return func.json_each(parameter).table_valued("value").c.value
    return func.json_array_elements_text(cast(parameter, JSON))


def have_uuid_form(trace_ids: Collection[str]) -> bool:
    """Say whether each id is the prefix and a UUID in lower case, as this package makes new ids.

    Such ids differ in hexadecimal digits only.
    """
    joined = "".join(trace_ids)
    count = len(trace_ids)
    if len(joined) != _UUID_ID_LENGTH * count or not joined.isascii():
        return False
    # Faster for a thousand ids than a regular expression. If the joined ids have these characters and their hyphens at
    # these places, each id has the form.
    without_digits = joined.encode().translate(None, b"0123456789abcdef")
    hyphens = "-" * count
    return without_digits == b"provir_tr-----" * count and all(
        joined[place::_UUID_ID_LENGTH] == hyphens for place in _UUID_ID_HYPHENS
    )
