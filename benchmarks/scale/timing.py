"""Times calls of the package beside the statements that they send, sent by the driver alone."""

from __future__ import annotations

import gc
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median, quantiles
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, Self

from psycopg.types.string import TextLoader
from sqlalchemy import event
from sqlalchemy.orm import Session

from benchmarks.measure import BenchmarkError
from provider_trace_store import ProviderTraceRepository

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import psycopg
    from sqlalchemy import Engine

    from benchmarks.scale.questions import Call

# What takes longer is asked less often than other questions, and never less often than this.
_SECONDS: Final = 60.0
_FEWEST: Final = 12
# The driver prepares a statement at its sixth execution, and the server may settle on a plan for all at the next sixth.
_WARM_UP: Final = 12

Statement = tuple[str, Any]


@dataclass
class Times:
    """How long calls took, in milliseconds.

    Args:
        ours: of the package.
        raw: of the driver with the same statements.
        first: of the package's first call of the same arguments, before both.
        results: how many items each call returned.
        statements: what each call sent.
    """

    ours: list[float] = field(default_factory=list)
    raw: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    results: list[int] = field(default_factory=list)
    statements: list[list[Statement]] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """Our median, the driver's being 1."""
        return median(self.ours) / median(self.raw)


def p95(values: Sequence[float]) -> float:
    """Return what 95 of 100 values stay below."""
    return quantiles(values, n=20, method="inclusive")[-1] if len(values) > 1 else values[0]


class Sides:
    """The package on one session, and the driver on one connection, each in an open transaction. A context manager.

    Args:
        engine: of the package's side.
        connection: the driver's.
    """

    def __init__(self, engine: Engine, connection: psycopg.Connection) -> None:
        self._session = Session(engine)
        self._connection = connection
        self._repositories: dict[str, ProviderTraceRepository] = {}
        # Text is what the package asks the driver for; to parse it would be more than the same work.
        connection.adapters.register_loader("json", TextLoader)

    def __enter__(self) -> Self:
        self._session.connection()
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()
        self._connection.rollback()

    def repository(self, organization: str) -> ProviderTraceRepository:
        """Return an organization's repository."""
        if organization not in self._repositories:
            self._repositories[organization] = ProviderTraceRepository(self._session, organization_id=organization)
        return self._repositories[organization]

    def compare(self, draws: Sequence[Call]) -> Times:
        """Time calls: each once to fill caches and to see its statements, then by both in turn.

        Args:
            draws: to be called, one after the other.
        """
        calls = [call.prepared(self.repository(call.organization)) for call in draws]
        times = Times()
        with self._statements() as sent:
            for call in calls:
                sent.clear()
                seconds, result = _timed(lambda call=call: call.run(self.repository(call.organization)))  # type: ignore[misc]  # mypy infers no type of a default
                times.first.append(seconds)
                times.results.append(len(result if isinstance(result, dict) else result.items))
                times.statements.append(list(sent))
                if sum(times.first) > _SECONDS * 1e3 / 3 and len(times.first) >= _FEWEST:
                    break
        if not all(times.statements):
            raise BenchmarkError("a call sent no statement")
        for statements in times.statements[:_WARM_UP]:
            self._send(statements)
        gc.collect()
        for number, (call, statements) in enumerate(zip(calls, times.statements, strict=False)):
            repository = self.repository(call.organization)
            sides: list[tuple[list[float], Callable[[], Any]]] = [
                (times.ours, lambda: call.run(repository)),  # noqa: B023  # called before the next one
                (times.raw, lambda: self._send(statements)),  # noqa: B023  # likewise
            ]
            for samples, work in sides if number % 2 else reversed(sides):
                samples.append(_timed(work)[0])
        return times

    def _send(self, statements: list[Statement]) -> list[Any]:
        with self._connection.cursor() as cursor:
            return [cursor.execute(text.encode(), parameters).fetchall() for text, parameters in statements]

    @contextmanager
    def _statements(self) -> Iterator[list[Statement]]:
        """Yield a list that what the session sends is appended to."""
        sent: list[Statement] = []

        def note(_connection: object, _cursor: object, text: str, parameters: object, *_: object) -> None:
            sent.append((text, parameters))

        engine = self._session.get_bind()
        event.listen(engine, "before_cursor_execute", note)
        try:
            yield sent
        finally:
            event.remove(engine, "before_cursor_execute", note)


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    began = perf_counter()
    result = work()
    return (perf_counter() - began) * 1e3, result
