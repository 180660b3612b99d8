"""What the error of a database driver means, whichever driver it is."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from sqlalchemy import inspect
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from provider_trace_store.errors import (
    ProviderTraceRejectedError,
    ProviderTraceStoreError,
    ProviderTraceUnavailableError,
    TableMissingError,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection, Table

# PostgreSQL's appendix A, "Error Codes": what the row itself is to blame for.
_ROW_CLASSES: Final = frozenset({"22", "23", "44", "54"})  # data, integrity, check option, program limit
_ROW_STATES: Final = frozenset({"42501", "P0001"})  # row-level security, a trigger's RAISE
_INTERNAL_CLASSES: Final = frozenset({"XX"})
_UNDEFINED_TABLE: Final = "42P01"
UNIQUE_VIOLATION: Final = "23505"


def sqlstate_of(error: Exception) -> str | None:
    """Return the five characters of PostgreSQL's error code, where the driver reports one."""
    state = getattr(_of_the_driver(error), "sqlstate", None)
    return state if isinstance(state, str) else None


def constraint_of(error: Exception) -> str | None:
    """Return the name of the violated constraint, where the driver reports one."""
    psycopg_diagnostics = getattr(_of_the_driver(error), "diag", None)
    asyncpg_error = getattr(_of_the_driver(error), "__cause__", None)
    for source in (psycopg_diagnostics, asyncpg_error):
        name = getattr(source, "constraint_name", None)
        if isinstance(name, str):
            return name
    return None


def primary_key_of(connection: Connection, table: Table) -> str | None:
    """Return the name of a table's primary key in the database, which adoption may have left as it was."""
    schema = connection.schema_for_object(table)
    return inspect(connection).get_pk_constraint(table.name, schema=schema)["name"]


def write_error(
    error: Exception, trace_id: str, connection: Connection | None, *tables: Table
) -> ProviderTraceStoreError:
    """Return the error of ours that says what a failed write means for the caller.

    It is decided by the driver's class and SQLSTATE, never by the message, which may hold the payload; for
    the same reason the driver's error must not be chained to it.

    Args:
        error: what the driver raised, wrapped by SQLAlchemy or not.
        trace_id: the trace that was being written.
        connection: where it happened, rolled back to before the write; None if no connection could be opened.
        tables: the tables that the write uses; at least one.
    """
    state = sqlstate_of(error)
    if missing := _missing_table(error, state, connection, tables):
        return TableMissingError(missing)
    if state is None:
        refused = isinstance(error, IntegrityError | DataError | UnicodeEncodeError)
    else:
        refused = state[:2] in _ROW_CLASSES or state in _ROW_STATES
    if refused:
        return ProviderTraceRejectedError(trace_id, state, constraint_of(error))
    return ProviderTraceUnavailableError(trace_id, state)


def errors_of(connection: Connection) -> tuple[type[Exception], ...]:
    """Return the classes of a driver's errors, as SQLAlchemy wraps them and bare.

    A driver encodes text in the connection's encoding, which need not be UTF-8, and fails with Python's error; some
    pass the network's errors and timeouts on.
    """
    return DBAPIError, OSError, UnicodeEncodeError, connection.dialect.loaded_dbapi.Error


def blames_a_row(error: Exception) -> bool:
    """Say whether a failed statement of many rows may have failed for one of them, rather than for the database.

    Distributed engines report what went wrong on one of their nodes as an internal error.
    """
    state = sqlstate_of(error)
    if state is None:
        return isinstance(error, IntegrityError | DataError | UnicodeEncodeError)
    return state[:2] in _ROW_CLASSES | _INTERNAL_CLASSES or state in _ROW_STATES


def is_unsupported(error: Exception) -> bool:
    """Say whether a statement failed because the database has no such statement for this table and role."""
    return sqlstate_of(error) in {"0A000", "42809"}  # feature not supported, wrong object type: a view


def may_be_duplicate(error: Exception) -> bool:
    """Say whether a failed statement may have failed for an id that is stored already."""
    state = sqlstate_of(error)
    return state is None or state == UNIQUE_VIOLATION or state[:2] in _INTERNAL_CLASSES


def place_of(error: Exception, table: Table) -> int | None:
    """Return where in a COPY the server says that it was, from 1, or None.

    A hint: it stands in the text of the error's context, which the server's locale translates.
    """
    context = getattr(getattr(_of_the_driver(error), "diag", None), "context", None) or ""
    _, _, behind = context.partition(f"COPY {table.name}")
    place = re.search(r"\d+", behind)
    return int(place[0]) if place else None


def sqlite_code(error: BaseException) -> int | None:
    """Return the primary result code of SQLite's error (https://sqlite.org/rescode.html), None where there is none.

    Python's own errors, such as of text that is not UTF-8, have no code.
    """
    code = getattr(_of_the_driver(error), "sqlite_errorcode", None)
    # The low byte is the primary code; the other bytes are its extension.
    return None if code is None else int(code) & 0xFF


def _of_the_driver(error: BaseException) -> object:
    return error.orig if isinstance(error, DBAPIError) else error


def _missing_table(
    error: Exception, state: str | None, connection: Connection | None, tables: Sequence[Table]
) -> str | None:
    """Return the name of the table that a statement failed without, or None where it failed for another reason."""
    is_undefined = state == _UNDEFINED_TABLE
    if is_undefined and (connection is None or len(tables) == 1):
        return tables[0].name
    # SQLite reports a missing table like any other error of a statement.
    if connection is None or not (is_undefined or connection.dialect.name == "sqlite"):
        return None
    if isinstance(error, IntegrityError):
        return None
    inspector = inspect(connection)
    missing = [
        table.name
        for table in tables
        if not inspector.has_table(table.name, schema=connection.schema_for_object(table))
    ]
    return next(iter(missing), tables[0].name if is_undefined else None)
