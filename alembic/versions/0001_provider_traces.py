"""Create provider_traces, or adopt the table that is there.

What it locks, and for how long:

- New table: nothing that anyone uses yet.
- Table there, all columns there: no lock beyond that of a SELECT. Milliseconds, whatever its size.
- Table there, columns missing (such as the telemetry columns `run_id`, `source`, `org_id`): ACCESS EXCLUSIVE for
  as long as the catalogue takes to be written, milliseconds whatever the table's size, as no row is rewritten.
  While it waits for that lock, queries that come after it wait, too: for `lock_timeout` at most, 5 s by default.
  When that ends it, nothing was changed: run it again, with `-x lock-timeout=1` if 5 s are too long.
- Table there with rows, but without an index on `step_id`: none is built. The statement to run, with
  CONCURRENTLY and outside of a transaction, is in the log.

Rows, indexes and foreign keys of the table stay as they are. Downgrade drops the table under ACCESS EXCLUSIVE;
one that has rows only with `-x drop-data=yes`.

The script of `--sql` cannot look and only creates: where the table is there it stops with an error at CREATE
TABLE, and changes nothing. Adopt online.

An adopted table keeps its compression. New bodies use lz4, which takes less time than pglz, after
`ALTER TABLE provider_traces ALTER COLUMN request_json SET COMPRESSION lz4, ALTER COLUMN response_json SET
COMPRESSION lz4`: a change of the catalogue that rewrites no row (PostgreSQL 14 and later, built with lz4).

Revision ID: 0001
Revises:
Create Date: 2026-11-23
"""

from __future__ import annotations

import sqlalchemy as sa

from provider_trace_store.migrations import adoption

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table, or adopt it."""
    adoption.create_or_adopt(
        sa.Table(
            "provider_traces",
            sa.MetaData(),
            sa.Column("id", sa.String, primary_key=True),
            sa.Column("request_json", sa.JSON, nullable=False),
            sa.Column("response_json", sa.JSON, nullable=False),
            sa.Column("step_id", sa.String),
            sa.Column("agent_id", sa.String),
            sa.Column("agent_tags", sa.JSON),
            sa.Column("call_type", sa.String),
            sa.Column("run_id", sa.String),
            sa.Column("source", sa.String),
            sa.Column("org_id", sa.String),
            sa.Column("user_id", sa.String),
            sa.Column("compaction_settings", sa.JSON),
            sa.Column("llm_config", sa.JSON),
            sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
            sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.func.now()),
            sa.Column("is_deleted", sa.Boolean, server_default=sa.false(), nullable=False),
            sa.Column("_created_by_id", sa.String),
            sa.Column("_last_updated_by_id", sa.String),
            sa.Column("organization_id", sa.String, nullable=False),
            sa.Index("ix_provider_traces_step_id", "step_id"),
            schema=adoption.target_schema(),
        )
    )


def downgrade() -> None:
    """Drop the table."""
    adoption.drop("provider_traces")
