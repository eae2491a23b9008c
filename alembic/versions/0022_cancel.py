"""cancel: who asked for a job's cancel, and what came of it

Revision ID: 0022
Revises: 0021
"""

from alembic import op

revision = "0022"
down_revision = "0021"

UPGRADE = """
ALTER TABLE background_jobs ADD COLUMN IF NOT EXISTS cancel jsonb;
COMMENT ON COLUMN background_jobs.cancel IS
  'requested_at, by, reason; at the end seen_at, ended_at, how; NULL: nobody asked for its cancel';
"""


def upgrade() -> None:
    """A column without a default: workers of the version before leave it out."""
    op.execute(UPGRADE)


def downgrade() -> None:
    """Running jobs whose cancel was asked for run on."""
    op.execute("ALTER TABLE background_jobs DROP COLUMN cancel")
