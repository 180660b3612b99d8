"""The sessions that hold a lock for which a migration waits: by pid and age, never by the text of their queries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import text

from provider_trace_store.database.names import quoted
from provider_trace_store.migrations.autogenerate import VERSION_TABLE
from provider_trace_store.tables.models import metadata

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Connection

# How many sessions a message names.
_SHOWN: Final = 5

# A prepared transaction holds its locks without a session.
_HOLDERS: Final = """
SELECT locks.pid, prepared.gid, application_name, state,
    floor(extract(epoch FROM clock_timestamp() - coalesce(xact_start, prepared))) AS age
FROM (SELECT DISTINCT pid, virtualtransaction FROM pg_locks WHERE granted AND pid IS DISTINCT FROM pg_backend_pid()
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND {condition}) AS locks
LEFT JOIN pg_stat_activity ON pg_stat_activity.pid = locks.pid
LEFT JOIN pg_prepared_xacts AS prepared ON locks.pid IS NULL AND virtualtransaction = '-1/' || transaction
ORDER BY age DESC NULLS LAST
"""
_OF_ADVISORY_LOCK: Final = (
    "locktype = 'advisory' AND objsubid = 1 AND (CAST(classid AS bigint) << 32) + CAST(objid AS bigint) = :key"
)
# A statement also locks the indexes and partitions of its table, and the tables that a foreign key of it names.
_OF_TABLES: Final = """
locktype = 'relation' AND (NOT :of_writers OR mode NOT IN ('AccessShareLock', 'RowShareLock')) AND relation IN (
    WITH named AS (SELECT to_regclass(name) AS relid FROM unnest(CAST(:names AS text[])) AS names (name)),
        tables AS (SELECT relid FROM named UNION SELECT tree.relid FROM named, pg_partition_tree(named.relid) AS tree)
    SELECT CAST(relid AS oid) FROM tables
    UNION SELECT indexrelid FROM pg_index JOIN tables ON indrelid = relid
    UNION SELECT confrelid FROM pg_constraint JOIN tables ON conrelid = relid)
"""
# Locks of the own transaction that block writers of a table.
_OWN: Final = text(
    "SELECT EXISTS (SELECT FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'relation' AND granted "
    "AND mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock'))"
)


def holders_of_advisory_lock(connection: Connection, key: int) -> str:
    """Return the sessions that hold an advisory lock of this database, for a message.

    Args:
        connection: a connection to PostgreSQL.
        key: the lock's key, 64 bits.
    """
    return _described(connection, _OF_ADVISORY_LOCK, {"key": key})


def holders_of_tables(connection: Connection, schema: str | None, statement: str) -> str:
    """Return the sessions that hold locks of the package's tables, for a message.

    The lock that a statement of a migration could not get is one of these: PostgreSQL does not report which one.

    Args:
        connection: a connection to PostgreSQL, which no longer waits.
        schema: the schema of the tables; None for the connection's default.
        statement: the statement that waited. CREATE INDEX waits for writers only, others wait for readers, too.
    """
    names = [quoted(connection.dialect, schema, name) for name in (*metadata.tables, VERSION_TABLE)]
    values = {"names": names, "of_writers": statement.startswith("CREATE INDEX")}
    return _described(connection, _OF_TABLES, values)


def blocks_writers(connection: Connection) -> bool:
    """Return whether the open transaction holds a lock for which writers wait; on SQLite, any migration does."""
    return connection.dialect.name != "postgresql" or bool(connection.scalar(_OWN))


def _described(connection: Connection, condition: str, values: Mapping[str, object]) -> str:
    rows = connection.execute(text(_HOLDERS.format(condition=condition)), values).all()
    if not rows:
        return "no session holds the lock any more: run the migration again"
    sessions = [_session(row.pid, row.gid, row.application_name, row.state, row.age) for row in rows[:_SHOWN]]
    if len(rows) > _SHOWN:
        sessions.append(f"{len(rows) - _SHOWN} more")
    return f"the lock is held by {', '.join(sessions)}: {_remedy([row.pid for row in rows[:_SHOWN]])}"


def _session(pid: int | None, gid: str | None, application: str | None, state: str | None, age: float | None) -> str:
    if pid is None:
        name = f"the prepared transaction {gid!r}" if gid else "a prepared transaction (see pg_prepared_xacts)"
        return name if age is None else f"{name} ({age:.0f} s old)"
    # PostgreSQL shows a session of another role only to members of pg_read_all_stats.
    details = [f"application {application!r}" if application else "", state or "state not visible to this role"]
    details.append("" if age is None else f"its transaction is {age:.0f} s old")
    return f"pid {pid} ({', '.join(filter(None, details))})"


def _remedy(pids: Sequence[int | None]) -> str:
    first = next((pid for pid in pids if pid is not None), None)
    end = "COMMIT PREPARED or ROLLBACK PREPARED" if first is None else f"SELECT pg_terminate_backend({first})"
    return f"end its transaction (or use {end}) and run the migration again"
