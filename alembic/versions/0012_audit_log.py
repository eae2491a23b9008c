"""audit_log: who did what, when, and what it changed

Revision ID: 0012
Revises: 0011
"""

from alembic import op

revision = "0012"
down_revision = "0011"

# Statement triggers, on every partition: one on the parent alone would miss what names a partition.
# ENABLE ALWAYS: session_replication_role turns the others off.
UPGRADE = """
CREATE SEQUENCE audit_log_ids;
CREATE TABLE audit_log (
  id bigint NOT NULL DEFAULT nextval('audit_log_ids'),
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  actor text NOT NULL,
  action text NOT NULL,
  subject_type text NOT NULL,
  subject_id text,
  filter jsonb,
  before jsonb,
  after jsonb,
  reason text,
  request_id text,
  address text,
  outcome text NOT NULL CHECK (outcome IN ('done', 'refused')),
  PRIMARY KEY (id, at)
) PARTITION BY RANGE (at);
ALTER SEQUENCE audit_log_ids OWNED BY audit_log.id;
CREATE INDEX audit_log_actor ON audit_log (actor, id);
CREATE INDEX audit_log_action ON audit_log (action, id);
CREATE INDEX audit_log_subject ON audit_log (subject_type, subject_id, id);
COMMENT ON TABLE audit_log IS
  'who did what, when, and what it changed; append-only, and dropped by whole months of `at` (UTC)';
CREATE TABLE audit_log_default PARTITION OF audit_log DEFAULT;

CREATE FUNCTION audit_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
  RAISE EXCEPTION 'the audit log is append-only: % of % is refused', TG_OP, TG_TABLE_NAME
    USING ERRCODE = 'insufficient_privilege',
      HINT = 'Entries leave it by retention alone, a whole month at a time: AUDIT_RETENTION_DAYS.';
END $body$;

CREATE FUNCTION audit_make_append_only(name text) RETURNS void LANGUAGE plpgsql AS $body$
BEGIN
  EXECUTE format('CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON %I'
    ' FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse_change()', name);
  EXECUTE format('ALTER TABLE %I ENABLE ALWAYS TRIGGER append_only', name);
END $body$;
COMMENT ON FUNCTION audit_make_append_only(text) IS
  'Lets a table of the audit log take new entries and nothing else; called by its owner alone';

SELECT audit_make_append_only('audit_log'), audit_make_append_only('audit_log_default');

CREATE FUNCTION audit_make_month(month date) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $body$
DECLARE
  first timestamp := date_trunc('month', month::timestamp);
  low timestamptz := first AT TIME ZONE 'UTC';
  high timestamptz := (first + interval '1 month') AT TIME ZONE 'UTC';
  name text := 'audit_log_' || to_char(first, 'YYYYMM');
BEGIN
  -- One at a time: whoever comes next sees what was made.
  PERFORM pg_advisory_xact_lock(hashtext(current_schema() || '.' || name));
  IF to_regclass(quote_ident(name)) IS NOT NULL THEN
    RETURN;
  END IF;
  EXECUTE format('CREATE TABLE %I (LIKE audit_log INCLUDING ALL)', name);
  PERFORM audit_make_append_only(name);
  -- An entry on its way here would have chosen the default partition, and be refused by it after the
  -- attach: it waits before it chooses.
  LOCK TABLE audit_log IN SHARE ROW EXCLUSIVE MODE;
  -- The attach needs this lock in any case; taken now, nothing arrives between the two.
  LOCK TABLE audit_log_default IN ACCESS EXCLUSIVE MODE;
  IF EXISTS (SELECT FROM audit_log_default WHERE at >= low AND at < high) THEN
    ALTER TABLE audit_log_default DISABLE TRIGGER append_only;
    EXECUTE format('WITH late AS (DELETE FROM audit_log_default WHERE at >= %L AND at < %L'
      ' RETURNING *) INSERT INTO %I SELECT * FROM late', low, high, name);
    ALTER TABLE audit_log_default ENABLE ALWAYS TRIGGER append_only;
  END IF;
  EXECUTE format(
    'ALTER TABLE audit_log ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', name, low, high);
END $body$;
COMMENT ON FUNCTION audit_make_month(date) IS
  'Makes the partition of the month that holds the day, where it is missing; what the default partition caught of that month moves along';

CREATE FUNCTION audit_drop_month(month date) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $body$
DECLARE
  first timestamp := date_trunc('month', month::timestamp);
BEGIN
  -- Whoever has taken over the service removes no trace of it.
  IF (first + interval '1 month') AT TIME ZONE 'UTC' > now() - interval '30 days' THEN
    RAISE EXCEPTION 'the month % ended less than 30 days ago', to_char(first, 'YYYY-MM')
      USING ERRCODE = 'invalid_parameter_value';
  END IF;
  EXECUTE format('DROP TABLE IF EXISTS %I', 'audit_log_' || to_char(first, 'YYYYMM'));
END $body$;
COMMENT ON FUNCTION audit_drop_month(date) IS
  'Drops the entries of the month that holds the day; it must have ended 30 days ago';

REVOKE ALL ON FUNCTION audit_make_append_only(text), audit_make_month(date), audit_drop_month(date)
  FROM PUBLIC;

DO $body$
DECLARE
  made text;
BEGIN
  FOREACH made IN ARRAY ARRAY['audit_refuse_change()', 'audit_make_append_only(text)',
    'audit_make_month(date)', 'audit_drop_month(date)']
  LOOP
    EXECUTE format('ALTER FUNCTION %s SET search_path = %I, pg_temp', made, current_schema());
  END LOOP;
END $body$;
"""

DOWNGRADE = """
DROP TABLE audit_log;
DROP FUNCTION audit_drop_month(date), audit_make_month(date), audit_make_append_only(text),
  audit_refuse_change();
"""


def upgrade() -> None:
    """A new table: the version before writes nothing into it."""
    op.execute(UPGRADE)


def downgrade() -> None:
    """The record is lost: export it first (docs/audit.md)."""
    op.execute(DOWNGRADE)
