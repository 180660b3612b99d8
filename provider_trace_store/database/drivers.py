"""The meaning of database errors, the same for each driver."""

from __future__ import annotations

import re
import sqlite3
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from sqlalchemy import inspect
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from provider_trace_store.database.catalog import find_table, missing_privileges
from provider_trace_store.database.names import quoted_table
from provider_trace_store.errors import (
    PartitionMissingError,
    PoolerSettingError,
    PrivilegeMissingError,
    ProviderTraceRejectedError,
    ProviderTraceStoreError,
    ProviderTraceUnavailableError,
    TableMissingError,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection, Table


class Fault(Enum):
    """What an error of the database belongs to, as far as the error alone tells."""

    ROW = auto()
    """A row that the statement writes: the same row will be refused again."""
    UNDECIDED = auto()
    """A row or the table: only other rows show which."""
    STATE = auto()
    """The session or the server, now; a row cannot be told from it."""


# PostgreSQL's appendix A, "Error Codes". Errors that the row itself causes: data, integrity, check option, program
# limit, PL/pgSQL (a RAISE without a code of its own).
_ROW_CLASSES: Final = frozenset({"22", "23", "44", "54", "P0"})
# Errors of the session or the server: connection, transaction state, prepared statement, authorization, rollback,
# resources, state of an object, intervention, system, configuration, internal.
_STATE_CLASSES: Final = frozenset({"08", "25", "26", "28", "40", "53", "55", "57", "58", "F0", "XX"})
# A prepared statement is unknown, or its name is taken: the connection pooler has changed the server's session.
_PREPARED_STATES: Final = frozenset({"26000", "42P05"})
_INTERNAL_CLASS: Final = "XX"
_INSUFFICIENT_PRIVILEGE: Final = "42501"
_CHECK_VIOLATION: Final = "23514"
UNIQUE_VIOLATION: Final = "23505"
SERIALIZATION_FAILURE: Final = "40001"
_MISSING_OBJECTS: Final = {
    "3F000": "another schema",
    "42P01": "another table",
    "42883": "a function",
    "42703": "a column",
    "42704": "an object",
}
# The functions of PostgreSQL's source that report an error: PL/pgSQL's RAISE, a missing privilege, and a row that
# row-level security refuses.
_RAISES: Final = "exec_stmt_raise"
_LACKS_PRIVILEGE: Final = "aclcheck_error"
_CHECKS_POLICIES: Final = "ExecWithCheckOptions"
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
    reporter = _report_of(error, "source_file", "server_source_filename")
    return _report_of(error, "constraint_name") if reporter in _CHECKS_CONSTRAINTS else None


def fault_of(error: Exception) -> Fault:
    """Return what an error belongs to, by its class, its SQLSTATE and the server's function that reported it.

    A trigger's RAISE may have any SQLSTATE: it refuses its row, unless the code says that a retry may help.
    """
    state = sqlstate_of(error)
    if state is None:
        if isinstance(error, IntegrityError | DataError | UnicodeEncodeError):
            return Fault.ROW
        return Fault.UNDECIDED if sqlite_code(error) == sqlite3.SQLITE_ERROR else Fault.STATE
    is_of_state = state[:2] in _STATE_CLASSES or state in _PREPARED_STATES
    if _is_raised(error):
        return Fault.UNDECIDED if is_of_state else Fault.ROW
    if is_of_state:
        return Fault.STATE
    if state == _INSUFFICIENT_PRIVILEGE:
        return Fault.UNDECIDED if _lacks_privilege(error) else Fault.ROW
    return Fault.ROW if state[:2] in _ROW_CLASSES else Fault.UNDECIDED


def write_error(
    error: Exception, trace_id: str, connection: Connection | None, *tables: Table, reads: Sequence[Table] = ()
) -> ProviderTraceStoreError:
    """Return the package's error for a failed write.

    The class and the SQLSTATE of the driver's error decide, and a look at the catalog, but never the error's message,
    which may repeat a payload. For the same reason the caller must not chain the driver's error to the returned one.

    Args:
        error: the driver's error, wrapped by SQLAlchemy or not.
        trace_id: the trace that was being written.
        connection: the connection of the write, rolled back to the state before it; None if none could be opened.
        tables: the tables that are written; at least one.
        reads: the tables that are only read.
    """
    state = sqlstate_of(error)
    fault = fault_of(error)
    if cause := _cause_in_table(error, state, connection, tables, reads):
        return cause
    if state in _PREPARED_STATES and not _is_raised(error):
        return PoolerSettingError(state)
    reason = _reason(error, state, tables)
    if fault is Fault.ROW:
        return ProviderTraceRejectedError(trace_id, state, constraint_of(error), reason)
    return ProviderTraceUnavailableError(trace_id, state, reason, may_be_the_trace=fault is Fault.UNDECIDED)


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
    return fault_of(error) is not Fault.STATE or is_internal(sqlstate_of(error))


def is_internal(state: str | None) -> bool:
    """Return whether an SQLSTATE is that of an internal error of the server."""
    return state is not None and state[:2] == _INTERNAL_CLASS


def is_unsupported(error: Exception) -> bool:
    """Return whether a statement failed because the database does not support it for this table or role."""
    # Feature not supported; wrong object type, such as a view.
    return sqlstate_of(error) in {"0A000", "42809"} and not _is_raised(error)


def may_be_duplicate(error: Exception) -> bool:
    """Return whether an id that is already stored may have caused the error of a statement."""
    state = sqlstate_of(error)
    return state is None or state == UNIQUE_VIOLATION or is_internal(state)


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


def _report_of(error: Exception, *names: str) -> str | None:
    """Return a field of PostgreSQL's error report; its name may differ between psycopg and asyncpg."""
    driver_error = _driver_error(error)
    for source in (getattr(driver_error, "diag", None), getattr(driver_error, "__cause__", None)):
        for name in names:
            value = getattr(source, name, None)
            if isinstance(value, str):
                return value
    return None


def _reporter_of(error: Exception) -> str:
    return _report_of(error, "source_function", "server_source_function") or ""


def _is_raised(error: Exception) -> bool:
    """Return whether the RAISE of a host's function, such as a trigger, is the error."""
    return _reporter_of(error) == _RAISES


def _lacks_privilege(error: Exception) -> bool:
    return _reporter_of(error).startswith(_LACKS_PRIVILEGE)


def _cause_in_table(
    error: Exception,
    state: str | None,
    connection: Connection | None,
    tables: Sequence[Table],
    reads: Sequence[Table],
) -> ProviderTraceStoreError | None:
    """Return the error for a table that is missing, may not be used or has no partition; None for another cause."""
    if connection is None:
        return TableMissingError(tables[0].name) if state == "42P01" else None
    if _is_raised(error) or connection.closed or connection.invalidated:
        return None
    try:
        if connection.dialect.name == "sqlite":
            return _missing_table(connection, (*tables, *reads)) if sqlite_code(error) == sqlite3.SQLITE_ERROR else None
        # A row that a policy refuses has the code of a missing privilege, too: it needs no look.
        if state in {*_MISSING_OBJECTS, _INSUFFICIENT_PRIVILEGE} and _reporter_of(error) != _CHECKS_POLICIES:
            missing = _missing_privilege(error, connection, tables, reads)
            return missing or _missing_table(connection, (*tables, *reads))
        if state == _CHECK_VIOLATION and constraint_of(error) is None:
            return _missing_partition(connection, tables[0])
    except errors_of(connection):
        pass  # the connection was lost, or its transaction is still aborted: the error's code must do
    return None


def _missing_table(connection: Connection, tables: Sequence[Table]) -> TableMissingError | None:
    inspector = inspect(connection)
    for table in tables:
        schema = connection.schema_for_object(table)
        if not inspector.has_table(table.name, schema=schema):
            return TableMissingError(table.name)
        existing = {column["name"].lower() for column in inspector.get_columns(table.name, schema=schema)}
        for column in table.columns:
            if column.name not in existing:
                return TableMissingError(table.name, column.name)
    return None


def _missing_privilege(
    error: Exception, connection: Connection, tables: Sequence[Table], reads: Sequence[Table]
) -> PrivilegeMissingError | None:
    """Return the error that names all privileges that the role lacks.

    Without USAGE on a schema of the search path, PostgreSQL reports the schema's tables as missing.
    """
    is_change = (getattr(error, "statement", None) or "").startswith("UPDATE")
    for table in (*tables, *reads):
        if found := find_table(connection, table):
            needed = ("SELECT",) if table in reads else ("SELECT", "UPDATE") if is_change else ("INSERT", "SELECT")
            if missing := missing_privileges(connection, table, found, needed):
                return PrivilegeMissingError(quoted_table(connection, table), missing, found.role)
    return None


def _missing_partition(connection: Connection, table: Table) -> PartitionMissingError | None:
    found = find_table(connection, table)
    if found is None or found.partition_key is None:
        return None
    return PartitionMissingError(quoted_table(connection, table), found.partition_key)


def _reason(error: Exception, state: str | None, tables: Sequence[Table]) -> str | None:
    """Return what is known about a cause outside of the tables; names only what the catalog holds."""
    names = " or ".join(table.name for table in tables)
    if _is_raised(error):
        return f"raised by a function of the database, such as a trigger of {names}"
    if state in _MISSING_OBJECTS:
        return f"{_MISSING_OBJECTS[state]} is missing, which a trigger or a default of {names} may use"
    if state == _INSUFFICIENT_PRIVILEGE and _lacks_privilege(error):
        return f"the role lacks a privilege on another object, which a trigger or a default of {names} may use"
    return None
