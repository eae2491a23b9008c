"""enqueue_job, enqueue_jobs: enqueueing by SQL, with the rules of POST /jobs

Revision ID: 0031
Revises: 0030
"""

from alembic import op

revision = "0031"
down_revision = "0030"

# What Python does in service/jobs/enqueue, in the words of PostgreSQL; tests/jobs/sql plays the same to both. A
# later change replaces these functions by a migration of its own.
READ = r"""
CREATE FUNCTION jobs_read_new(jobs jsonb) RETURNS jobs_new[] LANGUAGE plpgsql AS $body$
DECLARE
  moment CONSTANT text := '^\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d(\.\d+)?)?([Zz]|[+-]\d\d(:?\d\d)?)$';
  list jobs_new[] := '{}';
  job jobs_new;
  bad record;
  given jsonb;
  place integer;
BEGIN
  IF jobs IS NULL OR jsonb_typeof(jobs) <> 'array' OR jsonb_array_length(jobs) NOT BETWEEN 1 AND 10000 THEN
    PERFORM jobs_refuse_new(NULL, 'jobs', format('jobs is %s: expected a JSON array of 1 to 10000 jobs',
      CASE jsonb_typeof(jobs) WHEN 'array' THEN 'an array of ' || jsonb_array_length(jobs)
        ELSE COALESCE(quote_literal(left(jobs::text, 120)), 'NULL') END));
  END IF;
  SELECT e.ordinality::integer - 1 AS place, e.value INTO bad
    FROM jsonb_array_elements(jobs) WITH ORDINALITY e WHERE jsonb_typeof(e.value) <> 'object'
    ORDER BY 1 LIMIT 1;
  IF FOUND THEN
    PERFORM jobs_refuse_new(bad.place, '', format('%L: expected an object, {"job_type": "mail", "payload": {}}',
      left(bad.value::text, 120)));
  END IF;
  SELECT e.ordinality::integer - 1 AS place, m.key, m.value, k.kind INTO bad
    FROM jsonb_array_elements(jobs) WITH ORDINALITY e, jsonb_each(e.value) m
    LEFT JOIN (VALUES ('job_type', 'string'), ('payload', 'object'), ('queue', 'string'), ('priority', 'number'),
      ('max_retries', 'number'), ('timeout_seconds', 'number'), ('run_at', 'string'), ('delay_seconds', 'number'),
      ('unique_key', 'string'), ('backoff', 'object'), ('concurrency_key', 'string'), ('on_conflict', 'string'),
      ('unique_scope', 'string'), ('unique_for_seconds', 'number'), ('debounce_max_seconds', 'number'),
      ('after', 'array'), ('on_parent_failure', 'string'), ('batch_id', 'number'), ('unique_by', 'array'),
      ('encrypt', 'any')) k(name, kind) ON k.name = m.key
    WHERE k.kind IS NULL OR k.kind <> 'any' AND jsonb_typeof(m.value) NOT IN (k.kind, 'null')
    ORDER BY 1 LIMIT 1;
  IF FOUND AND bad.kind IS NULL THEN
    PERFORM jobs_refuse_new(bad.place, bad.key, format('%L is no option of a job in SQL: see docs/sql.md for those that'
      ' there are', left(bad.key, 120)));
  ELSIF FOUND THEN
    PERFORM jobs_refuse_new(bad.place, bad.key, format('%s is %L: expected a JSON %s', bad.key,
      left(bad.value::text, 120), bad.kind));
  END IF;
  SELECT e.ordinality::integer - 1 AS place, m.key, i.value INTO bad
    FROM jsonb_array_elements(jobs) WITH ORDINALITY e, jsonb_each(e.value) m,
      jsonb_array_elements(CASE WHEN m.key IN ('after', 'unique_by') AND m.value <> 'null' THEN m.value ELSE '[]' END) i
    WHERE CASE WHEN m.key = 'unique_by' THEN jsonb_typeof(i.value) <> 'string'
      WHEN jsonb_typeof(i.value) = 'number' THEN i.value::numeric NOT BETWEEN 1 AND 9223372036854775807
        OR i.value::numeric <> trunc(i.value::numeric)
      ELSE true END
    ORDER BY 1 LIMIT 1;
  IF FOUND THEN
    PERFORM jobs_refuse_new(bad.place, bad.key, format('%s has %L: expected %s', bad.key, left(bad.value::text, 120),
      CASE bad.key WHEN 'after' THEN 'ids of jobs' ELSE 'job_type, queue, or a field of the payload: payload.customer_id' END));
  END IF;
  FOR given, place IN SELECT e.value, e.ordinality::integer - 1 FROM jsonb_array_elements(jobs) WITH ORDINALITY e LOOP
    job := jsonb_populate_record(NULL::jobs_new, jsonb_strip_nulls(given - '{payload,run_at,backoff}'::text[])
      || jsonb_build_object('payload', given -> 'payload', 'backoff', NULLIF(given -> 'backoff', 'null')));
    IF given ->> 'run_at' IS NOT NULL THEN
      BEGIN
        IF given ->> 'run_at' !~ moment THEN
          RAISE invalid_datetime_format;
        END IF;
        job.run_at := (given ->> 'run_at')::timestamptz;
      EXCEPTION WHEN data_exception THEN
        PERFORM jobs_refuse_new(place, 'run_at', format('run_at is %L: expected a time with a zone, like'
          ' 2026-03-01T09:00:00Z', left(given ->> 'run_at', 120)));
      END;
    END IF;
    list := array_append(list, jobs_check_new(job, place));
  END LOOP;
  RETURN list;
END $body$;
COMMENT ON FUNCTION jobs_read_new(jsonb) IS 'The jobs of a JSON array, checked';
"""

