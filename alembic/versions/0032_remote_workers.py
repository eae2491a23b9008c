"""job_workers.owner, remote_claims: workers that claim over HTTP

Revision ID: 0032
Revises: 0031
"""

from alembic import op

revision = "0032"
down_revision = "0031"

UPGRADE = """
ALTER TABLE job_workers ADD COLUMN IF NOT EXISTS owner text;
ALTER TABLE job_workers ADD COLUMN IF NOT EXISTS policies jsonb;
ALTER TABLE job_workers ADD COLUMN IF NOT EXISTS drain_asked_at timestamptz;
COMMENT ON COLUMN job_workers.owner IS
  'who claims over HTTP under this name; NULL: a process of the service';
COMMENT ON COLUMN job_workers.policies IS
  'timeout_seconds, max_retries and backoff by job type, as a worker over HTTP registered them';
COMMENT ON COLUMN job_workers.drain_asked_at IS
  'when somebody asked a worker over HTTP to claim no more';

CREATE UNIQUE INDEX IF NOT EXISTS job_workers_of_owner ON job_workers (owner, name)
  WHERE owner IS NOT NULL;

CREATE TABLE IF NOT EXISTS remote_claims (
  worker_id bigint NOT NULL,
  request_id text NOT NULL,
  job_ids bigint[] NOT NULL, tokens bigint[] NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (worker_id, request_id)
);
CREATE INDEX IF NOT EXISTS remote_claims_created_at ON remote_claims (created_at);
COMMENT ON TABLE remote_claims IS
  'What claims over HTTP brought, so that a claim whose answer was lost can be asked for again';
"""

DOWNGRADE = """
DROP TABLE remote_claims;
DROP INDEX job_workers_of_owner;
ALTER TABLE job_workers DROP COLUMN owner, DROP COLUMN policies, DROP COLUMN drain_asked_at;
"""


def upgrade() -> None:
    """Columns that may be missing: workers of the version before leave them so."""
    op.execute(UPGRADE)


def downgrade() -> None:
    """Jobs that workers over HTTP have run again when their leases end."""
    op.execute(DOWNGRADE)
