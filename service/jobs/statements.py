"""Every SQL statement of the engine, one constant each.

Parameters are positional ($1 …), so that the same text runs on asyncpg's own connections (the
worker's) and inside a caller's SQLAlchemy transaction. Lists travel as arrays: one statement a
batch, whatever its size. `docs/architecture.md` tells how the statements fit together. Longer than
other files, so that there is one place to look for what the engine asks of PostgreSQL.
"""

from typing import Final

# -- building blocks --------------------------------------------------------------------------


def _history(errors: str, entry: str, *, keep: str) -> str:
    """The error history with one entry more, the oldest dropped where it would be too long.

    What is not a list, written by plain SQL, counts as none: it must not cost the job its end.
    """
    return (
        f"(CASE WHEN jsonb_typeof({errors}) IS DISTINCT FROM 'array' THEN '[]'"
        f" WHEN jsonb_array_length({errors}) < {keep} THEN {errors}"
        f" ELSE jsonb_path_query_array({errors}, '$[$first to last]',"
        f" jsonb_build_object('first', jsonb_array_length({errors}) - {keep} + 1)) END || {entry})"
    )


def _last_error(failure: str) -> str:
    """`last_error` as it is made of a history entry."""
    return f"concat_ws(': ', {failure} ->> 'type', {failure} ->> 'message')"


_SAME: Final = "b.id = ANY (ARRAY[r.id])"
"""`b.id = r.id`, in a form that cannot be merged or hashed: one probe of the primary key for each of
the batch. Planned while few jobs are live, the plain form walks the whole index, and that plan is
kept when there are many."""

_LEASE_LOST_ENTRY: Final = """jsonb_build_object(
    'event', 'lease_lost', 'attempt', b.attempts, 'type', 'LeaseLost',
    'message', 'the worker stopped or stalled during this attempt', 'traceback', NULL,
    'started_at', b.started_at, 'at', now(), 'by', NULL,
    'worker', (SELECT w.name FROM finmind_jobs.job_workers w WHERE w.id = b.worker_id))"""

_MANUAL_RETRY_ENTRY: Final = """jsonb_build_object(
    'event', 'manual_retry', 'attempt', attempts, 'type', status, 'message', 'retried by hand',
    'traceback', NULL, 'started_at', NULL, 'at', now(), 'worker', NULL, 'by', $2::text)"""

_NO_HANDLER_ENTRY: Final = """jsonb_build_object(
    'event', 'no_handler', 'attempt', attempts, 'type', 'NoHandler',
    'message', 'No handler registered for job type: ' || job_type, 'traceback', NULL,
    'started_at', NULL, 'at', now(), 'worker', NULL, 'by', NULL)"""

_REFUSED_ENTRY: Final = """jsonb_build_object(
    'event', 'error', 'attempt', attempts, 'type', 'RefusedByDatabase', 'message', $2::text,
    'traceback', NULL, 'started_at', NULL, 'at', now(), 'worker', NULL, 'by', NULL)"""

_COLUMNS: Final = (
    "id, created_at, next_run_at, started_at, finished_at, lease_token, worker_id, timeout_seconds,"
    " priority, attempts, max_retries, lost_leases, queue, job_type, status, unique_key, last_error,"
    " payload, result, progress, backoff, errors, enqueued_by"
)
"""What a job takes along when it changes partition."""

_COUNT: Final = """
  INSERT INTO finmind_jobs.job_stats (queue, job_type, status, day, jobs)
  SELECT queue, job_type, status, (finished_at AT TIME ZONE 'UTC')::date, {sign}count(*)
  FROM {source} WHERE finished_at IS NOT NULL GROUP BY 1, 2, 3, 4"""
"""The kept counts, told of jobs that came into (or left) the finished partitions."""


def _failed_unrun(reason: str, entry: str, *, keep: str) -> str:
    """Keep what is in `gone` as FAILED, told to the kept counts: `kept` is what came of it."""
    return f"""kept AS (
  INSERT INTO finmind_jobs.background_jobs ({_COLUMNS})
  SELECT id, created_at, next_run_at, started_at, clock_timestamp(), NULL, NULL, timeout_seconds,
    priority, attempts, max_retries, lost_leases, queue, job_type, 'FAILED', unique_key,
    {reason}, payload, result, progress, backoff, {_history("errors", entry, keep=keep)}, enqueued_by
  FROM gone RETURNING id, queue, job_type, status, finished_at),
counted AS ({_COUNT.format(sign="", source="kept")})"""