KEYED = r"""
CREATE FUNCTION jobs_refuse_key(job jobs_new, place integer, words text) RETURNS void LANGUAGE plpgsql AS $body$
BEGIN
  PERFORM jobs_refuse_new(place, 'unique_key', format('unique_key %L is held by %s', job.unique_key, words), '23505');
END $body$;
COMMENT ON FUNCTION jobs_refuse_key(jobs_new, integer, text) IS 'Raises who holds the unique_key of a new job';

CREATE FUNCTION jobs_check_holder(job jobs_new, place integer, holder bigint) RETURNS void LANGUAGE plpgsql AS $body$
DECLARE
  held record;
BEGIN
  SELECT b.enqueued_by IS NOT NULL AS of_another, b.job_type = job.job_type AND b.payload = job.payload AS same
    INTO held FROM background_jobs b WHERE b.id = holder;
  IF NOT FOUND THEN
    PERFORM jobs_refuse_key(job, place, format('job %s that has been removed', holder));
  ELSIF NOT held.same AND held.of_another THEN
    PERFORM jobs_refuse_key(job, place, 'a job of another caller: use a key that begins with a name of your own');
  ELSIF NOT held.same THEN
    PERFORM jobs_refuse_key(job, place, format('job %s with another job_type or payload: on_conflict ''replace'' gives'
      ' that job this payload, and ''keep_latest'' also runs this one after it', holder));
  END IF;
END $body$;
COMMENT ON FUNCTION jobs_check_holder(jobs_new, integer, bigint) IS
  'Raises unless the job that holds the unique_key of a new one does the same';

CREATE FUNCTION jobs_change_holder(job jobs_new, place integer) RETURNS bigint LANGUAGE plpgsql AS $body$
DECLARE
  due timestamptz := COALESCE(job.run_at,
    clock_timestamp() + make_interval(secs => COALESCE(job.delay_seconds, 0)::float8));
  longest interval := make_interval(secs => COALESCE(job.debounce_max_seconds, 3600)::float8);
  started boolean := job.on_conflict = 'keep_latest';
  found bigint;
  of_another boolean;
BEGIN
  IF job.on_conflict = 'extend' THEN
    UPDATE jobs_live b SET
      next_run_at = CASE WHEN b.held_for IN ('after', 'unique') THEN b.next_run_at
        ELSE greatest(COALESCE(b.held_due_at, b.next_run_at), least(due, b.created_at + longest)) END,
      held_due_at = CASE WHEN b.held_for IN ('after', 'unique')
        THEN greatest(COALESCE(b.held_due_at, b.next_run_at), least(due, b.created_at + longest)) END,
      held_since = CASE WHEN b.held_for IN ('after', 'unique') THEN b.held_since END,
      held_for = CASE WHEN b.held_for IN ('after', 'unique') THEN b.held_for END
    WHERE b.unique_key = job.unique_key AND b.status = 'PENDING' AND b.job_type = job.job_type
    RETURNING b.id, b.enqueued_by IS NOT NULL INTO found, of_another;
  ELSE
    UPDATE jobs_live b SET
      next_run_at = CASE WHEN b.held_for IN ('after', 'unique') THEN b.next_run_at ELSE due END,
      held_due_at = CASE WHEN b.held_for IN ('after', 'unique') THEN due END,
      held_since = CASE WHEN b.held_for IN ('after', 'unique') THEN b.held_since END,
      held_for = CASE WHEN b.held_for IN ('after', 'unique') THEN b.held_for END,
      payload = job.payload, queue = job.queue, priority = job.priority, max_retries = job.max_retries,
      timeout_seconds = job.timeout_seconds, backoff = job.backoff, concurrency_key = job.concurrency_key,
      unique_until_start = job.unique_until_start, attempts = 0, lost_leases = 0, last_error = NULL
    WHERE b.id = (
        SELECT w.id FROM jobs_live w
        WHERE (w.unique_key = job.unique_key OR started AND w.unique_until_start = job.unique_key)
          AND w.status = 'PENDING'
        ORDER BY w.unique_key IS NULL, w.id DESC LIMIT 1 FOR UPDATE)
      AND b.status = 'PENDING' AND b.job_type = job.job_type
    RETURNING b.id, b.enqueued_by IS NOT NULL INTO found, of_another;
  END IF;
  IF found IS NULL THEN
    -- Keeps no lock of a holder that was not changed: its worker could not settle it before the caller commits.
    RAISE SQLSTATE 'FJ000';
  ELSIF of_another THEN
    PERFORM jobs_refuse_key(job, place, 'a job of another caller: use a key that begins with a name of your own');
  ELSIF job.on_conflict = 'extend' THEN
    PERFORM jobs_check_holder(job, place, found);
  END IF;
  RETURN found;
EXCEPTION WHEN SQLSTATE 'FJ000' THEN
  RETURN NULL;
END $body$;
COMMENT ON FUNCTION jobs_change_holder(jobs_new, integer) IS
  'Gives the PENDING job that has the unique_key what a new job says; its id, NULL: there is none';

CREATE FUNCTION jobs_store_keyed(job jobs_new, place integer, OUT made_id bigint, OUT created boolean)
LANGUAGE plpgsql AS $body$
DECLARE
  policy CONSTANT text := COALESCE(job.on_conflict, 'return');
  give_up_at CONSTANT timestamptz := clock_timestamp() + interval '5 s';
  pause float8 := 0.001;
  due timestamptz;
  made_at timestamptz;
  turn record;
  holder record;
  held_until record;
BEGIN
  created := false;
  IF job.unique_for_seconds IS NOT NULL THEN
    INSERT INTO unique_windows AS w (key, job_id, created_at, next_run_at, until)
    VALUES (job.unique_key, 0, now(), now(), '-infinity')
    ON CONFLICT (key) DO UPDATE SET key = excluded.key
    RETURNING w.job_id, w.until, w.enqueued_by IS NOT NULL AS of_another INTO held_until;
    IF held_until.until > clock_timestamp() THEN
      IF policy = 'reject' THEN
        PERFORM jobs_refuse_key(job, place, CASE WHEN held_until.of_another
          THEN 'a job of another caller: use a key that begins with a name of your own'
          ELSE format('job %s until %s (unique_for_seconds): send the request after that, or with on_conflict ''return'''
            ' to get that job', held_until.job_id, held_until.until) END);
      END IF;
      PERFORM jobs_check_holder(job, place, held_until.job_id);
      made_id := held_until.job_id;
      RETURN;
    END IF;
  END IF;
  LOOP
    IF policy NOT IN ('return', 'reject') THEN
      made_id := jobs_change_holder(job, place);
      EXIT WHEN made_id IS NOT NULL;
    END IF;
    due := COALESCE(job.run_at, clock_timestamp() + make_interval(secs => COALESCE(job.delay_seconds, 0)::float8));
    -- Under keep_latest held at first: only a statement that begins when the key is this job's sees for certain
    -- whether another one runs that had it before.
    INSERT INTO jobs_live AS b (job_type, payload, queue, priority, max_retries, timeout_seconds, next_run_at, unique_key,
      backoff, concurrency_key, batch_id, unique_until_start, lease_token, held_for, held_since, held_due_at)
    SELECT job.job_type, job.payload, job.queue, job.priority, job.max_retries, job.timeout_seconds,
      CASE policy WHEN 'keep_latest' THEN 'infinity' ELSE due END, job.unique_key, job.backoff, job.concurrency_key,
      job.batch_id, job.unique_until_start, 0, CASE policy WHEN 'keep_latest' THEN 'unique' END,
      CASE policy WHEN 'keep_latest' THEN clock_timestamp() END, CASE policy WHEN 'keep_latest' THEN due END
    ON CONFLICT (unique_key) WHERE unique_key IS NOT NULL DO NOTHING
    RETURNING b.id, b.created_at INTO made_id, made_at;
    IF made_id IS NOT NULL THEN
      created := true;
      EXIT;
    END IF;
    SELECT l.id, l.status, l.job_type, l.enqueued_by IS NOT NULL AS of_another,
        l.unique_until_start IS NOT NULL AS until_start
      INTO holder FROM jobs_live l WHERE l.unique_key = job.unique_key;
    IF FOUND THEN
      IF policy = 'return' THEN
        PERFORM jobs_check_holder(job, place, holder.id);
        made_id := holder.id;
        EXIT;
      ELSIF holder.of_another THEN
        PERFORM jobs_refuse_key(job, place, 'a job of another caller: use a key that begins with a name of your own');
      ELSIF policy = 'reject' THEN
        PERFORM jobs_refuse_key(job, place, format('job %s, which is %s, and on_conflict is ''reject'': wait until that job'
          ' has ended, cancel it, or send the request with on_conflict ''return'' to get that job', holder.id, holder.status));
      ELSIF holder.job_type <> job.job_type THEN
        PERFORM jobs_refuse_key(job, place, format('job %s of type %L: on_conflict %L changes a job of its own type alone,'
          ' so use another key', holder.id, holder.job_type, policy));
      ELSIF holder.status <> 'PENDING' AND NOT holder.until_start AND policy = 'keep_latest' THEN
        PERFORM jobs_refuse_key(job, place, format('job %s, which is %s and has it until it has ended, since it was enqueued'
          ' under another on_conflict: send the request again then, and enqueue all jobs of a key with ''keep_latest''',
          holder.id, holder.status));
      ELSIF holder.status <> 'PENDING' AND NOT holder.until_start THEN
        PERFORM jobs_refuse_key(job, place, format('job %s, which is %s: on_conflict %L changes a PENDING job alone. Send the'
          ' request again when that job has ended, or enqueue jobs of this key with unique_scope ''until_started'' or'
          ' on_conflict ''keep_latest''', holder.id, holder.status, policy));
      END IF;
    END IF;
    IF clock_timestamp() >= give_up_at THEN
      PERFORM jobs_refuse_new(place, 'unique_key', format('unique_key %L was taken and freed again and again while this job'
        ' was being enqueued: try again', job.unique_key), '40001');
    END IF;
    -- It has ended by now, or is PENDING, or gives its key up in a moment.
    PERFORM pg_sleep(pause);
    pause := least(2 * pause, 0.1);
  END LOOP;
  IF created AND policy = 'keep_latest' THEN
    UPDATE jobs_live b SET next_run_at = greatest(b.held_due_at, clock_timestamp()), held_for = NULL,
      held_since = NULL, held_due_at = NULL
    WHERE b.id = made_id AND b.held_for = 'unique' AND NOT EXISTS (
      SELECT FROM jobs_live a WHERE a.unique_until_start = job.unique_key AND a.id <> made_id);
  END IF;
  IF created AND job.unique_for_seconds IS NOT NULL THEN
    UPDATE unique_windows SET job_id = made_id, created_at = made_at, next_run_at = due, enqueued_by = NULL,
      until = made_at + make_interval(secs => job.unique_for_seconds::float8)
    WHERE key = job.unique_key;
  END IF;
END $body$;
COMMENT ON FUNCTION jobs_store_keyed(jobs_new, integer) IS
  'Stores a new job that has a unique_key, or does to the holder of the key what it says';
"""

