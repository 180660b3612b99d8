"""Index what the reads of many traces walk along: tenant and date, run, agent.

`(organization_id, created_at, id)` of provider_traces, as provider_trace_metadata has it; `(run_id)` and
`(agent_id, created_at)` of both. What each costs in bytes and in writes is in docs/scale.md.

What it locks, and for how long:

- Table without rows: SHARE, while the empty index is made. Milliseconds.
- provider_trace_metadata without rows, whose ids have another collation than those of an adopted provider_traces:
  ACCESS EXCLUSIVE, while it is changed. With rows, the upgrade stops and says what to run.
- Table with rows: no lock beyond that of a SELECT, and no index is built. The log has the statements to run, with
  CONCURRENTLY and outside of a transaction; until then, pages of that table are slow. An index of the same columns
  under another name counts.

Downgrade drops the indexes of these names, under ACCESS EXCLUSIVE of their tables for milliseconds.

The script of `--sql` cannot look whether there are rows: it builds the indexes, which blocks writes to a table with
rows while it lasts. Migrate online where there are any.

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
    """Build the indexes where there are no rows; say what to run where there are."""
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
        sa.Column("id", sa.String),
        sa.Column("agent_id", sa.String),
        sa.Column("run_id", sa.String),
        sa.Column("created_at", sa.DateTime(timezone=True)),
        sa.Column("organization_id", sa.String),
        *indexes,
        schema=adoption.target_schema(),
    )