# -- enqueue ----------------------------------------------------------------------------------


_CHECKED: Final = 0
"""A lease token that no lease has: the row was checked here, and the table's trigger leaves it alone.
To check each of a million rows again would double what they cost PostgreSQL."""


def _new_rows(*, column: str = "", parameter: str = "") -> str:
    """Insert a batch; with a column more where its jobs need one."""
    more, array = (f", {column}", f", {parameter}") if column else ("", "")
    value = f", r.{column}" if column else ""
    return f"""
INSERT INTO finmind_jobs.jobs_live (job_type, payload, queue, priority, max_retries, timeout_seconds,
                       next_run_at, unique_key, backoff, lease_token{more})
SELECT r.job_type, r.payload::jsonb, COALESCE(r.queue, 'default'), COALESCE(r.priority, 2),
       r.max_retries, r.timeout_seconds,
       COALESCE(r.run_at, clock_timestamp() + make_interval(secs => COALESCE(r.delay_seconds, 0))),
       r.unique_key, r.backoff::jsonb, {_CHECKED}{value}
FROM unnest($1::text[], $2::text[], $3::text[], $4::smallint[], $5::smallint[], $6::float8[],
            $7::timestamptz[], $8::float8[], $9::text[], $10::text[]{array})
  WITH ORDINALITY AS r(job_type, payload, queue, priority, max_retries, timeout_seconds,
                       run_at, delay_seconds, unique_key, backoff{more}, place)
"""


_NEW_ROWS: Final = _new_rows()
"""Shorter arrays are filled up with nulls: a column of defaults travels as an empty one."""

_NEW_ROWS_OF_CALLERS: Final = _new_rows(column="enqueued_by", parameter="$11::text[]")
"""Apart, so that who enqueues by Python needs neither the column nor a right to fill it."""

_MADE: Final = "RETURNING id, created_at, next_run_at"

_KEYED: Final = f"""
ORDER BY r.unique_key NULLS FIRST, r.place
ON CONFLICT (unique_key) WHERE unique_key IS NOT NULL DO NOTHING
{_MADE}, unique_key
"""
"""Sorted by key, so that two batches with the same keys never wait for each other in a circle."""

ENQUEUE_UNSEEN: Final = _NEW_ROWS
"""Jobs without keys, in bulk: nothing comes back."""

ENQUEUE: Final = f"{_NEW_ROWS} {_MADE}"
"""Jobs without keys; the answer comes in the order of the arrays."""

ENQUEUE_KEYED: Final = _NEW_ROWS + _KEYED

ENQUEUE_FOR_CALLERS: Final = f"{_NEW_ROWS_OF_CALLERS} {_MADE}"
"""The same for callers of the REST API."""

ENQUEUE_KEYED_FOR_CALLERS: Final = _NEW_ROWS_OF_CALLERS + _KEYED

STANDING: Final = """
SELECT id, created_at, next_run_at, unique_key FROM finmind_jobs.jobs_live WHERE unique_key = ANY ($1::text[])
"""

# -- claim ------------------------------------------------------------------------------------

LANES: Final = """
WITH RECURSIVE lane AS (
  (SELECT queue, priority, next_run_at FROM finmind_jobs.jobs_live
   WHERE (queue, priority) > ($2::text, $3::smallint)
   ORDER BY queue, priority, next_run_at LIMIT 1)
  UNION ALL
  SELECT n.* FROM lane l CROSS JOIN LATERAL (
    SELECT b.queue, b.priority, b.next_run_at FROM finmind_jobs.jobs_live b
    WHERE (b.queue, b.priority) > (l.queue, l.priority)
    ORDER BY b.queue, b.priority, b.next_run_at LIMIT 1) n)
SELECT queue, priority, extract(epoch FROM next_run_at)::float8, extract(epoch FROM now())::float8
FROM lane LIMIT $1
"""
"""The lanes that hold jobs, from a given one on, when the first of each is due, and what time it is.

One index probe a lane.
"""

LANES_OF: Final = """
SELECT q.queue, p.priority::smallint, extract(epoch FROM n.next_run_at)::float8,
  extract(epoch FROM now())::float8
FROM unnest($1::text[]) AS q(queue) CROSS JOIN generate_series(0, 9) AS p(priority)
CROSS JOIN LATERAL (
  SELECT b.next_run_at FROM finmind_jobs.jobs_live b WHERE b.queue = q.queue AND b.priority = p.priority
  ORDER BY b.next_run_at LIMIT 1) n
"""
"""The same for queues known by name."""

