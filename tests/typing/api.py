"""The types of the public API, as mypy and pyright must see them. Type checkers read this module; nothing runs it.

An `ignore` marks a call that a checker must refuse: both checkers report an ignore that is not needed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import date, datetime
from pathlib import Path
from typing import Any, Literal, assert_type

from alembic.config import Config
from sqlalchemy import Connection, Engine, MetaData, Table
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession  # noqa: TC002  (beside the others)
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from provider_trace_store import (
    AdoptedTableError,
    AsyncProviderTraceRepository,
    BaseProviderTrace,
    BulkResult,
    InvalidArgumentError,
    InvalidCursorError,
    InvalidFilterError,
    InvalidIdentifierError,
    InvalidLimitError,
    InvalidWriterOptionError,
    MaintenanceError,
    MetadataPage,
    MigrationError,
    MigrationLockError,
    PackSupportMissingError,
    PoolerSettingError,
    ProviderTrace,
    ProviderTraceConflictError,
    ProviderTraceMetadata,
    ProviderTraceMetadataRecord,
    ProviderTraceRecord,
    ProviderTraceRejectedError,
    ProviderTraceRepository,
    ProviderTraceStoreError,
    ProviderTraceUnavailableError,
    RejectedTrace,
    StoreSettings,
    TableMismatchError,
    TableMissingError,
    TableNotEmptyError,
    TraceDecodingError,
    TraceEncodingError,
    TraceFilters,
    TracePage,
    TraceTooLargeError,
    TraceWriter,
    TransactionEndedError,
    UnstorableTraceError,
    WriterClosedError,
    WriterStats,
    __version__,
)
from provider_trace_store.migrations import (
    DEFAULT_LOCK_TIMEOUT,
    DEFAULT_TRIES,
    VERSION_TABLE,
    current,
    downgrade,
    include_name,
    include_object,
    schema_metadata,
    scripts_config,
    upgrade,
)


def traces(moment: datetime, trace: ProviderTrace, metadata: ProviderTraceMetadata) -> None:
    ProviderTrace(request_json={"a": 1}, response_json={})
    ProviderTrace(
        id="provider_trace-00000000",
        request_json={},
        response_json={},
        created_at=moment,
        agent_tags=["a"],
        llm_config={"model": "m"},
        step_id="step-1",
    )
    ProviderTrace(request_json={})  # type: ignore[call-arg]
    ProviderTrace(request_json="{}", response_json={})  # pyright: ignore[reportArgumentType]  # mypy: Pydantic converts
    assert_type(trace.id, str)
    assert_type(trace.created_at, datetime)
    assert_type(trace.updated_at, datetime | None)
    assert_type(trace.request_json, dict[str, Any])
    assert_type(trace.response_json, dict[str, Any])
    assert_type(trace.llm_config, dict[str, Any] | None)
    assert_type(trace.compaction_settings, dict[str, Any] | None)
    assert_type(trace.agent_tags, list[str] | None)
    assert_type(trace.step_id, str | None)
    assert_type(trace.run_id, str | None)
    assert_type(trace.created_by_id, str | None)
    assert_type(ProviderTraceMetadata.from_trace(trace), ProviderTraceMetadata)
    assert_type(metadata.stored_as, Literal["full", "metadata"] | None)
    metadata.request_json  # type: ignore[attr-defined]  # noqa: B018  (metadata has no body)
    base: BaseProviderTrace = trace
    base = metadata
    assert_type(base.id, str)


def repository(session: Session, asynchronous: AsyncSession) -> None:
    ProviderTraceRepository(session, organization_id="org-1")
    ProviderTraceRepository(
        session, organization_id="org-1", actor_id="user-1", metadata_only=True, max_body_bytes=1_000_000
    )
    ProviderTraceRepository(session)  # type: ignore[call-arg]
    ProviderTraceRepository(session, "org-1")  # type: ignore[call-arg]
    ProviderTraceRepository(asynchronous, organization_id="org-1")  # type: ignore[arg-type]
    AsyncProviderTraceRepository(
        asynchronous, organization_id="org-1", actor_id=None, metadata_only=False, max_body_bytes=1_000_000
    )
    AsyncProviderTraceRepository(session, organization_id="org-1")  # type: ignore[arg-type]


def reads_and_writes(repository: ProviderTraceRepository, trace: ProviderTrace, since: datetime) -> None:
    assert_type(repository.create(trace), ProviderTrace | ProviderTraceMetadata)
    assert_type(repository.create_many([trace]), BulkResult)
    assert_type(repository.create_many(one for one in [trace]), BulkResult)
    assert_type(repository.delete(trace.id), bool)
    assert_type(repository.restore(trace.id), bool)
    assert_type(repository.get(trace.id), ProviderTrace | None)
    assert_type(repository.get_by_step_id("step-1"), ProviderTrace | None)
    assert_type(repository.list_by_step_id("step-1"), list[ProviderTrace])
    assert_type(repository.list_by_run_id("run-1", limit=5, cursor=None), TracePage)
    assert_type(repository.get_metadata(trace.id), ProviderTraceMetadata | None)
    assert_type(repository.list_metadata(order="oldest", limit=5, cursor=None, run_id="run-1"), MetadataPage)
    assert_type(repository.iter_metadata(order="newest", since=since), Iterator[ProviderTraceMetadata])
    assert_type(repository.count_by("call_type", agent_tag="a"), dict[str | None, int])
    assert_type(repository.count_by_day(since=since, until=None), dict[date, int])
    repository.list_metadata(order="latest")  # type: ignore[arg-type]
    repository.list_metadata(colour="red")  # type: ignore[call-arg]
    repository.count_by_day(since="today")  # type: ignore[arg-type]
    repository.count_by("run_id")  # type: ignore[arg-type]
    repository.create({"id": "x"})  # type: ignore[arg-type]
    filters: TraceFilters = {"run_id": "run-1", "since": since}
    assert_type(repository.list_metadata(**filters), MetadataPage)


async def asynchronous_reads_and_writes(
    repository: AsyncProviderTraceRepository, trace: ProviderTrace, since: datetime
) -> None:
    assert_type(await repository.create(trace), ProviderTrace | ProviderTraceMetadata)
    assert_type(await repository.create_many([trace]), BulkResult)
    assert_type(await repository.delete(trace.id), bool)
    assert_type(await repository.restore(trace.id), bool)
    assert_type(await repository.get(trace.id), ProviderTrace | None)
    assert_type(await repository.get_by_step_id("step-1"), ProviderTrace | None)
    assert_type(await repository.list_by_step_id("step-1"), list[ProviderTrace])
    assert_type(await repository.list_by_run_id("run-1", limit=5, cursor=None), TracePage)
    assert_type(await repository.get_metadata(trace.id), ProviderTraceMetadata | None)
    assert_type(await repository.list_metadata(order="oldest", limit=5, cursor=None, run_id="run-1"), MetadataPage)
    # An asynchronous iterator is not awaited.
    assert_type(repository.iter_metadata(order="newest", since=since), AsyncIterator[ProviderTraceMetadata])
    assert_type(await repository.count_by("call_type", agent_tag="a"), dict[str | None, int])
    assert_type(await repository.count_by_day(since=since, until=None), dict[date, int])
    await repository.list_metadata(order="latest")  # type: ignore[arg-type]
    await repository.list_metadata(colour="red")  # type: ignore[call-arg]


def results(result: BulkResult, rejected: RejectedTrace, page: MetadataPage, run: TracePage) -> None:
    assert_type(result.created, int)
    assert_type(result.unchanged, int)
    assert_type(result.rejected, tuple[RejectedTrace, ...])
    assert_type(rejected.trace_id, str)
    assert_type(rejected.error, ProviderTraceStoreError)
    assert_type(page.items, tuple[ProviderTraceMetadata, ...])
    assert_type(page.next_cursor, str | None)
    assert_type(run.items, tuple[ProviderTrace, ...])
    assert_type(run.next_cursor, str | None)
    result.created = 1  # type: ignore[misc]
    page.next_cursor = None  # type: ignore[misc]


def writer(
    engine: Engine, sessions: sessionmaker[Session], scoped: scoped_session[Session], trace: ProviderTrace
) -> None:
    def rejected(trace_id: str, error: ProviderTraceStoreError) -> None: ...

    TraceWriter(sessions)
    TraceWriter(scoped)
    TraceWriter(lambda: Session(engine))
    made = TraceWriter(
        engine,
        metadata_only=True,
        max_body_bytes=1_000_000,
        spool_dir=Path("spool"),
        durability="spool",
        fsync=True,
        on_full="block",
        block_timeout=1.0,
        max_queue_bytes=1_000_000,
        max_queue_traces=1_000,
        max_spool_bytes=1_000_000,
        batch_rows=100,
        batch_bytes=1_000_000,
        batch_age=0.1,
        max_retry_delay=5.0,
        close_timeout=10,
        handle_sigterm=False,
        on_rejected=rejected,
    )
    assert_type(made, TraceWriter)
    made.submit(trace, organization_id="org-1")
    made.submit(trace, organization_id="org-1", actor_id="user-1")
    made.submit(trace)  # type: ignore[call-arg]
    assert_type(made.flush(), bool)
    assert_type(made.flush(5), bool)
    assert_type(made.close(), bool)
    assert_type(made.close(1.5), bool)
    with TraceWriter(engine) as entered:
        assert_type(entered, TraceWriter)
    TraceWriter(engine, durability="disk")  # type: ignore[arg-type]
    TraceWriter(engine, on_full="wait")  # type: ignore[arg-type]
    TraceWriter(engine, batch_size=3)  # type: ignore[call-arg]
    TraceWriter(engine, on_rejected=Path)  # type: ignore[arg-type]
    TraceWriter()  # type: ignore[call-arg]


async def asynchronous_writer(engine: Engine) -> None:
    async with TraceWriter(engine) as made:
        assert_type(made, TraceWriter)
        assert_type(await made.aflush(5), bool)
    assert_type(await made.aclose(), bool)


def counters(stats: WriterStats) -> None:
    assert_type(stats.accepted, int)
    assert_type(stats.stored, int)
    assert_type(stats.unchanged, int)
    assert_type(stats.rejected, int)
    assert_type(stats.spooled, int)
    assert_type(stats.queued, int)
    assert_type(stats.dropped, int)
    assert_type(stats.adopted, int)
    assert_type(stats.queued_bytes, int)
    assert_type(stats.spooled_bytes, int)
    assert_type(stats.retries, int)


def errors(repository: ProviderTraceRepository, trace: ProviderTrace) -> None:
    try:
        repository.create(trace)
    except (InvalidIdentifierError, InvalidFilterError, InvalidWriterOptionError) as error:
        assert_type(error.name, str)
        assert_type(error.reason, str)
    except InvalidLimitError as error:
        assert_type(error.name, str)
    except TraceEncodingError as error:
        assert_type(error.path, str)
        assert_type(error.reason, str)
        assert_type(error.remedy, str)
        assert_type(error.trace_id, str | None)
    except TraceTooLargeError as error:
        assert_type(error.path, str)
        assert_type(error.size, int)
        assert_type(error.limit, int)
        assert_type(error.trace_id, str)
    except ProviderTraceConflictError as error:
        assert_type(error.trace_id, str)
    except ProviderTraceRejectedError as error:
        assert_type(error.trace_id, str)
        assert_type(error.sqlstate, str | None)
        assert_type(error.constraint, str | None)
    except ProviderTraceUnavailableError as error:
        assert_type(error.trace_id, str)
        assert_type(error.sqlstate, str | None)
    except (TableMissingError, TableNotEmptyError) as error:
        assert_type(error.table, str)
    except TableMismatchError as error:
        assert_type(error.table, str)
        assert_type(error.problems, list[str])
    values: list[type[ValueError]] = [
        InvalidArgumentError,
        InvalidCursorError,
        InvalidFilterError,
        InvalidIdentifierError,
        InvalidLimitError,
        InvalidWriterOptionError,
        TraceDecodingError,
        TraceEncodingError,
        TraceTooLargeError,
    ]
    of_migrations: list[type[MigrationError]] = [
        AdoptedTableError,
        MigrationLockError,
        TableMismatchError,
        TableNotEmptyError,
    ]
    ours: list[type[ProviderTraceStoreError]] = [
        MaintenanceError,
        MigrationError,
        PackSupportMissingError,
        PoolerSettingError,
        ProviderTraceConflictError,
        ProviderTraceRejectedError,
        ProviderTraceUnavailableError,
        TableMissingError,
        TransactionEndedError,
        UnstorableTraceError,
        WriterClosedError,
    ]
    assert_type((values, of_migrations, ours)[0], list[type[ValueError]])


def errors_of_the_session(repository: ProviderTraceRepository, trace: ProviderTrace) -> None:
    try:
        repository.create(trace)
    except PoolerSettingError as error:
        assert_type(error.sqlstate, str)
    except TransactionEndedError as error:
        assert_type(error.trace_id, str)
        assert_type(error.is_refusal, bool)


def groups_of_errors(repository: ProviderTraceRepository, trace: ProviderTrace) -> None:
    try:
        repository.create(trace)
    except InvalidArgumentError as error:
        assert_type(error.name, str)
        assert_type(error.reason, str)
    except UnstorableTraceError as error:
        assert_type(error.trace_id, str | None)


def migrations(connection: Connection) -> None:
    upgrade(connection)
    upgrade(connection, "0002", schema="traces", lock_timeout=5, tries=2)
    downgrade(connection, "base")
    downgrade(connection, "0001", schema=None, lock_timeout=0.5, tries=1, drop_data=True)
    downgrade(connection, "base", drop_adopted=["provider_traces"])
    downgrade(connection)  # type: ignore[call-arg]
    assert_type(current(connection), str | None)
    assert_type(current(connection, schema="traces"), str | None)
    assert_type(scripts_config(), Config)
    assert_type(schema_metadata(None), MetaData)
    assert_type(include_name("provider_traces", "table", {"schema_name": None}), bool)
    table = Table("provider_traces", MetaData())
    assert_type(include_object(table, "provider_traces", "table", reflected=False, compare_to=None), bool)
    VERSION_TABLE.upper()
    DEFAULT_LOCK_TIMEOUT.is_integer()
    DEFAULT_TRIES.bit_length()


async def asynchronous_migrations(connection: AsyncConnection) -> None:
    await connection.run_sync(upgrade)
    assert_type(await connection.run_sync(current), str | None)


def settings_and_records(trace: ProviderTraceRecord, metadata: ProviderTraceMetadataRecord) -> None:
    settings = StoreSettings()
    assert_type(settings.database_url, str)
    assert_type(settings.metadata_only, bool)
    assert_type(settings.spool_dir, Path | None)
    assert_type(settings.source, str | None)
    assert_type(trace.id, str)
    assert_type(metadata.id, str)
    __version__.upper()
