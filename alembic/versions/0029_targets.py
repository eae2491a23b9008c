"""targets: where http.request jobs are sent, and their breakers

Revision ID: 0029
Revises: 0028
"""

from alembic import op

revision = "0029"
down_revision = "0028"

UPGRADE = """
CREATE TABLE IF NOT EXISTS targets (
  name text PRIMARY KEY CHECK (length(name) BETWEEN 1 AND 300),
  opened_at timestamptz,
  retry_at timestamptz,
  openings integer NOT NULL DEFAULT 0,
  probe_until timestamptz,
  released_at timestamptz,
  last_error text,
  last_failure_at timestamptz,
  last_success_at timestamptz,
  succeeded bigint NOT NULL DEFAULT 0,
  failed bigint NOT NULL DEFAULT 0,
  used_at timestamptz NOT NULL DEFAULT now(),
  CHECK ((opened_at IS NULL) = (retry_at IS NULL))
);
COMMENT ON TABLE targets IS 'hosts and ports that http.request jobs were sent to, and their breakers';
COMMENT ON COLUMN targets.opened_at IS 'since when it is left alone; NULL: its breaker is closed';
COMMENT ON COLUMN targets.retry_at IS 'when the next request may try it';
COMMENT ON COLUMN targets.openings IS 'how often it was tried in vain since opened_at: the pauses grow with it';
COMMENT ON COLUMN targets.probe_until IS 'until when a request that tries it is waited for';
COMMENT ON COLUMN targets.released_at IS 'when a held job was last let go to try it';
CREATE INDEX IF NOT EXISTS targets_open ON targets (name) WHERE opened_at IS NOT NULL;
"""

DOWNGRADE = """
UPDATE jobs_live SET next_run_at = COALESCE(held_due_at, now()), held_for = NULL, held_since = NULL,
  held_due_at = NULL
WHERE held_for LIKE 'breaker:%';
DROP TABLE targets;
"""


def upgrade() -> None:
    """Workers of the version before know no targets; what is held for one, others let go."""
    op.execute(UPGRADE)


def downgrade() -> None:
    """What a breaker held is due again."""
    op.execute(DOWNGRADE)
