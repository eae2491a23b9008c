"""jobs_check_new: what enqueue_job refuses; served_types.rules: what SQL must know of job types

Revision ID: 0030
Revises: 0029
"""

from alembic import op

revision = "0030"
down_revision = "0029"

# `place` is the position of a job among many, NULL of one alone. A number is numeric here until it has been
# checked: so that 1.5 and 10^30 are refused with words.
TYPES = """
ALTER TABLE served_types ADD COLUMN IF NOT EXISTS rules jsonb;
COMMENT ON COLUMN served_types.rules IS
  'what its handler sets for new jobs: queue, concurrency_key (a template), key_by_function, internal, encrypt';

CREATE TYPE jobs_new AS (
  job_type text, payload jsonb, queue text, priority numeric, max_retries numeric,
  timeout_seconds numeric, run_at timestamptz, delay_seconds numeric, unique_key text, backoff jsonb,
  concurrency_key text, on_conflict text, unique_scope text, unique_for_seconds numeric,
  debounce_max_seconds numeric, after bigint[], on_parent_failure text, batch_id numeric,
  unique_by text[], encrypt jsonb, unique_until_start text
);
COMMENT ON TYPE jobs_new IS 'a new job as enqueue_job and enqueue_jobs take it';

CREATE FUNCTION jobs_refuse_new(place integer, field text, problem text, code text DEFAULT '22023')
RETURNS void LANGUAGE plpgsql AS $body$
BEGIN
  RAISE EXCEPTION '%', COALESCE('Job ' || place || ': ', '') || problem
    USING ERRCODE = code, COLUMN = COALESCE('jobs.' || place || '.', '') || field, SCHEMA = current_schema();
END $body$;
COMMENT ON FUNCTION jobs_refuse_new(integer, text, text, text) IS
  'Raises what is wrong with a new job; COLUMN is the field';

CREATE FUNCTION jobs_is_printable(value text) RETURNS boolean LANGUAGE sql IMMUTABLE AS $body$
  SELECT value ~ '^[ -~]*$' OR value !~ (
    '[\\u0001-\\u001f\\u007f-\\u00a0\\u00ad\\u0600-\\u0605\\u061c\\u06dd\\u070f\\u1680\\u180e\\u2000-\\u200f'
    '\\u2028-\\u202f\\u205f-\\u206f\\u3000\\ue000-\\uf8ff\\ufeff\\ufff9-\\ufffb]')
$body$;
COMMENT ON FUNCTION jobs_is_printable(text) IS 'Whether a key holds no control character, and no space but the plain one';
"""

