"""The runbook: the code of each section of docs/operations.md is run on a database of its own."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import pytest
from sqlalchemy import Engine, NullPool, create_engine, event, text
from sqlalchemy.orm import Session

from provider_trace_store import ProviderTraceRepository
from provider_trace_store.migrations import upgrade
from tests.support.batches import counts, run_script
from tests.support.constants import ORG
from tests.support.pages import run_block, sections_of
from tests.support.paths import ROOT
from tests.support.traces import a_batch, a_trace

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.servers import Database

SECTIONS: Final = sections_of(ROOT / "docs" / "operations.md")
ROLES: Final = ("traces_migrator", "traces_app", "traces_packer")
# A host's table, as it is before it is adopted.
HOST: Final = """
    CREATE TABLE provider_traces (
        id varchar NOT NULL PRIMARY KEY, request_json json NOT NULL, response_json json NOT NULL, step_id varchar,
        created_at timestamptz DEFAULT now(), updated_at timestamptz DEFAULT now(),
        is_deleted boolean NOT NULL DEFAULT false, _created_by_id varchar, _last_updated_by_id varchar,
        organization_id varchar NOT NULL)
"""
ROW: Final = (
    "INSERT INTO provider_traces (id, request_json, response_json, organization_id) VALUES ('a', '{}', '{}', 'o')"
)
# These sections begin with a table of a host, with migrated tables, or with both. Others begin with an empty database.
ADOPTING: Final = {"Adopting a large table", "Leaving"}
MIGRATED: Final = {"Leaving", "Retention", "Packing"}


@pytest.mark.parametrize("title", sorted(SECTIONS.keys() - {"Roles", "Row-level security"}))
def test_the_code_of_a_section_runs(empty_postgres: Database, title: str, tmp_path: Path) -> None:
    if title in ADOPTING:
        run_script(empty_postgres, HOST, ROW)
    if title in MIGRATED:
        with empty_postgres.engine().connect() as connection:
            upgrade(connection)
    output = "".join(run_block(block, empty_postgres, tmp_path, {}) for block in SECTIONS[title])
    if "provider-trace-store status" in SECTIONS[title][-1].code:
        assert "(head)" in output
        assert "missing indexes" not in output.rpartition("(head)")[2]


@contextmanager
def dropping_roles(database: Database, *roles: str) -> Iterator[None]:
    """Drop roles in the end, with what they own."""
    try:
        yield
    finally:
        for role in roles:
            run_script(database, f"DROP OWNED BY {role} CASCADE", f"DROP ROLE {role}")


def use(engine: Engine) -> None:
    """Do all that an application does with traces of its organization."""
    with Session(engine) as session:
        full = ProviderTraceRepository(session, organization_id=ORG)
        metadata = ProviderTraceRepository(session, organization_id=ORG, metadata_only=True)
        full.create(a_trace(1))
        metadata.create(a_trace(2))
        assert counts(full.create_many(a_batch(40, 100))) == (40, 0, 0)
        assert counts(metadata.create_many(a_batch(40, 200))) == (40, 0, 0)
        session.commit()
        assert full.get(a_trace(1).id) == a_trace(1)
        assert full.get_metadata(a_trace(2).id) is not None
        assert len(full.list_metadata(limit=100).items) == 82
        for number in (1, 2):
            assert full.delete(a_trace(number).id)
            assert full.restore(a_trace(number).id)
        session.commit()


def test_each_role_has_the_rights_that_it_needs(empty_postgres: Database, tmp_path: Path) -> None:
    as_role = {
        role: empty_postgres.url.set(username=role, password="change-me")  # noqa: S106  (that of the page)
        for role in ROLES
    }
    variables = {
        f"{role.removeprefix('traces_').upper()}_URL": url.render_as_string(hide_password=False)
        for role, url in as_role.items()
    }
    options = {"options": "-c search_path=traces"}
    app = create_engine(as_role["traces_app"], poolclass=NullPool, connect_args=options)
    *before, maintenance = SECTIONS["Roles"]
    with dropping_roles(empty_postgres, *ROLES):
        for block in before:
            run_block(block, empty_postgres, tmp_path, variables)
        use(app)
        packed = run_block(maintenance, empty_postgres, tmp_path, variables)
        assert "packed 41 traces" in packed
        with app.connect() as connection:
            upgrade(connection)
        pack, *_ = maintenance.code.splitlines(keepends=True)
        run_block(maintenance._replace(code=pack), empty_postgres, tmp_path, variables)
        with Session(app) as session:
            repository = ProviderTraceRepository(session, organization_id=ORG)
            found = repository.get(a_trace(1).id)
            assert found is not None
            assert found.request_json == a_trace(1).request_json
            assert repository.delete(a_trace(1).id)
            assert repository.restore(a_trace(1).id)


def test_policies_limit_an_application_to_one_organization(empty_postgres: Database, tmp_path: Path) -> None:
    role = "traces_tenant"
    for block in SECTIONS["Row-level security"]:
        run_block(block, empty_postgres, tmp_path, {})
    run_script(
        empty_postgres,
        f"CREATE ROLE {role}",
        f"GRANT SELECT, INSERT, UPDATE ON provider_traces, provider_trace_metadata TO {role}",
        f"GRANT SELECT ON provider_trace_packs TO {role}",
    )
    with dropping_roles(empty_postgres, role):
        engine = empty_postgres.engine()

        @event.listens_for(engine, "begin")
        def as_a_tenant(connection: object) -> None:
            connection.exec_driver_sql(f"SET LOCAL ROLE {role}")  # type: ignore[attr-defined]  # a Connection
            connection.exec_driver_sql(f"SELECT set_config('app.organization_id', '{ORG}', true)")  # type: ignore[attr-defined]  # same

        use(engine)
        with engine.begin() as connection:
            connection.execute(text("SELECT set_config('app.organization_id', 'another', true)"))
            assert connection.scalar(text("SELECT count(*) FROM provider_traces")) == 0
