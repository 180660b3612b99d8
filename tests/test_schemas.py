from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any, Final
from uuid import UUID

import pytest
from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticSerializationError

from provider_trace_store import (
    BaseProviderTrace,
    MetadataPage,
    ProviderTrace,
    ProviderTraceMetadata,
    TracePage,
    text_keys,
)
from provider_trace_store.schemas import JSON_FORM
from tests.support.documents import same

TRACE_FIELDS: Final = [
    "id",
    "request_json",
    "response_json",
    "step_id",
    "agent_id",
    "agent_tags",
    "call_type",
    "run_id",
    "source",
    "org_id",
    "user_id",
    "compaction_settings",
    "llm_config",
    "created_at",
    "created_by_id",
    "last_updated_by_id",
    "updated_at",
]
METADATA_FIELDS: Final = [
    "id",
    "step_id",
    "agent_id",
    "agent_tags",
    "call_type",
    "run_id",
    "source",
    "org_id",
    "user_id",
    "created_at",
    "created_by_id",
    "last_updated_by_id",
    "updated_at",
]
UUID4: Final = "9b2d7f3e-0c1a-4f57-8d6e-2a4b6c8d0e1f"
BODIES: Final = {"request_json": {"model": "m"}, "response_json": {"text": "Hi"}}


def make(**fields: Any) -> ProviderTrace:
    return ProviderTrace.model_validate({**BODIES, **fields})


def test_a_trace_has_these_fields_in_this_order() -> None:
    assert list(ProviderTrace.model_fields) == TRACE_FIELDS


def test_metadata_has_these_fields_in_this_order() -> None:
    assert list(ProviderTraceMetadata.model_fields) == METADATA_FIELDS


def test_both_schemas_have_one_base() -> None:
    assert issubclass(ProviderTrace, BaseProviderTrace)
    assert issubclass(ProviderTraceMetadata, BaseProviderTrace)
    assert not issubclass(ProviderTraceMetadata, ProviderTrace)


def test_only_the_bodies_are_required() -> None:
    required = {name for name, field in ProviderTrace.model_fields.items() if field.is_required()}
    assert required == {"request_json", "response_json"}
    trace = make()
    generated = {"id", "created_at", "request_json", "response_json"}
    assert {name: getattr(trace, name) for name in TRACE_FIELDS if name not in generated} == dict.fromkeys(
        name for name in TRACE_FIELDS if name not in generated
    )


def test_a_generated_id_is_a_prefixed_uuid_of_version_7() -> None:
    prefix, value = make().id.split("-", 1)
    assert prefix == "provider_trace"
    assert UUID(value).version == 7
    assert str(UUID(value)) == value


def test_generated_ids_sort_in_the_order_of_their_making() -> None:
    ids = [make().id for _ in range(2_000)]
    assert ids == sorted(ids)
    assert len(set(ids)) == len(ids)


