r"""enqueue_job: callback, result_ttl_seconds, and payloads as long as the workers' MAX_PAYLOAD_BYTES

Revision ID: 0035
Revises: 0034
"""

from alembic import op

revision = "0035"
down_revision = "0034"

TYPES = """
ALTER TYPE jobs_new ADD ATTRIBUTE callback jsonb, ADD ATTRIBUTE result_ttl_seconds numeric;
-- A column of this type, in whosever table, would stand in the way of the next change.
REVOKE USAGE ON TYPE jobs_new FROM PUBLIC;
"""

CHECK = r"""
CREATE FUNCTION jobs_check_ending(job jobs_new, place integer) RETURNS jobs_new LANGUAGE plpgsql AS $body$
DECLARE
  year CONSTANT integer := 366 * 86400;
  url text := job.callback ->> 'url';
  secret text := job.callback ->> 'sign_with';
  rule text;
BEGIN
  job.callback := NULLIF(jsonb_strip_nulls(job.callback), 'null');
  rule := CASE
    WHEN job.callback IS NULL THEN NULL
    WHEN jsonb_typeof(job.callback) <> 'object' OR NOT job.callback ? 'url'
      OR job.callback - '{url,sign_with}'::text[] <> '{}'
      THEN '{"url": "https://host/path"}, and sign_with if it is to be signed'
    WHEN jsonb_typeof(job.callback -> 'url') <> 'string' OR length(url) > 2000
      OR url !~* '^https?://(\[[0-9a-f:.]+\]|[!"$-.0-9;->A-Z^-~]+)(:[0-9]*)?([/?][!"$-~]*)?$'
      THEN 'a url with http:// or https:// and a host, without a user and a fragment, of at most 2000 printable ASCII'
        ' characters'
    WHEN jsonb_typeof(job.callback -> 'sign_with') <> 'string' OR length(secret) NOT BETWEEN 1 AND 50
      THEN 'sign_with to be the name of a secret in TARGET_SECRETS'
  END;
  IF rule IS NOT NULL THEN
    PERFORM jobs_refuse_new(place, 'callback', format('callback is %L: expected %s', left(job.callback::text, 120), rule));
  ELSIF NOT (job.result_ttl_seconds > 0 AND job.result_ttl_seconds <= 10 * year) THEN
    PERFORM jobs_refuse_new(place, 'result_ttl_seconds', format('result_ttl_seconds is %L: expected above 0 and at most'
      ' %s (ten years)', job.result_ttl_seconds, 10 * year));
  END IF;
  RETURN job;
END $body$;
COMMENT ON FUNCTION jobs_check_ending(jobs_new, integer) IS
  'The new job; raises what is wrong with what it asks for its end';
REVOKE ALL ON FUNCTION jobs_check_ending(jobs_new, integer) FROM PUBLIC;
"""

EDITS: dict[str, list[tuple[str, str]]] = {
    "jobs_check_new(jobs_new,integer)": [
        (
            """
  largest integer := least(16777216,
    COALESCE(NULLIF(current_setting('finmind_jobs.max_payload_bytes', true), '')::integer, 262144));""",
            """
  largest integer;""",
        ),
        (
            "IF job.encrypt IS NOT NULL OR rules",
            "IF job.encrypt NOT IN ('false', '[]') OR rules",
        ),
        (
            """
  IF octet_length(job.payload::text) > largest THEN""",
            """
  IF octet_length(job.payload::text) > 1024 THEN
    -- No worker may set less. Where its type has none, what the others allow.
    largest := COALESCE((rules ->> 'max_payload_bytes')::integer,
      (SELECT max((t.rules ->> 'max_payload_bytes')::integer) FROM served_types t), 262144);
  END IF;
  IF octet_length(job.payload::text) > largest THEN""",
        ),
        ("(finmind_jobs.max_payload_bytes)", "(MAX_PAYLOAD_BYTES)"),
        (
            "RETURN jobs_check_key(job, place);",
            "RETURN jobs_check_ending(jobs_check_key(job, place), place);",
        ),
    ],
    "jobs_read_new(jsonb)": [
        (
            "('encrypt', 'any')",
            "('encrypt', 'any'), ('callback', 'object'), ('result_ttl_seconds', 'number')",
        ),
    ],
    "jobs_change_holder(jobs_new,integer)": [
        (
            "lost_leases = 0, last_error = NULL",
            """lost_leases = 0, last_error = NULL,
      callback = COALESCE(job.callback, b.callback),
      result_ttl_seconds = COALESCE(job.result_ttl_seconds, b.result_ttl_seconds)""",
        ),
        (
            """
    PERFORM jobs_check_holder(job, place, found);
  END IF;""",
            """
    PERFORM jobs_check_holder(job, place, found);
  ELSE
    DELETE FROM job_steps WHERE job_id = found;  -- of the payload before
    DELETE FROM job_events WHERE job_id = found;
  END IF;""",
        ),
    ],
    "jobs_store_keyed(jobs_new,integer)": [
        ("held_for, held_since, held_due_at)", "held_for, held_since, held_due_at,\n      callback, result_ttl_seconds)"),
        (
            "THEN clock_timestamp() END, CASE policy WHEN 'keep_latest' THEN due END\n",
            """THEN clock_timestamp() END, CASE policy WHEN 'keep_latest' THEN due END,
      job.callback, job.result_ttl_seconds
""",
        ),
    ],
    "jobs_store_new(jobs_new[],boolean)": [
        ("concurrency_key, batch_id, lease_token)", "concurrency_key, batch_id, lease_token, callback, result_ttl_seconds)"),
        ("j.concurrency_key, j.batch_id, 0\n", "j.concurrency_key, j.batch_id, 0, j.callback, j.result_ttl_seconds\n"),
    ],
}  # fmt: skip
"""What changes of the functions of 0030 and 0031: of each its old and its new text."""

