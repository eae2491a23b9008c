"""jobs_check_row: a plain INSERT is refused what the REST API refuses

Revision ID: 0008
Revises: 0007
"""

from alembic import op

revision = "0008"
down_revision = "0007"

# A trigger, not constraints: those are checked again by each claim, which would cost it a tenth, and
# would keep a row from before them from being claimed, extended or put back. The message names the
# value, the rule and the column. What the service has checked itself is marked by a lease token that
# no lease has: to check each of a million rows again would double what they cost.
UPGRADE = r"""
CREATE OR REPLACE FUNCTION jobs_check_row() RETURNS trigger LANGUAGE plpgsql AS $body$
DECLARE
  letters CONSTANT text := 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.:-';
  earliest CONSTANT timestamptz := '2000-01-01 00:00:00+00';
  latest CONSTANT timestamptz := '2200-01-01 00:00:00+00';
  culprit text;
  rule text;
BEGIN
  -- A regular expression would cost as much as the rest of the INSERT.
  culprit := CASE
    WHEN ltrim(NEW.job_type, letters) <> '' OR strpos('_.:-', left(NEW.job_type, 1)) > 0
      OR length(NEW.job_type) > 100 THEN 'job_type'
    WHEN NEW.queue <> 'default' AND (ltrim(NEW.queue, letters) <> ''
      OR strpos('_.:-', left(NEW.queue, 1)) > 0 OR length(NEW.queue) > 100) THEN 'queue'
    WHEN NEW.next_run_at NOT BETWEEN earliest AND latest THEN 'next_run_at'
    WHEN NEW.created_at NOT BETWEEN earliest AND latest THEN 'created_at'
    WHEN NEW.started_at NOT BETWEEN earliest AND latest THEN 'started_at'
    WHEN NEW.finished_at NOT BETWEEN earliest AND latest THEN 'finished_at'
    WHEN NEW.lease_until NOT BETWEEN earliest AND now() + interval '1 day' THEN 'lease_until'
    WHEN NEW.id NOT BETWEEN 1 AND 9007199254740991 THEN 'id'
    WHEN NEW.attempts NOT BETWEEN 0 AND 2000 THEN 'attempts'
    WHEN NEW.lost_leases NOT BETWEEN 0 AND 100 THEN 'lost_leases'
    WHEN NOT (NEW.timeout_seconds > 0 AND NEW.timeout_seconds < 'Infinity') THEN 'timeout_seconds'
    WHEN jsonb_typeof(NEW.errors) <> 'array' THEN 'errors'
    WHEN (NEW.backoff @@ '$.type() == "object"
      && (!exists($.base_seconds) || $.base_seconds.type() == "number"
        && $.base_seconds >= 0 && $.base_seconds <= 604800)
      && (!exists($.factor) || $.factor.type() == "number" && $.factor >= 1 && $.factor <= 100)
      && (!exists($.cap_seconds) || $.cap_seconds.type() == "number"
        && $.cap_seconds >= 0 && $.cap_seconds <= 604800)
      && (!exists($.jitter) || $.jitter.type() == "number"
        && $.jitter >= 0 && $.jitter <= 1)') IS NOT TRUE AND NEW.backoff IS NOT NULL THEN 'backoff'
    WHEN octet_length(NEW.payload::text) > 16777216 THEN 'payload'
  END;
  IF culprit IS NULL THEN
    RETURN NEW;
  END IF;
  rule := CASE
    WHEN culprit IN ('job_type', 'queue')
      THEN '1 to 100 letters, digits or _ . : - with a letter or digit first'
    WHEN culprit = 'lease_until' THEN 'a time within a day; leave it to the service'
    WHEN culprit LIKE '%\_at' THEN 'a time between the years 2000 and 2200'
    WHEN culprit = 'id' THEN '1 to 9007199254740991; leave it to the service'
    WHEN culprit = 'attempts' THEN '0 to 2000; leave it to the service'
    WHEN culprit = 'lost_leases' THEN '0 to 100; leave it to the service'
    WHEN culprit = 'timeout_seconds' THEN 'seconds above 0, and finite'
    WHEN culprit = 'errors' THEN 'a JSON array, or NULL'
    WHEN culprit = 'payload' THEN 'at most 16 MiB as text, where 1e308 has 309 digits: pass a reference to what is larger'
    ELSE 'an object of base_seconds and cap_seconds (0 to 604800), factor (1 to 100), jitter (0 to 1)'
  END;
  RAISE EXCEPTION '% is %: expected %', culprit,
    CASE culprit WHEN 'payload' THEN octet_length(NEW.payload::text) || ' bytes'
      ELSE left(coalesce(to_jsonb(NEW) ->> culprit, 'NULL'), 120) END, rule
    USING ERRCODE = 'check_violation', SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME,
      COLUMN = culprit, CONSTRAINT = 'jobs_check_row';
END $body$;
COMMENT ON FUNCTION jobs_check_row() IS 'Refuses rows that the REST API would refuse, with words';

CREATE OR REPLACE TRIGGER jobs_check_row BEFORE INSERT ON jobs_live
  FOR EACH ROW WHEN (NEW.lease_token IS DISTINCT FROM 0) EXECUTE FUNCTION jobs_check_row();
COMMENT ON TRIGGER jobs_check_row ON jobs_live IS
  'lease_token 0, which no lease has, says that the service has checked the row already';
"""

DOWNGRADE = """
DROP TRIGGER jobs_check_row ON jobs_live;
DROP FUNCTION jobs_check_row();
"""


def upgrade() -> None:
    """Rows that are there already stay, and run: only an INSERT is checked.

    What the version before enqueues, or puts back by hand, keeps to these rules.
    """
    op.execute(UPGRADE)


def downgrade() -> None:
    """Every row is taken again."""
    op.execute(DOWNGRADE)
