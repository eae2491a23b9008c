"""callback, result_ttl_seconds: what is owed for a job that has ended

Revision ID: 0034
Revises: 0033
"""

from alembic import op

revision = "0034"
down_revision = "0033"

UPGRADE = """
ALTER TABLE background_jobs ADD COLUMN IF NOT EXISTS callback jsonb,
  ADD COLUMN IF NOT EXISTS result_ttl_seconds double precision;
COMMENT ON COLUMN background_jobs.callback IS 'url: where to tell of its end; NULL: nowhere';
COMMENT ON COLUMN background_jobs.result_ttl_seconds IS
  'how long after its end its result is kept; NULL: as long as the job';

ALTER TABLE job_endings ADD COLUMN IF NOT EXISTS owed_by bigint;
COMMENT ON COLUMN job_endings.owed_by IS
  'the job, while its callback is not enqueued or the time of its result not noted';

CREATE TABLE result_drops (
  job_id bigint PRIMARY KEY,
  drop_at timestamptz NOT NULL
);
CREATE INDEX result_drops_at ON result_drops (drop_at);
COMMENT ON TABLE result_drops IS 'when the results of jobs are dropped that are kept shorter than the jobs';
"""

DOWNGRADE = """
DROP TABLE result_drops;
ALTER TABLE job_endings DROP COLUMN owed_by;
ALTER TABLE background_jobs DROP COLUMN callback, DROP COLUMN result_ttl_seconds;
"""


def upgrade() -> None:
    """Columns without a default: the version before leaves them out, and owes nothing for the ends that it records."""
    op.execute(UPGRADE)


def downgrade() -> None:
    """Results stay as long as their jobs, and callbacks that are not enqueued are lost."""
    op.execute(DOWNGRADE)
