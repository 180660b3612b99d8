"""Errors of the database in a migration, as errors of the package: what happened, to which object, what to do."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any, Final, TypeVar

from alembic.util import CommandError
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from provider_trace_store.database.drivers import errors_of, sqlite_code, sqlstate_of
from provider_trace_store.database.names import quoted
from provider_trace_store.errors import MigrationError
from provider_trace_store.migrations.autogenerate import VERSION_TABLE
from provider_trace_store.migrations.placement import no_schema
from provider_trace_store.tables.models import metadata

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import Connection, Row

_Result = TypeVar("_Result")

_INSUFFICIENT_PRIVILEGE: Final = "42501"
_NO_SCHEMA: Final = "3F000"
_LOST: Final = (
    "the connection to the database was lost, so it is not known whether the migration was committed: see that the "
    "server runs, and run the migration again, which is safe"
)
# By SQLSTATE, or by its class.
_STATES: Final = {
    "08": _LOST,
    "57P": _LOST,
    "25006": "the server or the transaction is read-only: connect to the primary, or switch "
    "default_transaction_read_only off for this role",
    "25P02": "the transaction has failed before the migration: roll it back first",
    "28": "the server refused the login: correct the user name or the password",
    "3D000": "the database does not exist: create it, or correct its name in the URL",
    "42P06": "another session created the same object at the same time: run the migration again",
    "42P07": "another session created the same object at the same time: run the migration again, outside of a "
    "transaction that began before",
    "53100": "the server's disk is full: free space, and run the migration again",
    "53300": "the server takes no more connections: run the migration again later",
    "53": "the server lacks memory or another resource: run the migration again later",
    "57014": "a statement was cancelled, by statement_timeout or by an operator: run the migration again with a longer "
    "statement_timeout",
    "40001": "another transaction changed the same rows: run the migration again",
}
_NOWHERE: Final = (
    "the role has no schema to create tables in; nothing was changed: GRANT USAGE, CREATE ON SCHEMA to it, or correct "
    "its search_path"
)
_CODES: Final = {
    sqlite3.SQLITE_CANTOPEN: "the SQLite file {file} cannot be opened: see that its directory exists and is writable",
    sqlite3.SQLITE_READONLY: "the SQLite file {file} or its directory is read-only: make both writable",
    sqlite3.SQLITE_PERM: "the SQLite file {file} or its directory is read-only: make both writable",
    sqlite3.SQLITE_FULL: "the disk is full, or the SQLite file {file} reached max_page_count: free space",
    sqlite3.SQLITE_IOERR: "the file system reported an error for the file {file}: see its disk and its permissions",
    sqlite3.SQLITE_NOTADB: "the file {file} is not a SQLite database: correct its name",
    sqlite3.SQLITE_CORRUPT: "the SQLite file {file} is damaged: restore it from a backup",
}

_PLACE: Final = text(
    "SELECT current_user AS role, nspname AS schema, has_schema_privilege(oid, 'USAGE') AS is_used, "
    "has_schema_privilege(oid, 'CREATE') AS may_create "
    "FROM pg_namespace WHERE nspname = coalesce(CAST(:schema AS text), current_schema())"
)
_TABLES: Final = text(
    "SELECT relname AS name, pg_get_userbyid(relowner) AS owner, pg_has_role(relowner, 'USAGE') AS is_owned, "
    "has_table_privilege(oid, 'SELECT') AS is_readable, has_table_privilege(oid, 'SELECT') AND "
    "has_table_privilege(oid, 'INSERT') AND has_table_privilege(oid, 'UPDATE') AND has_table_privilege(oid, 'DELETE') "
    "AS is_writable FROM pg_class WHERE relname = ANY (CAST(:names AS text[])) AND relkind IN ('r', 'p') "
    "AND relnamespace = "
    "(SELECT oid FROM pg_namespace WHERE nspname = coalesce(CAST(:schema AS text), current_schema()))"
)


def translated(connection: Connection, schema: str | None, action: Callable[[], _Result]) -> _Result:
    """Run an action, and replace the errors of the database and of Alembic by errors of the package.

    A function rather than a context manager: Python chains the replaced error to what a context manager raises.

    Args:
        connection: the connection that the action uses.
        schema: the schema of the tables; None for the connection's default.
        action: runs the statements; errors of this package that it raises pass through.

    Raises:
        MigrationError: what happened, and what to do; never the text of the driver or a parameter.
    """
    errors: tuple[type[Exception], ...] = (*errors_of(connection), SQLAlchemyError)
    try:
        return action()
    except CommandError as error:
        failure = MigrationError(
            f"{error}; nothing was changed: `provider-trace-store migrate history` lists the revisions"
        )
    except errors as error:
        failure = failure_of(error, connection, schema)
    raise failure


def failure_of(error: Exception, connection: Connection, schema: str | None) -> MigrationError:
    """Return the package's error for an error of the database.

    Args:
        error: the driver's error, wrapped by SQLAlchemy or not; it must not be chained to the result.
        connection: the connection, rolled back to the state before the failed action.
        schema: as for `translated`.
    """
    state = sqlstate_of(error)
    if state == _INSUFFICIENT_PRIVILEGE and (grants := _missing_grants(connection, schema)):
        return MigrationError(grants)
    if state == _NO_SCHEMA:
        return MigrationError(_NOWHERE if schema is None else no_schema(connection, schema))
    code = sqlite_code(error)
    shown = f" (SQLSTATE {state})" if state else f" (SQLite's code {code})" if code else ""
    reason = _CODES[code].format(file=connection.engine.url.database) if code in _CODES else _reason(error, state, code)
    return MigrationError(f"{reason}{shown}")


def _reason(error: Exception, state: str | None, code: int | None) -> str:
    if state is not None:
        for known in (state, state[:3], state[:2]):
            if known in _STATES:
                return _STATES[known]
    elif not isinstance(error, DBAPIError) and isinstance(error, SQLAlchemyError):
        return "the connection has no usable transaction: roll it back, or pass a new connection"
    elif code is None:
        return _LOST
    statement = getattr(error, "statement", None)
    what = " ".join(statement.split()) if isinstance(statement, str) else "the end of the transaction"
    if state == _INSUFFICIENT_PRIVILEGE:
        return f"the role lacks a privilege for {what}; nothing was changed: migrate as the owner of the tables"
    return f"the database refused {what}; nothing was changed: see the server's log for the reason"


def _missing_grants(connection: Connection, schema: str | None) -> str | None:
    """Return which privilege the connection's role lacks, with the statement that grants it; None if none is found."""
    names = [VERSION_TABLE, *metadata.tables]
    try:
        with connection.begin_nested() if connection.in_transaction() else connection.begin():
            place = connection.execute(_PLACE, {"schema": schema}).one_or_none()
            tables = connection.execute(_TABLES, {"names": names, "schema": schema}).all()
    except errors_of(connection):
        return None
    if place is None:
        return None
    role = quoted(connection.dialect, place.role)
    where = quoted(connection.dialect, place.schema)
    if not place.is_used:
        return f"role {role} may not use schema {where}: GRANT USAGE ON SCHEMA {where} TO {role}"
    version = next((table for table in tables if table.name == VERSION_TABLE), None)
    if version is not None and not version.is_readable:
        return (
            f"role {role} may not read the version table: GRANT SELECT ON {where}.{VERSION_TABLE} TO {role}, which is "
            "enough where the tables are at the newest revision, or migrate as its owner "
            f"{quoted(connection.dialect, version.owner)}"
        )
    return _missing_for_changes(connection, role, where, place.may_create, tables)


def _missing_for_changes(
    connection: Connection,
    role: str,
    where: str,
    may_create: bool,  # noqa: FBT001  # what the catalogue says
    tables: Sequence[Row[Any]],
) -> str | None:
    for table in tables:
        if table.name != VERSION_TABLE and not table.is_owned:
            owner = quoted(connection.dialect, table.owner)
            return (
                f"role {role} does not own {where}.{table.name}; nothing was changed: migrate as {owner}, or "
                f"GRANT {owner} TO {role}"
            )
    if any(table.name == VERSION_TABLE and not table.is_writable for table in tables):
        grant = f"GRANT SELECT, INSERT, UPDATE, DELETE ON {where}.{VERSION_TABLE} TO {role}"
        return f"role {role} may not write the version table; nothing was changed: {grant}"
    if not may_create:
        return (
            f"role {role} may not create tables in schema {where}; nothing was changed: "
            f"GRANT CREATE ON SCHEMA {where} TO {role}"
        )
    return None
