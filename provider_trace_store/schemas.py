"""What callers send and receive: a trace, and the metadata of one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, Literal, Self
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field
from uuid_utils import uuid7

ID_PREFIX: Final = "provider_trace-"
ID_PATTERN: Final = r"^provider_trace-[a-fA-F0-9]{8}"

# PostgreSQL refuses an index entry of more than 2,704 bytes. The widest index holds an organization, a date
# and an id, so each of its texts may take 1,024 bytes and fit with room to spare.
MAX_INDEXED_BYTES: Final = 1024

# Under which key a read leaves what `ProviderTraceMetadata.stored_as` returns.
STORED_AS_KEY: Final = "_stored_as"

# A day inside what `datetime` can hold, so that any session's time zone can express the value, too.
EARLIEST: Final = datetime(1, 1, 2, tzinfo=UTC)
LATEST: Final = datetime.max.replace(tzinfo=UTC) - timedelta(days=1)


def text_problem(value: str, max_bytes: int | None = None) -> str | None:
    """Say why a text column cannot hold a string, or None where it can.

    Args:
        value: the string.
        max_bytes: the longest UTF-8 form allowed, in bytes; None for no limit.

    Returns:
        The reason, as the end of a sentence and without the string.
    """
    if "\0" in value:
        return "holds a NUL character, which PostgreSQL's text cannot hold"
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        return "holds a lone surrogate, which UTF-8 text cannot hold"
    if max_bytes is not None and size > max_bytes:
        return f"takes {size} bytes of UTF-8, more than the {max_bytes} that its index can hold"
    return None


def _storable(value: str) -> str:
    if problem := text_problem(value):
        raise ValueError(problem)
    return value


def _indexable(value: str) -> str:
    if problem := text_problem(value, MAX_INDEXED_BYTES):
        raise ValueError(problem)
    return value


def _prefixed(value: object) -> object:
    return f"{ID_PREFIX}{value}" if isinstance(value, UUID) else value


def _utc(value: datetime) -> datetime:
    try:
        moment = value.astimezone(UTC)
    except OverflowError:
        moment = None
    if moment is None or not EARLIEST <= moment <= LATEST:
        raise ValueError(f"lies outside {EARLIEST:%Y-%m-%d} to {LATEST:%Y-%m-%d}")
    return moment


def new_trace_id() -> str:
    """Return a new id, `provider_trace-<UUIDv7>`: ids of later calls sort later (RFC 9562, section 5.7)."""
    return f"{ID_PREFIX}{uuid7()}"


def _now() -> datetime:
    return datetime.now(UTC)


TraceId = Annotated[str, Field(pattern=ID_PATTERN), BeforeValidator(_prefixed), AfterValidator(_indexable)]
Text = Annotated[str, AfterValidator(_storable)]
IndexedText = Annotated[str, AfterValidator(_indexable)]
Moment = Annotated[AwareDatetime, AfterValidator(_utc)]
# Bodies stay out of every `repr`: those end up in logs and error reports.
Body = Annotated[dict[str, Any], Field(repr=False)]
OptionalBody = Annotated[dict[str, Any] | None, Field(repr=False)]


class BaseProviderTrace(BaseModel):
    """What a trace and its metadata have in common: strict fields, and errors that show no input.

    The subclasses list all their fields, so that each has them in the order of its table.
    """

    model_config = ConfigDict(
        extra="forbid",
        from_attributes=True,
        populate_by_name=True,
        hide_input_in_errors=True,
        validate_assignment=True,
    )

    id: TraceId = Field(default_factory=new_trace_id)


class ProviderTrace(BaseProviderTrace):
    """One call to a model provider: what was sent, what came back, and for whom.

    Args:
        id: `provider_trace-<UUIDv7>` by default; any text that matches `ID_PATTERN`, of at most 1,024 bytes; a
            bare `uuid.UUID` gets the prefix. The same id again means the same call again.
        request_json: the request's body, as it was sent.
        response_json: the response's body, as it came back.
        step_id: the agent step that made the call; at most 1,024 bytes. A step may make several calls.
        agent_id: the agent; at most 1,024 bytes.
        agent_tags: the agent's tags at that time.
        call_type: what the call was for: `agent_step`, `summarization`, …
        run_id: the run that the step belongs to; at most 1,024 bytes.
        source: the service that made the call.
        org_id: the organization that the telemetry protocol reported; the repository's `organization_id` owns
            the row.
        user_id: the user.
        compaction_settings: of a summarization call.
        llm_config: of any other call.
        created_at: when the call was made, with a time zone; now by default. It is fixed here and not by the
            database, so that a retry carries the same value. Kept in UTC, to the microsecond.
        created_by_id: who wrote the row; the repository's `actor_id` where it is None.
        last_updated_by_id: who wrote the row last; likewise.
        updated_at: when the row was changed last; None for a row that never was.
    """

    request_json: Body
    response_json: Body
    step_id: IndexedText | None = None
    agent_id: IndexedText | None = None
    agent_tags: list[str] | None = None
    call_type: Text | None = None
    run_id: IndexedText | None = None
    source: Text | None = None
    org_id: Text | None = None
    user_id: Text | None = None
    compaction_settings: OptionalBody = None
    llm_config: OptionalBody = None
    created_at: Moment = Field(default_factory=_now)
    created_by_id: Text | None = None
    last_updated_by_id: Text | None = None
    updated_at: Moment | None = None


class ProviderTraceMetadata(BaseProviderTrace):
    """A trace without its bodies and settings: small enough to keep for years.

    Its fields are those of `ProviderTrace` of the same names.
    """

    step_id: IndexedText | None = None
    agent_id: IndexedText | None = None
    agent_tags: list[str] | None = None
    call_type: Text | None = None
    run_id: IndexedText | None = None
    source: Text | None = None
    org_id: Text | None = None
    user_id: Text | None = None
    created_at: Moment = Field(default_factory=_now)
    created_by_id: Text | None = None
    last_updated_by_id: Text | None = None
    updated_at: Moment | None = None

    @property
    def stored_as(self) -> Literal["full", "metadata"] | None:
        """Where the trace that was read is stored: `full` also where it is in both tables; None for one not read.

        It is no field: it is not compared, dumped or taken as an argument.
        """
        # Put there by a read. Pydantic compares private attributes, but no other keys, and iterates over no name
        # with an underscore.
        return self.__dict__.get(STORED_AS_KEY)

    @classmethod
    def from_trace(cls, trace: ProviderTrace) -> Self:
        """Return the metadata of a trace: the same `id`, the same `created_at`, no body."""
        return cls.model_validate({name: getattr(trace, name) for name in cls.model_fields})


@dataclass(frozen=True, slots=True)
class MetadataPage:
    """A page of metadata, and where the next one begins.

    Args:
        items: at most as many as asked for.
        next_cursor: what to pass for the next page; None where there is none.
    """

    items: tuple[ProviderTraceMetadata, ...]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class TracePage:
    """A page of whole traces, and where the next one begins.

    Args:
        items: at most as many as asked for.
        next_cursor: what to pass for the next page; None where there is none.
    """

    items: tuple[ProviderTrace, ...]
    next_cursor: str | None
