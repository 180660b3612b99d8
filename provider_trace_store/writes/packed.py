"""Packed traces, as the writes of full traces meet them: an id that is packed must not be stored a second time.

A new row is inserted first, and then its id is looked for among the packed ones, in a statement of its own. The order
matters: an INSERT waits for a transaction that is packing the id, and a statement sees only what was committed before
it began. With one snapshot for all statements, REPEATABLE READ or SERIALIZABLE, the look does not see a trace that was
packed after the snapshot. There, an insert into the table of metadata, which is undone, finds it: PostgreSQL reports a
row with the same key that the snapshot hides as a serialization failure.

In autocommit mode the INSERT is committed before the look, so there is a look before it, too. If a trace is packed
between that look and the INSERT, the inserted rows are deleted again.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Text, bindparam, cast, delete, false, func, literal_column, select

from provider_trace_store.codec import same_document
from provider_trace_store.database.drivers import SERIALIZATION_FAILURE, errors_of, sqlstate_of
from provider_trace_store.database.transactions import has_one_snapshot, in_autocommit
from provider_trace_store.errors import ProviderTraceUnavailableError
from provider_trace_store.packs.format import PACKED_DOCUMENTS, DamagedPackError
from provider_trace_store.packs.store import documents_of
from provider_trace_store.tables.ids import have_uuid_form, is_among, lookup_for
from provider_trace_store.tables.kinds import FULL, METADATA
from provider_trace_store.writes.inserts import insert_unless_taken

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from uuid import UUID

    from sqlalchemy import ColumnElement, Connection, Select
    from sqlalchemy import Row as StoredRow

    from provider_trace_store.packs.format import Documents
    from provider_trace_store.tables.ids import Lookup
    from provider_trace_store.tables.rows import Row

_IS_PACKED: Final[ColumnElement[bool]] = METADATA.columns["pack_id"].is_not(None)
# The places in `Row.values` of a full trace of the values that its row of metadata has, too.
_METADATA_PLACES: Final = tuple(FULL.layout.fields.index(name) for name in METADATA.layout.fields)
_TAGS: Final = "agent_tags"


def is_any_packed(connection: Connection, rows: Sequence[Row], *, order_is_plain: bool) -> bool:
    """Return whether the id of any of some rows, which were inserted just now, is that of a packed trace.

    Args:
        connection: the session's connection, in the savepoint of the insert.
        rows: of full traces; at least one, and no more than one statement has.
        order_is_plain: whether `statements.order_is_plain` holds for the table of metadata.

    Raises:
        DBAPIError, ProviderTraceUnavailableError: a serialization failure: an id was packed after the transaction's
            snapshot.
    """
    trace_ids = [row.trace_id for row in rows]
    found = None
    if order_is_plain and len(rows) > 1 and have_uuid_form(trace_ids):
        ends = {"lowest": min(trace_ids), "highest": max(trace_ids)}
        found = connection.execute(_any_packed_between(connection.dialect.name), ends).one()
    if found is None or found.is_packed:
        lookup, parameters = lookup_for(trace_ids, connection.dialect.name)
        found = connection.execute(_any_packed(lookup), parameters).one()
    if not found.is_packed and found.has_one_snapshot and not in_autocommit(connection):
        _fail_if_hidden(connection, rows)
    return bool(found.is_packed)


def withdraw(connection: Connection, rows: Sequence[Row]) -> None:
    """Delete the full traces that a statement in autocommit mode has just inserted.

    Args:
        connection: the session's connection.
        rows: at least one, and no more than one statement has.
    """
    lookup, parameters = lookup_for([row.trace_id for row in rows], connection.dialect.name)
    connection.execute(delete(FULL.table).where(is_among(FULL, lookup)), parameters)


def packed_heads(connection: Connection, trace_ids: Collection[str]) -> Sequence[StoredRow[Any]]:
    """Return the rows of metadata of the packed ones of some ids, of any organization and also if they are deleted.

    The columns are those of `statements.heads_under`, and `pack_id` and `agent_tags` after them; `size` is 1, because
    a full trace has documents.

    Args:
        connection: the session's connection, in a savepoint.
        trace_ids: at least one, and no more than one statement has.
    """
    lookup, parameters = lookup_for(trace_ids, connection.dialect.name)
    return connection.execute(_packed_heads(lookup), parameters).all()


def same_packed(connection: Connection, candidates: Sequence[tuple[Row, StoredRow[Any]]]) -> list[bool]:
    """Return for each of some rows whether it has the same documents as the packed trace of its id.

    Several rows may have one id. A row whose packed trace is damaged is not the same: nothing shows that it is.

    Args:
        connection: the session's connection, in a savepoint.
        candidates: pairs of a row and the row of `packed_heads` that is the same in all other fields.

    Raises:
        ProviderTraceUnavailableError: a pack is gone; it was replaced, unpacked or erased after the rows were read.
    """
    wanted: dict[UUID, list[str]] = {}
    for row, head in candidates:
        wanted.setdefault(head.pack_id, []).append(row.trace_id)
    found = documents_of(connection, wanted) if wanted else {}
    for row, _ in candidates:
        if row.trace_id not in found:
            raise ProviderTraceUnavailableError(row.trace_id, SERIALIZATION_FAILURE)
    return [_is_same(row, head, found[row.trace_id]) for row, head in candidates]


def _is_same(row: Row, head: StoredRow[Any], documents: Documents | DamagedPackError) -> bool:
    if isinstance(documents, DamagedPackError):
        return False
    texts = {
        name: None if text is None else text.decode() for name, text in zip(PACKED_DOCUMENTS, documents, strict=True)
    }
    texts[_TAGS] = head.agent_tags
    return all(same_document(texts[name], row.values[place]) for place, name in FULL.layout.documents)


def _fail_if_hidden(connection: Connection, rows: Sequence[Row]) -> None:
    """Raise the serialization failure if the snapshot hides a row of metadata with the key of one of some rows.

    The snapshot also shows the full row that was packed since, beside the new one: its date may be another one. The
    table of metadata may refuse a probe for a reason of its own: such a row is not in it.
    """
    lookup, parameters = lookup_for([row.trace_id for row in rows], connection.dialect.name)
    if (connection.scalar(_count(lookup), parameters) or 0) > len(rows):
        raise ProviderTraceUnavailableError(rows[0].trace_id, SERIALIZATION_FAILURE)
    for row in rows:
        probe = row._replace(values=[row.values[place] for place in _METADATA_PLACES])
        nested = connection.begin_nested()
        try:
            insert_unless_taken(connection, METADATA, probe)
        except errors_of(connection) as error:
            if sqlstate_of(error) == SERIALIZATION_FAILURE:
                raise
        finally:
            nested.rollback()


@cache
def _count(lookup: Lookup) -> Select[Any]:
    return select(func.count()).select_from(FULL.table).where(is_among(FULL, lookup))


@cache
def _any_packed(lookup: Lookup) -> Select[Any]:
    return _exists(is_among(METADATA, lookup), lookup.dialect)


@cache
def _any_packed_between(dialect: str) -> Select[Any]:
    ends = bindparam("lowest", type_=Text), bindparam("highest", type_=Text)
    return _exists(METADATA.columns["id"].between(*ends), dialect)


def _exists(condition: ColumnElement[bool], dialect: str) -> Select[Any]:
    """Return the statement that selects whether a packed trace meets a condition, and `has_one_snapshot`."""
    # SQLite has one writer at a time, and refuses to write after an old snapshot.
    one_snapshot = has_one_snapshot() if dialect == "postgresql" else false()
    is_packed = select(literal_column("1")).where(condition, _IS_PACKED).exists()
    columns: tuple[ColumnElement[Any], ...] = (is_packed.label("is_packed"), one_snapshot.label("has_one_snapshot"))
    return select(*columns)


@cache
def _packed_heads(lookup: Lookup) -> Select[Any]:
    compared = FULL.layout.compared
    others = [name for name in METADATA.fields if name not in compared and name != _TAGS]
    return select(
        *(METADATA.columns[name].label(name) for name in (*compared, *others)),
        literal_column("1").label("size"),
        METADATA.columns["pack_id"].label("pack_id"),
        cast(METADATA.columns[_TAGS], Text).label(_TAGS),
    ).where(is_among(METADATA, lookup), _IS_PACKED)
