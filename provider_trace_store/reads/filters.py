"""What a read of many traces is narrowed down to: the arguments, checked once for all methods that take them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, NamedTuple, TypedDict

from provider_trace_store.errors import InvalidFilterError
from provider_trace_store.schemas import EARLIEST, LATEST, text_problem
from provider_trace_store.tables.moments import NO_DATE

if TYPE_CHECKING:
    from collections.abc import Iterator

_AFTER_LATEST: Final = LATEST + timedelta(microseconds=1)


class TraceFilters(TypedDict, total=False):
    """The filters that `list_metadata`, `iter_metadata`, `count_by` and `count_by_day` take as keywords.

    Together they narrow down; None, like leaving one out, does not. `since` is the earliest `created_at` and
    `until` the first that is too late, both with a time zone; the others are exact texts, `agent_tag` one of the
    agent's tags.
    """

    since: datetime | None
    until: datetime | None
    step_id: str | None
    run_id: str | None
    agent_id: str | None
    call_type: str | None
    source: str | None
    user_id: str | None
    org_id: str | None
    agent_tag: str | None


class Selection(NamedTuple):
    """The traces that a read is about.

    Args:
        since: the earliest date, in UTC; the first that a trace may have where none is asked for.
        until: the first date that is too late; likewise.
        texts: columns and what they must hold, sorted.
        agent_tag: what must be among the agent's tags.
    """

    since: datetime
    until: datetime
    texts: tuple[tuple[str, str], ...]
    agent_tag: str | None

    @property
    def is_empty(self) -> bool:
        """Whether no trace can be meant: no time, or text that no column can hold."""
        return self.since >= self.until or any(text_problem(value) for _, value in self.texts)

    @property
    def has_undated(self) -> bool:
        """Whether rows without a date are meant, too."""
        return self.since <= NO_DATE < self.until

    def parts(self) -> Iterator[str | None]:
        """Yield what tells this selection from others."""
        yield self.since.isoformat()
        yield self.until.isoformat()
        yield self.agent_tag
        for text in self.texts:
            yield from text


def selection_of(  # noqa: PLR0913  (as many as there are filters)
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    step_id: str | None = None,
    run_id: str | None = None,
    agent_id: str | None = None,
    call_type: str | None = None,
    source: str | None = None,
    user_id: str | None = None,
    org_id: str | None = None,
    agent_tag: str | None = None,
) -> Selection:
    """Return the selection of a call's filters; the arguments are those of `TraceFilters`.

    Raises:
        InvalidFilterError: one of them is no text, or a date without a time zone.
    """
    texts = {
        "agent_id": agent_id,
        "call_type": call_type,
        "org_id": org_id,
        "run_id": run_id,
        "source": source,
        "step_id": step_id,
        "user_id": user_id,
    }
    for name, value in (*texts.items(), ("agent_tag", agent_tag)):
        if value is not None and not isinstance(value, str):
            raise InvalidFilterError(name, "must be text")
    return Selection(
        _moment("since", since, EARLIEST),
        _moment("until", until, _AFTER_LATEST),
        tuple((name, value) for name, value in texts.items() if value is not None),
        agent_tag,
    )


def _moment(name: str, value: object, default: datetime) -> datetime:
    if value is None:
        return default
    if not isinstance(value, datetime) or value.utcoffset() is None:
        raise InvalidFilterError(name, "must be a datetime with a time zone")
    try:
        moment = value.astimezone(UTC)
    except OverflowError:
        moment = EARLIEST if value.year < NO_DATE.year else _AFTER_LATEST
    # No trace is beyond, and drivers take the ends of what a datetime can hold for infinity.
    return min(max(moment, EARLIEST), _AFTER_LATEST)
