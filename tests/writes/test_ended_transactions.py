"""SQLite ends a transaction by itself: the host is told, and cannot commit as if nothing were lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import PendingRollbackError

from provider_trace_store import ProviderTraceRejectedError, TransactionEndedError
from tests.support.batches import assert_keeps_the_secret, both_modes, count, counts, run_script
from tests.support.constants import PATIENCE, TABLES
from tests.support.traces import a_batch, a_trace, trace_id
from tests.support.writers import a_writer, assert_accounted, ids_in

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.support.clients import Client, RepositoryClient
    from tests.support.servers import Database

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)

POISON = {"user_id": "poison"}
CALLS: dict[str, Callable[[RepositoryClient], Awaitable[Any]]] = {
    "create": lambda repository: repository.create(a_trace(9, **POISON)),
    "create_many": lambda repository: repository.create_many([*a_batch(5, 10), a_trace(9, **POISON)]),
    "delete": lambda repository: repository.delete(trace_id(1)),
    "restore": lambda repository: repository.restore(trace_id(2)),
}


def end_by_a_trigger(database: Database) -> None:
    """Add a trigger of the host's that ends the transaction for one trace, and at each deletion."""
    for table in TABLES.values():
        for name, moment in (("insert", "INSERT"), ("update", "UPDATE OF is_deleted")):
            rule = "WHEN new.user_id = 'poison'" if name == "insert" else ""
            run_script(
                database,
                f"CREATE TRIGGER ends_{name}_{table} BEFORE {moment} ON {table} {rule} "
                "BEGIN SELECT RAISE(ROLLBACK, 'the host ends it'); END",
            )


async def prepare(client: Client, *, metadata_only: bool = False) -> RepositoryClient:
    """Store a trace and a deleted one, add the trigger, and write one trace in the session's next transaction."""
    repository = client.repository(organization_id="org-1", metadata_only=metadata_only)
    await repository.create_many([a_trace(1), a_trace(2)])
    await repository.delete(trace_id(2))
    await client.commit()
    end_by_a_trigger(client.database)
    await repository.create(a_trace(3))
    return repository


@both_modes
@pytest.mark.parametrize("method", CALLS)
@pytest.mark.parametrize("nested", [False, True], ids=["", "in a savepoint of the host's"])
async def test_a_transaction_that_sqlite_ended_cannot_be_committed(
    client: Client, metadata_only: bool, method: str, nested: bool
) -> None:
    repository = await prepare(client, metadata_only=metadata_only)
    if nested:
        client.sync_session.begin_nested() if client.form == "sync" else await client.session.begin_nested()  # type: ignore[misc]
    with pytest.raises(TransactionEndedError, match="roll the session back") as caught:
        await CALLS[method](repository)
    assert caught.value.is_refusal
    assert_keeps_the_secret(caught.value)
    with pytest.raises(PendingRollbackError):
        await client.execute(text("SELECT 1"))
    with pytest.raises(PendingRollbackError):
        await client.commit()
    await client.rollback()
    assert await count(client, metadata_only=metadata_only) == 2
    await repository.create(a_trace(3))
    await client.commit()
    assert await count(client, metadata_only=metadata_only) == 3


@both_modes
async def test_a_full_file_ends_the_transaction_and_a_retry_succeeds(client: Client, metadata_only: bool) -> None:
    repository = client.repository(organization_id="org-1", metadata_only=metadata_only)
    await repository.create(a_trace(1))
    pages = await client.scalar(text("PRAGMA page_count"))
    await client.execute(text(f"PRAGMA max_page_count = {pages + 3}"))
    bulky = [a_trace(number, user_id="x" * 50_000) for number in range(10, 30)]
    with pytest.raises(TransactionEndedError) as caught:
        await repository.create_many(bulky)
    assert not caught.value.is_refusal
    with pytest.raises(PendingRollbackError):
        await client.commit()
    await client.rollback()
    assert await count(client, metadata_only=metadata_only) == 0
    await client.execute(text("PRAGMA max_page_count = 1000000"))
    assert counts(await repository.create_many([a_trace(1), *bulky])) == (21, 0, 0)
    await client.commit()
    assert await count(client, metadata_only=metadata_only) == 21


async def test_nothing_is_lost_if_the_write_was_the_first_of_its_transaction(client: Client) -> None:
    end_by_a_trigger(client.database)
    repository = client.repository(organization_id="org-1")
    with pytest.raises(ProviderTraceRejectedError) as caught:
        await repository.create(a_trace(9, **POISON))
    assert_keeps_the_secret(caught.value)
    await repository.create(a_trace(3))
    await client.commit()
    assert await count(client, metadata_only=False) == 1


async def test_a_transaction_that_the_hosts_handler_began_is_told_too(client: Client) -> None:
    """As SQLAlchemy's page on SQLite shows it: the driver begins nothing, and an event handler does."""
    connection = client.sync_session.get_bind()
    event.listen(connection, "begin", lambda begun: begun.exec_driver_sql("BEGIN"))
    end_by_a_trigger(client.database)
    repository = client.repository(organization_id="org-1")
    await repository.create(a_trace(3))
    with pytest.raises(TransactionEndedError):
        await repository.create(a_trace(9, **POISON))
    with pytest.raises(PendingRollbackError):
        await client.commit()
    await client.rollback()
    await repository.create(a_trace(4))
    await client.commit()
    assert await count(client, metadata_only=False) == 1


def test_the_writer_isolates_the_trace_that_ends_its_transactions(database: Database) -> None:
    end_by_a_trigger(database)
    with a_writer(database) as writer:
        for trace in [*a_batch(30), a_trace(99, **POISON), *a_batch(30, 200)]:
            writer.submit(trace, organization_id="org-1")
        assert writer.flush(PATIENCE)
        assert (writer.stats.stored, writer.stats.rejected) == (60, 1)
        assert_accounted(writer.stats)
    assert trace_id(99) not in ids_in(database.url)
