"""Add the indexes that the reads of many traces use: by organization and date, by run, by agent and date.

`(organization_id, created_at, id)` on provider_traces, as provider_trace_metadata already has it; `(run_id)` and
`(agent_id, created_at)` on both tables. docs/scale.md says what each index costs in bytes and in time of writes.

What it locks, and for how long:

- A table without rows: SHARE, for milliseconds, while its empty indexes are created.
- A table with rows: the same lock as a SELECT (ACCESS SHARE), and no index is built. The log has the statements that
  build the indexes with CONCURRENTLY; run them outside of a transaction. Until they are built, pages of this table are
  slow. An existing index on the same columns counts under any name.
- provider_trace_metadata has no rows, and its ids have another collation than those of an adopted provider_traces:
  ACCESS EXCLUSIVE, for milliseconds, while the collation is changed. If it has rows, the upgrade stops, and its error
  has the statement to run.

Downgrade drops the indexes with these names that a migration created, under ACCESS EXCLUSIVE on their tables, for
milliseconds. The log has the statements that drop the others. A script of `--sql` for SQLite drops all of these names.

A script of `--sql` cannot check whether a table has rows, so it always builds the indexes. On a table with rows, this
blocks writes until the index is built: run the migration without `--sql` if a table has rows.

Revision ID: 0003
Revises: 0002
Create Date: 2026-11-23
"""

from __future__ import annotations

import sqlalchemy as sa

from provider_trace_store.migrations import adoption, indexes

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Build the indexes of a table without rows; log the statements to run for a table with rows."""
    tables = _tables()
    adoption.align_collations(tables)
    for table in tables:
        indexes.add_indexes(table)


def downgrade() -> None:
    """Drop the indexes."""
    for table in _tables():
        indexes.drop_indexes(table)


def _tables() -> list[sa.Table]:
    return [
        _table(
            "provider_traces",
            sa.Index("ix_provider_traces_agent_id_created_at", "agent_id", "created_at"),
            sa.Index("ix_provider_traces_organization_id_created_at_id", "organization_id", "created_at", "id"),
            sa.Index("ix_provider_traces_run_id", "run_id"),
        ),
        _table(
            "provider_trace_metadata",
            sa.Index("ix_provider_trace_metadata_agent_id_created_at", "agent_id", "created_at"),
            sa.Index("ix_provider_trace_metadata_run_id", "run_id"),
        ),
    ]


def _table(name: str, *indexes: sa.Index) -> sa.Table:
    return sa.Table(
        name,
        sa.MetaData(),
        sa.Column("id", sa.String, nullable=False),
        sa.Column("agent_id", sa.String),
        sa.Column("run_id", sa.String),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("organization_id", sa.String, nullable=False),
        *indexes,
        schema=adoption.target_schema(),
    )
