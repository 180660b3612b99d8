"""Create provider_trace_metadata, empty, or adopt the existing table of that name.

What it locks, and for how long:

- The table does not exist: no lock on any other table. The new table is empty: the traces in provider_traces stay
  there, and are not copied.
- The table exists and has all columns: the same lock as a SELECT (ACCESS SHARE), for milliseconds, whatever the
  table's size.
- The table exists and lacks columns: ACCESS EXCLUSIVE, for milliseconds. What happens while the migration waits for
  this lock, and what to do after a timeout, is described in 0001.
- The table has rows and lacks indexes: they are not built. The log has the statements that build them with
  CONCURRENTLY; run them outside of a transaction.

Existing rows, indexes and foreign keys stay as they are.

Downgrade drops the table, under ACCESS EXCLUSIVE. It drops a table with rows only with `-x drop-data=yes`, and a table
that it adopted only with `-x drop-adopted=TABLE`.

A script of `--sql` cannot look at the database, so it always creates the table. If the table exists, the script stops
with an error at CREATE TABLE and changes nothing: run the migration without `--sql` to adopt the table.

Revision ID: 0002
Revises: 0001
Create Date: 2026-11-23
"""

from __future__ import annotations

import sqlalchemy as sa

from provider_trace_store.migrations import adoption

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create or adopt the table."""
    adoption.create_or_adopt(
        sa.Table(
            "provider_trace_metadata",
            sa.MetaData(),
            sa.Column("id", sa.String, nullable=False),
            sa.Column("step_id", sa.String),
            sa.Column("agent_id", sa.String),
            sa.Column("agent_tags", sa.JSON),
            sa.Column("call_type", sa.String),
            sa.Column("run_id", sa.String),
            sa.Column("source", sa.String),
            sa.Column("org_id", sa.String),
            sa.Column("user_id", sa.String),
            sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
            sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.func.now()),
            sa.Column("is_deleted", sa.Boolean, server_default=sa.false(), nullable=False),
            sa.Column("_created_by_id", sa.String),
            sa.Column("_last_updated_by_id", sa.String),
            sa.Column("organization_id", sa.String, nullable=False),
            # The date comes first: date ranges are read from this B-tree.
            sa.PrimaryKeyConstraint("created_at", "id"),
            sa.Index("ix_provider_trace_metadata_id", "id"),
            sa.Index("ix_provider_trace_metadata_step_id", "step_id"),
            sa.Index(
                "ix_provider_trace_metadata_organization_id_created_at_id",
                "organization_id",
                "created_at",
                "id",
            ),
            schema=adoption.target_schema(),
        ),
        beside="provider_traces",
    )


def downgrade() -> None:
    """Drop the table."""
    adoption.drop("provider_trace_metadata")
