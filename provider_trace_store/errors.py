"""Every error that the package raises.

ProviderTraceStoreError
├── InvalidArgumentError            an argument is wrong: correct the call
│   ├── InvalidIdentifierError      an organization or actor id that a text column cannot hold
│   ├── InvalidLimitError           a limit is out of its range
│   ├── InvalidFilterError          an invalid filter of a read
│   ├── InvalidCursorError          a cursor is damaged, or belongs to another query
│   └── InvalidWriterOptionError    an invalid option of the writer, or an invalid combination of options
├── UnstorableTraceError            this trace cannot be stored: do not retry it as it is
│   ├── TraceEncodingError          the trace holds a value that cannot be stored exactly
│   ├── TraceTooLargeError          a document is larger than the repository's `max_body_bytes`
│   ├── ProviderTraceConflictError  the id belongs to a stored trace with other content
│   └── ProviderTraceRejectedError  the database refused the row; the same row will be refused again
├── ProviderTraceUnavailableError   the database could not store the trace now; a retry may succeed
├── PoolerSettingError              a connection pooler mixes up prepared statements: change the engine
├── TransactionEndedError           SQLite rolled the host's transaction back: do all of it again
├── TraceDecodingError              a stored value is not readable: not JSON, not a date, not text
├── TableMissingError               the database has not been migrated
├── PartitionMissingError           a partitioned table has no partition for the trace: create it
├── PrivilegeMissingError           the database role lacks a privilege: grant it
├── PackSupportMissingError         Python has no zstd, which packed traces need: install the extra
├── WriterClosedError               a trace was submitted to a closed writer
├── MaintenanceError                a command of maintenance, such as `pack`, cannot run on these tables
└── MigrationError                  the tables cannot be migrated as they are
    ├── TableMismatchError          a table of the same name has other columns or another primary key
    ├── TableNotEmptyError          a downgrade would drop rows
    ├── AdoptedTableError           a downgrade would drop a table that no migration is known to have created
    └── MigrationLockError          a lock was not free in any try

The errors of arguments, TraceEncodingError, TraceTooLargeError and TraceDecodingError are also ValueErrors.

No message, attribute or chained exception carries a payload or a credential. A message names a trace by its id, a
place inside a document by its path, and a refusal of the database by SQLSTATE and constraint. Ids and names are on one
line and bounded (`shown`); attributes hold them as they are.
"""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datetime import datetime


class ProviderTraceStoreError(Exception):
    """Base of every error that the package raises; every error can be pickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception.__reduce__ would call the class with the message, and most classes take other arguments.
        return _restored, (type(self), self.args, self.__dict__)


class InvalidArgumentError(ProviderTraceStoreError, ValueError):
    """An argument is invalid: the call must be corrected.

    Args:
        name: the argument, such as `organization_id`.
        reason: what is wrong with it, without its value.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name} {reason}")
        self.name = name
        self.reason = reason


class InvalidIdentifierError(InvalidArgumentError):
    """An organization or actor id is not text that both databases can hold.

    `name` is the argument, such as `organization_id`; `reason` says what is wrong with it.
    """


class InvalidLimitError(InvalidArgumentError):
    """A limit is not a whole number in its range.

    Args:
        name: the argument, such as `max_body_bytes`.
        low: the smallest allowed value.
        high: the largest allowed value.
    """

    def __init__(self, name: str, low: int, high: int) -> None:
        super().__init__(name, f"must be a whole number from {low} to {high}")


class InvalidFilterError(InvalidArgumentError):
    """An argument of a read is invalid, such as a date without a time zone.

    `name` is the argument, such as `since`; `reason` says what is wrong with it, without its value.
    """


class InvalidCursorError(InvalidArgumentError):
    """A cursor is damaged, or belongs to a query with other filters, another order, method or organization."""

    def __init__(self) -> None:
        super().__init__(
            "cursor",
            "is damaged or belongs to another query: pass `next_cursor` of the previous page with the same arguments, "
            "or None for the first page",
        )


class InvalidWriterOptionError(InvalidArgumentError):
    """An option of `TraceWriter` is invalid, alone or in combination with another option.

    `name` is the option, such as `on_full`; `reason` says what is wrong with it.
    """


