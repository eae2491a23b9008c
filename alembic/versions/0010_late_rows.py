"""jobs_copy_late, jobs_make_day: a day is made however many of its rows the default partition caught

Revision ID: 0010
Revises: 0009
"""

from alembic import op

revision = "0010"
down_revision = "0009"

# Rows are copied, and leave the default partition in the transaction that attaches the day: in
# between everybody sees each of them once. The day has its indexes before it is attached: built
# then, they would keep out all that finishes meanwhile.
UPGRADE = """
CREATE OR REPLACE FUNCTION jobs_day_apart(day date) RETURNS text LANGUAGE plpgsql AS $body$
DECLARE
  name text := 'jobs_done_' || to_char(day, 'YYYYMMDD');
BEGIN
  -- One at a time: whoever comes next sees what was made.
  PERFORM pg_advisory_xact_lock(hashtext(current_schema() || '.' || name));
  IF to_regclass(quote_ident(name)) IS NULL THEN
    EXECUTE format('CREATE TABLE %I (LIKE jobs_done INCLUDING DEFAULTS INCLUDING CONSTRAINTS'
      ' INCLUDING INDEXES)', name);
    EXECUTE format('ALTER TABLE %I ADD CONSTRAINT %I PRIMARY KEY (id)', name, name || '_pkey');
  END IF;
  RETURN name;
END $body$;
COMMENT ON FUNCTION jobs_day_apart(date) IS
  'The table of a day, made where it is missing; not attached yet. For the two functions that do the rest';

CREATE OR REPLACE FUNCTION jobs_copy_late(
  day date, after_at timestamptz, after_id bigint, batch integer,
  OUT last_at timestamptz, OUT last_id bigint
) LANGUAGE plpgsql SECURITY DEFINER AS $body$
BEGIN
  EXECUTE format(
    'WITH late AS (SELECT * FROM jobs_done_default WHERE finished_at >= $1 AND finished_at < $2'
    '   AND (finished_at, id) > ($3, $4) ORDER BY finished_at, id LIMIT $5),'
    ' copied AS (INSERT INTO %I SELECT * FROM late ON CONFLICT DO NOTHING)'
    ' SELECT finished_at, id FROM late ORDER BY finished_at DESC, id DESC LIMIT 1',
    jobs_day_apart(day))
  INTO last_at, last_id
  USING day::timestamp AT TIME ZONE 'UTC', (day + 1)::timestamp AT TIME ZONE 'UTC', after_at, after_id,
    batch;
END $body$;
COMMENT ON FUNCTION jobs_copy_late(date, timestamptz, bigint, integer) IS
  'Copies rows of a day, the next after a place, from the default partition to the table of that day; the last of them, NULL for none';

-- What was copied is looked up in what leaves the default partition: taken for one row, by statistics
-- from before it filled, that would be a loop in a loop.
CREATE OR REPLACE FUNCTION jobs_make_day(day date) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET enable_nestloop = off AS $body$
DECLARE
  name text := jobs_day_apart(day);
  low timestamptz := day::timestamp AT TIME ZONE 'UTC';
  high timestamptz := (day + 1)::timestamp AT TIME ZONE 'UTC';
BEGIN
  IF EXISTS (SELECT FROM pg_inherits WHERE inhrelid = to_regclass(quote_ident(name))) THEN
    RAISE EXCEPTION 'the day % is there already', day USING ERRCODE = 'duplicate_table';
  END IF;
  -- What was copied and has been deleted since goes as well.
  EXECUTE format(
    'WITH late AS (DELETE FROM jobs_done_default WHERE finished_at >= %L AND finished_at < %L'
    '   RETURNING *),'
    ' added AS (INSERT INTO %I SELECT * FROM late ON CONFLICT DO NOTHING)'
    ' DELETE FROM %I d WHERE NOT EXISTS (SELECT FROM late WHERE late.id = d.id)', low, high, name, name);
  EXECUTE format(
    'ALTER TABLE jobs_done ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', name, low, high);
END $body$;
COMMENT ON FUNCTION jobs_make_day(date) IS
  'Makes the partition of a day: apart, then attached, which blocks nobody; what the default partition caught of that day moves along';

REVOKE ALL ON FUNCTION jobs_day_apart(date), jobs_copy_late(date, timestamptz, bigint, integer)
  FROM PUBLIC;

DO $body$
DECLARE
  changed text;
BEGIN
  FOREACH changed IN ARRAY ARRAY['jobs_day_apart(date)', 'jobs_make_day(date)',
    'jobs_copy_late(date, timestamptz, bigint, integer)']
  LOOP
    EXECUTE format('ALTER FUNCTION %s SET search_path = %I, pg_temp', changed, current_schema());
  END LOOP;
END $body$;
"""

DOWNGRADE = """
DROP INDEX jobs_done_default_finished_at;
DROP FUNCTION jobs_copy_late(date, timestamptz, bigint, integer);
CREATE OR REPLACE FUNCTION jobs_make_day(day date) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $body$
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
DROP FUNCTION jobs_day_apart(date);
DO $body$ BEGIN
  EXECUTE format('ALTER FUNCTION jobs_make_day(date) SET search_path = %I, pg_temp', current_schema());
END $body$;
"""


def upgrade() -> None:
    """Leaders of the version before call jobs_make_day alone: it moves what was not copied."""
    op.execute(UPGRADE)
    # Retention and copies find what is old, or of a day, without walking all that came later.
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS jobs_done_default_finished_at")
        op.execute(
            "CREATE INDEX CONCURRENTLY jobs_done_default_finished_at"
            " ON jobs_done_default (finished_at, id)"
        )


def downgrade() -> None:
    """jobs_make_day as it was."""
    op.execute(DOWNGRADE)
