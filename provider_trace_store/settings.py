"""What a deployment sets by environment variables: the only place that reads the environment."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  (pydantic reads the annotations)
from typing import Annotated, Final

from pydantic import AfterValidator, AliasChoices, Field
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

DEFAULT_DATABASE_URL: Final = "sqlite:///provider_traces.db"


def psycopg_url(url: str) -> str:
    """Return a database URL with psycopg 3 as the driver where it names PostgreSQL but no driver.

    Args:
        url: `postgres://…` and `postgresql://…` mean psycopg 3; any other SQLAlchemy URL stays as it is.

    Raises:
        ValueError: it is no URL; the message does not repeat it, for it may hold a password.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        parsed = None
    if parsed is None:
        raise ValueError("is no database URL of the form driver://user:password@host/database")
    if parsed.drivername in {"postgres", "postgresql"}:
        parsed = parsed.set(drivername="postgresql+psycopg")
    return parsed.render_as_string(hide_password=False)


class StoreSettings(BaseSettings):
    """The settings of a deployment, read from the environment when the object is made.

    The repository reads no environment: hand it what it needs, such as `metadata_only=settings.metadata_only`.

    Args:
        database_url: `PROVIDER_TRACE_STORE_DATABASE_URL`, a URL of SQLAlchemy's form; `postgres://` and
            `postgresql://` mean psycopg 3. The SQLite file `provider_traces.db` in the current directory by
            default. It may hold a password: it is not part of the `repr`.
        metadata_only: `PROVIDER_TRACE_STORE_METADATA_ONLY`, or
            `LETTA_TELEMETRY_PROVIDER_TRACE_PG_METADATA_ONLY` of existing deployments: whether traces are
            written without their bodies. False by default.
        spool_dir: `PROVIDER_TRACE_STORE_SPOOL_DIR`, where `TraceWriter` keeps what waits for the database; no spool
            by default.
        source: `PROVIDER_TRACE_STORE_SOURCE`, or `LETTA_TELEMETRY_SOURCE` of existing deployments: the name
            of the service that makes the calls, for `ProviderTrace.source`.
    """

    model_config = SettingsConfigDict(
        env_prefix="PROVIDER_TRACE_STORE_",
        env_ignore_empty=True,
        extra="ignore",
        hide_input_in_errors=True,
        populate_by_name=True,
    )

    database_url: Annotated[str, AfterValidator(psycopg_url)] = Field(default=DEFAULT_DATABASE_URL, repr=False)
    metadata_only: bool = Field(
        default=False,
        validation_alias=AliasChoices(
            "PROVIDER_TRACE_STORE_METADATA_ONLY", "LETTA_TELEMETRY_PROVIDER_TRACE_PG_METADATA_ONLY"
        ),
    )
    spool_dir: Path | None = None
    source: str | None = Field(
        default=None,
        validation_alias=AliasChoices("PROVIDER_TRACE_STORE_SOURCE", "LETTA_TELEMETRY_SOURCE"),
    )
