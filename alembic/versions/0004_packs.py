"""Create provider_trace_packs, empty, and add the column pack_id to provider_trace_metadata.

What it locks, and for how long:

- provider_trace_packs is created, or adopted if an earlier migration of this package has created it: no lock on any
  other table. No trace is packed: `provider-trace-store pack` does that.
- provider_trace_metadata: ACCESS EXCLUSIVE, for milliseconds, whatever the table's size, because only the catalogue
  changes and no row is rewritten. What happens while the migration waits for this lock, and what to do after a timeout,
  is described in 0001.

Downgrade drops the table and the column, under ACCESS EXCLUSIVE, for milliseconds. It drops a table with rows only with
`-x drop-data=yes`: run `provider-trace-store unpack` before it, which returns the traces to provider_traces.

Revision ID: 0004
Revises: 0003
Create Date: 2026-11-26
"""

from __future__ import annotations

import sqlalchemy as sa

from provider_trace_store.database.names import quoted, without_parameters
from provider_trace_store.migrations import adoption
from provider_trace_store.migrations.operations import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create or adopt the table, and add the column."""
    schema = adoption.target_schema()
    adoption.create_or_adopt(
        sa.Table(
            "provider_trace_packs",
            sa.MetaData(),
            sa.Column("id", sa.Uuid, primary_key=True),
            sa.Column("organization_id", sa.String, nullable=False),
            sa.Column("agent_id", sa.String),
            sa.Column("first_created_at", sa.DateTime(timezone=True), nullable=False),
            sa.Column("last_created_at", sa.DateTime(timezone=True), nullable=False),
            sa.Column("traces", sa.Integer, nullable=False),
            sa.Column("raw_bytes", sa.BigInteger, nullable=False),
            sa.Column("directory", sa.LargeBinary, nullable=False),
            sa.Column("data", sa.LargeBinary, nullable=False),
            sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
            schema=schema,
        )
    )
    dialect = op.get_context().dialect
    if dialect.name == "postgresql":
        # A part of a value is read without the rest only if the server does not compress it.
        name = quoted(dialect, schema, "provider_trace_packs")
        storage = "ALTER COLUMN directory SET STORAGE EXTERNAL, ALTER COLUMN data SET STORAGE EXTERNAL"
        op.execute(without_parameters(f"ALTER TABLE {name} {storage}"))
    pack_id = sa.Column("pack_id", sa.Uuid)
    adoption.add_columns(sa.Table("provider_trace_metadata", sa.MetaData(), pack_id, schema=schema))


def downgrade() -> None:
    """Drop the table and the column."""
    adoption.drop("provider_trace_packs")
    adoption.drop_column("provider_trace_metadata", "pack_id")