STORE = r"""
CREATE FUNCTION jobs_store_new(list jobs_new[], alone boolean) RETURNS TABLE (id bigint, created boolean)
LANGUAGE plpgsql AS $body$
#variable_conflict use_column
DECLARE
  given record;
  plain bigint[];
  ids bigint[];
  new boolean[] := array_fill(true, ARRAY[cardinality(list)]);
  one record;
  keyed record;
BEGIN
  SELECT bool_or(j.unique_key IS NULL) AS plain, bool_or(j.unique_key IS NOT NULL) AS keyed,
      bool_or(j.batch_id IS NOT NULL) AS batches, bool_or(j.after IS NOT NULL) AS parents
    INTO given FROM unnest(list) j;
  IF given.batches THEN
    PERFORM jobs_check_batches(list);
  END IF;
  IF given.parents THEN
    PERFORM jobs_check_parents(list, alone);
  END IF;
  IF given.plain THEN
    WITH made AS (
      INSERT INTO jobs_live AS b (job_type, payload, queue, priority, max_retries, timeout_seconds, next_run_at, backoff,
        concurrency_key, batch_id, lease_token)
      SELECT j.job_type, j.payload, j.queue, j.priority, j.max_retries, j.timeout_seconds,
        COALESCE(j.run_at, clock_timestamp() + make_interval(secs => COALESCE(j.delay_seconds, 0)::float8)), j.backoff,
        j.concurrency_key, j.batch_id, 0
      FROM unnest(list) WITH ORDINALITY j WHERE j.unique_key IS NULL ORDER BY j.ordinality
      RETURNING b.id)
    SELECT array_agg(made.id ORDER BY made.id) INTO plain FROM made;
  END IF;
  ids := plain;
  IF given.keyed THEN
    ids := array_fill(NULL::bigint, ARRAY[cardinality(list)]);
    -- In the order of their keys, so that two calls with the same do not wait for each other in a circle.
    FOR one IN
      SELECT s.job, s.at, (s.job).unique_key IS NULL AS is_plain,
        row_number() OVER (PARTITION BY (s.job).unique_key IS NULL ORDER BY s.at) AS nth
      FROM (SELECT j AS job, row_number() OVER () AS at FROM unnest(list) j) s
      ORDER BY (s.job).unique_key COLLATE "C", s.at
    LOOP
      IF one.is_plain THEN
        ids[one.at] := plain[one.nth];
      ELSE
        keyed := jobs_store_keyed(one.job, CASE WHEN NOT alone THEN one.at::integer - 1 END);
        ids[one.at] := keyed.made_id;
        new[one.at] := keyed.created;
      END IF;
    END LOOP;
  END IF;
  IF given.batches OR given.parents THEN
    PERFORM jobs_link_new(list, ids, new);
  END IF;
  PERFORM jobs_announce_new(list);
  RETURN QUERY SELECT u.id, u.created FROM unnest(ids, new) WITH ORDINALITY u(id, created, n) ORDER BY u.n;
END $body$;
COMMENT ON FUNCTION jobs_store_new(jobs_new[], boolean) IS 'Stores checked jobs, all or none; answers in their order';

CREATE FUNCTION jobs_check_batches(list jobs_new[]) RETURNS void LANGUAGE plpgsql AS $body$
DECLARE
  asked record;
  batch record;
BEGIN
  FOR asked IN SELECT j.batch_id::bigint AS id, count(*) AS jobs FROM unnest(list) j WHERE j.batch_id IS NOT NULL
    GROUP BY 1 ORDER BY 1
  LOOP
    -- Whoever closes it waits for this transaction.
    SELECT b.closed_at IS NULL AS is_open, b.jobs INTO batch FROM batches b WHERE b.id = asked.id FOR KEY SHARE;
    IF NOT FOUND THEN
      PERFORM jobs_refuse_new(NULL, 'batch_id', format('batch_id is %s: there is no such batch', asked.id));
    ELSIF NOT batch.is_open THEN
      PERFORM jobs_refuse_new(NULL, 'batch_id', format('Batch %s is closed: no job can join it', asked.id), '55000');
    ELSIF batch.jobs + asked.jobs > 1000000 THEN
      PERFORM jobs_refuse_new(NULL, 'batch_id', format('Batch %s has %s jobs: with %s more it would have more than 1000000',
        asked.id, batch.jobs, asked.jobs));
    END IF;
  END LOOP;
END $body$;
COMMENT ON FUNCTION jobs_check_batches(jobs_new[]) IS 'Keeps the batches of new jobs open to the end of the transaction';

CREATE FUNCTION jobs_check_parents(list jobs_new[], alone boolean) RETURNS void LANGUAGE plpgsql AS $body$
DECLARE
  links bigint;
  missing record;
BEGIN
  SELECT sum(cardinality(j.after)) INTO links FROM unnest(list) j;
  IF links IS NULL THEN
    RETURN;
  ELSIF links > 100000 THEN
    PERFORM jobs_refuse_new(NULL, 'after', format('after names %s jobs in all: at most 100000 are allowed in one call', links));
  END IF;
  SELECT j.ordinality::integer - 1 AS place, array_agg(a ORDER BY n) AS ids INTO missing
    FROM unnest(list) WITH ORDINALITY j, unnest(j.after) WITH ORDINALITY p(a, n)
    WHERE NOT EXISTS (SELECT FROM background_jobs b WHERE b.id = a)
    GROUP BY 1 ORDER BY 1 LIMIT 1;
  IF FOUND THEN
    PERFORM jobs_refuse_new(CASE WHEN NOT alone THEN missing.place END, 'after', format('after names jobs that do not exist:'
      ' %s%s', array_to_string(missing.ids[:20], ', '),
      CASE WHEN cardinality(missing.ids) > 20 THEN format(' and %s more', cardinality(missing.ids) - 20) ELSE '' END));
  END IF;
END $body$;
COMMENT ON FUNCTION jobs_check_parents(jobs_new[], boolean) IS 'Raises unless the jobs that new ones wait for exist';

CREATE FUNCTION jobs_link_new(list jobs_new[], ids bigint[], new boolean[]) RETURNS void LANGUAGE plpgsql AS $body$
DECLARE
  parents bigint[];
  flagged bigint[];
BEGIN
  INSERT INTO job_endings (batch_id, status, jobs)
  SELECT j.batch_id, 'ADDED', count(*) FROM unnest(list) WITH ORDINALITY j
  WHERE j.batch_id IS NOT NULL AND new[j.ordinality] GROUP BY 1 ORDER BY 1;
  SELECT array_agg(DISTINCT a) INTO parents FROM unnest(list) WITH ORDINALITY j, unnest(j.after) a WHERE new[j.ordinality];
  IF parents IS NULL THEN
    RETURN;
  END IF;
  WITH free AS MATERIALIZED (
    SELECT b.id FROM background_jobs b
    WHERE b.id = ANY (parents) AND b.status = 'PENDING' AND b.has_children IS NOT TRUE
    ORDER BY b.id FOR NO KEY UPDATE SKIP LOCKED),
  told AS (
    UPDATE background_jobs b SET has_children = true FROM free WHERE b.id = free.id AND b.status = 'PENDING'
    RETURNING b.id)
  SELECT COALESCE(array_agg(told.id), '{}') INTO flagged FROM told;
  WITH r AS (
    SELECT a AS parent_id, ids[j.ordinality] AS child_id, COALESCE(j.on_parent_failure, 'cancel') AS policy
    FROM unnest(list) WITH ORDINALITY j, unnest(j.after) a WHERE new[j.ordinality]),
  ended AS MATERIALIZED (
    SELECT b.id, b.status FROM background_jobs b
    WHERE b.id = ANY (parents) AND b.status IN ('CANCELLED', 'DEAD_LETTER', 'FAILED', 'SUCCESS')),
  linked AS (
    INSERT INTO job_dependencies AS d (parent_id, child_id, on_parent_failure, outcome, met)
    SELECT r.parent_id, r.child_id, r.policy, e.status,
      COALESCE(e.status = 'SUCCESS' OR e.status IS NOT NULL AND r.policy = 'run', false)
    FROM r LEFT JOIN ended e ON e.id = r.parent_id
    RETURNING d.parent_id, d.child_id, d.met),
  looks AS (
    INSERT INTO job_endings (job_id)
    SELECT DISTINCT parent_id FROM linked WHERE NOT met AND parent_id <> ALL (flagged))
  UPDATE jobs_live b SET held_for = 'after', held_since = clock_timestamp(), held_due_at = b.next_run_at,
    next_run_at = 'infinity'
  FROM (SELECT DISTINCT child_id AS id FROM linked WHERE NOT met) r WHERE b.id = ANY (ARRAY[r.id]);
  IF FOUND THEN
    PERFORM pg_notify(jobs_channel(), '{"kind": "endings", "v": 1}');
  END IF;
END $body$;
COMMENT ON FUNCTION jobs_link_new(jobs_new[], bigint[], boolean[]) IS
  'Counts new jobs for their batches, and holds those that wait for others';

CREATE FUNCTION jobs_channel() RETURNS text LANGUAGE sql STABLE AS $body$
  SELECT CASE current_schema() WHEN 'public' THEN 'finmind_jobs' ELSE current_schema()::text END
$body$;
COMMENT ON FUNCTION jobs_channel() IS 'Where the processes of the service listen';

CREATE FUNCTION jobs_announce_new(list jobs_new[]) RETURNS void LANGUAGE plpgsql AS $body$
DECLARE
  lanes text;
BEGIN
  SELECT CASE WHEN count(*) <= 100 THEN jsonb_agg(jsonb_build_array(queue, priority))::text ELSE '[]' END INTO lanes
  FROM (SELECT DISTINCT j.queue, j.priority FROM unnest(list) j
    WHERE COALESCE(j.delay_seconds, 0) = 0 AND (j.run_at IS NULL OR j.run_at <= clock_timestamp())) due;
  IF lanes IS NOT NULL THEN
    PERFORM pg_notify(jobs_channel(), CASE WHEN octet_length(lanes) < 8000 THEN lanes ELSE '[]' END);
  END IF;
  IF EXISTS (SELECT FROM unnest(list) j WHERE j.on_conflict = 'keep_latest') THEN
    -- What they wait for may end before this commits.
    PERFORM pg_notify(jobs_channel(), '{"kind": "endings", "v": 1}');
  END IF;
END $body$;
COMMENT ON FUNCTION jobs_announce_new(jobs_new[]) IS 'Wakes workers once the transaction has committed';
"""

