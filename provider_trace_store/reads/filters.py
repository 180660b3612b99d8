"""The filters of the reads of many traces: checked once, for all methods that take them."""

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

    A trace is read if it meets all filters. A filter that is None, or left out, is met by every trace. `since` is the
    earliest `created_at` of a trace; `created_at` must be before `until`. Both need a time zone. `agent_tag` must be
    one of the agent's tags. The other filters are the exact text of the field of their name.
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
    """The traces to read: filters that are checked, with their defaults.

    Args:
        since: the earliest date, in UTC; by default the earliest that a trace may have.
        until: the date that all traces are before, in UTC; by default after the latest that a trace may have.
        texts: pairs of a field and its exact text, sorted by field.
        agent_tag: a tag that the agent must have, None for any tags.
    """

    since: datetime
    until: datetime
    texts: tuple[tuple[str, str], ...]
    agent_tag: str | None

    @property
    def is_empty(self) -> bool:
        """Whether no trace can match: the time is empty, or no column can hold one of the texts."""
        return self.since >= self.until or any(text_problem(value) for _, value in self.texts)

    @property
    def has_undated(self) -> bool:
        """Whether rows without a date match, too: their date counts as `NO_DATE`."""
        return self.since <= NO_DATE < self.until

    def parts(self) -> Iterator[str | None]:
        """Yield texts in which two different selections differ."""
        yield self.since.isoformat()
        yield self.until.isoformat()
        yield self.agent_tag
        for text in self.texts:
            yield from text


def selection_of(  # noqa: PLR0913  (one argument for each filter)
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
    """Return the selection for the filters of a call; the arguments are those of `TraceFilters`.

    Raises:
        InvalidFilterError: a filter is not text, or a date is not a datetime with a time zone.
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
    # No trace has a date outside of these two, and drivers send the least and the largest datetime as infinity.
    return min(max(moment, EARLIEST), _AFTER_LATEST)
