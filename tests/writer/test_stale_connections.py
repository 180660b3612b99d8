"""The writer and connections that have become useless: it gives them up, and stores the traces on others."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import QueuePool, create_engine, text
from sqlalchemy.orm import sessionmaker

from provider_trace_store import TraceWriter
from tests.support.batches import run_script
from tests.support.constants import ORG, PATIENCE
from tests.support.throwaway import Wire
from tests.support.traces import a_trace, trace_id
from tests.support.waiting import wait_until
from tests.support.writers import a_writer, assert_accounted, ids_in

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.servers import Database


@pytest.fixture
def wire(postgres: Database) -> Iterator[Wire]:
    """Return a TCP connection to the server whose packets can vanish."""
    made = Wire(postgres.url)
    yield made
    made.close()


@pytest.mark.parametrize("pool", [{}, {"pool_pre_ping": True, "pool_recycle": 0}], ids=["pool", "recycled"])
def test_a_connection_whose_packets_vanish_is_given_up(
    postgres: Database, wire: Wire, pool: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    engine = create_engine(wire.url, pool_size=1, max_overflow=0, **pool)
    with TraceWriter(
        sessionmaker(engine), transaction_timeout=0.5, batch_age=0.01, max_retry_delay=0.1, handle_sigterm=False
    ) as writer:
        writer.submit(a_trace(1), organization_id=ORG)
        assert writer.flush(PATIENCE)
        wire.vanish()
        with caplog.at_level(logging.WARNING):
            writer.submit(a_trace(2), organization_id=ORG)
            assert writer.flush(PATIENCE)
        if not pool:
            assert writer.stats.retries >= 1
            assert "transaction_timeout" in caplog.text
            assert "the database takes no traces, and is tried again" in caplog.text
        assert_accounted(writer.stats)
    engine.dispose()
    assert ids_in(postgres.url) == [trace_id(1), trace_id(2)]


def test_a_session_that_began_read_only_is_given_up(postgres: Database) -> None:
    """As after a failover: the server takes writes again, but not in the sessions that were open before."""
    name = postgres.url.database
    run_script(postgres, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    engine = postgres.engine(poolclass=QueuePool, pool_size=2)
    with a_writer(postgres, bind=engine) as writer:
        writer.submit(a_trace(1), organization_id=ORG)
        wait_until(lambda: writer.stats.retries > 2)
        run_script(
            postgres,
            "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
            "COMMIT",
            f"ALTER DATABASE {name} SET default_transaction_read_only = off",
        )
        assert writer.flush(PATIENCE)
        assert writer.stats.stored == 1


def test_a_statement_that_waits_for_a_lock_is_ended_on_the_server_too(postgres: Database) -> None:
    with postgres.engine().connect() as busy:
        busy.execute(text("LOCK TABLE provider_traces IN SHARE MODE"))
        with a_writer(postgres, transaction_timeout=0.3) as writer:
            writer.submit(a_trace(1), organization_id=ORG)
            wait_until(lambda: writer.stats.retries > 2)
            waiting = text(
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
            )
            wait_until(lambda: busy.scalar(waiting) <= 1)
            busy.rollback()
            assert writer.flush(PATIENCE)
            assert (writer.stats.stored, writer.stats.rejected) == (1, 0)
