"""has_children; job_dependencies, job_endings: jobs that wait for other jobs

Revision ID: 0021
Revises: 0020
"""

from alembic import op

revision = "0021"
down_revision = "0020"

UPGRADE = """
ALTER TABLE background_jobs ADD COLUMN IF NOT EXISTS has_children boolean;
COMMENT ON COLUMN background_jobs.has_children IS
  'whether its end is told in job_endings, since other jobs wait for it';

CREATE TABLE IF NOT EXISTS job_dependencies (
  parent_id bigint NOT NULL,
  child_id bigint NOT NULL,
  on_parent_failure text NOT NULL CHECK (on_parent_failure IN ('cancel', 'run', 'hold')),
  outcome text,
  met boolean NOT NULL DEFAULT false,
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (parent_id, child_id)
);
CREATE INDEX IF NOT EXISTS job_dependencies_child ON job_dependencies (child_id, parent_id);
CREATE INDEX IF NOT EXISTS job_dependencies_unmet ON job_dependencies (child_id, parent_id)
  WHERE NOT met;
COMMENT ON TABLE job_dependencies IS 'which jobs run after which';
COMMENT ON COLUMN job_dependencies.outcome IS
  'the status in which the parent ended, DELETED if it was deleted; NULL: not known yet';
COMMENT ON COLUMN job_dependencies.met IS 'whether the child may run as far as this parent is concerned';

CREATE TABLE IF NOT EXISTS job_endings (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  job_id bigint NOT NULL,
  status text,
  taken_at timestamptz
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02);
COMMENT ON TABLE job_endings IS
  'ends of jobs that others wait for, until somebody has acted on them';
COMMENT ON COLUMN job_endings.status IS
  'the status in which the job ended, DELETED if it was deleted; NULL: look whether it has ended';
COMMENT ON COLUMN job_endings.taken_at IS 'when somebody began to act on it';
"""

DOWNGRADE = """
UPDATE jobs_live SET held_for = NULL, held_since = NULL, held_due_at = NULL,
  next_run_at = COALESCE(held_due_at, clock_timestamp()) WHERE held_for = 'after';
DROP TABLE job_dependencies, job_endings;
ALTER TABLE background_jobs DROP COLUMN has_children;
"""


def upgrade() -> None:
    """A column without a default, and new tables: the version before leaves them alone.

    While it runs beside this one it ends parents without a word; see docs/dependencies.md.
    """
    op.execute(UPGRADE)


def downgrade() -> None:
    """Children that wait for their parents become due: nothing would ever let them go."""
    op.execute(DOWNGRADE)
