"""served_types: which types a worker has served lately

Revision ID: 0009
Revises: 0008
"""

from alembic import op

revision = "0009"
down_revision = "0008"

UPGRADE = """
CREATE TABLE IF NOT EXISTS served_types (
  job_type text PRIMARY KEY,
  served_at timestamptz NOT NULL
);
COMMENT ON TABLE served_types IS
  'job types and when a worker served them last, to the hour: their jobs wait while no worker does';
"""


def upgrade() -> None:
    """A new table: leaders of the version before do not know it, and fail what no worker serves."""
    op.execute(UPGRADE)


def downgrade() -> None:
    """What was served is forgotten."""
    op.execute("DROP TABLE served_types")