KEYS = r"""
CREATE FUNCTION jobs_canonical(value jsonb) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $body$
DECLARE
  number numeric;
BEGIN
  CASE jsonb_typeof(value)
  WHEN 'object' THEN
    RETURN '{' || COALESCE((SELECT string_agg(to_json(m.key)::text || ':' || jobs_canonical(m.value), ','
      ORDER BY m.key COLLATE "C") FROM jsonb_each(value) m), '') || '}';
  WHEN 'array' THEN
    RETURN '[' || COALESCE((SELECT string_agg(jobs_canonical(e.value), ',' ORDER BY e.ordinality)
      FROM jsonb_array_elements(value) WITH ORDINALITY e), '') || ']';
  WHEN 'number' THEN
    number := value::numeric;
    IF number <> trunc(number) THEN  -- as a Python float
      number := number::float8::numeric;
      IF number <> trunc(number) THEN
        RETURN (value::numeric)::float8::text;
      END IF;
    END IF;
    RETURN trim_scale(number)::text;
  ELSE
    RETURN value::text;
  END CASE;
END $body$;
COMMENT ON FUNCTION jobs_canonical(jsonb) IS
  'The one text of all JSON that means the same: members sorted, 1.0 as 1';

CREATE FUNCTION jobs_key_by(job jobs_new, place integer) RETURNS text LANGUAGE plpgsql AS $body$
DECLARE
  parts jsonb := jsonb_build_object('job_type', job.job_type);
  part text;
  name text;
  found jsonb;
  made text;
BEGIN
  IF cardinality(job.unique_by) NOT BETWEEN 1 AND 20 THEN
    PERFORM jobs_refuse_new(place, 'unique_by', format('unique_by has %s parts: expected a list of 1 to 20 parts,'
      ' such as payload.customer_id', cardinality(job.unique_by)));
  END IF;
  FOREACH part IN ARRAY job.unique_by LOOP
    IF part IS NULL OR part NOT IN ('job_type', 'queue') AND part !~ '^payload(\.[^.]{1,100}){1,10}$' THEN
      PERFORM jobs_refuse_new(place, 'unique_by', format('unique_by names %L: expected job_type, queue, or a field of'
        ' the payload: payload.customer_id', left(part, 120)));
    ELSIF (SELECT count(*) FROM unnest(job.unique_by) u WHERE u = part) > 1 THEN
      PERFORM jobs_refuse_new(place, 'unique_by', format('unique_by names %L: a part is named twice', left(part, 120)));
    ELSIF part = 'queue' THEN
      parts := parts || jsonb_build_object('queue', job.queue);
    ELSIF part <> 'job_type' THEN
      found := job.payload;
      FOREACH name IN ARRAY (string_to_array(part, '.'))[2:] LOOP
        IF jsonb_typeof(found) <> 'object' OR NOT found ? name THEN
          PERFORM jobs_refuse_new(place, 'unique_by', format('unique_by names %L: the payload has no such field: send'
            ' it, null at least, or leave the part out', left(part, 120)));
        END IF;
        found := found -> name;
      END LOOP;
      IF length(found::text) > 65536 THEN
        PERFORM jobs_refuse_new(place, 'unique_by', format('unique_by names %L: its value has more than 65536'
          ' characters', left(part, 120)));
      END IF;
      parts := parts || jsonb_build_object(part, found);
    END IF;
  END LOOP;
  made := jobs_canonical(parts);
  IF length(made) <= 252 AND jobs_is_printable(made) THEN
    RETURN 'by:' || made;
  END IF;
  RETURN 'by:sha256:' || encode(sha256(convert_to(made, 'UTF8')), 'hex');
END $body$;
COMMENT ON FUNCTION jobs_key_by(jobs_new, integer) IS 'The unique_key that unique_by makes of a new job';

CREATE FUNCTION jobs_key_of_template(job jobs_new, template text, place integer) RETURNS text
LANGUAGE plpgsql AS $body$
DECLARE
  part text[];
  found jsonb;
  made text := '';
BEGIN
  FOR part IN SELECT m FROM regexp_matches(template, '\{([^{}]*)\}|([^{]+)|(\{)', 'g') m LOOP
    IF part[1] IS NULL THEN
      made := made || COALESCE(part[2], part[3]);
      CONTINUE;
    END IF;
    found := job.payload #> (string_to_array(part[1], '.'))[2:];
    CASE COALESCE(jsonb_typeof(found), 'null')
    WHEN 'string' THEN
      made := made || (found #>> '{}');
    WHEN 'boolean' THEN
      made := made || initcap(found::text);
    WHEN 'number' THEN
      IF found::numeric <> trunc(found::numeric) THEN
        PERFORM jobs_refuse_new(place, 'payload', format('%s is %s: the concurrency key of this job type is made of it,'
          ' and SQL would spell it otherwise than Python: give concurrency_key', part[1], left(found::text, 120)));
      END IF;
      made := made || trim_scale(found::numeric)::text;
    ELSE
      PERFORM jobs_refuse_new(place, 'payload', format('%s is %s: the concurrency key of this job type is made of it',
        part[1], CASE WHEN COALESCE(jsonb_typeof(found), 'null') = 'null' THEN 'missing' ELSE 'not a single value' END));
    END CASE;
  END LOOP;
  RETURN made;
END $body$;
COMMENT ON FUNCTION jobs_key_of_template(jobs_new, text, integer) IS
  'The concurrency key that the template of its type makes of a new job';
"""

