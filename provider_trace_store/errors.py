"""Every error that the package raises.

ProviderTraceStoreError
├── InvalidIdentifierError          an organization or actor id that no text column can hold
├── InvalidLimitError               a limit that is out of its range
├── InvalidFilterError              a filter of a read that cannot be meant
├── InvalidCursorError              a cursor that is damaged, or of another query
├── TraceEncodingError              a trace that cannot be stored exactly
├── TraceTooLargeError              a document is larger than the repository's `max_body_bytes`
├── TraceDecodingError              a stored document that cannot be read
├── ProviderTraceConflictError      the id is taken by a trace with other content
├── ProviderTraceRejectedError      the database refused this row: sending it again will not help
├── ProviderTraceUnavailableError   the database could not do it now: sending it again may help
├── TableMissingError               the database has not been migrated
├── InvalidWriterOptionError        an argument of the writer's that cannot be meant
├── WriterClosedError               the writer was closed before
└── MigrationError                  the tables cannot be migrated as they are
    ├── TableMismatchError          a table under one of our names is something else
    ├── TableNotEmptyError          a downgrade would drop rows
    └── MigrationLockError          a lock was not to be had within `lock_timeout`

No message, attribute or chained exception carries a payload or a credential: a trace is named by its id, a
place inside a document by its path, a database's refusal by SQLSTATE and constraint.
"""

from __future__ import annotations

from typing import Any


class ProviderTraceStoreError(Exception):
    """Root of every error that the package raises; it can be pickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception's own calls the class with the message.
        return _restored, (type(self), self.args, self.__dict__)


class InvalidIdentifierError(ProviderTraceStoreError, ValueError):
    """An organization or actor id is not text that both databases can hold.

    Args:
        name: the argument, such as `organization_id`.
        reason: what is wrong with it.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name} {reason}")
        self.name = name
        self.reason = reason


class InvalidLimitError(ProviderTraceStoreError, ValueError):
    """A limit is not a whole number in its range.

    Args:
        name: the argument, such as `max_body_bytes`.
        low: the smallest value that is allowed.
        high: the largest.
    """

    def __init__(self, name: str, low: int, high: int) -> None:
        super().__init__(f"{name} must be a whole number from {low} to {high}")
        self.name = name


