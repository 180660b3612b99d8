from __future__ import annotations

import os
from typing import Final

import pytest
from pydantic import ValidationError

from provider_trace_store import StoreSettings

PREFIX: Final = "PROVIDER_TRACE_STORE_"
OLD_FLAG: Final = "LETTA_TELEMETRY_PROVIDER_TRACE_PG_METADATA_ONLY"
OLD_SOURCE: Final = "LETTA_TELEMETRY_SOURCE"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what the developer's own environment says."""
    for name in os.environ:
        if name.upper().startswith((PREFIX, "LETTA_TELEMETRY_")):
            monkeypatch.delenv(name)


def test_an_empty_environment_means_a_sqlite_file_and_full_traces() -> None:
    settings = StoreSettings()
    assert settings.database_url == "sqlite:///provider_traces.db"
    assert settings.metadata_only is False
    assert settings.source is None


def test_each_setting_comes_from_its_own_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROVIDER_TRACE_STORE_DATABASE_URL", "sqlite:///other.db")
    monkeypatch.setenv("PROVIDER_TRACE_STORE_METADATA_ONLY", "true")
    monkeypatch.setenv("PROVIDER_TRACE_STORE_SOURCE", "gateway")
    settings = StoreSettings()
    assert settings.database_url == "sqlite:///other.db"
    assert settings.metadata_only is True
    assert settings.source == "gateway"


def test_variables_without_the_prefix_mean_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("DATABASE_URL", "sqlite:///hosts.db"), ("METADATA_ONLY", "true"), ("SOURCE", "host")):
        monkeypatch.setenv(name, value)
    assert StoreSettings().model_fields_set == set()


def test_the_names_of_existing_deployments_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OLD_FLAG, "true")
    monkeypatch.setenv(OLD_SOURCE, "letta-server")
    settings = StoreSettings()
    assert settings.metadata_only is True
    assert settings.source == "letta-server"


def test_the_own_name_wins_over_that_of_existing_deployments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OLD_FLAG, "true")
    monkeypatch.setenv("PROVIDER_TRACE_STORE_METADATA_ONLY", "false")
    monkeypatch.setenv(OLD_SOURCE, "old")
    monkeypatch.setenv("PROVIDER_TRACE_STORE_SOURCE", "new")
    settings = StoreSettings()
    assert settings.metadata_only is False
    assert settings.source == "new"


def test_an_empty_variable_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "METADATA_ONLY", "SOURCE"):
        monkeypatch.setenv(PREFIX + name, "")
    assert StoreSettings() == StoreSettings.model_construct()


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_postgres_urls_mean_psycopg_3_and_keep_the_rest(scheme: str) -> None:
    rest = "://ann:p%40ss%2Fword@db.example:6432/app?sslmode=require"
    assert StoreSettings(database_url=scheme + rest).database_url == "postgresql+psycopg" + rest


@pytest.mark.parametrize(
    "url", ["postgresql+asyncpg://ann:secret@db.example/app", "sqlite+aiosqlite:///x.db", "sqlite://"]
)
def test_a_url_that_names_its_driver_stays_as_it_is(url: str) -> None:
    assert StoreSettings(database_url=url).database_url == url


def test_the_repr_has_no_url_and_so_no_password() -> None:
    settings = StoreSettings(database_url="postgresql://ann:s3cret@db.example/app")
    for shown in (repr(settings), str(settings)):
        assert "s3cret" not in shown
        assert "db.example" not in shown


@pytest.mark.parametrize("url", ["ann:s3cret@db.example", "postgresql://ann:s3cret@db.example:port/app"])
def test_the_error_for_a_bad_url_names_the_setting_and_not_the_url(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("PROVIDER_TRACE_STORE_DATABASE_URL", url)
    with pytest.raises(ValidationError) as caught:
        StoreSettings()
    assert "database_url" in str(caught.value)
    for shown in (str(caught.value), repr(caught.value)):
        assert "s3cret" not in shown
        assert "db.example" not in shown


def test_a_flag_that_is_neither_true_nor_false_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OLD_FLAG, "perhaps")
    with pytest.raises(ValidationError):
        StoreSettings()