RECENT_LANES: Final = """
SELECT q.queue, p.priority::smallint
FROM (SELECT unnest($1::text[]) AS queue
      UNION ALL (SELECT DISTINCT queue FROM finmind_jobs.job_stats WHERE $1 IS NULL LIMIT $2)) q
CROSS JOIN generate_series(0, 9) AS p(priority)
CROSS JOIN LATERAL (
  SELECT FROM finmind_jobs.jobs_live b WHERE b.queue = q.queue AND b.priority = p.priority
    AND b.next_run_at BETWEEN now() - make_interval(secs => $3) AND now()
  ORDER BY b.next_run_at DESC LIMIT 1) n
"""
"""Lanes of these queues, or else of those in which jobs have ended, that hold a job which became due
within the last $3 seconds.

However much lies dead in a lane, only what became due so recently is walked; beside that, the counts.
"""

_PLACE: Final = "b.next_run_at, (b.id + 0)"
"""Of a job in its lane, as jobs_live_claim has it. An index from which jobs could be found by `id` would
be taken for the settles while the primary key is full of dead entries."""

_NOT_LEASED: Final = "(b.lease_until IS NULL OR b.lease_until < now())"


_DUE: Final = f"""
WITH due AS MATERIALIZED (
  SELECT j.ctid AS place, l.queue, l.most, l.turn
  FROM unnest($1::text[], $2::smallint[], $3::float8[], $4::bigint[], $5::int[], $11::float8[],
      $12::bigint[])
    WITH ORDINALITY AS l(queue, priority, floor_at, floor_id, most, due_before, id_before, turn)
  CROSS JOIN LATERAL (
    SELECT b.ctid FROM finmind_jobs.jobs_live b
    WHERE b.queue = l.queue AND b.priority = l.priority AND b.next_run_at <= now()
      AND ({_PLACE}) >= (to_timestamp(l.floor_at), l.floor_id)
      AND ({_PLACE}) < (to_timestamp(l.due_before), l.id_before)
      AND b.job_type = ANY ($6::text[])
      AND {_NOT_LEASED}
    ORDER BY {_PLACE} LIMIT l.most FOR UPDATE SKIP LOCKED) j
  LIMIT $7)"""

_WITHIN_LIMITS: Final = """,
pick AS (
  SELECT place FROM (
    SELECT place, most, row_number() OVER (PARTITION BY queue ORDER BY turn) AS nth FROM due) d
  WHERE nth <= most)"""


def _take(picked: str, *, seconds: str, worker: str, keep: str) -> str:
    """Put what was picked under a new lease."""
    return f"""
UPDATE finmind_jobs.jobs_live b SET
  status = 'RUNNING', attempts = b.attempts + 1, started_at = now(), progress = NULL,
  lease_until = (SELECT now() + make_interval(secs => {seconds})),
  lease_token = (SELECT nextval('finmind_jobs.background_job_lease_tokens')), worker_id = {worker},
  lost_leases = CASE b.status WHEN 'RUNNING' THEN b.lost_leases + 1 ELSE b.lost_leases END,
  last_error = CASE b.status WHEN 'RUNNING' THEN
    'LeaseLost: the worker stopped or stalled during attempt ' || b.attempts ELSE b.last_error END,
  errors = CASE b.status WHEN 'RUNNING' THEN {_history("b.errors", _LEASE_LOST_ENTRY, keep=keep)} ELSE b.errors END
WHERE b.ctid = ANY (ARRAY(SELECT place FROM {picked}))
RETURNING b.id, b.lease_token, b.queue, b.job_type, b.priority, b.attempts, b.max_retries,
  b.timeout_seconds, b.lost_leases, date_part('epoch', b.next_run_at),
  CASE WHEN isfinite(b.next_run_at) THEN date_part('epoch', now() - b.next_run_at) ELSE 0 END,
  b.payload::text, b.backoff::text,
  CASE WHEN b.lost_leases > 0 THEN b.errors -> -1 -> 'at' = to_jsonb(now()) ELSE false END
"""


CLAIM: Final = _DUE + _take("due", seconds="$8", worker="$9", keep="$10")
"""Take due jobs lane by lane, in the order given.

No index holds a column that this changes: the update is HOT and writes no index entry. The floor
of a lane skips index entries that are dead but cannot be removed yet. The join is by ctid: the
row was locked a moment ago by this very statement, and finding it again by id would cost a third
more buffers. A plain INSERT may have made a job due at -infinity: PostgreSQL before 17 cannot
subtract that, and it would ruin the average of the delays.
"""

