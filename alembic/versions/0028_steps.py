"""job_steps, job_events: parts of handlers that are not repeated, and what handlers wait for

Revision ID: 0028
Revises: 0027
"""

from alembic import op

revision = "0028"
down_revision = "0027"

UPGRADE = """
CREATE TABLE job_steps (
  job_id bigint NOT NULL,
  name text NOT NULL,
  kind text NOT NULL CHECK (kind IN ('call', 'sleep', 'event')),
  attempt integer NOT NULL,
  lease_token bigint NOT NULL,
  started_at timestamptz NOT NULL,
  wait_until timestamptz,
  finished_at timestamptz,
  timed_out boolean NOT NULL DEFAULT false,
  result json,
  PRIMARY KEY (job_id, name)
);
COMMENT ON TABLE job_steps IS 'steps of jobs that are done, or wait (ctx.step, ctx.sleep, ctx.wait_for_event)';
COMMENT ON COLUMN job_steps.lease_token IS 'of the claim that wrote it';
COMMENT ON COLUMN job_steps.finished_at IS 'NULL: the job waits for its time, or for its event';
COMMENT ON COLUMN job_steps.result IS 'json and not jsonb: a replay gets each key and number as they were';
COMMENT ON COLUMN job_steps.timed_out IS 'whether the time was over before the event came';

CREATE TABLE job_events (
  job_id bigint NOT NULL,
  name text NOT NULL,
  data json,
  sent_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  sent_by text,
  PRIMARY KEY (job_id, name)
);
COMMENT ON TABLE job_events IS 'what was sent to jobs, whether or not they wait for it: of each name the first';
"""


def upgrade() -> None:
    """New tables: the version before runs no handler that has steps."""
    op.execute(UPGRADE)


def downgrade() -> None:
    """The results are lost: such jobs begin again."""
    op.execute("DROP TABLE job_steps, job_events")
