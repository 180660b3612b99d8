from __future__ import annotations

import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any, Final
from uuid import UUID

import pytest
from pydantic import ValidationError

from provider_trace_store import BaseProviderTrace, ProviderTrace, ProviderTraceMetadata

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