CLAIM_WITHIN_LIMITS: Final = (
    _DUE + _WITHIN_LIMITS + _take("pick", seconds="$8", worker="$9", keep="$10")
)
"""The same where a queue that may take fewer than the whole claim is asked for in several lanes: no
more of it than it may take. The window costs a seventh of the claim, so others do without."""

WINDOW_ENDS: Final = f"""
SELECT l.turn, date_part('epoch', e.next_run_at), e.id
FROM unnest($1::text[], $2::smallint[], $3::float8[], $4::bigint[], $5::float8[], $6::bigint[])
  WITH ORDINALITY AS l(queue, priority, floor_at, floor_id, due_before, id_before, turn)
CROSS JOIN LATERAL (
  SELECT b.next_run_at, b.id FROM finmind_jobs.jobs_live b
  WHERE b.queue = l.queue AND b.priority = l.priority AND b.next_run_at <= now()
    AND ({_PLACE}) >= (to_timestamp(l.floor_at), l.floor_id)
    AND ({_PLACE}) < (to_timestamp(l.due_before), l.id_before)
  ORDER BY {_PLACE} OFFSET $7 LIMIT 1) e
"""
"""Of the lanes that hold more than $7 due jobs between these places, whoever serves them: the place
of the first one behind so many. A claim up to there walks no further, and the next begins there.

Apart from the claim: a limit on what that walks would have it find every job twice, which costs
a third of it.
"""

DUE_JOBS: Final = f"""
SELECT b.id, b.job_type FROM finmind_jobs.jobs_live b
WHERE b.queue = $1 AND b.priority = $2 AND b.next_run_at <= now()
  AND ({_PLACE}) >= (to_timestamp($3), $4::bigint)
  AND ({_PLACE}) < (to_timestamp($5), $6::bigint)
  AND b.job_type = ANY ($7::text[]) AND {_NOT_LEASED}
ORDER BY {_PLACE} LIMIT $8
"""
"""What a claim of one lane would take, without taking it: for one that PostgreSQL refuses."""

CLAIM_ONE: Final = f"""
WITH due AS MATERIALIZED (
  SELECT b.ctid AS place FROM finmind_jobs.jobs_live b
  WHERE b.id = $1 AND b.next_run_at <= now() AND {_NOT_LEASED} FOR UPDATE SKIP LOCKED)
{_take("due", seconds="$2", worker="$3", keep="$4")}"""

FAIL_REFUSED: Final = f"""
WITH gone AS (
  DELETE FROM finmind_jobs.jobs_live b WHERE b.id = $1 AND {_NOT_LEASED} RETURNING *),
{_failed_unrun("$2::text", _REFUSED_ENTRY, keep="$3")}
SELECT id FROM kept
"""

LOST_CLAIMS: Final = f"""
SELECT j.id, j.lease_token
FROM unnest($1::text[], $2::smallint[], $5::float8[], $6::bigint[])
  AS l(queue, priority, floor_at, floor_id)
CROSS JOIN LATERAL (
  SELECT r.id, r.lease_token FROM (
    SELECT b.id, b.status, b.worker_id, b.lease_token FROM finmind_jobs.jobs_live b
    WHERE b.queue = l.queue AND b.priority = l.priority AND b.next_run_at <= now()
      AND ({_PLACE}) >= (to_timestamp(l.floor_at), l.floor_id)
    ORDER BY {_PLACE} LIMIT $7) r
  WHERE r.status = 'RUNNING' AND r.worker_id = $3 AND r.lease_token <> ALL ($4::bigint[])) j
"""
"""What a claim took whose answer never came: this worker's, under tokens that it never saw.

It took the first that it could from its floor on. Only so many jobs of each lane are looked at: a
backlog of millions would take longer than a statement may, over and over.
"""

RELEASE_LOST: Final = f"""
UPDATE finmind_jobs.jobs_live b SET
  status = 'PENDING', attempts = b.attempts - 1, lease_until = NULL, worker_id = NULL,
  started_at = NULL
FROM unnest($1::bigint[], $2::bigint[]) AS r(id, token)
WHERE {_SAME} AND b.lease_token = r.token AND b.status = 'RUNNING'
RETURNING b.id
"""
"""Give those back, by their tokens: cut off and carried out late, it must not meet what the worker
has claimed since."""

# -- settle -----------------------------------------------------------------------------------

