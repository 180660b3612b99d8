"""Pages beside writers: no trace comes twice, and every trace that was there at the start comes."""

from __future__ import annotations

import random
import threading
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest
from sqlalchemy.orm import Session

from provider_trace_store import ProviderTraceRepository
from tests.support.constants import MOMENT, ORG
from tests.support.traces import a_trace, trace_id

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.servers import Database


ROWS: Final = 150


def fill(database: Database) -> None:
    """Store every third trace in full, every third as metadata, every third in both; ten share each moment."""
    with Session(database.engine()) as session:
        for metadata_only, left_out in ((False, 1), (True, 0)):
            repository = ProviderTraceRepository(session, organization_id=ORG, metadata_only=metadata_only)
            repository.create_many([a_stored_trace(number) for number in range(ROWS) if number % 3 != left_out])
        session.commit()


def a_stored_trace(number: int) -> Any:
    return a_trace(number, run_id="run-1", created_at=MOMENT + timedelta(seconds=number % ROWS // 10))


@contextmanager
def writers(database: Database) -> Iterator[list[int]]:
    """Let threads write and commit all the time: new traces of any date, and stored traces into the other table."""
    # SQLite lets one write at a time, and refuses a second that has read before.
    count = 1 if database.backend == "sqlite" else 2
    stop = threading.Event()
    errors: list[BaseException] = []
    written: list[int] = []

    def write(first: int) -> None:
        chance = random.Random(first)  # noqa: S311  (repeatable)
        number = first
        try:
            with Session(database.engine()) as session:
                while not stop.is_set():
                    number += count
                    flag = chance.random() < 0.5
                    repository = ProviderTraceRepository(session, organization_id=ORG, metadata_only=flag)
                    moment = MOMENT + timedelta(seconds=chance.uniform(-5, ROWS / 10 + 5))
                    repository.create(a_trace(number, run_id="run-1", created_at=moment))
                    repository.create(a_stored_trace(number % ROWS))
                    session.commit()
                    # The deletion is undone before its transaction commits: no other session sees it.
                    repository.delete(trace_id(number))
                    repository.restore(trace_id(number))
                    session.commit()
                    written.append(number)
        except BaseException as error:  # noqa: BLE001  (the test raises it)
            errors.append(error)

    threads = [threading.Thread(target=write, args=(10 * ROWS + place,)) for place in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield written
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]
    assert written


@pytest.mark.parametrize("order", ["newest", "oldest"])
def test_a_walk_among_writers_shows_nothing_twice_and_misses_nothing(database: Database, order: Any) -> None:
    fill(database)
    with writers(database) as written, Session(database.engine()) as session:
        repository = ProviderTraceRepository(session, organization_id=ORG)
        for filters in ({}, {"run_id": "run-1"}):
            before = {trace_id(number) for number in (*range(ROWS), *list(written))}
            keys = []
            cursor = None
            while True:
                page = repository.list_metadata(order=order, limit=7, cursor=cursor, **filters)  # type: ignore[arg-type]  # a filter
                session.commit()
                keys += [(trace.created_at, trace.id) for trace in page.items]
                cursor = page.next_cursor
                if cursor is None or len(keys) > 100_000:
                    break
            assert keys == sorted(set(keys), reverse=order == "newest")
            assert before <= {key[1] for key in keys}


@pytest.mark.parametrize("order", ["newest", "oldest"])
def test_an_iterator_among_writers_shows_nothing_twice_and_misses_nothing(
    database: Database, order: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("provider_trace_store.reads.pages.MAX_LIMIT", 10)
    fill(database)
    with writers(database) as written, Session(database.engine()) as session:
        before = {trace_id(number) for number in (*range(ROWS), *list(written))}
        repository = ProviderTraceRepository(session, organization_id=ORG)
        keys = []
        for trace in repository.iter_metadata(order=order):
            keys.append((trace.created_at, trace.id))
            session.commit()
        assert keys == sorted(set(keys), reverse=order == "newest")
        assert before <= {key[1] for key in keys}


def test_a_walk_through_a_run_among_writers_shows_nothing_twice_and_misses_nothing(database: Database) -> None:
    fill(database)
    with writers(database), Session(database.engine()) as session:
        repository = ProviderTraceRepository(session, organization_id=ORG)
        keys = []
        cursor = None
        while True:
            page = repository.list_by_run_id("run-1", limit=9, cursor=cursor)
            session.commit()
            keys += [(trace.created_at, trace.id) for trace in page.items]
            cursor = page.next_cursor
            if cursor is None or len(keys) > 100_000:
                break
        assert keys == sorted(set(keys))
        assert {trace_id(number) for number in range(ROWS) if number % 3 != 1} <= {key[1] for key in keys}
