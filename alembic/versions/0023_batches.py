"""batches; background_jobs.batch_id: jobs that are counted together

Revision ID: 0023
Revises: 0022
"""

from alembic import op

revision = "0023"
down_revision = "0022"

UPGRADE = """
ALTER TABLE background_jobs ADD COLUMN IF NOT EXISTS batch_id bigint;
COMMENT ON COLUMN background_jobs.batch_id IS 'the batch that it is a member of; for the service to set';

CREATE TABLE IF NOT EXISTS batches (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name text NOT NULL,
  on_complete jsonb,
  on_failure jsonb,
  created_by text,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  closed_at timestamptz,
  cancelled_at timestamptz,
  cancelled_by text,
  completed_at timestamptz,
  complete_job_id bigint,
  failure_job_id bigint,
  jobs bigint NOT NULL DEFAULT 0,
  succeeded bigint NOT NULL DEFAULT 0,
  failed bigint NOT NULL DEFAULT 0,
  dead_lettered bigint NOT NULL DEFAULT 0,
  cancelled bigint NOT NULL DEFAULT 0,
  deleted bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
CREATE INDEX IF NOT EXISTS batches_open ON batches (id) WHERE completed_at IS NULL;
COMMENT ON TABLE batches IS 'named sets of jobs, with a job that is enqueued once all have ended';
COMMENT ON COLUMN batches.jobs IS
  'members so far; this and the counts lag behind by what job_endings holds of the batch';

ALTER TABLE job_endings ALTER job_id DROP NOT NULL,
  ADD COLUMN IF NOT EXISTS batch_id bigint, ADD COLUMN IF NOT EXISTS jobs int NOT NULL DEFAULT 1;
CREATE INDEX IF NOT EXISTS job_endings_batch ON job_endings (batch_id) WHERE batch_id IS NOT NULL;
COMMENT ON COLUMN job_endings.batch_id IS
  'the batch whose counts it changes: of status by jobs, ADDED for new members';
"""

INDEXES = ("jobs_live", "jobs_dead")

DOWNGRADE = """
DELETE FROM job_endings WHERE job_id IS NULL;
ALTER TABLE job_endings ALTER job_id SET NOT NULL, DROP COLUMN batch_id, DROP COLUMN jobs;
DROP TABLE batches;
ALTER TABLE background_jobs DROP COLUMN batch_id;
"""


def upgrade() -> None:
    """A column without a default, and a new table: the version before leaves them alone."""
    op.execute(UPGRADE)
    with op.get_context().autocommit_block():
        for table in INDEXES:
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {table}_batch")
            op.execute(
                f"CREATE INDEX CONCURRENTLY {table}_batch ON {table} (batch_id)"
                " WHERE batch_id IS NOT NULL"
            )


def downgrade() -> None:
    """Members stay, as jobs like any other; the indexes go with the column."""
    op.execute(DOWNGRADE)
