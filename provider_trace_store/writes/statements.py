"""The SELECT statements of the writes: they find the rows stored under the ids of new traces.

An id is unique over all organizations, so none of these statements filters by one. Their results are only compared
with new rows, and never returned to a caller.
"""

from __future__ import annotations

from functools import cache, reduce
from itertools import pairwise
from operator import add
from typing import TYPE_CHECKING, Any

from sqlalchemy import LargeBinary, Text, and_, bindparam, cast, func, literal, select

from provider_trace_store.tables.ids import is_among
from provider_trace_store.tables.models import DOCUMENTS

if TYPE_CHECKING:
    from sqlalchemy import Select

    from provider_trace_store.tables.ids import Lookup
    from provider_trace_store.tables.kinds import Kind


@cache
def heads_under(kind: Kind, lookup: Lookup) -> Select[Any]:
    """Select every row with one of the ids, without its documents, of any organization and also if it is deleted.

    The fields that `RowLayout.compared` names come first, then the other fields except documents, then `size`, the
    number of bytes of the documents.

    Args:
        kind: the table.
        lookup: how the statement gets the ids; `lookup_for` returns it with the parameter.
    """
    compared = kind.layout.compared
    others = [name for name in kind.fields if name not in DOCUMENTS and name not in compared]
    # SQLite's `length` counts the characters of text, and the bytes of a BLOB.
    sizes = [
        func.coalesce(func.length(cast(cast(kind.columns[name], Text), LargeBinary)), 0)
        if lookup.dialect == "sqlite"
        else func.coalesce(func.octet_length(cast(kind.columns[name], Text)), 0)
        for name in kind.documents
    ]
    return select(
        *(kind.columns[name].label(name) for name in (*compared, *others)), reduce(add, sizes).label("size")
    ).where(is_among(kind, lookup))


@cache
def documents_under(kind: Kind, lookup: Lookup) -> Select[Any]:
    """Select the documents of the rows with one of the ids, as their stored text; arguments as `heads_under`."""
    documents = (cast(kind.columns[name], Text).label(name) for name in kind.documents)
    return select(kind.columns["id"], kind.columns["created_at"], *documents).where(is_among(kind, lookup))


@cache
def any_stored_under(kind: Kind, lookup: Lookup) -> Select[Any]:
    """Select one row if any of the ids is stored; arguments as `heads_under`."""
    return select(literal(1)).where(is_among(kind, lookup)).limit(1)


@cache
def any_stored_between(kind: Kind) -> Select[Any]:
    """Select one row if any id from `:lowest` to `:highest` is stored.

    New UUIDv7 ids lie close together in the index, so one look at their range usually replaces a thousand. It is only
    correct for ids that `have_uuid_form`, in a table for which `order_is_plain`.

    Args:
        kind: the table.
    """
    in_range = kind.columns["id"].between(bindparam("lowest", type_=Text), bindparam("highest", type_=Text))
    return select(literal(1)).where(in_range).limit(1)


@cache
def order_is_plain(kind: Kind) -> Select[Any]:
    """Select whether the id column's collation sorts hexadecimal digits one by one, 0 to 9 before a to f.

    An ICU collation may compare runs of digits as numbers, or sort letters before digits.

    Args:
        kind: the table.
    """
    # A NULL of the id column's type: the comparison with it uses that column's collation.
    nothing = select(kind.columns["id"]).limit(0).scalar_subquery()
    pairs = (*pairwise("0123456789abcdef"), ("10", "2"), ("1a", "2"), ("19", "1a"))
    return select(and_(*(literal(low) < func.coalesce(nothing, literal(high)) for low, high in pairs)))
