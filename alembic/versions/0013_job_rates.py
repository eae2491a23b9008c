"""job_rate_deltas, job_rates: what ended when, with histograms of start delay and run time

Revision ID: 0013
Revises: 0012
"""

from alembic import op

revision = "0013"
down_revision = "0012"

UPGRADE = """
-- Appended to by each settle, and emptied by the leader every few seconds.
CREATE TABLE job_rate_deltas (
  at timestamptz NOT NULL DEFAULT now(),
  jobs bigint NOT NULL,
  queue text NOT NULL, job_type text NOT NULL, outcome text NOT NULL,
  timings smallint[]
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
COMMENT ON TABLE job_rate_deltas IS 'attempts that ended lately, not in job_rates yet';
COMMENT ON COLUMN job_rate_deltas.timings IS
  'of each attempt that ran 128 * bucket of its start delay + bucket of its run time (service/jobs/core/histogram.py)';

CREATE TABLE job_rates (
  at timestamptz NOT NULL,
  jobs bigint NOT NULL,
  step text NOT NULL CHECK (step IN ('minute', 'hour', 'day')),
  scope text NOT NULL CHECK (scope IN ('total', 'queue', 'pair')),
  queue text NOT NULL, job_type text NOT NULL, outcome text NOT NULL,
  delays jsonb NOT NULL, runs jsonb NOT NULL,
  PRIMARY KEY (step, scope, at, queue, job_type, outcome)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);
COMMENT ON TABLE job_rates IS
  'attempts that ended in each UTC minute, hour and day, by outcome: in total, by queue, by queue and job type';
COMMENT ON COLUMN job_rates.queue IS 'empty in a total; in a pair, empty for the rest beyond COUNTED_PAIRS';
COMMENT ON COLUMN job_rates.delays IS
  'start delays: how many attempts by bucket (service/jobs/core/histogram.py)';
COMMENT ON COLUMN job_rates.runs IS 'run times: how many attempts by bucket';
"""


def upgrade() -> None:
    """New tables: workers of the version before write nothing to them, and their jobs are not counted."""
    op.execute(UPGRADE)


def downgrade() -> None:
    """The counts are forgotten."""
    op.execute("DROP TABLE job_rate_deltas, job_rates")
