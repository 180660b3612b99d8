"""Settings of a host's engine: each line of the table in docs/hosts.md."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import pytest
from psycopg.rows import dict_row
from psycopg.types.json import set_json_dumps, set_json_loads
from sqlalchemy import NullPool, create_engine, event, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from provider_trace_store import (
    ProviderTraceConflictError,
    ProviderTraceRepository,
    ProviderTraceUnavailableError,
)
from tests.support.batches import both_modes, counts
from tests.support.constants import ORG
from tests.support.traces import a_batch, every_field, the_metadata_of

if TYPE_CHECKING:
    from tests.support.servers import Database


def refuse(*_: object) -> Any:
    """Fail: a serializer of the host's that must not be called."""
    raise AssertionError


SYNCHRONOUS: Final[dict[str, dict[str, Any]]] = {
    "json": {"json_serializer": refuse, "json_deserializer": refuse},
    "no hstore": {"use_native_hstore": False},
    "AUTOCOMMIT": {"isolation_level": "AUTOCOMMIT"},
    "REPEATABLE READ": {"isolation_level": "REPEATABLE READ"},
    "SERIALIZABLE": {"isolation_level": "SERIALIZABLE"},
    "no insertmanyvalues": {"use_insertmanyvalues": False},
    "small insertmanyvalues": {"insertmanyvalues_page_size": 1},
    "no prepared statements": {"connect_args": {"prepare_threshold": None}},
    "always prepared": {"connect_args": {"prepare_threshold": 0}},
    "no cache": {"query_cache_size": 0},
    "LATIN1": {"connect_args": {"client_encoding": "latin1"}},
    "no pool": {"poolclass": NullPool},
    "translated schema": {"execution_options": {"schema_translate_map": {None: "public"}}},
    "search path": {"connect_args": {"options": "-csearch_path=public,pg_catalog -ctimezone=Asia/Tokyo"}},
}
ASYNCPG: Final[dict[str, dict[str, Any]]] = {
    "json": {"json_serializer": refuse, "json_deserializer": refuse},
    "AUTOCOMMIT": {"isolation_level": "AUTOCOMMIT"},
    "no caches": {"connect_args": {"statement_cache_size": 0, "prepared_statement_cache_size": 0}},
    "named statements": {"connect_args": {"prepared_statement_name_func": lambda: f"host_{uuid4()}"}},
    "no jit": {"connect_args": {"server_settings": {"jit": "off", "timezone": "Asia/Tokyo"}}},
}


def round_trip(session: Session, *, metadata_only: bool) -> None:
    """Write and read with every method that sends another kind of statement."""
    repository = ProviderTraceRepository(session, organization_id=ORG, metadata_only=metadata_only)
    trace = every_field(1)
    repository.create(trace)
    repository.create(trace)
    assert counts(repository.create_many([*a_batch(30, 100), every_field(1)])) == (30, 1, 0)
    with pytest.raises(ProviderTraceConflictError):
        repository.create(every_field(1, user_id="other"))
    session.commit()
    assert repository.get_metadata(trace.id) == the_metadata_of(trace)
    assert repository.get(trace.id) == (None if metadata_only else trace)
    assert len(repository.list_metadata().items) == 31
    assert repository.count_by("agent_id", agent_tag="ü") == {"agent-1": 1}
    assert sum(repository.count_by_day().values()) == 31
    assert repository.delete(trace.id)
    assert repository.restore(trace.id)
    session.commit()


@both_modes
@pytest.mark.parametrize("name", SYNCHRONOUS)
def test_a_setting_of_an_engine_changes_nothing(postgres: Database, name: str, metadata_only: bool) -> None:
    with Session(postgres.engine(**SYNCHRONOUS[name])) as session:
        round_trip(session, metadata_only=metadata_only)


@both_modes
@pytest.mark.parametrize("name", ASYNCPG)
async def test_a_setting_of_an_asyncpg_engine_changes_nothing(
    postgres: Database, name: str, metadata_only: bool
) -> None:
    engine = create_async_engine(postgres.url.set(drivername="postgresql+asyncpg"), **ASYNCPG[name])
    async with AsyncSession(engine) as session:
        await session.run_sync(round_trip, metadata_only=metadata_only)
    await engine.dispose()


