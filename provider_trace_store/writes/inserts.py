"""The inserts: one row, or many in one statement, on a connection of the host's.

Many rows go through PostgreSQL's COPY if the driver is psycopg, synchronous or asynchronous, and through `executemany`
otherwise. COPY's binary format is the faster one, because the server has nothing to unescape. There is one exception:
metadata rows that are still being made go in the text format. The server inserts text every 64 KB, while further rows
are made; of binary rows it collects up to 1,000 before it inserts any.
"""

from __future__ import annotations

from asyncio import sleep
from functools import cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import Boolean, String, bindparam, insert, literal, literal_column, select
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DataError

from provider_trace_store.codec import Encoded
from provider_trace_store.database.names import quoted, quoted_table
from provider_trace_store.database.transactions import one_transaction
from provider_trace_store.tables.moments import UtcDateTime
from provider_trace_store.tables.types import ExactJSON

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from psycopg import AsyncConnection, AsyncCursor, Cursor
    from psycopg import Connection as PsycopgConnection
    from psycopg.adapt import Dumper
    from sqlalchemy import Connection, Insert
    from sqlalchemy.sql.dml import ReturningInsert

    from provider_trace_store.tables.kinds import Kind
    from provider_trace_store.tables.rows import Row

# The PostgreSQL type that psycopg needs for each type of column. A document is sent as the bytes of its stored text.
_TYPES: Final = ((ExactJSON, "bytea"), (String, "text"), (UtcDateTime, "timestamptz"), (Boolean, "bool"))
_Dumpers = tuple[tuple[str, type["Dumper"]], ...]
# On an event loop, other tasks get a turn after this many bytes were encoded.
_BYTES_A_TURN: Final = 2**17
# The bytes of one `executemany` of asyncpg, and those that a row takes in it besides its values.
_BYTES_AT_ONCE_FOR_ASYNCPG: Final = 2**17
_BYTES_BESIDE_VALUES: Final = 2**9


def insert_one(connection: Connection, kind: Kind, row: Row) -> int:
    """Insert a row, unless its id is stored under any date.

    Args:
        connection: in a savepoint, because on PostgreSQL a failed statement aborts the transaction.
        kind: the table. If it takes an id twice, the id must be locked by an earlier statement.
        row: the row to insert.

    Returns:
        The number of inserted rows, or -1 if the driver does not report it.

    Raises:
        DBAPIError: the driver's error, as SQLAlchemy wraps it.
    """
    statement: Insert | ReturningInsert[Any] = _insert(kind)
    if kind.takes_an_id_twice:
        statement = _insert_unless_stored(kind, returns=connection.dialect.name == "postgresql")
    return _execute(connection, statement, _parameters(kind, row))


def insert_unless_taken(connection: Connection, kind: Kind, row: Row) -> bool:
    """Insert a row into PostgreSQL, unless a row with its key is there; return whether it was inserted.

    It also sees rows that a policy hides from the role. If the other row was committed after the transaction's
    snapshot (REPEATABLE READ), it fails with a serialization error.

    Args:
        connection: in a savepoint.
        kind: the table.
        row: the row to insert.

    Raises:
        DBAPIError: the driver's error, as SQLAlchemy wraps it.
    """
    return connection.execute(_insert_unless_taken(kind), _parameters(kind, row)).rowcount > 0


def insert_many(connection: Connection, kind: Kind, rows: Iterable[Row]) -> int:
    """Insert rows with the driver's `executemany`: all of them, or none if one fails.

    Args:
        connection: in a savepoint, because on PostgreSQL a failed statement aborts the transaction.
        kind: the table.
        rows: at least one.

    Returns:
        The number of inserted rows, or -1 if the driver does not report it.

    Raises:
        Exception: the driver's error, one of the classes that `drivers.errors_of` returns.
    """
    # Made before the transaction begins in autocommit mode.
    parts = [[_parameters(kind, row) for row in part] for part in _parts_for(connection, rows)]
    with one_transaction(connection):
        counts = [_execute(connection, _insert(kind), part) for part in parts]
    return -1 if -1 in counts else sum(counts)


def can_copy(connection: Connection) -> bool:
    """Return whether `copy_in` can be tried on a connection; the server may still refuse COPY for the table or role."""
    if connection.dialect.driver != "psycopg":
        return False
    # The server reads the text in a binary COPY in the session's encoding, and the rows are UTF-8.
    driver_connection: Any = connection.connection.driver_connection
    return bool(driver_connection.info.encoding == "utf-8")


