"""schedules: named rules that enqueue jobs; schedule_ticks: what became of each tick

Revision ID: 0033
Revises: 0032
"""

from alembic import op

revision = "0033"
down_revision = "0032"

UPGRADE = """
CREATE TABLE schedules (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name text NOT NULL UNIQUE,
  owner text,
  created_by text,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  changed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  cron text,
  every_seconds double precision,
  zone text NOT NULL,
  jitter_seconds double precision NOT NULL,
  job_type text NOT NULL,
  payload jsonb NOT NULL,
  tick_member text,
  queue text NOT NULL,
  priority smallint,
  max_retries smallint,
  timeout_seconds double precision,
  concurrency_key text,
  overlap text NOT NULL
    CHECK (overlap IN ('skip', 'queue_one', 'queue_all', 'cancel_other', 'allow')),
  catch_up text NOT NULL CHECK (catch_up IN ('one', 'all', 'none')),
  catch_up_seconds double precision NOT NULL,
  pause_after_failures int,
  declared jsonb,
  pinned_by text,
  paused_at timestamptz,
  paused_by text,
  pause_reason text,
  last_tick_at timestamptz,
  next_tick_at timestamptz,
  due_at timestamptz,
  failures int NOT NULL DEFAULT 0,
  CHECK ((cron IS NULL) <> (every_seconds IS NULL)),
  CHECK (jsonb_typeof(payload) = 'object'),
  CHECK (paused_at IS NULL OR due_at IS NULL),
  CHECK (due_at IS NULL OR next_tick_at IS NOT NULL)
) WITH (fillfactor = 70);
CREATE INDEX schedules_due_at ON schedules (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX schedules_failing ON schedules (failures) WHERE failures > 0;
COMMENT ON TABLE schedules IS 'named rules that enqueue a job at each tick';
COMMENT ON COLUMN schedules.owner IS 'the service whose code defines it; null: made by hand';
COMMENT ON COLUMN schedules.tick_member IS 'the member of the payload that tells its jobs their tick';
COMMENT ON COLUMN schedules.declared IS 'what its code says, whatever was changed by hand since';
COMMENT ON COLUMN schedules.last_tick_at IS 'the last tick that was decided: it never goes back';
COMMENT ON COLUMN schedules.due_at IS 'when the next tick is acted on: with its jitter';
COMMENT ON COLUMN schedules.failures IS 'runs that failed since the last one that succeeded';

CREATE TABLE schedule_ticks (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  schedule_id bigint NOT NULL,
  schedule text NOT NULL,
  planned_at timestamptz NOT NULL,
  until timestamptz,
  ticks int NOT NULL DEFAULT 1,
  outcome text NOT NULL CHECK (outcome IN ('fired', 'skipped', 'missed', 'backfilled')),
  reason text,
  decided_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  job_id bigint,
  run_status text
);
CREATE INDEX schedule_ticks_schedule ON schedule_ticks (schedule_id, id);
CREATE INDEX schedule_ticks_job ON schedule_ticks (job_id) WHERE job_id IS NOT NULL;
CREATE INDEX schedule_ticks_decided_at ON schedule_ticks (decided_at);
CREATE INDEX schedule_ticks_open ON schedule_ticks (schedule_id, job_id)
  WHERE job_id IS NOT NULL AND run_status IS NULL;
COMMENT ON TABLE schedule_ticks IS
  'what became of each tick of a schedule, and why; also of schedules that are gone';
COMMENT ON COLUMN schedule_ticks.until IS 'the last of several ticks that were missed in a row';
COMMENT ON COLUMN schedule_ticks.run_status IS
  'how its job ended, GONE where it was deleted; null: it has not, or there is none';
"""


def upgrade() -> None:
    """Two new tables: the version before knows nothing of them."""
    op.execute(UPGRADE)


def downgrade() -> None:
    """Schedules are lost; the jobs that they have enqueued stay."""
    op.execute("DROP TABLE schedule_ticks, schedules")
