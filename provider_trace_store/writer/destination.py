"""The interface of a destination, which stores the rows of the writer's thread, and its results and errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from provider_trace_store.errors import ProviderTraceStoreError
    from provider_trace_store.tables.kinds import Kind
    from provider_trace_store.tables.rows import Row


class RowSource(Protocol):
    """The source of one row, which is made when it is sent."""

    @property
    def id(self) -> str:
        """The trace's id."""

    def make(self) -> Row:
        """Return the row; TraceEncodingError or TraceTooLargeError if it cannot be stored."""


class Refusal(NamedTuple):
    """A rejected row.

    Args:
        source: the row, or the source that no row could be made from.
        error: the reason.
    """

    source: Row | RowSource
    error: ProviderTraceStoreError


class Delivered(NamedTuple):
    """What became of rows whose transaction is committed.

    Args:
        created: how many rows were written.
        unchanged: how many rows were stored before.
        refusals: the rejected rows.
        unplaced: rows that the table has no partition for, each with that as the error; they must be sent again.
    """

    created: int
    unchanged: int
    refusals: Sequence[Refusal]
    unplaced: Sequence[tuple[RowSource, NotNowError]] = ()


class Sent(NamedTuple):
    """What became of some of the rows that are being sent.

    Args:
        sources: the rows.
        stored: how many were written.
        unchanged: how many were stored before.
        rejected: how many were rejected.
        is_postponed: whether they are one row that must be sent again, after others.
    """

    sources: Sequence[Any]
    stored: int = 0
    unchanged: int = 0
    rejected: int = 0
    is_postponed: bool = False


class NotNowError(Exception):
    """The destination could not store rows now; sending them again is safe.

    Args:
        name: the name of the error's class, with its SQLSTATE if it has one.
        advice: what an operator can do about it.
        may_be_the_row: whether one of the rows may be the cause.
        may_be_a_rule: whether a rule of the host's for a row, such as a trigger, may have raised the error.
        is_each_row: whether single rows were tried, too, and failed alike: cutting the rows into parts is no use.
        sqlstate: PostgreSQL's error code; None if the driver reports none.
        reason: what else is known about the cause.
    """

    def __init__(  # noqa: PLR0913  (each is another fact)
        self,
        name: str,
        advice: str = "",
        *,
        may_be_the_row: bool = False,
        may_be_a_rule: bool = False,
        is_each_row: bool = False,
        sqlstate: str | None = None,
        reason: str | None = None,
    ) -> None:
        super().__init__(name)
        self.name = name
        self.advice = advice
        self.may_be_the_row = may_be_the_row
        self.may_be_a_rule = may_be_a_rule
        self.is_each_row = is_each_row
        self.sqlstate = sqlstate
        self.reason = reason


class NotTogetherError(Exception):
    """The destination refuses these rows together, because it refuses one of them; no row was stored.

    Args:
        error: the reason, if it is a single row.
    """

    def __init__(self, error: ProviderTraceStoreError) -> None:
        super().__init__()
        self.name = type(error).__qualname__
        self.error = error


class Destination(Protocol):
    """Stores rows, all or none of those that it accepts."""

    def deliver(self, kind: Kind, sources: Sequence[RowSource]) -> Delivered:
        """Store rows.

        Args:
            kind: the table.
            sources: the sources of the rows; at least one.

        Raises:
            NotNowError: no row was stored, or it is not known; sending them again is safe.
            NotTogetherError: no row was stored, and one of them is the cause.
        """

    def close(self) -> None:
        """Release what `deliver` keeps between two calls; another call may follow all the same."""
