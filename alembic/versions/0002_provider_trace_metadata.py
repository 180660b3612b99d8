"""Create provider_trace_metadata, empty, or adopt the table that is there.

What it locks, and for how long:

- New table: nothing that anyone uses yet. It is created empty: the traces of provider_traces stay there.
- Table there: as in 0001. No lock beyond that of a SELECT where its columns are complete, and the log has the
  statement for each index that is missing on a table with rows.

Rows, indexes and foreign keys of the table stay as they are. Downgrade drops the table under ACCESS EXCLUSIVE;
one that has rows only with `-x drop-data=yes`.

The script of `--sql` cannot look and only creates: where the table is there it stops with an error at CREATE
TABLE, and changes nothing. Adopt online.

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
    """Create the table, or adopt it."""
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
            # The order is the point: it is the B-tree that date ranges run on.
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
        )
    )


def downgrade() -> None:
    """Drop the table."""
    adoption.drop("provider_trace_metadata")