@both_modes
@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
async def test_json_codecs_of_the_driver_change_nothing(postgres: Database, driver: str, metadata_only: bool) -> None:
    engine = create_async_engine(postgres.url.set(drivername=f"postgresql+{driver}"))

    @event.listens_for(engine.sync_engine, "connect")
    def set_codecs(connection: Any, _: object) -> None:
        if driver == "psycopg":
            set_json_loads(refuse, connection.driver_connection)
            set_json_dumps(refuse, connection.driver_connection)
        else:
            codec = {"encoder": refuse, "decoder": refuse, "schema": "pg_catalog"}
            connection.run_async(lambda driver_connection: driver_connection.set_type_codec("json", **codec))

    async with AsyncSession(engine) as session:
        await session.run_sync(round_trip, metadata_only=metadata_only)
    await engine.dispose()


def test_the_types_of_an_extension_change_nothing(postgres: Database) -> None:
    with postgres.engine().connect() as connection:
        if not connection.scalar(text("SELECT count(*) FROM pg_available_extensions WHERE name = 'hstore'")):
            pytest.skip("this server has no hstore")
        connection.execute(text("CREATE EXTENSION hstore"))
        connection.commit()
    with Session(postgres.engine()) as session:
        round_trip(session, metadata_only=True)


def test_a_row_factory_of_psycopg_fails_in_sqlalchemy_itself(postgres: Database) -> None:
    """SQLAlchemy needs rows that are tuples."""
    engine = create_engine(postgres.url, connect_args={"row_factory": dict_row})
    with pytest.raises(Exception), engine.connect() as connection:  # noqa: B017, PT011  (of SQLAlchemy's internals)
        assert connection.execute(text("SELECT 1 AS one, 2 AS two")).one() == (1, 2)
    engine.dispose()


@both_modes
@pytest.mark.parametrize(
    "options", [{"isolation_level": "AUTOCOMMIT"}, {"json_serializer": json.dumps, "json_deserializer": refuse}]
)
async def test_settings_of_sqlite(databases: Any, options: dict[str, Any], metadata_only: bool) -> None:
    async with databases.make("sqlite", migrated=True) as database:
        with Session(database.engine(**options)) as session:
            round_trip(session, metadata_only=metadata_only)


# PgBouncer


@both_modes
@pytest.mark.parametrize("bouncer", ["session"], indirect=True)
def test_session_mode_takes_everything(bouncer: Database, metadata_only: bool) -> None:
    engine = create_engine(bouncer.url)
    with Session(engine) as session:
        round_trip(session, metadata_only=metadata_only)
    engine.dispose()


@pytest.mark.parametrize("bouncer", ["statement"], indirect=True)
def test_statement_mode_takes_full_traces_in_autocommit(bouncer: Database) -> None:
    options: dict[str, Any] = {"isolation_level": "AUTOCOMMIT", "use_native_hstore": False}
    engine = bouncer.engine(**options)
    with Session(engine) as session:
        repository = ProviderTraceRepository(session, organization_id=ORG)
        repository.create(every_field(1))
        assert counts(repository.create_many([*a_batch(30, 100), every_field(1)])) == (30, 1, 0)
        assert repository.get(every_field(1).id) == every_field(1)
        assert len(repository.list_metadata().items) == 31
        for refused in (repository.delete, lambda _: _metadata(session).create(every_field(2))):
            with pytest.raises(ProviderTraceUnavailableError):
                refused(every_field(1).id)
            session.rollback()


def _metadata(session: Session) -> ProviderTraceRepository:
    return ProviderTraceRepository(session, organization_id=ORG, metadata_only=True)


@both_modes
@pytest.mark.parametrize("bouncer", ["transaction"], indirect=True)
@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
async def test_transaction_mode_takes_everything_without_prepared_statements(
    bouncer: Database, driver: str, metadata_only: bool
) -> None:
    options: dict[str, Any] = {"connect_args": {"prepare_threshold": None}}
    if driver == "asyncpg":
        names = {"prepared_statement_name_func": lambda: f"host_{uuid4()}"}
        options = {"connect_args": {"statement_cache_size": 0, "prepared_statement_cache_size": 0, **names}}
    engine = create_async_engine(bouncer.url.set(drivername=f"postgresql+{driver}"), poolclass=NullPool, **options)
    async with AsyncSession(engine) as session:
        await session.run_sync(round_trip, metadata_only=metadata_only)
    await engine.dispose()
