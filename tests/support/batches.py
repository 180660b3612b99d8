"""What the tests of `create_many` share: batches, what a host adds to our tables, and counting statements."""

from __future__ import annotations

import traceback
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest
from sqlalchemy import text

from provider_trace_store import BulkResult, ProviderTrace, ProviderTraceMetadata
from tests.support.documents import same

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.support.clients import Client, RepositoryClient
    from tests.support.servers import Database

ORG: Final = "org-1"
SECRET: Final = "the-payload-that-nobody-may-see"  # noqa: S105  (no password: what a test looks for)
MOMENT: Final = datetime(2026, 3, 29, 1, 30, 0, 123456, tzinfo=UTC)
TABLES: Final = {False: "provider_traces", True: "provider_trace_metadata"}
POISON: Final = {"call_type": "poison"}

both_modes = pytest.mark.parametrize("metadata_only", [False, True], ids=["full", "metadata"])


def trace_id(number: int) -> str:
    return f"provider_trace-{number:08x}-0000-7000-8000-000000000000"


def a_trace(number: int, **fields: Any) -> ProviderTrace:
    """Return a trace of which each text holds the secret that no error may show, and no two are alike."""
    defaults: dict[str, Any] = {
        "id": trace_id(number),
        "request_json": {"model": "m-1", "messages": [{"role": "user", "content": f"{SECRET} {number}"}]},
        "response_json": {"text": SECRET, "usage": {"total_tokens": number}},
        "source": SECRET,
        "run_id": f"run-{number}",
        "created_at": MOMENT + timedelta(seconds=number),
    }
    return ProviderTrace(**(defaults | fields))


def a_batch(size: int, first: int = 0) -> list[ProviderTrace]:
    return [a_trace(number) for number in range(first, first + size)]


def counts(result: BulkResult) -> tuple[int, int, int]:
    assert isinstance(result, BulkResult)
    return result.created, result.unchanged, len(result.rejected)


def refusals(result: BulkResult) -> list[tuple[str, type]]:
    """Return id and kind of what was rejected; in which order they come is not promised."""
    assert isinstance(result.rejected, tuple)
    return sorted(
        ((rejected.trace_id, type(rejected.error)) for rejected in result.rejected),
        key=lambda pair: (pair[0], pair[1].__name__),
    )


def assert_keeps_the_secret(error: BaseException) -> None:
    """Look through everything that a logger or an error tracker prints."""
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
    """Let the host have a rule about `call_type` that only the server knows."""
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
    """Count the statements that reach PostgreSQL and insert: a sequence also keeps what is rolled back."""
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
    """Return how many COPY and how many INSERT statements there were since `count_statements`."""
    with database.engine().connect() as connection:
        copies, inserts = (
            connection.execute(
                text(f"SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM {name}")  # noqa: S608  (a constant)
            ).scalar_one()
            for name in ("copies", "inserts")
        )
    return copies, inserts