class UnstorableTraceError(ProviderTraceStoreError):
    """A trace cannot be stored: sending it again as it is fails again.

    The errors in `BulkResult.rejected` and those given to the writer's `on_rejected` are of this class.

    Args:
        message: the error's text.
        trace_id: the trace; None if its id is not known.
    """

    trace_id: str | None

    def __init__(self, message: str, trace_id: str | None) -> None:
        super().__init__(message)
        self.trace_id = trace_id


class TraceEncodingError(UnstorableTraceError, ValueError):
    """A trace holds a value that would not read back equal; nothing was written.

    Args:
        path: where the value is, such as `request_json.messages[3].content`.
        reason: what is wrong with the value, such as its type; never the value itself.
        trace_id: the trace; None, or a value that is not text, if its id is not known.
        remedy: what to do before the trace is sent again; empty for a correction of the value.
    """

    def __init__(self, path: str, reason: str, trace_id: object = None, *, remedy: str = "") -> None:
        super().__init__(
            f"{named(trace_id)} cannot be stored exactly: {path}: {reason}; {remedy or 'correct the value'} and send "
            "the trace again",
            trace_id if isinstance(trace_id, str) else None,
        )
        self.path = path
        self.reason = reason
        self.remedy = remedy


class TraceTooLargeError(UnstorableTraceError, ValueError):
    """A document or a text of a trace takes more bytes than allowed; nothing was written.

    Args:
        path: the field, such as `request_json`.
        size: the size of its stored text, in bytes; a part of it if the document was not encoded to its end.
        limit: the largest allowed size, in bytes: for a document, the repository's `max_body_bytes`.
        trace_id: the trace.
    """

    trace_id: str

    def __init__(self, path: str, size: int, limit: int, trace_id: str) -> None:
        super().__init__(
            f"{named(trace_id)} is too large: {path} takes at least {size} bytes, and {limit} are allowed; "
            "shorten it, or for a body raise max_body_bytes",
            trace_id,
        )
        self.path = path
        self.size = size
        self.limit = limit


class ProviderTraceConflictError(UnstorableTraceError):
    """The id belongs to a stored row with other content, which stays unchanged.

    The error and its text are the same for other content, for a deleted row and for a row of another organization,
    so the caller cannot tell which of them it is.

    Args:
        trace_id: the id.
    """

    trace_id: str

    def __init__(self, trace_id: str) -> None:
        super().__init__(
            f"{named(trace_id)} is the id of a stored trace with other content, which stays unchanged: give "
            "this call an id of its own",
            trace_id,
        )


class ProviderTraceRejectedError(UnstorableTraceError):
    """The database refused the row for a reason that a retry does not change, such as a host's foreign key.

    Args:
        trace_id: the trace.
        sqlstate: PostgreSQL's error code, five characters; None if the driver reports none.
        constraint: the name of the violated constraint; None if the driver reports none, or if the name comes from a
            trigger, which can put any text there.
        reason: what else is known about the cause, such as that another table is missing; None if nothing is.
    """

    trace_id: str

    def __init__(
        self, trace_id: str, sqlstate: str | None = None, constraint: str | None = None, reason: str | None = None
    ) -> None:
        super().__init__(
            f"{named(trace_id)} was refused by the database{_details(sqlstate, constraint, reason)}: correct the trace "
            "or the database's rule, a retry does not help",
            trace_id,
        )
        self.sqlstate = sqlstate
        self.constraint = constraint
        self.reason = reason


class ProviderTraceUnavailableError(ProviderTraceStoreError):
    """The database could not store the trace now: connection lost, timeout, deadlock, disk full.

    Sending the same trace again is safe: a trace that is stored already is not written twice.

    Args:
        trace_id: the trace.
        sqlstate: PostgreSQL's error code, five characters; None if the driver reports none.
        reason: what else is known about the cause, such as that another table is missing; None if nothing is.
        may_be_the_trace: whether this trace, and not the state of the database, may be the cause, for example if a
            trigger of the host's raised the error. If other traces are stored meanwhile, stop after a few tries.
    """

    def __init__(
        self,
        trace_id: str,
        sqlstate: str | None = None,
        reason: str | None = None,
        *,
        may_be_the_trace: bool = False,
    ) -> None:
        super().__init__(
            f"{named(trace_id)} could not be written now{_details(sqlstate, reason=reason)}: send the same trace again "
            "later, which is safe"
        )
        self.trace_id = trace_id
        self.sqlstate = sqlstate
        self.reason = reason
        self.may_be_the_trace = may_be_the_trace


