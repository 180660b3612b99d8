"""The settings of a deployment, from environment variables. No other module reads the environment."""

from __future__ import annotations

import re
from pathlib import Path  # noqa: TC003  (pydantic reads the annotations)
from typing import Annotated, Final

from pydantic import AfterValidator, AliasChoices, Field
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

# As SQLAlchemy's `make_url` finds them.
_CREDENTIALS: Final = re.compile(r"[\w+]+://[^:/]*(:[^@]*)?@")
DEFAULT_DATABASE_URL: Final = "sqlite:///provider_traces.db"


def psycopg_url(url: str) -> str:
    """Return a database URL, with psycopg 3 as the driver if it names PostgreSQL and no driver.

    Args:
        url: a URL of SQLAlchemy's form. `postgres://…` and `postgresql://…` get the driver; any other URL is unchanged.

    Returns:
        The URL, with its password.

    Raises:
        ValueError: the text is not a URL, or its password has an @ that is not escaped. The message does not repeat
            it, because it may contain a password.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        parsed = None
    if parsed is None:
        raise ValueError("is not a database URL: write it as driver://user:password@host/database")
    # SQLAlchemy ends the password at its first @ and takes what follows for the host, which messages show.
    credentials = _CREDENTIALS.match(url)
    if credentials and "@" in url[credentials.end() :]:
        raise ValueError("has an @ inside of the password or behind the host: write it as %40")
    if parsed.drivername in {"postgres", "postgresql"}:
        parsed = parsed.set(drivername="postgresql+psycopg")
    return parsed.render_as_string(hide_password=False)


class StoreSettings(BaseSettings):
    """The settings of a deployment, read from the environment when the object is created.

    The repository and the writer do not read the environment: pass them the settings that they need, such as
    `metadata_only=settings.metadata_only`.

    Args:
        database_url: the database, as a URL of SQLAlchemy's form; `postgres://` and `postgresql://` mean psycopg 3. By
            default it is the SQLite file `provider_traces.db` in the current directory. The `repr` leaves it out,
            because it may contain a password. Variable: `PROVIDER_TRACE_STORE_DATABASE_URL`.
        metadata_only: whether traces are written without their bodies; False by default. Variable:
            `PROVIDER_TRACE_STORE_METADATA_ONLY`, or `LETTA_TELEMETRY_PROVIDER_TRACE_PG_METADATA_ONLY` of existing
            deployments.
        spool_dir: the directory in which `TraceWriter` keeps traces until the database has them; None, the default,
            for no spool. Variable: `PROVIDER_TRACE_STORE_SPOOL_DIR`.
        source: the name of the service that makes the calls, for `ProviderTrace.source`; None by default. Variable:
            `PROVIDER_TRACE_STORE_SOURCE`, or `LETTA_TELEMETRY_SOURCE` of existing deployments.

    Raises:
        pydantic.ValidationError: a variable has an invalid value. The error does not repeat the value.
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
