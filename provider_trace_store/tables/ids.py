"""How a statement is given ids: one as a parameter, several as one parameter of JSON."""

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
    """In which way a statement is given ids.

    Args:
        dialect: SQLAlchemy's name of the database.
        is_one: whether it is one id, rather than JSON of several.
    """

    dialect: str
    is_one: bool


def look_up(trace_ids: Collection[str], dialect: str) -> tuple[Lookup, dict[str, str]]:
    """Return in which way a statement looks ids up, and its parameter.

    Args:
        trace_ids: at least one; checked text without NUL.
        dialect: SQLAlchemy's name of the database.
    """
    if len(trace_ids) == 1:
        return Lookup(dialect, is_one=True), {"ids": next(iter(trace_ids))}
    # One parameter, whatever their number: SQLite allows only so many, and each costs a driver time.
    return Lookup(dialect, is_one=False), {"ids": orjson.dumps(list(trace_ids)).decode()}


def is_among(kind: Kind, lookup: Lookup) -> ColumnElement[bool]:
    """Return the condition that a row's id is among those of `look_up`."""
    parameter = bindparam("ids", type_=Text)
    if lookup.is_one:
        return kind.columns["id"] == parameter
    if lookup.dialect == "sqlite":
        return kind.columns["id"].in_(select(func.json_each(parameter).table_valued("value").c.value))
    # No array: with one that is not constant, a sequential scan would compare each row with each of its elements.
    return kind.columns["id"].in_(select(func.json_array_elements_text(cast(parameter, JSON))))


def are_of_one_form(trace_ids: Collection[str]) -> bool:
    """Say whether all ids are written as this package writes new ones, and so differ in hexadecimal digits only."""
    joined = "".join(trace_ids)
    count = len(trace_ids)
    if len(joined) != _UUID_ID_LENGTH * count or not joined.isascii():
        return False
    # Rather than a regular expression, which a thousand ids at a time would wait for. Which characters there are, and
    # that hyphens are in place, together leave no other form.
    without_digits = joined.encode().translate(None, b"0123456789abcdef")
    hyphens = "-" * count
    return without_digits == b"provir_tr-----" * count and all(
        joined[place::_UUID_ID_LENGTH] == hyphens for place in _UUID_ID_HYPHENS
    )