PUBLIC = r"""
CREATE FUNCTION enqueue_job(
  job_type text, payload jsonb DEFAULT NULL, queue text DEFAULT NULL, priority integer DEFAULT NULL,
  max_retries integer DEFAULT NULL, timeout_seconds float8 DEFAULT NULL, run_at timestamptz DEFAULT NULL,
  delay_seconds float8 DEFAULT NULL, unique_key text DEFAULT NULL, backoff jsonb DEFAULT NULL,
  concurrency_key text DEFAULT NULL, on_conflict text DEFAULT NULL, unique_scope text DEFAULT NULL,
  unique_for_seconds float8 DEFAULT NULL, debounce_max_seconds float8 DEFAULT NULL, after bigint[] DEFAULT NULL,
  on_parent_failure text DEFAULT NULL, batch_id bigint DEFAULT NULL, unique_by text[] DEFAULT NULL,
  encrypt text[] DEFAULT NULL
) RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER SET extra_float_digits = 1 AS $body$
DECLARE
  job jobs_new;
BEGIN
  job := ROW(job_type, payload, queue, priority, max_retries, timeout_seconds::numeric, run_at, delay_seconds::numeric,
    unique_key, backoff, concurrency_key, on_conflict, unique_scope, unique_for_seconds::numeric,
    debounce_max_seconds::numeric, after, on_parent_failure, batch_id, unique_by, to_jsonb(encrypt), NULL)::jobs_new;
  RETURN (SELECT s.id FROM jobs_store_new(ARRAY[jobs_check_new(job, NULL)], true) s);
END $body$;
COMMENT ON FUNCTION enqueue_job IS
  'Enqueues a job in this transaction, with the options and the rules of POST /jobs; its id';

CREATE FUNCTION enqueue_jobs(jobs jsonb) RETURNS TABLE (id bigint, created boolean)
LANGUAGE plpgsql SECURITY DEFINER SET extra_float_digits = 1 ROWS 1000 AS $body$
BEGIN
  RETURN QUERY SELECT s.id, s.created FROM jobs_store_new(jobs_read_new(jobs), false) s;
END $body$;
COMMENT ON FUNCTION enqueue_jobs(jsonb) IS
  'Enqueues up to 10000 jobs, all or none, each an object with the options of enqueue_job; in the order given';
"""

