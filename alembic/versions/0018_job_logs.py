"""job_logs: what handlers log about their jobs

Revision ID: 0018
Revises: 0017
"""

from alembic import op

revision = "0018"
down_revision = "0017"

UPGRADE = """
CREATE TABLE job_logs (
  job_id bigint NOT NULL,
  lease_token bigint NOT NULL,
  line integer NOT NULL,
  attempt integer NOT NULL,
  at timestamptz NOT NULL,
  level text NOT NULL,
  message text NOT NULL,
  fields json,
  PRIMARY KEY (job_id, lease_token, line)
);
CREATE INDEX job_logs_at ON job_logs (at);
COMMENT ON TABLE job_logs IS 'lines that handlers logged about their jobs (ctx.log)';
COMMENT ON COLUMN job_logs.lease_token IS 'of the attempt: grows with every claim, where attempt begins again after a retry by hand';
COMMENT ON COLUMN job_logs.fields IS 'json and not jsonb, which writes 1e308 as 309 digits';
"""


def upgrade() -> None:
    """A new table: the version before logs nothing into it."""
    op.execute(UPGRADE)


def downgrade() -> None:
    """The lines are lost."""
    op.execute("DROP TABLE job_logs")
