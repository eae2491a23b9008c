"""operations: what is done to many jobs at once, and how far it is

Revision ID: 0019
Revises: 0018
"""

from alembic import op

revision = "0019"
down_revision = "0018"

UPGRADE = """
CREATE TABLE operations (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  action text NOT NULL,
  parameters jsonb NOT NULL,
  filter jsonb NOT NULL,
  state text NOT NULL DEFAULT 'running'
    CHECK (state IN ('running', 'paused', 'stopped', 'cancelled', 'done')),
  note text,
  job_id bigint,
  started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  finished_at timestamptz,
  before_id bigint NOT NULL,
  expected bigint NOT NULL,
  expected_exact boolean NOT NULL,
  changed bigint NOT NULL DEFAULT 0,
  skipped jsonb NOT NULL DEFAULT '{}',
  rate double precision,
  canary jsonb,
  canary_ids bigint[] NOT NULL DEFAULT '{}',
  canary_until timestamptz,
  canary_passed boolean NOT NULL DEFAULT false,
  actor text NOT NULL,
  reason text,
  idempotency_key text,
  request_hash bytea
);
CREATE UNIQUE INDEX operations_idempotency_key ON operations (actor, idempotency_key)
  WHERE idempotency_key IS NOT NULL;
CREATE INDEX operations_finished_at ON operations (finished_at);
CREATE INDEX operations_unfinished ON operations (id) WHERE finished_at IS NULL;
COMMENT ON TABLE operations IS 'bulk actions of operators; each is carried out by a job of the service';
COMMENT ON COLUMN operations.filter IS 'names and values of the query of the list, times fixed at the start';
COMMENT ON COLUMN operations.before_id IS 'only jobs below this id are still to be looked at; it never rises';
COMMENT ON COLUMN operations.skipped IS 'how many jobs were skipped, by reason';

CREATE TABLE operation_skips (
  operation_id bigint NOT NULL REFERENCES operations ON DELETE CASCADE,
  job_id bigint NOT NULL,
  reason text NOT NULL,
  detail text NOT NULL,
  PRIMARY KEY (operation_id, job_id)
);
COMMENT ON TABLE operation_skips IS 'the first jobs that an operation skipped, and why';
"""


def upgrade() -> None:
    """Two new tables: the version before knows nothing of them."""
    op.execute(UPGRADE)


def downgrade() -> None:
    """What operations did stays done; those under way stop where they are."""
    op.execute("DROP TABLE operation_skips, operations")