FINISH: Final = f"""
WITH r AS (
  SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::text[])
    AS r(id, token, status, result, failure)),
gone AS (
  DELETE FROM finmind_jobs.jobs_live b USING r
  WHERE {_SAME} AND b.lease_token = r.token AND b.status = 'RUNNING'
  RETURNING b.*, COALESCE(r.status, 'SUCCESS') AS new_status, r.result::jsonb AS new_result,
    r.failure::jsonb AS failure),
kept AS (
  INSERT INTO finmind_jobs.background_jobs ({_COLUMNS})
  SELECT id, created_at, next_run_at, started_at, clock_timestamp(), lease_token, worker_id,
    timeout_seconds, priority,
    CASE WHEN failure ->> 'event' = 'lease_lost' THEN attempts - 1 ELSE attempts END,
    max_retries, lost_leases, queue, job_type, new_status, unique_key,
    CASE WHEN failure IS NULL THEN last_error
      ELSE {_last_error("failure")} END,
    payload, new_result, CASE WHEN new_status <> 'SUCCESS' THEN progress END, backoff,
    CASE WHEN failure IS NULL THEN errors ELSE {_history("errors", "failure", keep="$6")} END,
    enqueued_by
  FROM gone RETURNING id, lease_token, queue, job_type, status, finished_at),
counted AS ({_COUNT.format(sign="", source="kept")})
SELECT id, token FROM r EXCEPT ALL SELECT id, lease_token FROM kept
"""
"""Move ended jobs out of the live partition, fenced by their tokens. The answer tells the leases
that were lost: as a rule none. Without a status, jobs succeeded. A job that ends for its lost leases was claimed but not run: that claim is no attempt."""

REQUEUE: Final = f"""
WITH r AS (
  SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::float8[], $4::smallint[], $5::text[],
    $7::bool[]) AS r(id, token, delay_seconds, refund, failure, keeps_lost_leases)),
back AS (
UPDATE finmind_jobs.jobs_live b SET
  status = 'PENDING', attempts = b.attempts - r.refund,
  lost_leases = CASE WHEN r.keeps_lost_leases THEN b.lost_leases ELSE 0 END,
  next_run_at = CASE WHEN r.delay_seconds IS NULL THEN b.next_run_at
    ELSE clock_timestamp() + make_interval(secs => r.delay_seconds) END,
  lease_until = NULL, worker_id = NULL, started_at = NULL,
  last_error = CASE WHEN r.failure IS NULL THEN b.last_error
    ELSE {_last_error("r.failure::jsonb")} END,
  errors = CASE WHEN r.failure IS NULL THEN b.errors ELSE {_history("b.errors", "r.failure::jsonb", keep="$6")} END
FROM r WHERE {_SAME} AND b.lease_token = r.token AND b.status = 'RUNNING'
RETURNING b.id, r.token)
SELECT id, token FROM r EXCEPT ALL SELECT id, token FROM back
"""
"""Retry, snooze, release and postponement: back to PENDING, fenced by the tokens. The answer tells the leases
that were lost. The token stays until the next claim: SETTLED_BEFORE knows by it what was carried
out. Lost leases go on counting where asked for: the handler did not come to an end of its own."""

SETTLED_BEFORE: Final = """
SELECT d.id, d.lease_token FROM unnest($1::bigint[], $2::bigint[]) AS r(id, token)
CROSS JOIN LATERAL (
  SELECT b.id, b.lease_token FROM finmind_jobs.background_jobs b
  WHERE b.id = r.id AND b.lease_token = r.token AND b.status <> 'RUNNING' LIMIT 1) d
"""
"""After an answer was lost: which of these were settled under these very tokens.

The limit makes it probe. `_SAME` would not do: over partitions, PostgreSQL 18 answers that by reading
a small one whole for each of the batch, whatever `enable_seqscan` says.
"""

EXTEND: Final = f"""
UPDATE finmind_jobs.jobs_live b SET lease_until = now() + make_interval(secs => $3)
FROM unnest($1::bigint[], $2::bigint[]) AS r(id, token)
WHERE {_SAME} AND b.lease_token = r.token AND b.status = 'RUNNING'
RETURNING b.id, b.lease_token
"""

PROGRESS: Final = f"""
UPDATE finmind_jobs.jobs_live b SET progress = r.progress::jsonb
FROM unnest($1::bigint[], $2::bigint[], $3::text[]) AS r(id, token, progress)
WHERE {_SAME} AND b.lease_token = r.token AND b.status = 'RUNNING'
RETURNING b.id, b.lease_token
"""

