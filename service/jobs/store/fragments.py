"""Pieces of SQL that several statements share."""

from typing import Final


def history(errors: str, entry: str, *, keep: str) -> str:
    """The error history with one entry more, the oldest dropped where it would be too long.

    What is not a list, written by plain SQL, counts as none: it must not cost the job its end.
    """
    return (
        f"(CASE WHEN jsonb_typeof({errors}) IS DISTINCT FROM 'array' THEN '[]'"
        f" WHEN jsonb_array_length({errors}) < {keep} THEN {errors}"
        f" ELSE jsonb_path_query_array({errors}, '$[$first to last]',"
        f" jsonb_build_object('first', jsonb_array_length({errors}) - {keep} + 1)) END || {entry})"
    )


def last_error(failure: str) -> str:
    """`last_error` as it is made of a history entry."""
    return f"concat_ws(': ', {failure} ->> 'type', {failure} ->> 'message')"


ID_BY_PRIMARY_KEY: Final = "b.id = ANY (ARRAY[r.id])"
"""`b.id = r.id`, in a form that cannot be merged or hashed: one probe of the primary key for each of
the batch. Planned while few jobs are live, the plain form walks the whole index, and that plan is
kept when there are many."""


LEASE_LOST_ENTRY: Final = """jsonb_build_object(
    'event', 'lease_lost', 'attempt', b.attempts, 'type', 'LeaseLost',
    'message', 'the worker stopped or stalled during this attempt', 'traceback', NULL,
    'started_at', b.started_at, 'at', now(), 'by', NULL,
    'worker', (SELECT w.name FROM finmind_jobs.job_workers w WHERE w.id = b.worker_id))"""


MANUAL_RETRY_ENTRY: Final = """jsonb_build_object(
    'event', 'manual_retry', 'attempt', attempts, 'type', status, 'message', 'retried by hand',
    'traceback', NULL, 'started_at', NULL, 'at', now(), 'worker', NULL, 'by', $2::text)"""


NO_HANDLER_ENTRY: Final = """jsonb_build_object(
    'event', 'no_handler', 'attempt', attempts, 'type', 'NoHandler',
    'message', 'No handler registered for job type: ' || job_type, 'traceback', NULL,
    'started_at', NULL, 'at', now(), 'worker', NULL, 'by', NULL)"""


REFUSED_ENTRY: Final = """jsonb_build_object(
    'event', 'error', 'attempt', attempts, 'type', 'RefusedByDatabase', 'message', $2::text,
    'traceback', NULL, 'started_at', NULL, 'at', now(), 'worker', NULL, 'by', NULL)"""


COLUMNS: Final = (
    "id, created_at, next_run_at, started_at, finished_at, lease_token, worker_id, timeout_seconds,"
    " priority, attempts, max_retries, lost_leases, queue, job_type, status, unique_key, last_error,"
    " payload, result, progress, backoff, errors, enqueued_by"
)
"""What a job takes along when it changes partition."""


COUNT: Final = """
  INSERT INTO finmind_jobs.job_stats (queue, job_type, status, day, jobs)
  SELECT queue, job_type, status, (finished_at AT TIME ZONE 'UTC')::date, {sign}count(*)
  FROM {source} WHERE finished_at IS NOT NULL GROUP BY 1, 2, 3, 4"""
"""The kept counts, told of jobs that came into (or left) the finished partitions."""


def failed_unrun(reason: str, entry: str, *, keep: str) -> str:
    """Keep what is in `gone` as FAILED, told to the kept counts: `kept` is what came of it."""
    return f"""kept AS (
  INSERT INTO finmind_jobs.background_jobs ({COLUMNS})
  SELECT id, created_at, next_run_at, started_at, clock_timestamp(), NULL, NULL, timeout_seconds,
    priority, attempts, max_retries, lost_leases, queue, job_type, 'FAILED', unique_key,
    {reason}, payload, result, progress, backoff, {history("errors", entry, keep=keep)}, enqueued_by
  FROM gone RETURNING id, queue, job_type, status, finished_at),
counted AS ({COUNT.format(sign="", source="kept")})"""


POSITION: Final = "b.next_run_at, (b.id + 0)"
"""Of a job in its lane, as jobs_live_claim has it. An index from which jobs could be found by `id` would
be taken for the settles while the primary key is full of dead entries."""


NOT_LEASED: Final = "(b.lease_until IS NULL OR b.lease_until < now())"
