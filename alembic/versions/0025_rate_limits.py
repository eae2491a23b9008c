"""rate_limits: when the next job under a rate may start

Revision ID: 0025
Revises: 0024
"""

from alembic import op

revision = "0025"
down_revision = "0024"

UPGRADE = """
CREATE TABLE IF NOT EXISTS rate_limits (
  key text PRIMARY KEY,
  queue text NOT NULL,
  next_at timestamptz NOT NULL DEFAULT to_timestamp(0)
) WITH (fillfactor = 50);
COMMENT ON TABLE rate_limits IS 'the rates that jobs have come under: rate:<queue>';
COMMENT ON COLUMN rate_limits.next_at IS
  'the time reserved for the next start; the further it is past, the more may start at once, up to the burst';
"""

DOWNGRADE = """
UPDATE jobs_live SET next_run_at = COALESCE(held_due_at, now()), held_for = NULL, held_since = NULL,
  held_due_at = NULL
WHERE held_for LIKE 'rate:%';
DROP TABLE rate_limits;
"""


def upgrade() -> None:
    """Workers of the version before start jobs without a look at rates."""
    op.execute(UPGRADE)


def downgrade() -> None:
    """What a rate held is due again."""
    op.execute(DOWNGRADE)