NOTIFY: Final = "SELECT pg_notify($1, $2)"

# -- by hand ----------------------------------------------------------------------------------

RETRY_DEAD: Final = f"""
WITH gone AS (DELETE FROM finmind_jobs.jobs_dead WHERE id = $1 RETURNING *),
counted AS ({_COUNT.format(sign="-", source="gone")})
INSERT INTO finmind_jobs.jobs_live (id, created_at, next_run_at, timeout_seconds, priority, attempts,
  max_retries, queue, job_type, unique_key, last_error, payload, backoff, errors, enqueued_by)
SELECT id, created_at, clock_timestamp(), timeout_seconds, priority, 0, max_retries, queue,
  job_type, unique_key, last_error, payload, backoff,
  {_history("errors", _MANUAL_RETRY_ENTRY, keep="$3")}, enqueued_by
FROM gone RETURNING id, job_type, queue, priority
"""

CANCEL: Final = f"""
WITH gone AS (DELETE FROM finmind_jobs.jobs_live WHERE id = $1 AND status = 'PENDING' RETURNING *),
kept AS (
  INSERT INTO finmind_jobs.background_jobs ({_COLUMNS})
  SELECT id, created_at, next_run_at, started_at, clock_timestamp(), NULL, NULL, timeout_seconds,
    priority, attempts, max_retries, lost_leases, queue, job_type, 'CANCELLED', unique_key,
    last_error, payload, result, progress, backoff, errors, enqueued_by
  FROM gone RETURNING id, queue, job_type, status, finished_at),
counted AS ({_COUNT.format(sign="", source="kept")})
SELECT id, job_type FROM kept
"""

DELETE: Final = f"""
WITH gone AS (
  DELETE FROM finmind_jobs.background_jobs WHERE id = $1 AND status <> 'RUNNING'
  RETURNING id, queue, job_type, status, finished_at),
counted AS ({_COUNT.format(sign="-", source="gone")})
SELECT id FROM gone
"""

RESCHEDULE: Final = """
UPDATE finmind_jobs.jobs_live SET next_run_at = $2 WHERE id = $1 AND status = 'PENDING'
RETURNING id, queue, priority
"""

STATUS_OF: Final = "SELECT status FROM finmind_jobs.background_jobs WHERE id = $1"

# -- workers ----------------------------------------------------------------------------------

REGISTER_WORKER: Final = """
INSERT INTO finmind_jobs.job_workers (name, queues, job_types, concurrency)
VALUES ($1, $2::text[], $3::text[], $4) RETURNING id, extract(epoch FROM now())::float8
"""

WORKER_SEEN: Final = """
WITH seen AS (
  UPDATE finmind_jobs.job_workers SET seen_at = now(), job_types = $4::text[]
  WHERE id = $1 AND name = $2 RETURNING id),
entered AS (
  INSERT INTO finmind_jobs.job_workers (name, queues, job_types, concurrency)
  SELECT $2, $3::text[], $4::text[], $5 WHERE NOT EXISTS (SELECT FROM seen) RETURNING id)
SELECT id FROM seen UNION ALL SELECT id FROM entered
"""
"""The worker lives, and what it serves by now. Where its row is gone (a restore, a fail-over to a
standby that was behind, a day asleep) it enters anew: its old id may be another's by then."""

FORGET_WORKER: Final = "DELETE FROM finmind_jobs.job_workers WHERE id = $1"

WORKER_STOPPED: Final = (
    "UPDATE finmind_jobs.job_workers SET seen_at = now(), stopped_at = now() WHERE id = $1"
)

# -- maintenance ------------------------------------------------------------------------------

LEAD: Final = "SELECT pg_try_advisory_xact_lock(hashtext($1))"
LEADERSHIP: Final = "finmind-jobs.maintenance"
"""Held by an open transaction that has neither an XID nor a snapshot: it holds back no vacuum, ends
with its connection, and works behind PgBouncer in transaction mode."""

FOLD_STATS: Final = """
WITH old AS (DELETE FROM finmind_jobs.job_stats RETURNING queue, job_type, status, day, jobs),
folded AS (
  INSERT INTO finmind_jobs.job_stats (queue, job_type, status, day, jobs)
  SELECT queue, job_type, status, day, sum(jobs) FROM old GROUP BY 1, 2, 3, 4
  HAVING sum(jobs) <> 0 RETURNING 1)
SELECT count(*) FROM folded
"""

STATS_ROWS: Final = "SELECT count(*) FROM (SELECT 1 FROM finmind_jobs.job_stats LIMIT $1) s"

