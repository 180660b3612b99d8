"""Metrics and spans of the writer, if the host has OpenTelemetry's API (the extra `otel`).

The names follow OpenTelemetry's semantic conventions where these have one: https://opentelemetry.io/docs/specs/semconv/database/
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from provider_trace_store.writer.stats import WriterStats

_SCOPE: Final = "provider_trace_store"
_PREFIX: Final = "provider_trace_store.writer"
# The bucket boundaries that the conventions advise for the duration of a database call, in seconds.
_SECONDS: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)
_ROWS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


class Telemetry(Protocol):
    """Records the tries of a writer."""

    def batch(self, table: str, rows: int, seconds: float, failure: str | None) -> None:
        """Record a try to store rows.

        Args:
            table: the table's name.
            rows: the number of rows.
            seconds: how long the try took.
            failure: the class of the error; None if the try succeeded.
        """

    def close(self) -> None:
        """Record nothing more."""


class NoTelemetry:
    """Records nothing."""

    def batch(self, table: str, rows: int, seconds: float, failure: str | None) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class OpenTelemetry:
    """Records metrics and spans with the providers that the host has set.

    Args:
        system: returns the database's name in the conventions: `postgresql` or `sqlite`.
        stats: returns the writer's counters; it is called when the metrics are collected.
    """

    def __init__(self, system: Callable[[], str], stats: Callable[[], WriterStats]) -> None:
        from opentelemetry import metrics, trace  # noqa: PLC0415  # an extra

        self._system = system
        self._stats = stats
        self._tracer = trace.get_tracer(_SCOPE)
        self._kind = trace.SpanKind.CLIENT
        self._error = trace.StatusCode.ERROR
        self._observation = metrics.Observation
        meter = metrics.get_meter(_SCOPE)
        self._duration = meter.create_histogram(
            "db.client.operation.duration",
            unit="s",
            description="Duration of database client operations.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._rows = meter.create_histogram(
            f"{_PREFIX}.batch.size",
            unit="{trace}",
            description="Traces that are sent to the database at a time.",
            explicit_bucket_boundaries_advisory=_ROWS,
        )
        for name, field, unit, description in (
            ("queue.traces", "queued", "{trace}", "Traces that wait in memory."),
            ("queue.size", "queued_bytes", "By", "What the traces that wait in memory take."),
            ("spool.traces", "spooled", "{trace}", "Traces that wait in the spool."),
            ("spool.size", "spooled_bytes", "By", "What the traces that wait in the spool take."),
        ):
            meter.create_observable_up_down_counter(
                f"{_PREFIX}.{name}", [self._observed(field)], unit=unit, description=description
            )
        meter.create_observable_counter(
            f"{_PREFIX}.traces", [self._outcomes], unit="{trace}", description="Traces, by what became of them."
        )
        meter.create_observable_counter(
            f"{_PREFIX}.retries", [self._observed("retries")], unit="{retry}", description="Batches sent again."
        )

    def batch(self, table: str, rows: int, seconds: float, failure: str | None) -> None:
        """Record the duration, the number of rows and a span; see `Telemetry`."""
        attributes: dict[str, Any] = {
            "db.system.name": self._system(),
            "db.collection.name": table,
            "db.operation.name": "BATCH INSERT",
        }
        if failure is not None:
            attributes["error.type"] = failure
        self._duration.record(seconds, attributes)
        self._rows.record(rows, attributes)
        end = time.time_ns()
        span = self._tracer.start_span(
            f"BATCH INSERT {table}",
            kind=self._kind,
            attributes={**attributes, "db.operation.batch.size": rows},
            start_time=end - int(seconds * 1e9),
        )
        if failure is not None:
            span.set_status(self._error)
        span.end(end)

    def close(self) -> None:
        """Freeze the last values: OpenTelemetry keeps the callbacks, and must not keep the writer alive."""
        system, last = self._system(), self._stats()
        self._system = lambda: system
        self._stats = lambda: last

    def _observed(self, field: str) -> Callable[[Any], Iterable[Any]]:
        def observe(_: object) -> Iterable[Any]:
            return [self._observation(getattr(self._stats(), field))]

        return observe

    def _outcomes(self, _: object) -> Iterable[Any]:
        stats = self._stats()
        outcomes = ("stored", "unchanged", "rejected", "dropped")
        return [self._observation(getattr(stats, name), {f"{_PREFIX}.outcome": name}) for name in outcomes]


def telemetry_for(system: Callable[[], str], stats: Callable[[], WriterStats]) -> Telemetry:
    """Return OpenTelemetry if it is installed, else NoTelemetry; arguments as `OpenTelemetry`."""
    try:
        return OpenTelemetry(system, stats)
    except ImportError:
        return NoTelemetry()
