"""The meaning of database errors, the same for each driver."""

from __future__ import annotations

import re
import sqlite3
from typing import TYPE_CHECKING, Final

from sqlalchemy import inspect
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from provider_trace_store.errors import (
    PoolerSettingError,
    ProviderTraceRejectedError,
    ProviderTraceStoreError,
    ProviderTraceUnavailableError,
    TableMissingError,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection, Table

# PostgreSQL's appendix A, "Error Codes": errors that the row itself causes.
_ROW_CLASSES: Final = frozenset({"22", "23", "44", "54"})  # data, integrity, check option, program limit
_ROW_STATES: Final = frozenset({"42501", "P0001"})  # row-level security, a trigger's RAISE
# A prepared statement is unknown, or its name is taken: the connection pooler has changed the server's session.
_PREPARED_STATES: Final = frozenset({"26000", "42P05"})
_INTERNAL_CLASSES: Final = frozenset({"XX"})
_UNDEFINED_TABLE: Final = "42P01"
UNIQUE_VIOLATION: Final = "23505"
# The source files of PostgreSQL that report violated constraints: unique, exclusion, check, foreign key, domain.
_CHECKS_CONSTRAINTS: Final = frozenset(
    {"nbtinsert.c", "execIndexing.c", "execMain.c", "ri_triggers.c", "execExprInterp.c", "domains.c"}
)


def sqlstate_of(error: Exception) -> str | None:
    """Return PostgreSQL's error code, five characters, or None if the driver reports none."""
    state = getattr(_driver_error(error), "sqlstate", None)
    return state if isinstance(state, str) else None


def constraint_of(error: Exception) -> str | None:
    """Return the name of the violated constraint, or None if the driver reports none.

    A trigger's RAISE can put any text there, such as a part of the row. Only a name counts that the server's own checks
    report.
    """
    psycopg_diagnostics = getattr(_driver_error(error), "diag", None)
    asyncpg_error = getattr(_driver_error(error), "__cause__", None)
    for source in (psycopg_diagnostics, asyncpg_error):
        name = getattr(source, "constraint_name", None)
        reporter = getattr(source, "source_file", None) or getattr(source, "server_source_filename", None)
        if isinstance(name, str) and reporter in _CHECKS_CONSTRAINTS:
            return name
    return None


def primary_key_of(connection: Connection, table: Table) -> str | None:
    """Return the name of a table's primary key in the database.

    An adopted table keeps the name that its creator gave it.
    """
    schema = connection.schema_for_object(table)
    return inspect(connection).get_pk_constraint(table.name, schema=schema)["name"]


def write_error(
    error: Exception, trace_id: str, connection: Connection | None, *tables: Table
) -> ProviderTraceStoreError:
    """Return the package's error for a failed write: the table is missing, the row was refused, or try again later.

    The class and the SQLSTATE of the driver's error decide, never its message, which may repeat a payload. For the
    same reason the caller must not chain the driver's error to the returned one.

    Args:
        error: the driver's error, wrapped by SQLAlchemy or not.
        trace_id: the trace that was being written.
        connection: the connection of the write, rolled back to the state before it; None if none could be opened.
        tables: the tables that the write uses; at least one.
    """
    state = sqlstate_of(error)
    if missing := _missing_table(error, state, connection, tables):
        return TableMissingError(missing)
    if state in _PREPARED_STATES:
        return PoolerSettingError(state)
    if _refuses_a_row(error, state):
        return ProviderTraceRejectedError(trace_id, state, constraint_of(error))
    return ProviderTraceUnavailableError(trace_id, state)


def errors_of(connection: Connection) -> tuple[type[Exception], ...]:
    """Return the classes of errors that a statement on a connection may raise, wrapped by SQLAlchemy or not.

    UnicodeEncodeError: a driver encodes text in the connection's encoding, which need not be UTF-8. OSError: some
    drivers raise the errors and timeouts of the network as they are.
    """
    return DBAPIError, OSError, UnicodeEncodeError, connection.dialect.loaded_dbapi.Error


def blames_a_row(error: Exception) -> bool:
    """Return whether one of its rows may have caused the error of a statement for many rows.

    An internal error counts: distributed engines report any error of one of their nodes, also a duplicate, as one.
    """
    state = sqlstate_of(error)
    return _refuses_a_row(error, state) or _is_internal(state)


def is_unsupported(error: Exception) -> bool:
    """Return whether a statement failed because the database does not support it for this table or role."""
    return sqlstate_of(error) in {"0A000", "42809"}  # feature not supported; wrong object type, such as a view


def may_be_duplicate(error: Exception) -> bool:
    """Return whether an id that is already stored may have caused the error of a statement."""
    state = sqlstate_of(error)
    return state is None or state == UNIQUE_VIOLATION or _is_internal(state)


def copy_line_of(error: Exception, table: Table) -> int | None:
    """Return the row of a COPY that the server names as the cause of an error, counted from 1, or None.

    Only a hint: the number is taken from the text of the error's context, which the server's locale translates.
    """
    context = getattr(getattr(_driver_error(error), "diag", None), "context", None) or ""
    _, _, behind = context.partition(f"COPY {table.name}")
    line = re.search(r"\d+", behind)
    return int(line[0]) if line else None


def sqlite_code(error: BaseException) -> int | None:
    """Return the primary result code of SQLite's error (https://sqlite.org/rescode.html), or None if it has none.

    An error that Python's driver raises by itself, such as for text that is not UTF-8, has no code.
    """
    code = getattr(_driver_error(error), "sqlite_errorcode", None)
    # The low byte is the primary code; the bytes above it are details.
    return None if code is None else int(code) & 0xFF


def _driver_error(error: BaseException) -> object:
    return error.orig if isinstance(error, DBAPIError) else error


def _refuses_a_row(error: Exception, state: str | None) -> bool:
    if state is None:
        return isinstance(error, IntegrityError | DataError | UnicodeEncodeError)
    return state[:2] in _ROW_CLASSES or state in _ROW_STATES


def _is_internal(state: str | None) -> bool:
    return state is not None and state[:2] in _INTERNAL_CLASSES


def _missing_table(
    error: Exception, state: str | None, connection: Connection | None, tables: Sequence[Table]
) -> str | None:
    """Return the name of the missing table that made a statement fail, or None if the reason is another one."""
    is_undefined = state == _UNDEFINED_TABLE
    if is_undefined and (connection is None or len(tables) == 1):
        return tables[0].name
    # SQLite reports a missing table with the same code as other errors of a statement, so look.
    if connection is None or not (is_undefined or connection.dialect.name == "sqlite"):
        return None
    # A file that is not readable, or not a database, would make the inspection fail, too.
    if isinstance(error, IntegrityError) or sqlite_code(error) not in {None, sqlite3.SQLITE_ERROR}:
        return None
    inspector = inspect(connection)
    missing = [
        table.name
        for table in tables
        if not inspector.has_table(table.name, schema=connection.schema_for_object(table))
    ]
    return next(iter(missing), tables[0].name if is_undefined else None)
