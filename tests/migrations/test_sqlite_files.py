"""SQLite files that cannot be used, and a library that is too old: errors that say what to do."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

import pytest
from alembic import command
from alembic.util import CommandError
from sqlalchemy import NullPool, create_engine
from sqlalchemy.orm import Session

from provider_trace_store import ProviderTraceRepository, ProviderTraceUnavailableError
from provider_trace_store.errors import MigrationError
from provider_trace_store.migrations import current, scripts_config, upgrade
from tests.support.batches import assert_keeps_the_secret
from tests.support.constants import ORG
from tests.support.traces import a_batch, a_trace

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(params=["no database", "damaged"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "traces.db"
    if request.param == "no database":
        path.write_bytes(b"not a database" * 1000)
    else:
        with create_engine(f"sqlite:///{path}", poolclass=NullPool).connect() as connection:
            upgrade(connection)
        whole = path.read_bytes()
        path.write_bytes(whole[:100] + b"\xff" * (len(whole) - 100))
    return path


def test_a_file_that_is_no_database_is_an_error_of_ours(file: Path) -> None:
    before = file.read_bytes()
    engine = create_engine(f"sqlite:///{file}", poolclass=NullPool)
    for call in (upgrade, current):
        with engine.connect() as connection, pytest.raises(MigrationError, match=r"traces\.db") as caught:
            call(connection)
        assert caught.value.__cause__ is None
    with Session(engine) as session:
        for metadata_only in (False, True):
            repository = ProviderTraceRepository(session, organization_id=ORG, metadata_only=metadata_only)
            with pytest.raises(ProviderTraceUnavailableError) as unavailable:
                repository.create(a_trace(1))
            assert_keeps_the_secret(unavailable.value)
            session.rollback()
            with pytest.raises(ProviderTraceUnavailableError):
                repository.create_many(a_batch(3))
            session.rollback()
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("place", "advice"), [(".", "see that the file is a SQLite database"), ("missing/traces.db", "create it")]
)
def test_the_command_names_a_file_that_cannot_be_opened(place: str, advice: str, tmp_path: Path) -> None:
    config = scripts_config()
    config.cmd_opts = Namespace(x=[f"url=sqlite:///{tmp_path / place}"])
    for call in (command.upgrade, lambda config, _: command.current(config)):
        with pytest.raises(CommandError, match=advice) as caught:
            call(config, "head")
        assert str(tmp_path) in str(caught.value)


def test_a_library_that_is_too_old_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'traces.db'}", poolclass=NullPool)
    monkeypatch.setattr(engine.dialect.loaded_dbapi, "sqlite_version_info", (3, 23, 1))
    with engine.connect() as connection, pytest.raises(MigrationError, match=r"too old.*3\.24\.0 or later"):
        upgrade(connection)