ENQUEUE = """
DROP FUNCTION enqueue_job;
CREATE FUNCTION enqueue_job(
  job_type text, payload jsonb DEFAULT NULL, queue text DEFAULT NULL, priority integer DEFAULT NULL,
  max_retries integer DEFAULT NULL, timeout_seconds float8 DEFAULT NULL, run_at timestamptz DEFAULT NULL,
  delay_seconds float8 DEFAULT NULL, unique_key text DEFAULT NULL, backoff jsonb DEFAULT NULL,
  concurrency_key text DEFAULT NULL, on_conflict text DEFAULT NULL, unique_scope text DEFAULT NULL,
  unique_for_seconds float8 DEFAULT NULL, debounce_max_seconds float8 DEFAULT NULL, after bigint[] DEFAULT NULL,
  on_parent_failure text DEFAULT NULL, batch_id bigint DEFAULT NULL, unique_by text[] DEFAULT NULL,
  encrypt text[] DEFAULT NULL{parameters}
) RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER SET extra_float_digits = 1 SET standard_conforming_strings = on
AS $body$
DECLARE
  job jobs_new;
BEGIN
  job := ROW(job_type, payload, queue, priority, max_retries, timeout_seconds::numeric, run_at, delay_seconds::numeric,
    unique_key, backoff, concurrency_key, on_conflict, unique_scope, unique_for_seconds::numeric,
    debounce_max_seconds::numeric, after, on_parent_failure, batch_id, unique_by, to_jsonb(encrypt), NULL{arguments})::jobs_new;
  RETURN (SELECT s.id FROM jobs_store_new(ARRAY[jobs_check_new(job, NULL)], true) s);
END $body$;
COMMENT ON FUNCTION enqueue_job IS
  'Enqueues a job in this transaction, with the options and the rules of POST /jobs; its id';
DO $body$ BEGIN
  EXECUTE format('ALTER FUNCTION enqueue_job SET search_path = %I, pg_temp', current_schema());
END $body$;
REVOKE ALL ON FUNCTION enqueue_job FROM PUBLIC;
"""

STRINGS = """
ALTER FUNCTION enqueue_jobs(jsonb) SET standard_conforming_strings = on;
"""
"""Whatever the caller's session says: the texts of a function are read as it runs, patterns with a backslash too."""

OWED = """
CREATE FUNCTION jobs_keep_owed() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
  RETURN NULL;
END $body$;
COMMENT ON FUNCTION jobs_keep_owed() IS
  'Keeps the end of a job until its callback is enqueued: the version before knows of none, and drops it';
REVOKE ALL ON FUNCTION jobs_keep_owed() FROM PUBLIC;
CREATE TRIGGER keep_owed BEFORE DELETE ON job_endings FOR EACH ROW
  WHEN (OLD.owed_by IS NOT NULL) EXECUTE FUNCTION jobs_keep_owed();
"""


def edited(function: str, edits: list[tuple[str, str]]) -> str:
    """A function with these texts replaced; an error if it has one of them not."""
    changes = "".join(
        f"""
  IF strpos(body, $old${old}$old$) = 0 THEN
    RAISE EXCEPTION 'function {function} is not as revision 0031 made it';
  END IF;
  body := replace(body, $old${old}$old$, $new${new}$new$);"""
        for old, new in edits
    )
    return f"""
DO $do$
DECLARE
  body text := pg_get_functiondef('{function}'::regprocedure);
BEGIN{changes}
  EXECUTE body;
END $do$;
"""


def enqueue(*, parameters: str, arguments: str) -> str:
    """enqueue_job with these at its end."""
    return ENQUEUE.replace("{parameters}", parameters).replace("{arguments}", arguments)


def upgrade() -> None:
    """Calls of enqueue_job as before go on to work. Who may call enqueue_jobs may call it once migrations are done."""
    op.execute(TYPES + CHECK)
    for function, edits in EDITS.items():
        op.execute(edited(function, edits))
    op.execute(
        enqueue(
            parameters=",\n  callback jsonb DEFAULT NULL, result_ttl_seconds float8 DEFAULT NULL",
            arguments=",\n    callback, result_ttl_seconds::numeric",
        )
    )
    op.execute(STRINGS + OWED)


def downgrade() -> None:
    """Calls with the new options get an error that they do not exist."""
    op.execute("ALTER FUNCTION enqueue_jobs(jsonb) RESET standard_conforming_strings")
    op.execute("DROP TRIGGER keep_owed ON job_endings; DROP FUNCTION jobs_keep_owed()")
    for function, edits in EDITS.items():
        op.execute(edited(function, [(new, old) for old, new in reversed(edits)]))
    op.execute("DROP FUNCTION jobs_check_ending(jobs_new, integer)")
    op.execute("GRANT USAGE ON TYPE jobs_new TO PUBLIC")
    op.execute("ALTER TYPE jobs_new DROP ATTRIBUTE callback, DROP ATTRIBUTE result_ttl_seconds")
    op.execute(enqueue(parameters="", arguments=""))