class PoolerSettingError(ProviderTraceStoreError):
    """A connection pooler such as PgBouncer gave a statement to a server that does not know the prepared statement.

    Retries fail again and again, until the engine is created with the options that the message names.

    Args:
        sqlstate: PostgreSQL's error code: 26000 or 42P05.
    """

    def __init__(self, sqlstate: str) -> None:
        super().__init__(
            f"a connection pooler mixes up the driver's prepared statements (SQLSTATE {sqlstate}): create the engine "
            'with connect_args={"prepare_threshold": None} for psycopg, or {"statement_cache_size": 0, '
            '"prepared_statement_cache_size": 0, "prepared_statement_name_func": lambda: ""} for asyncpg'
        )
        self.sqlstate = sqlstate


class TransactionEndedError(ProviderTraceStoreError):
    """SQLite rolled the host's whole transaction back, and with it what was written before.

    SQLite does so when its file is full, when a trigger says `RAISE(ROLLBACK)`, after an interrupt and after an I/O
    error. The session refuses statements and the commit until it is rolled back.

    Args:
        trace_id: the trace that was being written.
        is_refusal: whether the database refused the row, so that the same row ends the next transaction, too. False if
            a retry may succeed.
    """

    def __init__(self, trace_id: str, *, is_refusal: bool = False) -> None:
        again = "without this trace, which the database refused" if is_refusal else "again later"
        super().__init__(
            f"SQLite rolled the whole transaction back while {trace_id} was written, earlier statements too: roll the "
            f"session back, and do all of the transaction {again}"
        )
        self.trace_id = trace_id
        self.is_refusal = is_refusal


class TraceDecodingError(ProviderTraceStoreError, ValueError):
    """A stored value cannot be read: no JSON, a value of another type than its column, or a damaged pack.

    This package did not write it so. A page lists the other traces, and has the id in `unreadable`.

    Args:
        trace_id: the trace; None if its id is not known, or is not text.
        path: the field, such as `created_at`; `pack` if its pack is damaged or gone; None if it is not known.
    """

    def __init__(self, trace_id: str | None = None, path: str | None = None) -> None:
        value = f"the {path}" if path else "a stored value"
        trace = named(trace_id) if trace_id else "a trace"
        remedy = "so this package did not write it: find and correct its row with SQL"
        if path == "pack":
            remedy = "so it is damaged or gone: run `provider-trace-store verify`, and restore it from a backup"
        super().__init__(f"{value} of {trace} is not readable, {remedy}")
        self.trace_id = trace_id
        self.path = path


class TableMissingError(ProviderTraceStoreError):
    """A table, or a column of it, does not exist: the database has not been migrated, or only by an earlier release.

    Args:
        table: the table's name.
        column: the column that the table lacks; None if the table itself does not exist.
    """

    def __init__(self, table: str, column: str | None = None) -> None:
        problem = "does not exist" if column is None else f"has no column {column}"
        super().__init__(
            f"table {shown(table)} {problem}: run `provider-trace-store migrate upgrade`, or call "
            "provider_trace_store.migrations.upgrade(connection)"
        )
        self.table = table


class PartitionMissingError(ProviderTraceStoreError):
    """A partitioned table has no partition for a trace; nothing was written.

    Sending the same trace again is safe, and succeeds when the partition exists.

    Args:
        table: the table's name, with its schema if one was given.
        key: the table's partition key, such as `RANGE (created_at)`.
        created_at: the date of the trace; None if it is not known.
    """

    def __init__(self, table: str, key: str, created_at: datetime | None = None) -> None:
        date = f" of {created_at:%Y-%m-%d}" if created_at else ""
        month = _month_of(table, created_at) if created_at and "created_at" in key else ""
        super().__init__(
            f"{table} has no partition for a trace{date}: create one (PARTITION BY {key}{month}), and send the same "
            "trace again, which is safe"
        )
        self.table = table
        self.key = key
        self.created_at = created_at


class PackSupportMissingError(ProviderTraceStoreError):
    """Packed traces cannot be read or written: Python has no zstd library."""

    def __init__(self) -> None:
        super().__init__(
            "packed traces and exports need a zstd library, which Python has from 3.14 on: run "
            "`pip install 'provider_trace_store[packs]'`"
        )


