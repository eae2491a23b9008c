"""Pieces of SQL that several statements share."""

from collections.abc import Mapping
from typing import Final

from service.jobs.core.fields import MOVED


def history(errors: str, entry: str) -> str:
    """The error history with one entry more; of more than `:max_errors` the oldest is dropped.

    What is not a list, written by plain SQL, counts as none: it must not cost the job its end.
    """
    return (
        f"(CASE WHEN jsonb_typeof({errors}) IS DISTINCT FROM 'array' THEN '[]'"
        f" WHEN jsonb_array_length({errors}) < :max_errors THEN {errors}"
        f" ELSE jsonb_path_query_array({errors}, '$[$first to last]',"
        f" jsonb_build_object('first', jsonb_array_length({errors}) - :max_errors + 1)) END || {entry})"
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
    'traceback', NULL, 'started_at', NULL, 'at', now(), 'worker', NULL, 'by', :by::text)"""


NO_HANDLER_ENTRY: Final = """jsonb_build_object(
    'event', 'no_handler', 'attempt', attempts, 'type', 'NoHandler',
    'message', 'No handler registered for job type: ' || job_type, 'traceback', NULL,
    'started_at', NULL, 'at', now(), 'worker', NULL, 'by', NULL)"""


REFUSED_ENTRY: Final = """jsonb_build_object(
    'event', 'error', 'attempt', attempts, 'type', 'RefusedByDatabase', 'message', :reason::text,
    'traceback', NULL, 'started_at', NULL, 'at', now(), 'worker', NULL, 'by', NULL)"""


COUNT: Final = """
  INSERT INTO finmind_jobs.job_stats (queue, job_type, status, day, jobs)
  SELECT queue, job_type, status, (finished_at AT TIME ZONE 'UTC')::date, {sign}count(*)
  FROM {source} WHERE finished_at IS NOT NULL GROUP BY 1, 2, 3, 4"""
"""Counts the jobs that came into (or left) the finished partitions."""


def move(table: str, columns: tuple[str, ...], changed: Mapping[str, str]) -> str:
    """Insert the jobs in `gone` into `table`: these columns, as they are where not `changed`."""
    if unknown := changed.keys() - set(columns):
        raise ValueError(f"not among the columns: {unknown}")
    values = ", ".join(changed.get(name, name) for name in columns)
    return (
        f"INSERT INTO finmind_jobs.{table} ({', '.join(columns)})\n  SELECT {values}\n  FROM gone"
    )


def keep_ended(changed: Mapping[str, str]) -> str:
    """Move the jobs in `gone` to the partition of their end, and count them there.

    `kept` holds what was moved.
    """
    moved = move("background_jobs", MOVED, {"finished_at": "clock_timestamp()", **changed})
    return f"""kept AS (
  {moved}
  RETURNING id, lease_token, queue, job_type, status, finished_at),
counted AS ({COUNT.format(sign="", source="kept")})"""


NO_LEASE: Final = dict.fromkeys(("lease_token", "worker_id"), "NULL")
"""Of a job that ends without an attempt."""


def failed_unrun(reason: str, entry: str) -> str:
    """End the jobs in `gone` FAILED without an attempt; `kept` holds what was moved."""
    return keep_ended(
        NO_LEASE
        | {
            "status": "'FAILED'",
            "last_error": reason,
            "errors": history("errors", entry),
        }
    )


POSITION: Final = "b.next_run_at, (b.id + 0)"
"""Of a job in its lane, as jobs_live_claim has it. An index from which jobs could be found by `id` would
be taken for the settles while the primary key is full of dead entries."""


NOT_LEASED: Final = "(b.lease_until IS NULL OR b.lease_until < now())"
