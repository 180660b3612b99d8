"""Locks on the ids of new rows, for a table whose primary key takes an id under two dates.

The server lets two transactions insert one id with different dates: each looks for the id, and neither sees the other's
row before the commit. So a write locks its ids until the end of its transaction, and looks for them after that, in a
statement of its own: a statement sees only what was committed before it began, so a look in the same statement would
miss the row of the transaction that it has waited for.

A lock is an advisory lock of PostgreSQL, and takes a place in the table of locks that all sessions of the server share.
A transaction that has more locks than the server reserves for each one therefore takes further ones only while half of
the table is free; ids beyond that are looked up without a lock. SQLite has one writer at a time, and needs none.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, Final
from weakref import ref

from sqlalchemy import func, literal_column, or_, select, text

from provider_trace_store.database.drivers import SERIALIZATION_FAILURE
from provider_trace_store.database.transactions import has_one_snapshot, one_transaction
from provider_trace_store.errors import ProviderTraceUnavailableError
from provider_trace_store.tables.ids import each_of, lookup_for

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from sqlalchemy import Connection, Select

    from provider_trace_store.tables.ids import Lookup
    from provider_trace_store.tables.kinds import Kind

# The key of an id's lock is `hashtextextended(id, SEED)`: keys of a host's own advisory locks are other numbers. All
# processes must use the same seed. It is the ASCII text "pts:ids" as a number.
SEED: Final = 0x7074733A696473
# PostgreSQL's default of `max_locks_per_transaction`.
_RESERVED: Final = 64
_INFO: Final = f"{__name__}.held"
# Whether half of the table of locks is free after `:more` locks. The server's table has at least so many places.
_IS_ROOM: Final = text(
    "(SELECT count(*) FROM pg_locks) + CAST(:more AS integer) <= CAST(current_setting('max_locks_per_transaction') AS "
    "integer) * (CAST(current_setting('max_connections') AS integer) + CAST(current_setting('max_worker_processes') AS "
    "integer) + CAST(current_setting('max_wal_senders') AS integer)) / 2"
)


@contextmanager
def ids_locked(connection: Connection, kind: Kind, trace_ids: Collection[str]) -> Iterator[None]:
    """Lock ids, if their table takes an id twice, and run a block that looks for them and inserts their rows.

    The locks last until the end of the transaction, or of the savepoint around the block if that is rolled back.

    Args:
        connection: the session's connection. In autocommit mode, the block is one transaction.
        kind: the table.
        trace_ids: at least one, and no more than one statement has rows.

    Raises:
        ProviderTraceUnavailableError: a transaction that this one has waited for may have stored an id, and the
            isolation level, REPEATABLE READ or SERIALIZABLE, hides its rows.
    """
    if not kind.takes_an_id_twice:
        yield
        return
    with one_transaction(connection):
        if connection.dialect.name == "postgresql":
            _lock_ids(connection, trace_ids)
        yield


def _lock_ids(connection: Connection, trace_ids: Collection[str]) -> None:
    lookup, parameters = lookup_for(trace_ids, connection.dialect.name)
    looks_for_room = _held(connection, len(trace_ids)) > _RESERVED
    more = {"more": len(trace_ids)} if looks_for_room else {}
    lock = connection.execute(_lock(lookup, looks_for_room=looks_for_room), parameters | more).one()
    if lock.waited and lock.has_one_snapshot:
        raise ProviderTraceUnavailableError(next(iter(trace_ids)), SERIALIZATION_FAILURE)


def _held(connection: Connection, more: int) -> int:
    """Return how many locks the transaction has taken at most, with those that it takes now."""
    transaction = connection.get_transaction()
    last, before = connection.info.get(_INFO, (None, 0))
    held: int = more + (before if last is not None and last() is transaction else 0)
    if transaction is not None:
        connection.info[_INFO] = (ref(transaction), held)
    return held


@cache
def _lock(lookup: Lookup, *, looks_for_room: bool) -> Select[Any]:
    """Return the statement that locks ids, and selects whether it waited for one, and `has_one_snapshot`.

    Args:
        lookup: how the statement gets the ids; `lookup_for` returns it with the parameter.
        looks_for_room: whether to lock nothing if less than half of the server's table of locks would be free after
            the number of locks that the parameter `:more` has.
    """
    # In the order of their keys, so that two transactions that lock the same ids do not wait for each other. OFFSET
    # keeps the planner from dissolving the subquery.
    ids = select(each_of(lookup).label("id")).subquery("ids")
    key = func.hashtextextended(ids.c.id, literal_column(str(SEED)))
    keys = select(key.label("key")).distinct().order_by("key").offset(literal_column("0")).subquery("keys")
    # `pg_advisory_xact_lock` returns no NULL. It is called for a lock that the first function could not take at once.
    waited = ~or_(func.pg_try_advisory_xact_lock(keys.c.key), func.pg_advisory_xact_lock(keys.c.key).is_(None))
    statement = select(
        func.bool_or(waited).label("waited"),
        has_one_snapshot().label("has_one_snapshot"),
    )
    return statement.where(_IS_ROOM) if looks_for_room else statement