CHECK = r"""
CREATE FUNCTION jobs_check_new(job jobs_new, place integer) RETURNS jobs_new LANGUAGE plpgsql AS $body$
DECLARE
  name_pattern CONSTANT text := '^[A-Za-z0-9][A-Za-z0-9_.:-]{0,99}$';
  year CONSTANT integer := 366 * 86400;
  largest integer := least(16777216,
    COALESCE(NULLIF(current_setting('finmind_jobs.max_payload_bytes', true), '')::integer, 262144));
  rules jsonb;
  culprit text;
  rule text;
BEGIN
  SELECT t.rules INTO rules FROM served_types t WHERE t.job_type = job.job_type;
  job.payload := COALESCE(job.payload, '{}');
  job.queue := COALESCE(job.queue, rules ->> 'queue', 'default');
  job.priority := COALESCE(job.priority, 2);
  culprit := CASE
    WHEN job.job_type IS NULL OR job.job_type !~ name_pattern THEN 'job_type'
    WHEN job.queue !~ name_pattern THEN 'queue'
    WHEN job.priority NOT BETWEEN 0 AND 9 OR job.priority <> trunc(job.priority) THEN 'priority'
    WHEN job.max_retries NOT BETWEEN 0 AND 1000 OR job.max_retries <> trunc(job.max_retries) THEN 'max_retries'
    WHEN NOT (job.timeout_seconds > 0 AND job.timeout_seconds <= 86400) THEN 'timeout_seconds'
    WHEN job.run_at NOT BETWEEN '2000-01-01 00:00:00+00' AND '2200-01-01 00:00:00+00' THEN 'run_at'
    WHEN job.delay_seconds NOT BETWEEN 0 AND 10 * year THEN 'delay_seconds'
    WHEN length(job.unique_key) NOT BETWEEN 1 AND 255 OR NOT jobs_is_printable(job.unique_key) THEN 'unique_key'
    WHEN length(job.concurrency_key) NOT BETWEEN 1 AND 255 OR NOT jobs_is_printable(job.concurrency_key)
      THEN 'concurrency_key'
    WHEN job.batch_id NOT BETWEEN 1 AND 9223372036854775807 OR job.batch_id <> trunc(job.batch_id) THEN 'batch_id'
    WHEN job.on_conflict NOT IN ('return', 'reject', 'replace', 'extend', 'keep_latest') THEN 'on_conflict'
    WHEN job.unique_scope NOT IN ('live', 'until_started') THEN 'unique_scope'
    WHEN NOT (job.unique_for_seconds > 0 AND job.unique_for_seconds <= year) THEN 'unique_for_seconds'
    WHEN NOT (job.debounce_max_seconds > 0 AND job.debounce_max_seconds <= year) THEN 'debounce_max_seconds'
    WHEN job.on_parent_failure NOT IN ('cancel', 'run', 'hold') THEN 'on_parent_failure'
    WHEN jsonb_typeof(job.payload) <> 'object' THEN 'payload'
    WHEN (job.backoff @@ '$.type() == "object"
      && (!exists($.base_seconds) || $.base_seconds.type() == "number"
        && $.base_seconds >= 0 && $.base_seconds <= 604800)
      && (!exists($.factor) || $.factor.type() == "number" && $.factor >= 1 && $.factor <= 100)
      && (!exists($.cap_seconds) || $.cap_seconds.type() == "number"
        && $.cap_seconds >= 0 && $.cap_seconds <= 604800)
      && (!exists($.jitter) || $.jitter.type() == "number"
        && $.jitter >= 0 && $.jitter <= 1)') IS NOT TRUE AND job.backoff IS NOT NULL
      OR job.backoff - '{base_seconds,factor,cap_seconds,jitter}'::text[] <> '{}' THEN 'backoff'
  END;
  IF culprit IS NOT NULL THEN
    rule := CASE culprit
      WHEN 'priority' THEN '0 (most urgent) to 9'
      WHEN 'max_retries' THEN '0 to 1000'
      WHEN 'timeout_seconds' THEN 'above 0 and at most 86400'
      WHEN 'run_at' THEN 'a time between the years 2000 and 2200'
      WHEN 'delay_seconds' THEN '0 to ' || 10 * year || ' (ten years)'
      WHEN 'batch_id' THEN '1 to 9223372036854775807'
      WHEN 'on_conflict' THEN 'one of return, reject, replace, extend, keep_latest'
      WHEN 'unique_scope' THEN 'one of live, until_started'
      WHEN 'on_parent_failure' THEN 'one of cancel, run, hold'
      WHEN 'payload' THEN 'a JSON object'
      WHEN 'backoff' THEN 'an object of base_seconds and cap_seconds (0 to 604800), factor (1 to 100), jitter (0 to 1)'
      ELSE CASE
        WHEN culprit IN ('job_type', 'queue') THEN '1 to 100 letters, digits or _ . : - with a letter or digit first'
        WHEN culprit LIKE '%\_key' THEN '1 to 255 printable characters'
        ELSE 'above 0 and at most ' || year || ' (a year)'
      END
    END;
    PERFORM jobs_refuse_new(place, culprit, format('%s is %L: expected %s', culprit,
      left(to_jsonb(job) ->> culprit, 120), rule));
  END IF;
  IF COALESCE((rules ->> 'internal')::boolean, false) THEN
    PERFORM jobs_refuse_new(place, 'job_type', format('job_type %L belongs to the service, which alone enqueues such'
      ' jobs: choose another name for yours', job.job_type), '42501');
  END IF;
  IF job.encrypt IS NOT NULL OR rules ? 'encrypt' THEN
    PERFORM jobs_refuse_new(place, 'encrypt', format('payloads of %s jobs are to be encrypted, and PostgreSQL has not'
      ' the key: enqueue them by POST /jobs, or by enqueue in Python', job.job_type));
  END IF;
  IF job.payload ?| ARRAY['$encrypted', '$ciphertext'] THEN
    PERFORM jobs_refuse_new(place, 'payload', 'payload has a member $encrypted or $ciphertext, which the service alone'
      ' writes: choose another name');
  END IF;
  IF octet_length(job.payload::text) > largest THEN
    PERFORM jobs_refuse_new(place, 'payload', format('The payload takes %s bytes as PostgreSQL writes it, where 1e308'
      ' has 309 digits; at most %s are allowed (finmind_jobs.max_payload_bytes): store large data elsewhere and pass a'
      ' reference', octet_length(job.payload::text), largest));
  END IF;
  IF job.run_at IS NOT NULL AND job.delay_seconds IS NOT NULL THEN
    PERFORM jobs_refuse_new(place, 'run_at', 'run_at and delay_seconds are both given: give one');
  END IF;
  IF job.backoff IS NOT NULL THEN
    job.backoff := '{"base_seconds": 30.0, "factor": 4.0, "cap_seconds": 3600.0, "jitter": 0.1}'::jsonb || job.backoff;
  END IF;
  IF job.concurrency_key IS NULL AND rules ->> 'concurrency_key' IS NOT NULL THEN
    job.concurrency_key := jobs_key_of_template(job, rules ->> 'concurrency_key', place);
    IF length(job.concurrency_key) NOT BETWEEN 1 AND 255 OR NOT jobs_is_printable(job.concurrency_key) THEN
      PERFORM jobs_refuse_new(place, 'concurrency_key', format('concurrency_key is %L: expected 1 to 255 printable'
        ' characters', left(job.concurrency_key, 120)));
    END IF;
  ELSIF job.concurrency_key IS NULL AND rules ? 'key_by_function' THEN
    PERFORM jobs_refuse_new(place, 'concurrency_key', format('concurrency_key is missing: for %s jobs a function in'
      ' Python makes it, which PostgreSQL cannot call: give concurrency_key, or enqueue by POST /jobs', job.job_type));
  END IF;
  IF job.after IS NOT NULL THEN
    job.after := ARRAY(SELECT a FROM unnest(job.after) WITH ORDINALITY u(a, n) GROUP BY a ORDER BY min(n));
    IF cardinality(job.after) > 10000 THEN
      PERFORM jobs_refuse_new(place, 'after', format('after has %s ids: at most 10000 are allowed; have jobs in between'
        ' wait for some of them each', cardinality(job.after)));
    ELSIF EXISTS (SELECT FROM unnest(job.after) a WHERE a IS NULL OR a < 1) THEN
      PERFORM jobs_refuse_new(place, 'after', format('after has %s: expected ids of jobs',
        (SELECT COALESCE(a::text, 'NULL') FROM unnest(job.after) a WHERE a IS NULL OR a < 1 LIMIT 1)));
    END IF;
    job.after := NULLIF(job.after, '{}');
  END IF;
  IF job.on_parent_failure IS NOT NULL AND job.after IS NULL THEN
    PERFORM jobs_refuse_new(place, 'on_parent_failure',
      'on_parent_failure is given without after: name the jobs that it is about');
  END IF;
  RETURN jobs_check_key(job, place);
END $body$;
COMMENT ON FUNCTION jobs_check_new(jobs_new, integer) IS
  'The new job with its defaults; raises what POST /jobs would refuse, with the value, the rule and the way out';

CREATE FUNCTION jobs_check_key(job jobs_new, place integer) RETURNS jobs_new LANGUAGE plpgsql AS $body$
DECLARE
  policy text := COALESCE(job.on_conflict, 'return');
  scope text := COALESCE(job.unique_scope, 'live');
  about text;
  problem text;
BEGIN
  IF job.unique_by IS NOT NULL THEN
    IF job.unique_key IS NOT NULL THEN
      PERFORM jobs_refuse_new(place, 'unique_by', format('unique_by is %L: unique_key is given as well: give one of them',
        left(array_to_string(job.unique_by, ', '), 120)));
    END IF;
    job.unique_key := jobs_key_by(job, place);
  END IF;
  IF job.unique_key IS NULL THEN
    about := CASE WHEN policy <> 'return' THEN 'on_conflict' WHEN scope <> 'live' THEN 'unique_scope'
      WHEN job.unique_for_seconds IS NOT NULL THEN 'unique_for_seconds' END;
    problem := 'give the unique_key that it is about, or unique_by, as well';
  END IF;
  IF about IS NULL AND job.unique_for_seconds IS NOT NULL AND (policy NOT IN ('return', 'reject') OR scope <> 'live') THEN
    about := 'unique_for_seconds';
    problem := CASE WHEN scope <> 'live' THEN 'leave unique_scope out beside it'
      ELSE 'it holds the key after the job has ended, when there is nothing to change: give on_conflict ''return'' or'
        ' ''reject'' with it' END;
  END IF;
  IF about IS NULL AND policy = 'keep_latest' AND scope <> 'live' THEN
    about := 'unique_scope';
    problem := 'on_conflict ''keep_latest'' has a rule of its own for a job that runs: leave it out';
  END IF;
  IF about IS NULL AND job.debounce_max_seconds IS NOT NULL AND policy <> 'extend' THEN
    about := 'debounce_max_seconds';
    problem := 'it is for on_conflict ''extend'' alone: leave it out';
  END IF;
  IF about IS NULL AND job.after IS NOT NULL AND policy NOT IN ('return', 'reject') THEN
    about := 'on_conflict';
    problem := 'which changes a job that waits: give no after with it';
  END IF;
  IF about IS NOT NULL THEN
    PERFORM jobs_refuse_new(place, about, format('%s is %L: %s', about, to_jsonb(job) ->> about, problem));
  END IF;
  job.unique_until_start := CASE WHEN scope = 'until_started' OR policy = 'keep_latest' THEN job.unique_key END;
  RETURN job;
END $body$;
COMMENT ON FUNCTION jobs_check_key(jobs_new, integer) IS 'The new job with its unique_key; raises what its options break';

DO $body$
DECLARE
  made text;
BEGIN
  FOREACH made IN ARRAY ARRAY['jobs_refuse_new(integer,text,text,text)', 'jobs_is_printable(text)',
    'jobs_canonical(jsonb)', 'jobs_key_by(jobs_new,integer)', 'jobs_key_of_template(jobs_new,text,integer)',
    'jobs_check_new(jobs_new,integer)', 'jobs_check_key(jobs_new,integer)']
  LOOP
    EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', made);
  END LOOP;
END $body$;
"""

DOWNGRADE = """
DROP FUNCTION jobs_check_new(jobs_new, integer), jobs_check_key(jobs_new, integer),
  jobs_key_of_template(jobs_new, text, integer), jobs_key_by(jobs_new, integer), jobs_canonical(jsonb),
  jobs_is_printable(text), jobs_refuse_new(integer, text, text, text);
DROP TYPE jobs_new;
ALTER TABLE served_types DROP COLUMN rules;
"""


def upgrade() -> None:
    """Workers of the version before publish no rules; what enqueues is not changed."""
    op.execute(TYPES + KEYS + CHECK)


def downgrade() -> None:
    """What types are known by is published again when their workers start."""
    op.execute(DOWNGRADE)