FORK_AND_MAKE_IDS = """
import os
from provider_trace_store.schemas import new_trace_id

for _ in range(200):
    new_trace_id()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, " ".join(new_trace_id() for _ in range(20)).encode())
        os._exit(0)
    os.close(writer)
    ids = [new_trace_id() for _ in range(20)]
    with os.fdopen(reader) as pipe:
        ids += pipe.read().split()
    os.waitpid(child, 0)
    print(*ids)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
def test_ids_stay_distinct_across_a_fork() -> None:
    # A generator that both share repeats itself only within the millisecond of the fork: hence a small process that
    # forks fast, and many times.
    done = subprocess.run([sys.executable, "-c", FORK_AND_MAKE_IDS], capture_output=True, text=True, check=True)
    forks = [line.split() for line in done.stdout.splitlines()]
    assert [len(ids) for ids in forks] == [40] * 200
    assert [len(set(ids)) for ids in forks] == [40] * 200


def test_a_bare_uuid_gets_the_prefix() -> None:
    assert make(id=UUID(UUID4)).id == f"provider_trace-{UUID4}"


@pytest.mark.parametrize("value", [f"provider_trace-{UUID4}", "provider_trace-DEADBEEF", "provider_trace-0123abcd/x y"])
def test_any_id_of_the_pattern_is_accepted_as_it_is(value: str) -> None:
    assert make(id=value).id == value


@pytest.mark.parametrize("value", ["", UUID4, "provider_trace-", "provider_trace-0123abc", "step-0123abcd", 7, None])
def test_any_other_id_is_refused(value: object) -> None:
    with pytest.raises(ValidationError):
        make(id=value)


def test_created_at_is_now_in_utc_by_default() -> None:
    before = datetime.now(UTC)
    trace = make()
    assert before <= trace.created_at <= datetime.now(UTC)
    assert trace.created_at.tzinfo is UTC


def test_a_date_is_kept_in_utc_to_the_microsecond() -> None:
    given = datetime(2026, 3, 29, 1, 30, 0, 123456, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    kept = make(created_at=given, updated_at=given)
    assert kept.created_at == given
    assert kept.created_at.isoformat() == "2026-03-28T20:00:00.123456+00:00"
    assert kept.updated_at == given


@pytest.mark.parametrize("field", ["created_at", "updated_at"])
@pytest.mark.parametrize("value", [datetime(2026, 1, 1), "2026-01-01T00:00:00"])  # noqa: DTZ001  (naive on purpose)
def test_a_naive_date_is_refused(field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field):
        make(**{field: value})


@pytest.mark.parametrize(
    "value",
    [
        datetime(1, 1, 1, 0, 30, tzinfo=timezone(timedelta(hours=1))),
        datetime(9999, 12, 31, 23, 30, tzinfo=timezone(timedelta(hours=-1))),
    ],
)
def test_a_date_that_utc_cannot_express_is_refused(value: datetime) -> None:
    with pytest.raises(ValidationError, match="created_at"):
        make(created_at=value)


@pytest.mark.parametrize("schema", [ProviderTrace, ProviderTraceMetadata])
def test_an_unknown_field_is_refused(schema: type[BaseProviderTrace]) -> None:
    with pytest.raises(ValidationError, match="organization_id"):
        schema.model_validate({**(BODIES if schema is ProviderTrace else {}), "organization_id": "org-1"})


def test_metadata_refuses_a_body() -> None:
    with pytest.raises(ValidationError, match="request_json"):
        ProviderTraceMetadata.model_validate({"request_json": {}})


@pytest.mark.parametrize("body", [None, [], "{}", 1])
def test_a_body_is_an_object(body: object) -> None:
    with pytest.raises(ValidationError, match="request_json"):
        make(request_json=body)


def test_a_trace_is_made_from_any_object_with_its_attributes() -> None:
    trace = make(step_id="step-1", agent_tags=["a"], llm_config={"model": "m"})
    assert ProviderTrace.model_validate(SimpleNamespace(**dict(trace))) == trace
    assert ProviderTraceMetadata.model_validate(trace) == ProviderTraceMetadata.from_trace(trace)


@pytest.mark.parametrize(
    "field",
    [
        "step_id",
        "agent_id",
        "call_type",
        "run_id",
        "source",
        "org_id",
        "user_id",
        "created_by_id",
        "last_updated_by_id",
    ],
)
@pytest.mark.parametrize(("value", "reason"), [("hidden\0", "NUL"), ("hidden\ud800", "surrogate")])
def test_text_that_no_column_holds_is_refused_without_repeating_it(field: str, value: str, reason: str) -> None:
    with pytest.raises(ValidationError) as caught:
        make(**{field: value})
    for shown in (str(caught.value), repr(caught.value)):
        assert field in shown
        assert "hidden" not in shown
    assert reason in str(caught.value) or "unicode" in str(caught.value)


@pytest.mark.parametrize("end", ["\0", "\ud800"])
def test_an_id_that_no_column_holds_is_refused_without_repeating_it(end: str) -> None:
    with pytest.raises(ValidationError) as caught:
        make(id=f"provider_trace-0123abcd-hidden{end}")
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "start"), [("step_id", ""), ("run_id", ""), ("agent_id", ""), ("id", "provider_trace-0123abcd")]
)
def test_indexed_text_may_take_1024_bytes_and_no_more(field: str, start: str) -> None:
    room = 1024 - len(start)
    fits = start + "é" * (room // 2) + "x" * (room % 2)
    assert len(fits.encode()) == 1024
    assert getattr(make(**{field: fits}), field) == fits
    with pytest.raises(ValidationError) as caught:
        make(**{field: fits + "é"})
    assert "1026 bytes" in str(caught.value)
    assert "éé" not in str(caught.value)


def test_text_that_is_not_indexed_has_no_limit() -> None:
    assert make(source="x" * 100_000).source == "x" * 100_000


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", "nonsense"),
        ("step_id", "hidden\0"),
        ("created_at", datetime(2026, 1, 1)),  # noqa: DTZ001  (naive on purpose)
        ("request_json", []),
        ("unknown", 1),
    ],
)
def test_an_assignment_is_checked_as_the_constructor_is(field: str, value: object) -> None:
    trace = make(step_id="step-1")
    before = dict(trace)
    with pytest.raises(ValidationError):
        setattr(trace, field, value)
    assert dict(trace) == before


def test_a_repr_shows_no_body() -> None:
    secret = {"key": "hidden-payload"}
    trace = make(request_json=secret, response_json=secret, llm_config=secret, compaction_settings=secret)
    for shown in (repr(trace), str(trace), repr([trace])):
        assert trace.id in shown
        assert "hidden-payload" not in shown


def test_an_error_shows_no_body() -> None:
    with pytest.raises(ValidationError) as caught:
        ProviderTrace.model_validate({"request_json": {"key": "hidden-payload"}})
    assert re.search("response_json", str(caught.value))
    assert "hidden-payload" not in str(caught.value) + repr(caught.value)


def test_the_metadata_of_a_trace_keeps_its_id_and_its_date_and_all_but_the_bodies() -> None:
    moment = datetime(2025, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)
    shared = {
        "id": f"provider_trace-{UUID4}",
        "step_id": "step-1",
        "agent_id": "agent-1",
        "agent_tags": ["a", "b"],
        "call_type": "summarization",
        "run_id": "run-1",
        "source": "gateway",
        "org_id": "org-1",
        "user_id": "user-1",
        "created_at": moment,
        "created_by_id": "user-2",
        "last_updated_by_id": "user-3",
        "updated_at": moment + timedelta(days=1),
    }
    trace = make(**shared, compaction_settings={"mode": "all"}, llm_config={"model": "m"})
    assert ProviderTraceMetadata.from_trace(trace).model_dump() == shared


ODD: Final = {
    "bytes": b"\xff",
    "lone": "\ud800 \0",
    "pair": "\ud83d\ude00",
    "float": [float("nan"), float("-inf"), -0.0],
    "huge": [10**600, 10**700],
    "tuple": (1, ()),
    "\ud800": {"\ud83d\ude00": 1},
    "when": datetime(2026, 1, 1, tzinfo=UTC),
    "looks": {"$pts:bytes": "AA=="},
}


@pytest.mark.parametrize("body", [{"plain": ["é"]}, ODD, {"$pts:bytes": "AA=="}, {"$pts:tuple": (1,)}, {}])
def test_the_json_form_of_a_trace_reads_back_the_same(body: dict[str, Any]) -> None:
    class Answer(BaseModel):
        """A host's model."""

        trace: ProviderTrace
        pages: list[TracePage | MetadataPage]

    trace = make(request_json=body, llm_config=body, agent_tags=["a", "\udfff", "\ud83d\ude00"])
    metadata = ProviderTraceMetadata.from_trace(trace)

    text, form = trace.model_dump_json(), trace.model_dump(mode="json")

    assert json.loads(text) == form
    json.dumps(form, allow_nan=False, ensure_ascii=False).encode()
    assert same(dict(ProviderTrace.model_validate_json(text)), dict(trace))
    assert same(dict(ProviderTrace.model_validate(form, context=JSON_FORM)), dict(trace))
    assert same(form, trace.model_dump(mode="json"))
    assert same(dict(ProviderTraceMetadata.model_validate_json(metadata.model_dump_json())), dict(metadata))
    assert same(trace.model_dump(), dict(trace))
    pages: list[TracePage | MetadataPage] = [TracePage((trace,), None), MetadataPage((metadata,), "next")]
    answer = json.loads(Answer(trace=trace, pages=pages).model_dump_json())
    assert answer["trace"] == answer["pages"][0]["items"][0] == form
    assert answer["pages"][1]["items"][0]["agent_tags"] == form["agent_tags"]


