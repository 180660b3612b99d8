"""The Pydantic models of the public API: a trace, its metadata, and pages of both."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, Literal, Self
from uuid import UUID

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SerializationInfo,
    ValidationInfo,
    WithJsonSchema,
)
from pydantic_core import SchemaSerializer, core_schema
from uuid_utils import uuid7

from provider_trace_store.codec import from_json_form, json_form

ID_PREFIX: Final = "provider_trace-"
ID_PATTERN: Final = r"^provider_trace-[a-fA-F0-9]{8}"

# The context in which `model_validate` takes the result of `model_dump(mode="json")`, as `model_validate_json` takes
# JSON. Without it, a dict that looks like a special form is a dict.
JSON_FORM: Final = {"provider_trace_store": "json form"}

_ANY: Final = SchemaSerializer(core_schema.any_schema())

# PostgreSQL refuses an index entry of more than 2,704 bytes. The widest index has an organization, a date and an id:
# two texts of 1,024 bytes and a date fit.
MAX_INDEXED_BYTES: Final = 1024

# A read puts the value of `ProviderTraceMetadata.stored_as` into the object's `__dict__` under this key.
STORED_AS_KEY: Final = "_stored_as"

# One day inside the range of `datetime`: the value then fits in the time zone of any session.
EARLIEST: Final = datetime(1, 1, 2, tzinfo=UTC)
LATEST: Final = datetime.max.replace(tzinfo=UTC) - timedelta(days=1)


def text_problem(value: str, max_bytes: int | None = None) -> str | None:
    """Return the reason why a text column cannot store a string, or None if it can.

    Args:
        value: the string.
        max_bytes: the largest allowed size in UTF-8, in bytes; None for no limit.

    Returns:
        The reason, as the end of a sentence whose subject is the string; it does not repeat the string.
    """
    if "\0" in value:
        return "contains a NUL character, which PostgreSQL cannot store in text"
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        return "contains a lone surrogate, which UTF-8 cannot encode"
    if max_bytes is not None and size > max_bytes:
        return f"takes {size} bytes in UTF-8, and its index allows {max_bytes}"
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
        raise ValueError(f"must be from {EARLIEST:%Y-%m-%d} to {LATEST:%Y-%m-%d}")
    return moment


def new_trace_id() -> str:
    """Return a new id, `provider_trace-<UUIDv7>`; ids that are made later sort later (RFC 9562, section 5.7)."""
    return f"{ID_PREFIX}{uuid7()}"


def _now() -> datetime:
    return datetime.now(UTC)


TraceId = Annotated[str, Field(pattern=ID_PATTERN), BeforeValidator(_prefixed), AfterValidator(_indexable)]
Text = Annotated[str, AfterValidator(_storable)]
IndexedText = Annotated[str, AfterValidator(_indexable)]
Moment = Annotated[AwareDatetime, AfterValidator(_utc)]


def _is_json_form(info: ValidationInfo) -> bool:
    return info.mode == "json" or info.context is JSON_FORM


def _document_of(value: Any, info: ValidationInfo) -> Any:  # noqa: ANN401  (a value of any type)
    if _is_json_form(info):
        return from_json_form(value)
    # Pydantic's own error would show the key, which may be content.
    if isinstance(value, dict) and not all(isinstance(key, str) for key in value):
        raise ValueError(
            "has a key that is not text: pass provider_trace_store.text_keys(document), or correct the key"
        )
    return value


def _json_form_of(value: Any, info: SerializationInfo) -> Any:  # noqa: ANN401  (a serializer's)
    if info.include is not None or info.exclude is not None:
        selected: Any = {"include": info.include, "exclude": info.exclude}
        value = _ANY.to_python(value, **selected)
    return json_form(value, "trace")


# JSON lacks some values that a document can hold: `model_dump_json` and `model_dump(mode="json")` write their special
# forms, which provider_trace_store.codec lists, and `model_validate_json` reads them.
_read: Final = BeforeValidator(_document_of)
_WRITTEN: Final = PlainSerializer(_json_form_of, when_used="json", return_type=dict[str, Any])
_WRITTEN_AS_ANY: Final = PlainSerializer(_json_form_of, when_used="json-unless-none", return_type=Any)
_TAGS_SCHEMA: Final = {"anyOf": [{"items": {"type": "string"}, "type": "array"}, {"type": "null"}]}
_BODY_SCHEMA: Final = {"anyOf": [{"additionalProperties": True, "type": "object"}, {"type": "null"}]}
# No `repr` contains a body: a `repr` ends up in logs and error reports.
Body = Annotated[dict[str, Any], _read, _WRITTEN, Field(repr=False)]
OptionalBody = Annotated[dict[str, Any] | None, _read, _WRITTEN_AS_ANY, WithJsonSchema(_BODY_SCHEMA), Field(repr=False)]
# The schema leaves out the special form of a tag with a lone surrogate: nearly all clients never see one.
Tags = Annotated[list[str] | None, _read, _WRITTEN_AS_ANY, WithJsonSchema(_TAGS_SCHEMA)]


class BaseProviderTrace(BaseModel):
    """Base of a trace and its metadata: unknown fields are refused, and validation errors do not show the input.

    Each subclass lists all of its fields, because their order is that of the columns of its table.

    Args:
        id: see `ProviderTrace`.
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
    """One call to a model provider: its request, its response and its context.

    Texts contain no NUL character and no lone surrogate.

    Its JSON form (`model_dump_json`, `model_dump(mode="json")`, the answer of a FastAPI endpoint) has the special forms
    of provider_trace_store.codec where JSON lacks a value. `model_validate_json` returns an equal trace, and so does
    `model_validate(…, context=JSON_FORM)` for the form as Python objects.

    Args:
        id: the id of the call, `provider_trace-<UUIDv7>` by default: any text that matches `ID_PATTERN`, at most 1,024
            bytes. A `uuid.UUID` gets the prefix. A second trace with the same id is a retry of the first.
        request_json: the body of the request, unchanged.
        response_json: the body of the response, unchanged.
        step_id: the agent step that made the call; at most 1,024 bytes. A step may make several calls.
        agent_id: the agent; at most 1,024 bytes.
        agent_tags: the agent's tags at the time of the call.
        call_type: the purpose of the call: `agent_step`, `summarization`, …
        run_id: the run of the step; at most 1,024 bytes.
        source: the service that made the call.
        org_id: the organization that the telemetry protocol reported. It does not own the row: the repository's
            `organization_id` does.
        user_id: the user.
        compaction_settings: the settings of a summarization call.
        llm_config: the model's settings of any other call.
        created_at: the time of the call, with a time zone; now by default. It is stored in UTC, to the microsecond,
            and lies between 0001-01-02 and 9999-12-30. The database does not set it: a retry has the same value.
        created_by_id: the actor that created the row; None for the repository's `actor_id`.
        last_updated_by_id: the actor that changed the row last; None for the repository's `actor_id`.
        updated_at: the time of the last change of the row, as `created_at`; None for a row that was never changed.
    """

    request_json: Body
    response_json: Body
    step_id: IndexedText | None = None
    agent_id: IndexedText | None = None
    agent_tags: Tags = None
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

    See `ProviderTrace` for its fields: they have the same names and meanings.
    """

    step_id: IndexedText | None = None
    agent_id: IndexedText | None = None
    agent_tags: Tags = None
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
    def stored_as(self) -> Literal["full", "packed", "metadata"] | None:
        """Where a read found the trace: `full`, `packed` or `metadata`, and `full` if both tables have it.

        It is None for an object that no read returned. It is not a field: it is not compared, not dumped and not an
        argument.
        """
        # A read sets this key. A private attribute of Pydantic's would be compared; this key is not. Iteration leaves
        # it out, because its name begins with an underscore.
        return self.__dict__.get(STORED_AS_KEY)

    @classmethod
    def from_trace(cls, trace: ProviderTrace) -> Self:
        """Return the metadata of a trace: all of its fields but bodies and settings, with the same values.

        Args:
            trace: the trace.
        """
        return cls.model_validate({name: getattr(trace, name) for name in cls.model_fields})


# The two pages are not one generic class: Pydantic does not see the type of `items` through a generic dataclass, and a
# host may give a page to FastAPI as the model of a response.
@dataclass(frozen=True, slots=True)
class MetadataPage:
    """A page of metadata.

    Args:
        items: the metadata of the page's traces, in order; at most `limit` of them.
        next_cursor: the `cursor` of the next page; None on the last page.
        unreadable: the ids of the page's traces that are not in `items`, because a value of their row cannot be read;
            another program wrote it. `get_metadata` and `get` raise TraceDecodingError for these ids.
    """

    items: tuple[ProviderTraceMetadata, ...]
    next_cursor: str | None
    unreadable: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TracePage:
    """A page of whole traces.

    Args:
        items: the page's traces, in order; at most `limit` of them.
        next_cursor: the `cursor` of the next page; None on the last page.
        unreadable: the ids of the page's traces that are not in `items`, because a value of their row cannot be read;
            another program wrote it. `get_metadata` and `get` raise TraceDecodingError for these ids.
    """

    items: tuple[ProviderTrace, ...]
    next_cursor: str | None
    unreadable: tuple[str, ...] = ()