def copy_in(connection: Connection, kind: Kind, rows: Iterable[Row]) -> int:
    """Insert rows with COPY; result and errors are those of `insert_many`.

    Args:
        connection: a connection for which `can_copy` holds, in a savepoint. Nothing else may use it while the rows are
            read.
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


def _parts_for(connection: Connection, rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Split rows into the parts that the driver can send in one `executemany` and still be cancelled.

    asyncpg fills four buffers of 32 KB at a time. If its task is cancelled between two fillings, it waits for ever: it
    never sends the end of the message. Rows that fit into the buffers are sent at once.
    """
    if connection.dialect.driver != "asyncpg":
        yield list(rows)
        return
    part: list[Row] = []
    size = 0
    for row in rows:
        size += row.size + _BYTES_BESIDE_VALUES
        if part and size > _BYTES_AT_ONCE_FOR_ASYNCPG:
            yield part
            part, size = [], row.size + _BYTES_BESIDE_VALUES
        part.append(row)
    yield part


def _execute(
    connection: Connection, statement: Insert | ReturningInsert[Any], parameters: dict[str, Any] | list[dict[str, Any]]
) -> int:
    """Run an INSERT, and return the number of rows."""
    try:
        result = connection.execute(statement, parameters)
        # Some versions of SQLAlchemy keep no number of rows for INSERT … SELECT, so that one returns its row.
        return len(result.all()) if result.returns_rows else result.rowcount
    except (Warning, TypeError) as error:
        if connection.dialect.driver != "asyncpg":
            raise
        reported = error
    # asyncpg makes an immutable warning of an error with a code of the classes 01 and 02, which a trigger's RAISE may
    # have. A context manager that it passes fails with TypeError, also one of asyncpg's own.
    failure: Any = connection.dialect.loaded_dbapi.Error("an error whose code is that of a warning")
    failure.sqlstate, failure.__cause__ = getattr(reported, "sqlstate", None), reported
    raise DataError(None, None, failure)


@cache
def _insert(kind: Kind) -> Insert:
    # Without the option, SQLAlchemy keeps the number of rows for UPDATE and DELETE only.
    return insert(kind.table).execution_options(preserve_rowcount=True)


@cache
def _insert_unless_stored(kind: Kind, *, returns: bool) -> Insert | ReturningInsert[Any]:
    columns = kind.table.columns
    values = {name: bindparam(name, type_=columns[name].type) for name in kind.row_columns}
    stored = select(literal(1)).select_from(kind.table).where(columns["id"] == values["id"])
    inserted = _insert(kind).from_select(list(values), select(*values.values()).where(~stored.exists()))
    return inserted.returning(literal_column("1")) if returns else inserted


@cache
def _insert_unless_taken(kind: Kind) -> Insert:
    return postgresql.insert(kind.table).on_conflict_do_nothing().execution_options(preserve_rowcount=True)


def _parameters(kind: Kind, row: Row) -> dict[str, Any]:
    """Return the parameters of an INSERT, with documents in the form that the type `ExactJSON` takes."""
    return {
        column: Encoded(value, "utf-8") if type(value) is bytes else value
        for column, value in zip(kind.row_columns, row.values, strict=True)
    }


def _copy_statement(connection: Connection, kind: Kind, form: str) -> str:
    columns = ", ".join(quoted(connection.dialect, name) for name in kind.row_columns)
    return f"COPY {quoted_table(connection, kind.table)} ({columns}) FROM STDIN (FORMAT {form})"


def _copy_sync(connection: PsycopgConnection[Any], command: _Copy) -> int:
    with connection.cursor() as cursor:
        _register(cursor, command.dumpers)
        with cursor.copy(command.statement.encode()) as copy:
            copy.set_types(command.types)
            for row in command.rows:
                copy.write_row(row.values)
        return cursor.rowcount


async def _copy_async(connection: AsyncConnection[Any], command: _Copy) -> int:
    async with connection.cursor() as cursor:
        _register(cursor, command.dumpers)
        async with cursor.copy(command.statement.encode()) as copy:
            copy.set_types(command.types)
            encoded = 0
            for row in command.rows:
                await copy.write_row(row.values)
                encoded += row.size
                if encoded > _BYTES_A_TURN:
                    encoded = 0
                    await sleep(0)
        return cursor.rowcount


def _register(cursor: Cursor[Any] | AsyncCursor[Any], dumpers: _Dumpers) -> None:
    """Use psycopg's own adapters for this cursor, whatever adapters the host has set on the connection."""
    for python_type, dumper in dumpers:
        cursor.adapters.register_dumper(python_type, dumper)


@cache
def _dumpers(form: str) -> _Dumpers:
    # Imported here, because importing psycopg fails without libpq, which a host that only uses SQLite need not have.
    from psycopg.adapt import Dumper  # noqa: PLC0415  # see above
    from psycopg.types.bool import BoolBinaryDumper, BoolDumper  # noqa: PLC0415  # see above
    from psycopg.types.datetime import DatetimeBinaryDumper, DatetimeDumper  # noqa: PLC0415  # see above
    from psycopg.types.string import BytesBinaryDumper, BytesDumper, StrBinaryDumper, StrDumper  # noqa: PLC0415  # see above

    class TextBytesDumper(Dumper):
        """Sends bytes unchanged, as text."""

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
        ("builtins.bytes", TextBytesDumper),
        ("builtins.bool", BoolDumper),
        ("datetime.datetime", DatetimeDumper),
    )
