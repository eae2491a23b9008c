"""queues: what an operator set for a queue; only its pause for now

Revision ID: 0015
Revises: 0014
"""

from alembic import op

revision = "0015"
down_revision = "0014"

UPGRADE = """
CREATE TABLE IF NOT EXISTS queues (
  name text PRIMARY KEY CHECK (octet_length(name) BETWEEN 1 AND 100),
  paused_at timestamptz,
  paused_by text,
  pause_reason text
);
COMMENT ON TABLE queues IS
  'what an operator set for a queue; one without a row has no restriction. Read by every worker, once a second';
"""


def upgrade() -> None:
    """A new table: workers of the version before do not know it, and run jobs of paused queues."""
    op.execute(UPGRADE)


def downgrade() -> None:
    """Every queue goes on."""
    op.execute("DROP TABLE queues")
