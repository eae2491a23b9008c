"""background_jobs, its partitions, statistics, workers and idempotency keys

Revision ID: 0001
Revises:
"""

from alembic import op

revision = "0001"
down_revision = None

UPGRADE = """
CREATE SEQUENCE background_job_ids;
CREATE SEQUENCE background_job_lease_tokens;

CREATE TABLE background_jobs (
  id bigint NOT NULL DEFAULT nextval('background_job_ids'),
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  next_run_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  started_at timestamptz,
  finished_at timestamptz,
  lease_until timestamptz,
  lease_token bigint,
  worker_id bigint,
  timeout_seconds double precision,
  priority smallint NOT NULL DEFAULT 2,
  attempts smallint NOT NULL DEFAULT 0,
  max_retries smallint,
  lost_leases smallint NOT NULL DEFAULT 0,
  queue text NOT NULL DEFAULT 'default',
  job_type text NOT NULL,
  status text NOT NULL DEFAULT 'PENDING',
  unique_key text,
  last_error text,
  payload jsonb NOT NULL DEFAULT '{}',
  result jsonb,
  progress jsonb,
  backoff jsonb,
  errors jsonb
) PARTITION BY LIST (status);

COMMENT ON TABLE background_jobs IS
  'Every job. Query it freely; enqueue with INSERT (job_type, payload, …); leave status to the service.';
COMMENT ON COLUMN background_jobs.max_retries IS 'NULL: what the worker''s handler says, else the default';
COMMENT ON COLUMN background_jobs.timeout_seconds IS 'NULL: what the worker''s handler says, else the default';
COMMENT ON COLUMN background_jobs.errors IS 'history of failed attempts and manual retries, oldest first';

CREATE TABLE jobs_live PARTITION OF background_jobs FOR VALUES IN ('PENDING', 'RUNNING')
  WITH (fillfactor = 40, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
        autovacuum_vacuum_insert_threshold = -1, autovacuum_vacuum_cost_delay = 0,
        autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 20000);
ALTER TABLE jobs_live ADD CONSTRAINT jobs_live_pkey PRIMARY KEY (id);
-- For those who INSERT by SQL. On this leaf alone: what leaves it has been checked. No regular
-- expressions: every claim checks them all again.
ALTER TABLE jobs_live
  ADD CHECK (timeout_seconds > 0), ADD CHECK (priority BETWEEN 0 AND 9),
  ADD CHECK (max_retries BETWEEN 0 AND 1000),
  ADD CHECK (octet_length(queue) BETWEEN 1 AND 100),
  ADD CHECK (octet_length(job_type) BETWEEN 1 AND 100),
  ADD CHECK (octet_length(unique_key) BETWEEN 1 AND 1020);
CREATE INDEX jobs_live_claim ON jobs_live (queue, priority, next_run_at, id);
CREATE UNIQUE INDEX jobs_live_unique_key ON jobs_live (unique_key) WHERE unique_key IS NOT NULL;

CREATE TABLE jobs_dead PARTITION OF background_jobs FOR VALUES IN ('DEAD_LETTER', 'FAILED');
ALTER TABLE jobs_dead ADD CONSTRAINT jobs_dead_pkey PRIMARY KEY (id);
CREATE INDEX jobs_dead_status ON jobs_dead (status, id);
CREATE INDEX jobs_dead_due ON jobs_dead (status, next_run_at);
CREATE INDEX jobs_dead_job_type ON jobs_dead (job_type, id);
CREATE INDEX jobs_dead_queue ON jobs_dead (queue, id);
CREATE INDEX jobs_dead_created_at ON jobs_dead (created_at);
CREATE INDEX jobs_dead_finished_at ON jobs_dead (finished_at);
CREATE INDEX jobs_dead_unique_key ON jobs_dead (unique_key, id) WHERE unique_key IS NOT NULL;

CREATE TABLE jobs_done PARTITION OF background_jobs FOR VALUES IN ('SUCCESS', 'CANCELLED')
  PARTITION BY RANGE (finished_at);
CREATE INDEX jobs_done_job_type ON jobs_done (job_type, id);
CREATE INDEX jobs_done_queue ON jobs_done (queue, id);
CREATE INDEX jobs_done_times ON jobs_done USING brin (created_at, next_run_at)
  WITH (pages_per_range = 32, autosummarize = on);
CREATE INDEX jobs_done_cancelled ON jobs_done (id) WHERE status = 'CANCELLED';
CREATE INDEX jobs_done_error ON jobs_done (id) WHERE last_error IS NOT NULL;
CREATE INDEX jobs_done_unique_key ON jobs_done (unique_key, id) WHERE unique_key IS NOT NULL;
CREATE TABLE jobs_done_default PARTITION OF jobs_done DEFAULT;
ALTER TABLE jobs_done_default ADD CONSTRAINT jobs_done_default_pkey PRIMARY KEY (id);

-- Append-only deltas, folded by the maintenance leader: what the finished partitions hold.
CREATE TABLE job_stats (
  queue text NOT NULL, job_type text NOT NULL, status text NOT NULL,
  day date NOT NULL,
  jobs bigint NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
COMMENT ON COLUMN job_stats.day IS 'UTC day of finished_at: dropping a day of jobs drops its counts';

CREATE TABLE job_workers (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name text NOT NULL,
  queues text[] NOT NULL, job_types text[] NOT NULL,
  concurrency integer NOT NULL,
  started_at timestamptz NOT NULL DEFAULT now(),
  seen_at timestamptz NOT NULL DEFAULT now(),
  stopped_at timestamptz
);

CREATE TABLE idempotency_keys (
  key text NOT NULL, owner text NOT NULL, body_hash bytea NOT NULL, job_ids bigint[] NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (owner, key)
);
CREATE INDEX idempotency_keys_created_at ON idempotency_keys (created_at);
"""

DOWNGRADE = """
DROP TABLE idempotency_keys, job_workers, job_stats, background_jobs;
DROP SEQUENCE background_job_ids, background_job_lease_tokens;
"""


def upgrade() -> None:
    """The first schema; later ones must be compatible with the version before them."""
    op.execute(UPGRADE)


def downgrade() -> None:
    """Drops every job."""
    op.execute(DOWNGRADE)
