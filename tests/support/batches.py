"""Helpers for tests of writes: results, errors, rules of a host in our tables, and counts of statements."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Any, Final

import pytest
from sqlalchemy import text

from provider_trace_store import BulkResult, ProviderTraceMetadata
from tests.support.constants import SECRET, TABLES
from tests.support.documents import same

if TYPE_CHECKING:
    from collections.abc import Iterable

    from provider_trace_store import ProviderTrace
    from tests.support.clients import Client, RepositoryClient
    from tests.support.servers import Database

POISON: Final = {"call_type": "poison"}

both_modes = pytest.mark.parametrize("metadata_only", [False, True], ids=["full", "metadata"])


def counts(result: BulkResult) -> tuple[int, int, int]:
    assert isinstance(result, BulkResult)
    return result.created, result.unchanged, len(result.rejected)


def refusals(result: BulkResult) -> list[tuple[str, type]]:
    """Return the id and the kind of each rejected trace, sorted: their order is not promised."""
    assert isinstance(result.rejected, tuple)
    return sorted(
        ((rejected.trace_id, type(rejected.error)) for rejected in result.rejected),
        key=lambda pair: (pair[0], pair[1].__name__),
    )


def assert_keeps_the_secret(error: BaseException) -> None:
    """Assert that nothing that a logger or an error tracker prints holds the secret."""
    assert error.__cause__ is None
    assert error.__context__ is None
    assert SECRET not in "".join(traceback.format_exception(error)) + repr(error) + repr(vars(error))


def assert_result_keeps_the_secret(result: BulkResult) -> None:
    assert SECRET not in repr(result) + str(result)
    for rejected in result.rejected:
        assert_keeps_the_secret(rejected.error)


async def count(client: Client, *, metadata_only: bool) -> int:
    return int(await client.scalar(text(f"SELECT count(*) FROM {TABLES[metadata_only]}")))  # noqa: S608  (our own names)


async def assert_stored(repository: RepositoryClient, traces: Iterable[ProviderTrace], *, metadata_only: bool) -> None:
    for trace in traces:
        if metadata_only:
            found: Any = await repository.get_metadata(trace.id)
            expected: Any = ProviderTraceMetadata.from_trace(trace)
        else:
            found, expected = await repository.get(trace.id), trace
        assert found is not None, trace.id
        assert same(dict(found), dict(expected)), trace.id


def run_script(database: Database, *statements: str) -> None:
    with database.engine().begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


def refuse_poison(database: Database) -> None:
    """Add a rule of the host on `call_type`, which only the server knows."""
    for table in TABLES.values():
        if database.backend == "postgresql":
            run_script(database, f"ALTER TABLE {table} ADD CONSTRAINT hosts_rule CHECK (call_type <> 'poison')")
        else:
            run_script(
                database,
                f"CREATE TRIGGER hosts_rule_{table} BEFORE INSERT ON {table} WHEN new.call_type = 'poison' "
                "BEGIN SELECT RAISE(ABORT, 'hosts_rule'); END",
            )


def count_statements(database: Database) -> None:
    """Count the inserting statements that reach PostgreSQL, with sequences: a rollback does not reset them."""
    run_script(
        database,
        "CREATE SEQUENCE copies",
        "CREATE SEQUENCE inserts",
        "CREATE FUNCTION count_statement() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "PERFORM nextval(CASE WHEN current_query() ILIKE 'copy%' THEN 'copies'::regclass ELSE 'inserts' END); "
        "RETURN NULL; END $$",
        *(
            f"CREATE TRIGGER counted BEFORE INSERT ON {table} FOR EACH STATEMENT EXECUTE FUNCTION count_statement()"
            for table in TABLES.values()
        ),
    )


def statements_sent(database: Database) -> tuple[int, int]:
    """Return the numbers of COPY and INSERT statements since `count_statements`."""
    with database.engine().connect() as connection:
        copies, inserts = (
            connection.execute(
                text(f"SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM {name}")  # noqa: S608  (a constant)
            ).scalar_one()
            for name in ("copies", "inserts")
        )
    return copies, inserts
