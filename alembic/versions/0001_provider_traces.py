"""Create provider_traces, or adopt the existing table of that name.

What it locks, and for how long:

- The table does not exist: no lock on any other table.
- The table exists and has all columns: the same lock as a SELECT (ACCESS SHARE), for milliseconds, whatever the
  table's size.
- The table exists and lacks columns, such as the telemetry columns `run_id`, `source`, `org_id`: ACCESS EXCLUSIVE,
  for milliseconds, whatever the table's size, because only the catalogue changes and no row is rewritten. While the
  migration waits for this lock, later queries on the table wait behind it, for at most `lock_timeout` (0.5 s by
  default). After a timeout the migration is rolled back and tried again after a pause, for about a minute. If all tries
  fail, nothing was changed, and the error names the sessions that hold the lock.
- The table has rows and no index on `step_id`: the index is not built. The log has the statement that builds it with
  CONCURRENTLY; run it outside of a transaction.

Existing rows, indexes and foreign keys stay as they are.

Downgrade drops the table, under ACCESS EXCLUSIVE. It drops a table with rows only with `-x drop-data=yes`, and a table
that it adopted only with `-x drop-adopted=TABLE`.

A script of `--sql` cannot look at the database, so it always creates the table. If the table exists, the script stops
with an error at CREATE TABLE and changes nothing: run the migration without `--sql` to adopt the table.

An adopted table keeps its compression. To compress new bodies with lz4, which is faster than pglz, run
`ALTER TABLE provider_traces ALTER COLUMN request_json SET COMPRESSION lz4, ALTER COLUMN response_json SET
COMPRESSION lz4`. It changes only the catalogue and rewrites no row. It needs PostgreSQL 14 or later, built with lz4.

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
    """Create or adopt the table."""
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
        ),
        beside="provider_trace_metadata",
    )


def downgrade() -> None:
    """Drop the table."""
    adoption.drop("provider_traces")