FUNCTIONS = (
    "jobs_read_new(jsonb)",
    "jobs_refuse_key(jobs_new,integer,text)",
    "jobs_check_holder(jobs_new,integer,bigint)",
    "jobs_change_holder(jobs_new,integer)",
    "jobs_store_keyed(jobs_new,integer)",
    "jobs_store_new(jobs_new[],boolean)",
    "jobs_check_batches(jobs_new[])",
    "jobs_check_parents(jobs_new[],boolean)",
    "jobs_link_new(jobs_new[],bigint[],boolean[])",
    "jobs_channel()",
    "jobs_announce_new(jobs_new[])",
    "enqueue_job",
    "enqueue_jobs(jsonb)",
)

PINNED = """
DO $body$ BEGIN
  EXECUTE format('ALTER FUNCTION enqueue_job SET search_path = %I, pg_temp', current_schema());
  EXECUTE format('ALTER FUNCTION enqueue_jobs(jsonb) SET search_path = %I, pg_temp', current_schema());
END $body$;
"""


def upgrade() -> None:
    """New functions, which nobody may call yet: `python -m service roles` grants the two."""
    op.execute(READ + KEYED + STORE + PUBLIC + PINNED)
    op.execute(f"REVOKE ALL ON FUNCTION {', '.join(FUNCTIONS)} FROM PUBLIC")


def downgrade() -> None:
    """Callers get an error that the function does not exist."""
    op.execute(f"DROP FUNCTION {', '.join(FUNCTIONS)}")
