"""concurrency_key, permits, held_for; job_permits; what an operator sets for a queue

Revision ID: 0020
Revises: 0019
"""

from alembic import op

revision = "0020"
down_revision = "0019"

# A held job is due at infinity: no claim reaches it, of the version before neither, and the claim index
# stays as it is.
UPGRADE = """
ALTER TABLE background_jobs
  ADD COLUMN IF NOT EXISTS concurrency_key text,
  ADD COLUMN IF NOT EXISTS permits text[],
  ADD COLUMN IF NOT EXISTS held_for text,
  ADD COLUMN IF NOT EXISTS held_since timestamptz,
  ADD COLUMN IF NOT EXISTS held_due_at timestamptz;
COMMENT ON COLUMN background_jobs.concurrency_key IS
  'jobs with the same key share a limit on how many of them run at once';
COMMENT ON COLUMN background_jobs.permits IS
  'the limits that a RUNNING job counts under, by their keys in job_permits; NULL: none';
COMMENT ON COLUMN background_jobs.held_for IS
  'what a PENDING job waits for besides a worker, the key of a limit for one; next_run_at is infinity meanwhile';
COMMENT ON COLUMN background_jobs.held_due_at IS 'when a held job was due';

CREATE TABLE IF NOT EXISTS job_permits (
  key text PRIMARY KEY,
  max_running int,
  running int NOT NULL DEFAULT 0,
  used_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);
COMMENT ON TABLE job_permits IS
  'how many jobs run under each limit: key:<concurrency key>, queue:<name>';
COMMENT ON COLUMN job_permits.max_running IS 'the limit when it was last asked for';

ALTER TABLE queues
  ADD COLUMN IF NOT EXISTS max_running int CHECK (max_running >= 0),
  ADD COLUMN IF NOT EXISTS max_running_per_key int CHECK (max_running_per_key >= 0),
  ADD COLUMN IF NOT EXISTS rate_limit int CHECK (rate_limit > 0),
  ADD COLUMN IF NOT EXISTS rate_seconds float8 CHECK (rate_seconds > 0),
  ADD COLUMN IF NOT EXISTS rate_burst int CHECK (rate_burst > 0),
  ADD COLUMN IF NOT EXISTS weight int CHECK (weight > 0),
  ADD COLUMN IF NOT EXISTS key_fairness boolean NOT NULL DEFAULT false,
  ADD COLUMN IF NOT EXISTS at_limit text NOT NULL DEFAULT 'wait',
  ADD COLUMN IF NOT EXISTS changed_at timestamptz,
  ADD COLUMN IF NOT EXISTS changed_by text;
COMMENT ON COLUMN queues.max_running IS 'jobs of the queue that may run at once, over all processes';
COMMENT ON COLUMN queues.max_running_per_key IS 'the same for each concurrency key';
COMMENT ON COLUMN queues.rate_limit IS 'jobs that may start within rate_seconds';
"""

DOWNGRADE = """
UPDATE jobs_live SET next_run_at = held_due_at WHERE held_for IS NOT NULL AND held_due_at IS NOT NULL;
DELETE FROM queues WHERE paused_at IS NULL;
ALTER TABLE queues DROP COLUMN max_running, DROP COLUMN max_running_per_key, DROP COLUMN rate_limit,
  DROP COLUMN rate_seconds, DROP COLUMN rate_burst, DROP COLUMN weight, DROP COLUMN key_fairness,
  DROP COLUMN at_limit, DROP COLUMN changed_at, DROP COLUMN changed_by;
DROP TABLE job_permits;
ALTER TABLE background_jobs DROP COLUMN concurrency_key, DROP COLUMN permits, DROP COLUMN held_for,
  DROP COLUMN held_since, DROP COLUMN held_due_at;
"""


def upgrade() -> None:
    """Workers of the version before run held jobs never, and others without a look at limits."""
    op.execute(UPGRADE)
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS jobs_live_held")
        op.execute(
            "CREATE INDEX CONCURRENTLY jobs_live_held ON jobs_live"
            " (held_for, priority, held_due_at, (id + 0)) WHERE held_for IS NOT NULL"
        )


def downgrade() -> None:
    """What was held is due again; limits are forgotten."""
    op.execute(DOWNGRADE)
