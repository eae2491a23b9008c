"""enqueued_by, and what one caller may use: who enqueued a job, keys with limits, quotas

Revision ID: 0007
Revises: 0006
"""

from alembic import op

revision = "0007"
down_revision = "0006"

UPGRADE = """
ALTER TABLE background_jobs ADD COLUMN IF NOT EXISTS enqueued_by text;
COMMENT ON COLUMN background_jobs.enqueued_by IS
  'the caller of the REST API that enqueued it; NULL: enqueued by SQL or Python, or before this column';

ALTER TABLE idempotency_keys ADD COLUMN IF NOT EXISTS request_hash bytea;
COMMENT ON COLUMN idempotency_keys.request_hash IS
  'SHA-256 of body_hash and the JSON that the client sent; NULL: kept by a version that hashed its model';

ALTER TABLE api_keys ADD COLUMN IF NOT EXISTS queues text[], ADD COLUMN IF NOT EXISTS job_types text[],
  ADD COLUMN IF NOT EXISTS priorities smallint[];
COMMENT ON COLUMN api_keys.queues IS 'the only queues that the key may use; NULL: any';

CREATE TABLE IF NOT EXISTS caller_usage (
  caller text NOT NULL, what text NOT NULL, since timestamptz NOT NULL,
  used bigint NOT NULL,
  PRIMARY KEY (caller, what, since)
);
COMMENT ON TABLE caller_usage IS 'what each caller has used of its quotas in the window that begins at since';
CREATE INDEX IF NOT EXISTS caller_usage_since ON caller_usage (since);

CREATE TABLE IF NOT EXISTS job_names (
  kind text NOT NULL CHECK (kind IN ('queue', 'job_type')), name text NOT NULL,
  seen_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (kind, name)
);
COMMENT ON TABLE job_names IS 'queues and job types that callers of the REST API have used';
CREATE INDEX IF NOT EXISTS job_names_seen_at ON job_names (seen_at);
INSERT INTO job_names (kind, name)
  SELECT DISTINCT 'queue', queue FROM job_stats UNION SELECT DISTINCT 'job_type', job_type FROM job_stats
  ON CONFLICT DO NOTHING;
"""

DOWNGRADE = """
DROP TABLE job_names, caller_usage;
ALTER TABLE api_keys DROP COLUMN queues, DROP COLUMN job_types, DROP COLUMN priorities;
ALTER TABLE idempotency_keys DROP COLUMN request_hash;
ALTER TABLE background_jobs DROP COLUMN enqueued_by;
"""


def upgrade() -> None:
    """New columns without defaults: old workers neither write nor read them.

    A job that an old worker moves on counts as everybody's from then on.
    """
    op.execute(UPGRADE)


def downgrade() -> None:
    """Every job is everybody's again, and every key may use every queue."""
    op.execute(DOWNGRADE)
