"""The mapped classes of the tables, and their MetaData, which the tests compare the migrations with."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003  (SQLAlchemy reads the annotations)
from typing import Any, Final
from uuid import UUID  # noqa: TC003  (as above)

from sqlalchemy import (
    BigInteger,
    Boolean,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Uuid,
    false,
    func,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from provider_trace_store.tables.moments import UtcDateTime
from provider_trace_store.tables.types import ExactJSON

metadata: Final = MetaData()

# The fields whose columns are JSON.
DOCUMENTS: Final = frozenset({"request_json", "response_json", "agent_tags", "compaction_settings", "llm_config"})


class Base(DeclarativeBase):
    """Declarative base of the package's tables, with its own MetaData: a host's tables are not in it."""

    metadata = metadata


class _MetadataColumns:
    """The columns that both tables of traces have."""

    step_id: Mapped[str | None] = mapped_column(String)
    agent_id: Mapped[str | None] = mapped_column(String)
    agent_tags: Mapped[list[str] | None] = mapped_column(ExactJSON)
    call_type: Mapped[str | None] = mapped_column(String)
    run_id: Mapped[str | None] = mapped_column(String)
    source: Mapped[str | None] = mapped_column(String)
    org_id: Mapped[str | None] = mapped_column(String)
    user_id: Mapped[str | None] = mapped_column(String)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=func.now())
    updated_at: Mapped[datetime | None] = mapped_column(UtcDateTime, server_default=func.now())
    is_deleted: Mapped[bool] = mapped_column(Boolean, server_default=false())
    created_by_id: Mapped[str | None] = mapped_column("_created_by_id", String)
    last_updated_by_id: Mapped[str | None] = mapped_column("_last_updated_by_id", String)
    organization_id: Mapped[str] = mapped_column(String)


class ProviderTraceRecord(_MetadataColumns, Base):
    """A row of `provider_traces`: a full trace.

    In adopted tables, `created_at` may be nullable.
    """

    __tablename__ = "provider_traces"
    __table_args__ = (
        Index("ix_provider_traces_step_id", "step_id"),
        Index("ix_provider_traces_run_id", "run_id"),
        Index("ix_provider_traces_agent_id_created_at", "agent_id", "created_at"),
        Index("ix_provider_traces_organization_id_created_at_id", "organization_id", "created_at", "id"),
    )

    id: Mapped[str] = mapped_column(String, primary_key=True)
    request_json: Mapped[dict[str, Any]] = mapped_column(ExactJSON)
    response_json: Mapped[dict[str, Any]] = mapped_column(ExactJSON)
    compaction_settings: Mapped[dict[str, Any] | None] = mapped_column(ExactJSON)
    llm_config: Mapped[dict[str, Any] | None] = mapped_column(ExactJSON)


class ProviderTraceMetadataRecord(_MetadataColumns, Base):
    """A row of `provider_trace_metadata`: a trace without its bodies.

    `id` alone is not unique: a table that has a unique index without the date cannot be partitioned or distributed by
    date. A row with a `pack_id` is of a packed trace, whose bodies and settings are in that pack.
    """

    __tablename__ = "provider_trace_metadata"
    __table_args__ = (
        PrimaryKeyConstraint("created_at", "id"),
        Index("ix_provider_trace_metadata_id", "id"),
        Index("ix_provider_trace_metadata_step_id", "step_id"),
        Index("ix_provider_trace_metadata_run_id", "run_id"),
        Index("ix_provider_trace_metadata_agent_id_created_at", "agent_id", "created_at"),
        Index("ix_provider_trace_metadata_organization_id_created_at_id", "organization_id", "created_at", "id"),
    )

    id: Mapped[str] = mapped_column(String)
    pack_id: Mapped[UUID | None] = mapped_column(Uuid)


class ProviderTracePackRecord(Base):
    """A row of `provider_trace_packs`: the bodies and settings of many traces of one organization and agent.

    A pack is never changed: one with other traces takes its place, under another id. `data` and `directory` have the
    format that `packs/format.py` describes. No index but that of the primary key: a trace's row of metadata names its
    pack.
    """

    __tablename__ = "provider_trace_packs"

    id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    organization_id: Mapped[str] = mapped_column(String)
    agent_id: Mapped[str | None] = mapped_column(String)
    first_created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    last_created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    traces: Mapped[int] = mapped_column(Integer)
    raw_bytes: Mapped[int] = mapped_column(BigInteger)
    directory: Mapped[bytes] = mapped_column(LargeBinary)
    data: Mapped[bytes] = mapped_column(LargeBinary)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=func.now())