TODAY: Final = "SELECT (now() AT TIME ZONE 'UTC')::date"

DAY_LEAVES: Final = """
SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = 'finmind_jobs.jobs_done'::regclass
"""

DAY_TABLES: Final = """
SELECT c.relname FROM pg_class c JOIN pg_class p ON p.relnamespace = c.relnamespace
WHERE p.oid = 'finmind_jobs.jobs_done'::regclass AND c.relkind = 'r'
  AND c.relname ~ '^jobs_done_[0-9]{8}$'
"""
"""The same, and those that a leader had begun to fill when it ended: not attached yet."""

COPY_LATE: Final = """
SELECT last_at, last_id
FROM finmind_jobs.jobs_copy_late($1::date, COALESCE($2::timestamptz, '-infinity'), $3::bigint, $4::int)
"""

MAKE_DAY: Final = "SELECT finmind_jobs.jobs_make_day($1)"

DROP_DAY: Final = "SELECT finmind_jobs.jobs_drop_day($1)"

DROP_DEAD_BEFORE: Final = f"""
WITH gone AS (
  DELETE FROM finmind_jobs.jobs_dead WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM finmind_jobs.jobs_dead WHERE finished_at < now() - make_interval(days => $1)
    ORDER BY finished_at LIMIT $2 FOR UPDATE SKIP LOCKED))
  RETURNING id, queue, job_type, status, finished_at),
counted AS ({_COUNT.format(sign="-", source="gone")})
SELECT count(*) FROM gone
"""

DROP_DEFAULT_BEFORE: Final = f"""
WITH gone AS (
  DELETE FROM finmind_jobs.jobs_done_default WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM finmind_jobs.jobs_done_default
    WHERE finished_at < (date_trunc('day', now() AT TIME ZONE 'UTC') - make_interval(days => $1))
      AT TIME ZONE 'UTC'
    ORDER BY finished_at LIMIT $2 FOR UPDATE SKIP LOCKED))
  RETURNING id, queue, job_type, status, finished_at),
counted AS ({_COUNT.format(sign="-", source="gone")})
SELECT count(*) FROM gone
"""
"""Days that never had a partition, since nobody led: the same days as are dropped whole."""

CREATED_IDS: Final = """
SELECT COALESCE(pg_sequence_last_value('finmind_jobs.background_job_ids'::regclass), 0),
  pg_snapshot_xmin(s)::text::bigint, pg_snapshot_xmax(s)::text::bigint
FROM pg_current_snapshot() s
"""
"""The newest id that was given out, the oldest transaction that still writes, and the next one."""

CREATED_BETWEEN: Final = """
SELECT b.job_type, count(*) FROM unnest($1::bigint[], $2::bigint[]) AS c(after, up_to)
CROSS JOIN LATERAL (
  SELECT j.job_type FROM finmind_jobs.background_jobs j WHERE j.id > c.after AND j.id <= c.up_to) b
GROUP BY 1
"""

DROP_IDEMPOTENCY_KEYS: Final = """
WITH gone AS (
  DELETE FROM finmind_jobs.idempotency_keys WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM finmind_jobs.idempotency_keys WHERE created_at < now() - make_interval(hours => $1)
    ORDER BY created_at LIMIT $2))
  RETURNING 1)
SELECT count(*) FROM gone
"""

DROP_CALLER_USAGE: Final = """
WITH gone AS (
  DELETE FROM finmind_jobs.caller_usage WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM finmind_jobs.caller_usage WHERE since < now() - make_interval(days => $1)
    ORDER BY since LIMIT $2))
  RETURNING 1)
SELECT count(*) FROM gone
"""

DROP_JOB_NAMES: Final = """
WITH gone AS (
  DELETE FROM finmind_jobs.job_names WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM finmind_jobs.job_names WHERE seen_at < now() - make_interval(days => $1)
    ORDER BY seen_at LIMIT $2))
  RETURNING 1)
SELECT count(*) FROM gone
"""

DROP_OLD_WORKERS: Final = (
    "DELETE FROM finmind_jobs.job_workers WHERE seen_at < now() - interval '1 day'"
)

SERVED_TYPES: Final = """
SELECT DISTINCT t FROM finmind_jobs.job_workers w, unnest(w.job_types) t
WHERE CASE WHEN w.stopped_at IS NULL THEN w.seen_at > now() - make_interval(secs => $1)
           ELSE w.stopped_at > now() - make_interval(secs => $2) END
"""
"""Types that some worker serves: seen within $1 seconds, or stopped within the grace of $2."""

