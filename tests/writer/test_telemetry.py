"""The writer's OpenTelemetry metrics and spans, and the writer without OpenTelemetry."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.support.constants import ORG, PATIENCE, SECRET
from tests.support.traces import a_batch, a_trace
from tests.support.waiting import wait_until
from tests.support.writers import a_writer, a_writer_to_nowhere

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.servers import Database


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[InMemoryMetricReader, InMemorySpanExporter]]:
    """Return what metrics and spans end in."""
    reader, exporter = InMemoryMetricReader(), InMemorySpanExporter()
    meters, tracers = MeterProvider([reader]), TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    # A process may set its providers only once.
    monkeypatch.setattr(metrics, "get_meter", meters.get_meter)
    monkeypatch.setattr(trace, "get_tracer", tracers.get_tracer)
    yield reader, exporter
    meters.shutdown()
    tracers.shutdown()


def values_of(reader: InMemoryMetricReader) -> dict[str, Any]:
    """Return the points of all metrics, by name, and by outcome where they have one."""
    found: dict[str, Any] = {}
    data = reader.get_metrics_data()
    assert data is not None
    for metric in data.resource_metrics[0].scope_metrics[0].metrics:
        for point in metric.data.data_points:
            outcome = dict(point.attributes or {}).get("provider_trace_store.writer.outcome")
            name = metric.name.removeprefix("provider_trace_store.writer.")
            found[f"{name}.{outcome}" if outcome else name] = getattr(point, "value", None) or getattr(point, "sum", 0)
    return found


def test_metrics_and_spans_tell_what_became_of_the_traces(
    database: Database, told: tuple[InMemoryMetricReader, InMemorySpanExporter]
) -> None:
    reader, exporter = told
    with a_writer(database, batch_age=3600) as writer:
        for trace_ in (
            *a_batch(5),
            a_trace(0),
            a_trace(1, source="other"),
            a_trace(9, request_json={SECRET: object()}),
        ):
            writer.submit(trace_, organization_id=ORG)
        waiting = values_of(reader)
        assert waiting["queue.traces"] == 8
        assert waiting["queue.size"] == writer.stats.queued_bytes
        assert writer.flush(PATIENCE)
    values = values_of(reader)
    outcomes = {name: values[f"traces.{name}"] for name in ("stored", "unchanged", "rejected", "dropped")}
    assert outcomes == {"stored": 5, "unchanged": 1, "rejected": 2, "dropped": 0}
    assert values["queue.traces"] == values["spool.traces"] == values["retries"] == 0
    assert values["batch.size"] == 8
    assert 0 < values["db.client.operation.duration"] < 20
    [span] = exporter.get_finished_spans()
    assert span.name == "BATCH INSERT provider_traces"
    assert dict(span.attributes or {}) == {
        "db.system.name": database.backend,
        "db.collection.name": "provider_traces",
        "db.operation.name": "BATCH INSERT",
        "db.operation.batch.size": 8,
    }


def test_failures_have_their_kind_and_nothing_of_the_trace(
    tmp_path: Path, told: tuple[InMemoryMetricReader, InMemorySpanExporter]
) -> None:
    reader, exporter = told
    with a_writer_to_nowhere(spool_dir=tmp_path) as writer:
        writer.submit(a_trace(1), organization_id=ORG)
        wait_until(lambda: writer.stats.retries > 0)
        values = values_of(reader)
        assert values["spool.traces"] == 1
        assert values["spool.size"] > 0
        assert values["retries"] > 0
    span = exporter.get_finished_spans()[0]
    assert dict(span.attributes or {})["error.type"] == "sqlalchemy.exc.OperationalError"
    assert not span.status.is_ok
    assert SECRET not in span.to_json()
    assert "hunter2" not in span.to_json()


def test_it_works_where_opentelemetry_is_not_installed(tmp_path: Path) -> None:
    script = f"""
import sys
sys.modules["opentelemetry"] = None
from sqlalchemy import create_engine
from provider_trace_store import ProviderTrace, TraceWriter
from provider_trace_store.migrations import upgrade
engine = create_engine("sqlite:///{tmp_path / "x.db"}")
with engine.connect() as connection:
    upgrade(connection)
with TraceWriter(engine) as writer:
    writer.submit(ProviderTrace(request_json={{}}, response_json={{}}), organization_id="org-1")
assert writer.stats.stored == 1
"""
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert result.returncode == 0, result.stderr


def test_a_closed_writer_is_released(told: tuple[InMemoryMetricReader, InMemorySpanExporter]) -> None:
    """OpenTelemetry keeps the callbacks of its metrics: they must not keep the writer, its engine and its spool."""
    reader, _ = told
    with a_writer_to_nowhere() as writer:
        alive = weakref.ref(writer)
    del writer
    gc.collect()
    assert alive() is None
    assert values_of(reader)["traces.stored"] == 0
