"""The fast insert paths: many rows in one statement, on a connection of the host's.

psycopg, in both forms, gets PostgreSQL's COPY. Its binary format is the faster: the server has nothing to unescape.
Only metadata whose rows are still being made goes in its text format: of that, the server inserts every 64 KB
meanwhile, where it keeps up to 1,000 binary rows until it has them all. Other drivers get their `executemany`.
"""

from __future__ import annotations

from asyncio import sleep
from functools import cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import Boolean, String, insert

from provider_trace_store.codec import Encoded
from provider_trace_store.database.names import quoted, quoted_table
from provider_trace_store.database.transactions import one_transaction
from provider_trace_store.tables.types import ExactJSON, UtcDateTime

if TYPE_CHECKING:
    from collections.abc import Iterable

    from psycopg import AsyncConnection, AsyncCursor, Cursor
    from psycopg import Connection as PsycopgConnection
    from psycopg.adapt import Dumper
    from sqlalchemy import Connection, Insert

    from provider_trace_store.tables.kinds import Kind
    from provider_trace_store.tables.rows import Row

# What psycopg is told of the columns: a document goes as the bytes of its stored text.
_TYPES: Final = ((ExactJSON, "bytea"), (String, "text"), (UtcDateTime, "timestamptz"), (Boolean, "bool"))
_Dumpers = tuple[tuple[str, type["Dumper"]], ...]
# How much is encoded on an event loop before others get their turn.
_BYTES_A_TURN: Final = 2**17


def insert_one(connection: Connection, kind: Kind, row: Row) -> int:
    """Insert a row; where it fails, the transaction outside of a savepoint fails with it.

    Args:
        connection: where.
        kind: the table.
        row: what to insert.

    Returns:
        How many were inserted, or -1 if the driver does not say.

    Raises:
        DBAPIError: the driver's, as SQLAlchemy wraps it.
    """
    return connection.execute(_insert(kind), _parameters(kind, row)).rowcount


def insert_many(connection: Connection, kind: Kind, rows: Iterable[Row]) -> int:
    """Insert rows with the driver's `executemany`; it fails as a whole, as `copy_in` does.

    Args:
        connection: where.
        kind: the table.
        rows: at least one.

    Returns:
        How many were inserted, or -1 if the driver does not say.

    Raises:
        Exception: the driver's, as SQLAlchemy wraps it or bare: one of `drivers.errors_of`.
    """
    parameters = [_parameters(kind, row) for row in rows]
    with one_transaction(connection):
        return connection.execute(_insert(kind), parameters).rowcount


def can_copy(connection: Connection) -> bool:
    """Say whether `copy_in` works on a connection, as far as can be known before."""
    if connection.dialect.driver != "psycopg":
        return False
    # The server takes what a binary COPY sends for text in the session's encoding.
    driver_connection: Any = connection.connection.driver_connection
    return bool(driver_connection.info.encoding == "utf-8")


def copy_in(connection: Connection, kind: Kind, rows: Iterable[Row]) -> int:
    """Insert rows with COPY; arguments, result and errors as `insert_many`.

    Args:
        connection: of psycopg; nothing else may use it until the last row was taken.
        kind: the table.
        rows: at least one; read while the statement runs.
    """
    form = "binary" if kind.keeps_bodies or isinstance(rows, list) else "text"
    columns = [kind.columns[name] for name in kind.layout.fields]
    copy = _Copy(
        _copy_statement(connection, kind, form),
        [next(name for type_, name in _TYPES if isinstance(column.type, type_)) for column in columns],
        _dumpers(form),
        rows,
    )
    if connection.dialect.is_async:
        adapted: Any = connection.connection.dbapi_connection
        count: int = adapted.run_async(lambda driver_connection: _copy_async(driver_connection, copy))
        return count
    driver_connection: Any = connection.connection.driver_connection
    return _copy_sync(driver_connection, copy)


class _Copy(NamedTuple):
    statement: str
    types: list[str]
    dumpers: _Dumpers
    rows: Iterable[Row]


@cache
def _insert(kind: Kind) -> Insert:
    # What SQLAlchemy otherwise keeps for UPDATE and DELETE only.
    return insert(kind.table).execution_options(preserve_rowcount=True)


def _parameters(kind: Kind, row: Row) -> dict[str, Any]:
    """Return an INSERT's parameters, documents as `ExactJSON` binds them."""
    return {
        column: Encoded(value, "utf-8") if type(value) is bytes else value
        for column, value in zip(kind.row_columns, row.values, strict=True)
    }


def _copy_statement(connection: Connection, kind: Kind, form: str) -> str:
    columns = ", ".join(quoted(connection.dialect, name) for name in kind.row_columns)
    return f"COPY {quoted_table(connection, kind.table)} ({columns}) FROM STDIN (FORMAT {form})"


def _copy_sync(connection: PsycopgConnection[Any], what: _Copy) -> int:
    with connection.cursor() as cursor:
        _register(cursor, what.dumpers)
        with cursor.copy(what.statement.encode()) as copy:
            copy.set_types(what.types)
            for row in what.rows:
                copy.write_row(row.values)
        return cursor.rowcount


async def _copy_async(connection: AsyncConnection[Any], what: _Copy) -> int:
    async with connection.cursor() as cursor:
        _register(cursor, what.dumpers)
        async with cursor.copy(what.statement.encode()) as copy:
            copy.set_types(what.types)
            encoded = 0
            for row in what.rows:
                await copy.write_row(row.values)
                encoded += row.size
                if encoded > _BYTES_A_TURN:
                    encoded = 0
                    await sleep(0)
        return cursor.rowcount


def _register(cursor: Cursor[Any] | AsyncCursor[Any], dumpers: _Dumpers) -> None:
    """See to it that types the host adapts in its own way on its connection are not, here."""
    for python_type, dumper in dumpers:
        cursor.adapters.register_dumper(python_type, dumper)


@cache
def _dumpers(form: str) -> _Dumpers:
    # psycopg needs libpq, which a host that only uses SQLite need not have.
    from psycopg.adapt import Dumper  # noqa: PLC0415  # see above
    from psycopg.types.bool import BoolBinaryDumper, BoolDumper  # noqa: PLC0415  # see above
    from psycopg.types.datetime import DatetimeBinaryDumper, DatetimeDumper  # noqa: PLC0415  # see above
    from psycopg.types.string import BytesBinaryDumper, BytesDumper, StrBinaryDumper, StrDumper  # noqa: PLC0415

    class AsItIs(Dumper):
        """Sends bytes as text."""

        oid = BytesDumper.oid

        def dump(self, obj: bytes) -> bytes:
            return obj

    if form == "binary":
        return (
            ("builtins.str", StrBinaryDumper),
            ("builtins.bytes", BytesBinaryDumper),
            ("builtins.bool", BoolBinaryDumper),
            ("datetime.datetime", DatetimeBinaryDumper),
        )
    return (
        ("builtins.str", StrDumper),
        ("builtins.bytes", AsItIs),
        ("builtins.bool", BoolDumper),
        ("datetime.datetime", DatetimeDumper),
    )
