"""queues.key_rate_*: how many jobs of each concurrency key may start within a time

Revision ID: 0026
Revises: 0025
"""

from alembic import op

revision = "0026"
down_revision = "0025"

UPGRADE = """
ALTER TABLE queues
  ADD COLUMN IF NOT EXISTS key_rate_limit int CHECK (key_rate_limit > 0),
  ADD COLUMN IF NOT EXISTS key_rate_seconds float8 CHECK (key_rate_seconds > 0),
  ADD COLUMN IF NOT EXISTS key_rate_burst int CHECK (key_rate_burst > 0);
COMMENT ON COLUMN queues.key_rate_limit IS
  'jobs of each concurrency key that may start within key_rate_seconds';
COMMENT ON TABLE rate_limits IS
  'the rates that jobs have come under: rate:<queue>, rate:<queue>/<concurrency key>';
"""

# The rows of keys go with their rates: the version before would take them for rates of queues.
DOWNGRADE = """
UPDATE jobs_live SET next_run_at = COALESCE(held_due_at, now()), held_for = NULL, held_since = NULL,
  held_due_at = NULL
WHERE held_for LIKE 'rate:%/%';
DELETE FROM rate_limits WHERE key LIKE '%/%';
COMMENT ON TABLE rate_limits IS 'the rates that jobs have come under: rate:<queue>';
ALTER TABLE queues DROP COLUMN key_rate_limit, DROP COLUMN key_rate_seconds, DROP COLUMN key_rate_burst;
"""


def upgrade() -> None:
    """Workers of the version before start jobs without a look at the rates of keys."""
    op.execute(UPGRADE)


def downgrade() -> None:
    """What the rate of a key held is due again."""
    op.execute(DOWNGRADE)
