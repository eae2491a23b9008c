"""jobs_make_day, jobs_drop_day: what the service may change of the schema

Revision ID: 0004
Revises: 0003
"""

from alembic import op

revision = "0004"
down_revision = "0003"

# They run with the rights of who made them, the owner of the tables, so that the service needs none
# to change the schema. The path is fixed, pg_temp last: no table of the caller's stands in for ours.
UPGRADE = """
CREATE FUNCTION jobs_make_day(day date) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $body$
DECLARE
  name text := 'jobs_done_' || to_char(day, 'YYYYMMDD');
  low timestamptz := day::timestamp AT TIME ZONE 'UTC';
  high timestamptz := (day + 1)::timestamp AT TIME ZONE 'UTC';
BEGIN
  EXECUTE format('CREATE TABLE %I (LIKE jobs_done INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', name);
  EXECUTE format(
    'WITH late AS (DELETE FROM jobs_done_default WHERE finished_at >= %L AND finished_at < %L'
    ' RETURNING *) INSERT INTO %I SELECT * FROM late', low, high, name);
  EXECUTE format('ALTER TABLE %I ADD CONSTRAINT %I PRIMARY KEY (id)', name, name || '_pkey');
  EXECUTE format(
    'ALTER TABLE jobs_done ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', name, low, high);
END $body$;
COMMENT ON FUNCTION jobs_make_day(date) IS
  'Makes the partition of a day: apart, then attached, which blocks nobody; what the default partition caught of that day moves along';

CREATE FUNCTION jobs_drop_day(day date) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $body$
BEGIN
  IF day >= (now() AT TIME ZONE 'UTC')::date THEN
    RAISE EXCEPTION 'the day % is not over', day USING ERRCODE = 'invalid_parameter_value';
  END IF;
  DELETE FROM job_stats s WHERE s.day = jobs_drop_day.day AND s.status IN ('SUCCESS', 'CANCELLED');
  -- Last, since it keeps everybody out until the commit; the files go after that.
  EXECUTE format('DROP TABLE IF EXISTS %I', 'jobs_done_' || to_char(day, 'YYYYMMDD'));
END $body$;
COMMENT ON FUNCTION jobs_drop_day(date) IS
  'Drops the finished jobs of a day that is over, their counts with them';

REVOKE ALL ON FUNCTION jobs_make_day(date), jobs_drop_day(date) FROM PUBLIC;

DO $body$ BEGIN
  EXECUTE format('ALTER FUNCTION jobs_make_day(date) SET search_path = %I, pg_temp', current_schema());
  EXECUTE format('ALTER FUNCTION jobs_drop_day(date) SET search_path = %I, pg_temp', current_schema());
END $body$;
"""
DOWNGRADE = "DROP FUNCTION jobs_make_day(date), jobs_drop_day(date)"


def upgrade() -> None:
    """New functions: old workers do not know them and go on as owners of the tables."""
    op.execute(UPGRADE)


def downgrade() -> None:
    """Old workers make and drop partitions themselves."""
    op.execute(DOWNGRADE)
