"""unique_until_start; unique_windows

Revision ID: 0024
Revises: 0023
"""

from alembic import op

revision = "0024"
down_revision = "0023"

UPGRADE = """
ALTER TABLE background_jobs ADD COLUMN IF NOT EXISTS unique_until_start text;
COMMENT ON COLUMN background_jobs.unique_until_start IS
  'the unique_key of a job that has it until it starts: the worker clears unique_key then';

CREATE TABLE IF NOT EXISTS unique_windows (
  key text PRIMARY KEY,
  job_id bigint NOT NULL,
  created_at timestamptz NOT NULL,
  next_run_at timestamptz NOT NULL,
  enqueued_by text,
  until timestamptz NOT NULL
) WITH (fillfactor = 50);
CREATE INDEX IF NOT EXISTS unique_windows_until ON unique_windows (until);
COMMENT ON TABLE unique_windows IS
  'keys that are held for some time, even after their job has ended (unique_for_seconds)';
"""

DOWNGRADE = """
DROP TABLE unique_windows;
ALTER TABLE background_jobs DROP COLUMN unique_until_start;
"""


def upgrade() -> None:
    """Workers of the version before keep such a key until the job has ended."""
    op.execute(UPGRADE)
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS jobs_live_unique_until_start")
        op.execute(
            "CREATE INDEX CONCURRENTLY jobs_live_unique_until_start ON jobs_live"
            " (unique_until_start) WHERE unique_until_start IS NOT NULL"
        )


def downgrade() -> None:
    """Jobs that wait for another one with their key are due again; windows are forgotten."""
    op.execute(
        "UPDATE jobs_live SET next_run_at = held_due_at, held_for = NULL, held_since = NULL,"
        " held_due_at = NULL WHERE held_for = 'unique'"
    )
    op.execute(DOWNGRADE)
