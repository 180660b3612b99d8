"""Names in SQL that the package writes by hand: a schema may have any name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest
from sqlalchemy import inspect, make_url
from sqlalchemy.orm import Session
from sqlalchemy.schema import CreateSchema

from provider_trace_store import ProviderTrace, ProviderTraceRepository, TableNotEmptyError
from provider_trace_store.database.names import quoted, without_parameters
from provider_trace_store.migrations import VERSION_TABLE, current, downgrade, upgrade
from tests.support.constants import HEAD, OUR_TABLES

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from tests.support.servers import Database

# A percent sign begins a parameter of psycopg, a colon one of SQLAlchemy's text.
ODD: Final = 'Od"d %s :sch e:ma 50%'


def tables_of(engine: Engine, schema: str) -> set[str]:
    return set(inspect(engine).get_table_names(schema=schema)) - {VERSION_TABLE}


@pytest.mark.parametrize("driver", ["sqlite", "postgresql+psycopg", "postgresql+asyncpg"])
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("traces", "traces"),
        ("Traces", '"Traces"'),
        ("my traces", '"my traces"'),
        ("select", '"select"'),
        ('a"b', '"a""b"'),
        ("50%", '"50%"'),
        ("a:b", '"a:b"'),
        (ODD, '"Od""d %s :sch e:ma 50%"'),
    ],
)
def test_a_name_is_quoted_where_the_database_needs_it(driver: str, name: str, expected: str) -> None:
    dialect = make_url(f"{driver}://").get_dialect()()
    assert quoted(dialect, name) == expected
    assert quoted(dialect, None, name) == expected
    assert quoted(dialect, "Schema", name) == f'"Schema".{expected}'


def test_sql_without_parameters_arrives_as_it_is(database: Database) -> None:
    sql = r"a :b :: \:c c:d %s %% %(e)s"
    with database.engine().connect() as connection:
        assert connection.scalar(without_parameters(f"SELECT '{sql}'")) == sql


def test_a_schema_of_any_name_goes_up_and_down(empty_postgres: Database) -> None:
    engine = empty_postgres.engine()
    with engine.begin() as connection:
        connection.execute(CreateSchema(ODD))
    with engine.connect() as connection:
        upgrade(connection, schema=ODD)
        assert current(connection, schema=ODD) == HEAD
    assert tables_of(engine, ODD) == OUR_TABLES
    translated = engine.execution_options(schema_translate_map={None: ODD})
    trace = ProviderTrace(request_json={}, response_json={})
    with Session(translated) as session, session.begin():
        for metadata_only in (False, True):
            repository = ProviderTraceRepository(session, organization_id="org-1", metadata_only=metadata_only)
            assert repository.create_many([trace]).created == 1
    with engine.connect() as connection:
        with pytest.raises(TableNotEmptyError):
            downgrade(connection, "base", schema=ODD)
        connection.rollback()
        assert tables_of(engine, ODD) == OUR_TABLES
        downgrade(connection, "base", schema=ODD, drop_data=True)
    assert tables_of(engine, ODD) == set()