class PrivilegeMissingError(ProviderTraceStoreError):
    """The database role lacks a privilege that a write needs; nothing was written.

    Sending the same trace again is safe, and succeeds when the privileges are granted.

    Args:
        table: the table's name, with its schema if one was given.
        privileges: what the role lacks, as in GRANT, such as `INSERT ON provider_traces`.
        role: the name of the role.
    """

    def __init__(self, table: str, privileges: list[str], role: str) -> None:
        grants = "; ".join(f"GRANT {privilege} TO {role}" for privilege in privileges)
        super().__init__(f"the database role {role} lacks a privilege to write to {table}: run {grants}")
        self.table = table
        self.privileges = privileges
        self.role = role


class WriterClosedError(ProviderTraceStoreError):
    """The writer is closed and did not take the trace."""

    def __init__(self) -> None:
        super().__init__("the writer is closed and did not take the trace: close the writer after the last submit")


class MaintenanceError(ProviderTraceStoreError):
    """A command of maintenance, such as `pack`, cannot run on these tables; the message says what to do."""


class MigrationError(ProviderTraceStoreError):
    """The tables cannot be migrated as they are, or the database refused it; the message says what to do."""


class TableMismatchError(MigrationError):
    """A table has the name of one of the package's tables, but other columns or keys, or it would break a promise.

    Args:
        table: the table's name, with its schema if one was given.
        problems: one sentence for each difference, with what to do about it.
    """

    def __init__(self, table: str, problems: list[str]) -> None:
        super().__init__(f"{table} cannot be adopted: " + "; ".join(problems))
        self.table = table
        self.problems = problems


class TableNotEmptyError(MigrationError):
    """A downgrade would drop a table that has rows, or may have rows that this role cannot see.

    Args:
        table: the table's name, with its schema if one was given.
        reason: why the table is not taken for empty.
    """

    def __init__(self, table: str, reason: str = "has rows") -> None:
        # Packs have bodies that are nowhere else, and there is a way to keep them.
        unpack = "run `provider-trace-store unpack` to keep their traces; " if "provider_trace_packs" in table else ""
        super().__init__(f"{table} {reason}: {unpack}to drop them with the table, pass `drop_data=True`")
        self.table = table


class AdoptedTableError(MigrationError):
    """A downgrade would drop a table that existed before the first upgrade, or that an old release created.

    Args:
        table: the table's name, with its schema if one was given.
    """

    def __init__(self, table: str) -> None:
        super().__init__(
            f"{table} was adopted, or created by a release that did not record it, so it stays; nothing was changed: "
            "to drop it all the same, pass `drop_adopted=[TABLE]`"
        )
        self.table = table


class MigrationLockError(MigrationError):
    """A table lock, or the lock between migrations, was not free in any try; the message names who holds it."""


def shown(text: str, most: int = 128) -> str:
    """Return a name or an id as messages and log lines show it: on one line, and bounded.

    Characters that do not print, such as line breaks, terminal escapes and marks of the writing direction, and
    backslashes are escaped. A longer text is cut, and its length is given.

    Args:
        text: the name or the id; it may come from anywhere.
        most: the largest number of characters that are shown.
    """
    cut = text[:most]
    if not cut.isprintable() or "\\" in cut:
        cut = "".join([c if c.isprintable() and c != "\\" else c.encode("unicode_escape").decode("ascii") for c in cut])
    return cut if len(text) <= most else f"{cut}… ({len(text)} characters)"


def named(trace_id: object) -> str:
    """Return how a message names a trace: by its id as `shown` returns it, or as `trace` if its id is not text."""
    return shown(trace_id) if isinstance(trace_id, str) and trace_id else "trace"


def _details(sqlstate: str | None, constraint: str | None = None, reason: str | None = None) -> str:
    parts = (sqlstate and f"SQLSTATE {sqlstate}", constraint and f"constraint {shown(constraint)}", reason)
    text = ", ".join(part for part in parts if part)
    return f" ({text})" if text else ""


def _month_of(table: str, moment: datetime) -> str:
    """Return the statement that creates the partition of a month."""
    first = moment.astimezone(UTC).replace(day=1)
    after = f"{first.year + first.month // 12:04}-{first.month % 12 + 1:02}-01"
    return (
        f"; for the month: CREATE TABLE {table}_{first:%Y_%m} PARTITION OF {table} "
        f"FOR VALUES FROM ('{first:%Y-%m}-01 00:00+00') TO ('{after} 00:00+00')"
    )


def _restored(kind: type[ProviderTraceStoreError], args: tuple[Any, ...], state: dict[str, Any]) -> Any:  # noqa: ANN401  (what pickle calls)
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error
