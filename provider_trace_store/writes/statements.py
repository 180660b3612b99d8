"""The look-ups of the writes: what is stored under the ids of new traces.

None of these statements has a tenant: their results are for comparing and never for returning.
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
    """Select every row of the ids of `look_up`, of any organization and deleted ones too, to compare with new traces.

    The fields that `RowLayout.compared` names come first, then the others but documents, then the `size` of the
    documents in bytes.
    """
    compared = kind.layout.compared
    others = [name for name in kind.fields if name not in DOCUMENTS and name not in compared]
    # Of text, SQLite counts characters.
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
    """Select the documents of the ids of `look_up`, as their stored text; for what `heads_under` found."""
    documents = (cast(kind.columns[name], Text).label(name) for name in kind.documents)
    return select(kind.columns["id"], kind.columns["created_at"], *documents).where(is_among(kind, lookup))


@cache
def any_stored_under(kind: Kind, lookup: Lookup) -> Select[Any]:
    """Select one row if any of the ids of `look_up` is taken."""
    return select(literal(1)).where(is_among(kind, lookup)).limit(1)


@cache
def any_stored_between(kind: Kind) -> Select[Any]:
    """Select one row if any id from `:lowest` to `:highest` is taken.

    For ids that `are_of_one_form`, where `order_is_plain`. New UUIDv7 lie close together: one look at their range
    mostly replaces a thousand.
    """
    in_range = kind.columns["id"].between(bindparam("lowest", type_=Text), bindparam("highest", type_=Text))
    return select(literal(1)).where(in_range).limit(1)


@cache
def order_is_plain(kind: Kind) -> Select[Any]:
    """Select whether the id column's collation puts hexadecimal digits in their order, one after the other.

    An ICU collation may take runs of digits for numbers, or put letters first.
    """
    # Of no row, and still of the column's collation, which decides how it compares with what stands before it.
    nothing = select(kind.columns["id"]).limit(0).scalar_subquery()
    pairs = (*pairwise("0123456789abcdef"), ("10", "2"), ("1a", "2"), ("19", "1a"))
    return select(and_(*(literal(low) < func.coalesce(nothing, literal(high)) for low, high in pairs)))