def test_a_dict_that_looks_like_a_special_form_stays_a_dict_without_the_context() -> None:
    body = {"a": {"$pts:bytes": "AA=="}}
    assert make(request_json=body).request_json == body
    assert ProviderTrace.model_validate({**BODIES, "request_json": body}).request_json == body


def test_a_json_form_leaves_out_what_the_caller_excludes() -> None:
    trace = make(
        request_json={"key": "hidden", "\ud800": {"inner": "hidden", "kept": b"x"}}, agent_tags=["a", "hidden"]
    )

    excluded: Any = {"request_json": {"key": True, "\ud800": {"inner"}}, "agent_tags": {1}}
    text = trace.model_dump_json(exclude=excluded)
    assert "hidden" not in text
    assert "eA==" in text
    assert "hidden" not in trace.model_dump_json(include={"id": True, "request_json": {"\ud800": {"kept"}}})
    assert list(trace.model_dump(mode="json", by_alias=True, exclude={"request_json"}))[:2] == ["id", "response_json"]


def test_a_subclass_of_a_host_has_the_json_form_too() -> None:
    class Kept(ProviderTrace):
        """A host's trace."""

        note: str = ""

    kept = Kept(request_json={"a": b"x"}, response_json={}, note="n")
    assert same(dict(Kept.model_validate_json(kept.model_dump_json())), dict(kept))


def test_the_json_schema_is_that_of_plain_types_in_both_directions() -> None:
    for schema in (ProviderTrace, ProviderTraceMetadata):
        properties = schema.model_json_schema()["properties"]
        assert properties == schema.model_json_schema(mode="serialization")["properties"]
        assert properties["agent_tags"]["anyOf"] == [{"items": {"type": "string"}, "type": "array"}, {"type": "null"}]
    assert ProviderTrace.model_json_schema()["properties"]["request_json"]["type"] == "object"


@pytest.mark.parametrize("key", [1, None, True, ("hidden-key",), b"hidden-key"])
def test_a_body_with_a_key_that_is_not_text_is_refused_with_the_remedy_and_without_the_key(key: Any) -> None:
    with pytest.raises(ValidationError, match="text_keys") as caught:
        make(request_json={key: 1})
    assert "hidden-key" not in str(caught.value)
    if key is None:
        assert make(request_json=text_keys({key: 1})).request_json == {"null": 1}


def test_a_json_dump_of_a_value_that_cannot_be_stored_is_an_error_without_the_value() -> None:
    with pytest.raises(PydanticSerializationError, match="a set") as caught:
        make(request_json={"a": {"hidden"}}).model_dump_json()
    assert "hidden" not in str(caught.value)