REMEMBER_SERVED_TYPES: Final = """
INSERT INTO finmind_jobs.served_types AS s (job_type, served_at)
SELECT t, max(w.seen_at) FROM finmind_jobs.job_workers w, unnest(w.job_types) t
GROUP BY 1 ORDER BY 1
ON CONFLICT (job_type) DO UPDATE SET served_at = EXCLUDED.served_at
WHERE s.served_at < EXCLUDED.served_at - interval '1 hour'
"""
"""To the hour, since it is remembered for days: most rounds write nothing."""

REMEMBERED_TYPES: Final = """
SELECT job_type FROM finmind_jobs.served_types WHERE served_at > now() - make_interval(days => $1)
ORDER BY 1
"""

FORGET_SERVED_TYPES: Final = """
DELETE FROM finmind_jobs.served_types WHERE served_at < now() - make_interval(days => $1)
"""

SERVED_QUEUES: Final = """
SELECT DISTINCT split_part(q, ':', 1) FROM finmind_jobs.job_workers w, unnest(w.queues) q
WHERE q <> '*' AND w.stopped_at IS NULL AND w.seen_at > now() - interval '1 minute' LIMIT $1
"""
"""Queues that some worker was told to serve: `WORKER_QUEUES`, without limits."""

FAIL_UNSERVED: Final = f"""
WITH head AS MATERIALIZED (
  SELECT j.ctid AS place, j.job_type
  FROM unnest($1::text[], $2::smallint[], $8::float8[]) AS l(queue, priority, first_at)
  CROSS JOIN LATERAL (
    SELECT b.ctid, b.job_type FROM finmind_jobs.jobs_live b
    WHERE b.queue = l.queue AND b.priority = l.priority AND b.status = 'PENDING'
      AND b.next_run_at >= to_timestamp(l.first_at)
      AND b.next_run_at <= now() - make_interval(secs => $4)
    ORDER BY {_PLACE} LIMIT $5) j),
unserved AS MATERIALIZED (
  SELECT b.ctid AS place FROM finmind_jobs.jobs_live b
  WHERE b.ctid = ANY (ARRAY(SELECT place FROM head WHERE job_type <> ALL ($3::text[]) LIMIT $6))
    AND b.status = 'PENDING' FOR UPDATE SKIP LOCKED),
gone AS (
  DELETE FROM finmind_jobs.jobs_live b WHERE b.ctid = ANY (ARRAY(SELECT place FROM unserved)) RETURNING *),
{_failed_unrun("'No handler registered for job type: ' || job_type", _NO_HANDLER_ENTRY, keep="$7")}
SELECT id, job_type FROM kept
"""

WAITING_FOR_WORKER: Final = f"""
SELECT j.job_type, count(*)
FROM unnest($1::text[], $2::smallint[], $6::float8[]) AS l(queue, priority, first_at)
CROSS JOIN LATERAL (
  SELECT b.job_type FROM finmind_jobs.jobs_live b
  WHERE b.queue = l.queue AND b.priority = l.priority AND b.status = 'PENDING'
    AND b.next_run_at >= to_timestamp(l.first_at)
    AND b.next_run_at <= now() - make_interval(secs => $4)
  ORDER BY {_PLACE} LIMIT $5) j
WHERE j.job_type = ANY ($3::text[]) GROUP BY 1 ORDER BY 1
"""
"""Jobs that have been due for so long, by type, of the types given."""

QUEUE_GAUGES: Final = f"""
SELECT l.queue, count(*) FILTER (WHERE d.status = 'PENDING'),
  count(*) FILTER (WHERE d.status = 'RUNNING'),
  COALESCE(extract(epoch FROM now())
           - extract(epoch FROM min(d.next_run_at) FILTER (WHERE d.status = 'PENDING')), 0)::float8
FROM unnest($1::text[], $2::smallint[], $4::float8[]) AS l(queue, priority, first_at)
LEFT JOIN LATERAL (
  SELECT b.status, b.next_run_at FROM finmind_jobs.jobs_live b
  WHERE b.queue = l.queue AND b.priority = l.priority AND b.next_run_at <= now()
    AND b.next_run_at >= to_timestamp(l.first_at)
  ORDER BY {_PLACE} LIMIT $3) d ON true
GROUP BY l.queue
"""
"""Due and running jobs of each queue and the age of the oldest due one; each lane's look is capped,
and begins where its first job was listed: not at what is dead before it."""