class InvalidFilterError(ProviderTraceStoreError, ValueError):
    """A read was asked for something that cannot be meant, such as a date without a time zone.

    Args:
        name: the argument, such as `since`.
        reason: what is wrong with it, without its value.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name} {reason}")
        self.name = name
        self.reason = reason


class InvalidCursorError(ProviderTraceStoreError, ValueError):
    """A cursor is damaged, or was made by another query: other filters, order, method or organization."""

    def __init__(self) -> None:
        super().__init__(
            "cursor is damaged or of another query: pass `next_cursor` of the page before, with the same arguments, "
            "or None to begin anew"
        )


class TraceEncodingError(ProviderTraceStoreError, ValueError):
    """A trace holds something that cannot be stored so that it reads back equal; nothing was written.

    Args:
        path: where it is, such as `request_json.messages[3].content`.
        reason: what it is, without its value.
        trace_id: the trace, where it is known.
    """

    def __init__(self, path: str, reason: str, trace_id: str | None = None) -> None:
        super().__init__(f"{trace_id or 'trace'} cannot be stored exactly: {path}: {reason}")
        self.path = path
        self.reason = reason
        self.trace_id = trace_id


class TraceTooLargeError(ProviderTraceStoreError, ValueError):
    """A document takes more bytes than the repository allows; nothing was written.

    Args:
        path: which it is, such as `request_json`.
        size: what it takes, in bytes of its stored text.
        limit: what is allowed: for a document the repository's `max_body_bytes`.
        trace_id: the trace.
    """

    def __init__(self, path: str, size: int, limit: int, trace_id: str) -> None:
        super().__init__(
            f"{trace_id} is too large: {path} takes {size} bytes, of {limit} that are allowed (see max_body_bytes)"
        )
        self.path = path
        self.size = size
        self.limit = limit
        self.trace_id = trace_id


class TraceDecodingError(ProviderTraceStoreError, ValueError):
    """A stored document is not JSON that can be read; it was not written by this package."""

    def __init__(self) -> None:
        super().__init__("a stored document is not JSON that can be read")


class ProviderTraceConflictError(ProviderTraceStoreError):
    """The id belongs to a row with other content, which stands unchanged.

    The same error, with the same words, for content that differs, for a deleted row and for a row of another
    organization: it never tells which.

    Args:
        trace_id: the id that is taken.
    """

    def __init__(self, trace_id: str) -> None:
        super().__init__(f"{trace_id} is taken by a trace with other content")
        self.trace_id = trace_id


class ProviderTraceRejectedError(ProviderTraceStoreError):
    """The database refused the row for a reason that a retry does not change, such as a host's foreign key.

    Args:
        trace_id: the trace that was refused.
        sqlstate: the five characters of PostgreSQL's error code, where the driver reports one.
        constraint: the violated constraint's name, where the driver reports one.
    """

    def __init__(self, trace_id: str, sqlstate: str | None = None, constraint: str | None = None) -> None:
        super().__init__(f"{trace_id} was refused by the database{_details(sqlstate, constraint)}")
        self.trace_id = trace_id
        self.sqlstate = sqlstate
        self.constraint = constraint


class ProviderTraceUnavailableError(ProviderTraceStoreError):
    """The database could not store the trace now: connection lost, timeout, deadlock, disk full.

    Whether the row is stored is the host's transaction's matter; sending the same trace again is safe.

    Args:
        trace_id: the trace that was being written.
        sqlstate: the five characters of PostgreSQL's error code, where the driver reports one.
    """

    def __init__(self, trace_id: str, sqlstate: str | None = None) -> None:
        super().__init__(
            f"{trace_id} could not be written now{_details(sqlstate)}; sending the same trace again is safe"
        )
        self.trace_id = trace_id
        self.sqlstate = sqlstate


class TableMissingError(ProviderTraceStoreError):
    """The database has no such table: it has not been migrated.

    Args:
        table: the table's name.
    """

    def __init__(self, table: str) -> None:
        super().__init__(
            f"there is no table {table}: run `provider-trace-store migrate upgrade`, or call "
            "provider_trace_store.migrations.upgrade(connection)"
        )
        self.table = table


class InvalidWriterOptionError(ProviderTraceStoreError, ValueError):
    """An argument of `TraceWriter` cannot be meant, or not together with another.

    Args:
        name: the argument, such as `on_full`.
        reason: what is wrong with it.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name} {reason}")
        self.name = name
        self.reason = reason


class WriterClosedError(ProviderTraceStoreError):
    """The writer was closed: the trace was not taken."""

    def __init__(self) -> None:
        super().__init__("the writer was closed, and takes no more traces: close it when nothing submits any more")


class MigrationError(ProviderTraceStoreError):
    """The tables cannot be migrated as they are; nothing was changed."""


class TableMismatchError(MigrationError):
    """A table under one of our names is something else than the table of an existing deployment.

    Args:
        table: the table's name, with its schema where one was given.
        problems: one sentence for each difference, with what to do about it.
    """

    def __init__(self, table: str, problems: list[str]) -> None:
        super().__init__(f"{table} cannot be adopted: " + "; ".join(problems))
        self.table = table
        self.problems = problems


class TableNotEmptyError(MigrationError):
    """A downgrade would drop a table that has rows.

    Args:
        table: the table's name, with its schema where one was given.
    """

    def __init__(self, table: str) -> None:
        super().__init__(f"{table} has rows: it is dropped only with `-x drop-data=yes` (or drop_data=True)")
        self.table = table


class MigrationLockError(MigrationError):
    """A table's lock was not to be had within `lock_timeout`; run the migration again when traffic is lower."""


def _details(sqlstate: str | None, constraint: str | None = None) -> str:
    parts = [part for part in (sqlstate and f"SQLSTATE {sqlstate}", constraint and f"constraint {constraint}") if part]
    return f" ({', '.join(parts)})" if parts else ""


def _restored(kind: type[ProviderTraceStoreError], args: tuple[Any, ...], state: dict[str, Any]) -> Any:  # noqa: ANN401  (pickle's)
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error
