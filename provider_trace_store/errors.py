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
├── TraceDecodingError              a stored document is not readable JSON
├── TableMissingError               the database has not been migrated
├── WriterClosedError               a trace was submitted to a closed writer
└── MigrationError                  the tables cannot be migrated as they are
    ├── TableMismatchError          a table of the same name has other columns or another primary key
    ├── TableNotEmptyError          a downgrade would drop rows
    └── MigrationLockError          a lock was not free in any try

The errors of arguments, TraceEncodingError, TraceTooLargeError and TraceDecodingError are also ValueErrors.

No message, attribute or chained exception carries a payload or a credential. A message names a trace by its id, a
place inside a document by its path, and a refusal of the database by SQLSTATE and constraint.
"""

from __future__ import annotations

from typing import Any


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
        trace_id: the trace; None if its id is not known.
    """

    def __init__(self, path: str, reason: str, trace_id: str | None = None) -> None:
        super().__init__(
            f"{trace_id or 'trace'} cannot be stored exactly: {path}: {reason}; correct the value and send the trace "
            "again",
            trace_id,
        )
        self.path = path
        self.reason = reason


class TraceTooLargeError(UnstorableTraceError, ValueError):
    """A document or a text of a trace takes more bytes than allowed; nothing was written.

    Args:
        path: the field, such as `request_json`.
        size: the size of its stored text, in bytes.
        limit: the largest allowed size, in bytes: for a document, the repository's `max_body_bytes`.
        trace_id: the trace.
    """

    trace_id: str

    def __init__(self, path: str, size: int, limit: int, trace_id: str) -> None:
        super().__init__(
            f"{trace_id} is too large: {path} takes {size} bytes, and {limit} are allowed; shorten it, or for a body "
            "raise max_body_bytes",
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
            f"{trace_id} is the id of a stored trace with other content, which stays unchanged: give this call an id "
            "of its own",
            trace_id,
        )


class ProviderTraceRejectedError(UnstorableTraceError):
    """The database refused the row for a reason that a retry does not change, such as a host's foreign key.

    Args:
        trace_id: the trace.
        sqlstate: PostgreSQL's error code, five characters; None if the driver reports none.
        constraint: the name of the violated constraint; None if the driver reports none.
    """

    trace_id: str

    def __init__(self, trace_id: str, sqlstate: str | None = None, constraint: str | None = None) -> None:
        super().__init__(
            f"{trace_id} was refused by the database{_details(sqlstate, constraint)}: correct the trace or the "
            "database's rule, a retry does not help",
            trace_id,
        )
        self.sqlstate = sqlstate
        self.constraint = constraint


class ProviderTraceUnavailableError(ProviderTraceStoreError):
    """The database could not store the trace now: connection lost, timeout, deadlock, disk full.

    Sending the same trace again is safe: a trace that is stored already is not written twice.

    Args:
        trace_id: the trace.
        sqlstate: PostgreSQL's error code, five characters; None if the driver reports none.
    """

    def __init__(self, trace_id: str, sqlstate: str | None = None) -> None:
        super().__init__(
            f"{trace_id} could not be written now{_details(sqlstate)}: send the same trace again later, which is safe"
        )
        self.trace_id = trace_id
        self.sqlstate = sqlstate


class TraceDecodingError(ProviderTraceStoreError, ValueError):
    """A stored document is not readable JSON; this package did not write it."""

    def __init__(self) -> None:
        super().__init__(
            "a stored document is not readable JSON, so this package did not write it: find and correct its row"
        )


class TableMissingError(ProviderTraceStoreError):
    """A table does not exist: the database has not been migrated.

    Args:
        table: the table's name.
    """

    def __init__(self, table: str) -> None:
        super().__init__(
            f"table {table} does not exist: run `provider-trace-store migrate upgrade`, or call "
            "provider_trace_store.migrations.upgrade(connection)"
        )
        self.table = table


class WriterClosedError(ProviderTraceStoreError):
    """The writer is closed and did not take the trace."""

    def __init__(self) -> None:
        super().__init__("the writer is closed and did not take the trace: close the writer after the last submit")


class MigrationError(ProviderTraceStoreError):
    """The tables cannot be migrated as they are, or the database refused it; the message says what to do."""


class TableMismatchError(MigrationError):
    """A table has the name of one of the package's tables, but other columns or another primary key.

    Args:
        table: the table's name, with its schema if one was given.
        problems: one sentence for each difference, with what to do about it.
    """

    def __init__(self, table: str, problems: list[str]) -> None:
        super().__init__(f"{table} cannot be adopted: " + "; ".join(problems))
        self.table = table
        self.problems = problems


class TableNotEmptyError(MigrationError):
    """A downgrade would drop a table that has rows.

    Args:
        table: the table's name, with its schema if one was given.
    """

    def __init__(self, table: str) -> None:
        super().__init__(f"{table} has rows: to drop them with the table, pass `drop_data=True`")
        self.table = table


class MigrationLockError(MigrationError):
    """A table lock, or the lock between migrations, was not free in any try; the message names who holds it."""


def _details(sqlstate: str | None, constraint: str | None = None) -> str:
    parts = [part for part in (sqlstate and f"SQLSTATE {sqlstate}", constraint and f"constraint {constraint}") if part]
    return f" ({', '.join(parts)})" if parts else ""


def _restored(kind: type[ProviderTraceStoreError], args: tuple[Any, ...], state: dict[str, Any]) -> Any:  # noqa: ANN401  (what pickle calls)
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error
