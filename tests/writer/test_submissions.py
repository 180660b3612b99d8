"""What `submit` copies: types with a form of their own, and a bound on the copy."""

from __future__ import annotations

import logging
import pickle
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from time import perf_counter
from typing import TYPE_CHECKING, Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from pydantic import TypeAdapter
from sqlalchemy.orm import Session

from provider_trace_store import ProviderTrace, ProviderTraceRepository, TraceTooLargeError, TraceWriter
from provider_trace_store.tables.kinds import FULL
from provider_trace_store.tables.rows import RowMaker
from provider_trace_store.writer.logs import ThrottledLog
from provider_trace_store.writer.submission import Submission
from tests.support.constants import ORG, PATIENCE
from tests.support.documents import same
from tests.support.traces import a_trace

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.servers import Database

SDK = {
    "created": TypeAdapter(datetime).validate_python("2026-01-02T03:04:05.6+05:30"),
    "utc": datetime(2026, 1, 1, tzinfo=UTC),
    "naive": datetime(2026, 1, 1, fold=1),  # noqa: DTZ001  (naive on purpose)
    "fixed": datetime(2026, 1, 1, tzinfo=timezone(timedelta(minutes=-90))),
    "values": [date(2026, 1, 1), time(1, 2, 3), timedelta(days=-1), UUID(int=1), Decimal("1.10")],
}
WITH_A_ZONE = {**SDK, "zoned": datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1)}


def nested(wrap: Callable[[Any], Any]) -> Any:
    document: Any = {}
    for _ in range(60):
        document = wrap(document)
    return document


def test_a_trace_of_an_sdk_is_copied_and_not_encoded_in_the_callers_thread() -> None:
    maker = RowMaker(FULL.layout, ORG)
    trace = a_trace(1, response_json=SDK)

    submission = Submission(trace, maker)

    assert submission._row is None
    assert submission.make().values == maker.make(trace).values
    pickle.loads(submission._documents)  # type: ignore[arg-type]  # noqa: S301  (its bytes)


@pytest.mark.parametrize("spool", [False, True])
@pytest.mark.parametrize("body", [SDK, WITH_A_ZONE], ids=["sdk", "zone"])
def test_a_trace_of_an_sdk_is_stored_and_reads_back_equal(
    database: Database, tmp_path: Path, spool: bool, body: dict[str, Any]
) -> None:
    trace = a_trace(1, response_json=body)
    with TraceWriter(database.engine(), spool_dir=tmp_path / "spool" if spool else None) as writer:
        writer.submit(trace, organization_id=ORG)
        assert writer.flush(PATIENCE)
        assert writer.stats.stored == 1
        writer.submit(trace, organization_id=ORG)
        assert writer.flush(PATIENCE)
        assert writer.stats.unchanged == 1
    with Session(database.engine()) as session:
        stored = ProviderTraceRepository(session, organization_id=ORG).get(trace.id)
    assert stored is not None
    assert stored.response_json == body
    assert same(stored.request_json, trace.request_json)


@pytest.mark.parametrize("spool", [False, True])
@pytest.mark.parametrize("limit", [1000, 64 * 2**20])
@pytest.mark.parametrize(
    "wrap", [lambda value: {"a": value, "b": value}, lambda value: [value, value], lambda value: (value, value)]
)
def test_a_document_that_is_many_times_larger_as_text_is_refused_at_once_and_the_others_are_stored(
    database: Database, tmp_path: Path, spool: bool, limit: int, wrap: Callable[[Any], Any]
) -> None:
    told: list[tuple[str, Exception]] = []
    bad = a_trace(1, request_json={"a": nested(wrap)}, response_json={})
    with TraceWriter(
        database.engine(),
        spool_dir=tmp_path / "spool" if spool else None,
        max_body_bytes=limit,
        on_rejected=lambda trace_id, error: told.append((trace_id, error)),
    ) as writer:
        began = perf_counter()
        writer.submit(bad, organization_id=ORG)
        assert perf_counter() - began < PATIENCE / 30
        writer.submit(a_trace(2), organization_id=ORG)
        assert writer.flush(PATIENCE)
        assert (writer.stats.stored, writer.stats.rejected) == (1, 1)
    [(trace_id, error)] = told
    assert trace_id == bad.id
    assert isinstance(error, TraceTooLargeError)
    assert error.size > error.limit == limit
    with Session(database.engine()) as session:
        repository = ProviderTraceRepository(session, organization_id=ORG, max_body_bytes=limit)
        with pytest.raises(TraceTooLargeError, match="request_json takes at least"):
            repository.create(bad)
        result = repository.create_many([bad, a_trace(3)])
    assert result.created == 1
    assert isinstance(result.rejected[0].error, TraceTooLargeError)


def test_a_large_trace_within_the_limit_is_stored_whole(database: Database) -> None:
    trace = a_trace(1, request_json={"image": "x" * (40 * 2**20)})
    with TraceWriter(database.engine()) as writer:
        writer.submit(trace, organization_id=ORG)
        assert writer.flush(PATIENCE)
        assert writer.stats.stored == 1


def test_a_trace_whose_id_is_not_text_shows_nothing_of_it() -> None:
    trace = ProviderTrace.model_construct(**dict(a_trace(1)) | {"id": {"key": "hidden"}})

    submission = Submission(trace, RowMaker(FULL.layout, ORG))

    assert submission.id == ""


def test_an_id_forges_no_log_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "provider_trace_store.writer"):
        ThrottledLog().log(logging.WARNING, "%s is rejected: %s", "provider_trace-0123abcd\n\x1b[2J\u202eERROR", "x")

    [record] = caplog.records
    assert record.getMessage() == r"provider_trace-0123abcd\n\x1b[2J\u202eERROR is rejected: x"
