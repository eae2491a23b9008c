"""causes, cause_hours, cause_deltas: dead letters counted by their fingerprint

Revision ID: 0016
Revises: 0015
"""

from alembic import op

revision = "0016"
down_revision = "0015"

# Row triggers on the leaf: whatever brings a dead letter, takes it away or names its cause is counted,
# by whatever statement of whatever version. Triggers with transition tables fire only where the
# statement names the leaf, and those on the parent would gather the jobs that succeed as well.
UPGRADE = """
CREATE TABLE causes (
  fingerprint text PRIMARY KEY,
  number bigint GENERATED ALWAYS AS IDENTITY,
  job_type text,
  kind text, title text,
  is_overflow boolean NOT NULL DEFAULT false,
  jobs bigint NOT NULL, deaths bigint NOT NULL,
  first_seen timestamptz NOT NULL, last_seen timestamptz NOT NULL,
  workers text[] NOT NULL DEFAULT '{}',
  state text NOT NULL DEFAULT 'unresolved' CHECK (state IN ('unresolved', 'resolved', 'ignored')),
  regressed_at timestamptz,
  changed_at timestamptz, changed_by text, reason text,
  ignored_until timestamptz, ignored_deaths bigint
);
COMMENT ON TABLE causes IS 'dead letters with the same fingerprint, as the leader last counted them';
COMMENT ON COLUMN causes.job_type IS 'NULL: of many types, beyond the limit on causes in all';
COMMENT ON COLUMN causes.jobs IS 'dead letters that are in the table now';
COMMENT ON COLUMN causes.deaths IS 'how many there were, those retried and deleted since included';
COMMENT ON COLUMN causes.ignored_deaths IS 'the number of deaths at which it is unresolved again';

CREATE TABLE cause_hours (
  fingerprint text NOT NULL, hour timestamptz NOT NULL, deaths bigint NOT NULL,
  PRIMARY KEY (fingerprint, hour)
);
CREATE INDEX cause_hours_hour ON cause_hours (hour);
COMMENT ON TABLE cause_hours IS 'how many jobs died of each cause, by UTC hour';

CREATE TABLE cause_deltas (
  at timestamptz, worker_id bigint,
  jobs smallint NOT NULL, deaths smallint NOT NULL,
  fingerprint text NOT NULL, job_type text NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
COMMENT ON TABLE cause_deltas IS 'what came to the causes and left them lately, not in causes yet';

CREATE FUNCTION jobs_dead_count_causes() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $body$
BEGIN
  IF TG_OP = 'TRUNCATE' THEN
    DELETE FROM cause_deltas;
    UPDATE causes SET jobs = 0;
    RETURN NULL;
  END IF;
  IF TG_OP <> 'INSERT' AND OLD.fingerprint IS NOT NULL THEN
    INSERT INTO cause_deltas (at, jobs, deaths, fingerprint, job_type)
    VALUES (OLD.finished_at, -1, CASE TG_OP WHEN 'UPDATE' THEN -1 ELSE 0 END,
      left(OLD.fingerprint, 100), left(OLD.job_type, 100));
  END IF;
  IF TG_OP <> 'DELETE' AND NEW.fingerprint IS NOT NULL THEN
    INSERT INTO cause_deltas (at, worker_id, jobs, deaths, fingerprint, job_type)
    VALUES (NEW.finished_at, NEW.worker_id, 1, 1, left(NEW.fingerprint, 100), left(NEW.job_type, 100));
  END IF;
  RETURN NULL;
END $body$;
COMMENT ON FUNCTION jobs_dead_count_causes() IS
  'Counts a dead letter that came, left or was given another fingerprint; for the triggers of jobs_dead';
REVOKE ALL ON FUNCTION jobs_dead_count_causes() FROM PUBLIC;

DO $body$ BEGIN
  EXECUTE format('ALTER FUNCTION jobs_dead_count_causes() SET search_path = %I, pg_temp', current_schema());
END $body$;

CREATE TRIGGER causes_came AFTER INSERT ON jobs_dead FOR EACH ROW
  WHEN (NEW.fingerprint IS NOT NULL) EXECUTE FUNCTION jobs_dead_count_causes();
CREATE TRIGGER causes_left AFTER DELETE ON jobs_dead FOR EACH ROW
  WHEN (OLD.fingerprint IS NOT NULL) EXECUTE FUNCTION jobs_dead_count_causes();
CREATE TRIGGER causes_changed AFTER UPDATE OF fingerprint ON jobs_dead FOR EACH ROW
  WHEN (OLD.fingerprint IS DISTINCT FROM NEW.fingerprint) EXECUTE FUNCTION jobs_dead_count_causes();
CREATE TRIGGER causes_gone AFTER TRUNCATE ON jobs_dead FOR EACH STATEMENT
  EXECUTE FUNCTION jobs_dead_count_causes();
"""

# Nobody writes to jobs_dead meanwhile: making a trigger keeps them out until this is committed.
COUNT = """
INSERT INTO cause_deltas (at, worker_id, jobs, deaths, fingerprint, job_type)
  SELECT finished_at, worker_id, 1, 1, left(fingerprint, 100), left(job_type, 100)
  FROM jobs_dead WHERE fingerprint IS NOT NULL
"""

DOWNGRADE = """
DROP TRIGGER causes_came ON jobs_dead;
DROP TRIGGER causes_left ON jobs_dead;
DROP TRIGGER causes_changed ON jobs_dead;
DROP TRIGGER causes_gone ON jobs_dead;
DROP FUNCTION jobs_dead_count_causes();
DROP TABLE cause_deltas, cause_hours, causes;
"""


def upgrade() -> None:
    """Dead letters of workers of the version before are counted once the leader has read them."""
    op.execute(UPGRADE)
    op.execute(COUNT)


def downgrade() -> None:
    """What was counted, resolved and ignored is forgotten; fingerprints stay."""
    op.execute(DOWNGRADE)
