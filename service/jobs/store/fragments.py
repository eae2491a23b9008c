"""Pieces of SQL that several statements share."""

from collections.abc import Mapping
from typing import Final

from service.jobs.core.dependencies import AFTER, DELETED
from service.jobs.core.fields import MOVED
from service.jobs.core.holds import UNIQUE
from service.jobs.core.job import FIRST_MOMENT, LAST_MOMENT


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


LEASE_HOLDS: Final = f"{ID_BY_PRIMARY_KEY} AND b.lease_token = r.token AND b.status = 'RUNNING'"
"""The claims in `r` that still hold."""


CANCEL_ASKED: Final = (
    "jsonb_build_object('requested_at', clock_timestamp(), 'by', :asked_by::text,"
    " 'reason', :asked_reason::text)"
)
"""What `cancel` holds from when somebody asks for it."""


def cancel_report(
    asked: str, *, ended_at: str, how: str, seen_seconds: str = "NULL::float8"
) -> str:
    """What `cancel` holds in the end: who asked, when the worker had heard of it, when and how it ended."""
    return (
        f"{asked} || jsonb_build_object("
        f"'seen_at', {ended_at} - make_interval(secs => {seen_seconds}),"
        f" 'ended_at', {ended_at}, 'how', {how})"
    )


LEASE_LOST_ENTRY: Final = """jsonb_build_object(
    'event', 'lease_lost', 'attempt', b.attempts, 'type', 'LeaseLost',
    'message', 'the worker stopped or stalled during this attempt', 'traceback', NULL,
    'started_at', b.started_at, 'at', now(), 'by', NULL,
    'worker', (SELECT w.name FROM finmind_jobs.job_workers w WHERE w.id = b.worker_id))"""


MANUAL_RETRY_ENTRY: Final = """jsonb_build_object(
    'event', 'manual_retry', 'attempt', attempts, 'type', status, 'message', 'retried by hand',
    'traceback', NULL, 'started_at', NULL, 'at', now(), 'worker', NULL, 'by', :by::text)"""


def noted(errors: str, event: str, *, more: str = "'{}'::jsonb") -> str:
    """The error history with what was done to the job, and `more`; unchanged where `:by` is NULL."""
    entry = f"""(jsonb_build_object(
    'event', '{event}', 'attempt', b.attempts, 'type', NULL, 'message', :message::text,
    'traceback', NULL, 'started_at', NULL, 'at', now(), 'worker', NULL, 'by', :by::text) || {more})"""
    return f"(CASE WHEN :by::text IS NULL THEN {errors} ELSE {history(errors, entry)} END)"


PARENT_FAILED_ENTRY: Final = """jsonb_build_object(
    'event', 'parent_failed', 'attempt', b.attempts, 'type', NULL,
    'message', 'job ' || r.parent_id || ', which it waited for, ended ' || r.parent_status,
    'traceback', NULL, 'started_at', NULL, 'at', now(), 'worker', NULL, 'by', NULL,
    'parent_id', r.parent_id)"""


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


TIMINGS: Final = "array_agg(timing) FILTER (WHERE timing IS NOT NULL)"
"""Start delays and run times of those that ran, see `timing_of` in `core/histogram.py`."""

TIMED: Final = """timed AS (
  INSERT INTO finmind_jobs.job_rate_deltas (queue, job_type, outcome, jobs, timings)
  SELECT queue, job_type, outcome, jobs, timings FROM ends)"""
"""Appends `ends` to what the leader folds into the counts by minute."""


OWN_KEY: Final = "COALESCE(unique_key, unique_until_start)"
"""The unique key of a job, also of one that had it until it started."""


_OWES: Final = "(callback IS NOT NULL OR result_ttl_seconds IS NOT NULL)"


def count_ends(
    source: str, *, outcome: str, finished_at: str, timings: str = "NULL::smallint[]"
) -> str:
    """Count the jobs that came into the finished partitions: one row each queue, type and outcome.

    Those that other jobs wait for, members of batches, and those with a callback or a time for their
    result are noted in job_endings: `told` holds what was noted.

    Args:
        source: where they are.
        outcome: the column that holds their status.
        finished_at: the column that holds when they ended.
        timings: `TIMINGS`, if they may have run.
    """
    return f"""ends AS (
  SELECT queue, job_type, {outcome} AS outcome, ({finished_at} AT TIME ZONE 'UTC')::date AS day,
    count(*) AS jobs, {timings} AS timings
  FROM {source} GROUP BY 1, 2, 3, 4),
counted AS (
  INSERT INTO finmind_jobs.job_stats (queue, job_type, status, day, jobs)
  SELECT queue, job_type, outcome, day, jobs FROM ends),
{TIMED},
told AS (
  INSERT INTO finmind_jobs.job_endings (job_id, status, batch_id, owed_by)
  SELECT CASE WHEN has_children THEN id END, {outcome}, batch_id, CASE WHEN {_OWES} THEN id END
  FROM {source} WHERE has_children OR batch_id IS NOT NULL OR {_OWES} RETURNING id)"""


TOLD_DELETED: Final = f"""told AS (
  INSERT INTO finmind_jobs.job_endings (job_id, status, batch_id)
  SELECT CASE WHEN has_children THEN id END,
    CASE status WHEN 'SUCCESS' THEN status ELSE '{DELETED}' END,
    CASE WHEN status = 'PENDING' THEN batch_id END
  FROM gone WHERE has_children OR batch_id IS NOT NULL AND status = 'PENDING')"""
"""Notes the deletion of jobs that others wait for, and of members of batches that had not ended. A job that
had succeeded counts as such: its end may not have been acted on yet."""


TOLD_RETRIED: Final = """told AS (
  INSERT INTO finmind_jobs.job_endings (status, batch_id, jobs)
  SELECT status, batch_id, -1 FROM gone WHERE batch_id IS NOT NULL)"""
"""Notes that members of batches have not ended after all."""


def move(table: str, columns: tuple[str, ...], changed: Mapping[str, str]) -> str:
    """Insert the jobs in `gone` into `table`: these columns, as they are where not `changed`.

    With its own unique key again where a job gave that up when it started.
    """
    changed = {"unique_key": OWN_KEY, **changed}
    if unknown := changed.keys() - set(columns):
        raise ValueError(f"not among the columns: {unknown}")
    values = ", ".join(changed.get(name, name) for name in columns)
    return (
        f"INSERT INTO finmind_jobs.{table} ({', '.join(columns)})\n  SELECT {values}\n  FROM gone"
    )


def keep_ended(changed: Mapping[str, str]) -> str:
    """Move the jobs in `gone`, which did not run, to the partition of their end, and count them there.

    `kept` holds what was moved.
    """
    ended = {"finished_at": "clock_timestamp()", "next_run_at": DUE_AT}
    moved = move("background_jobs", MOVED, {**ended, **changed})
    return f"""kept AS (
  {moved}
  RETURNING id, lease_token, queue, job_type, status, finished_at, has_children,
    batch_id, callback, result_ttl_seconds),
{count_ends("kept", outcome="status", finished_at="finished_at")}"""


def readable(column: str) -> str:
    """The column as Python can hold it: plain SQL may have put infinite times into a job."""
    if not column.endswith("_at"):
        return column
    value = DUE_AT if column == "next_run_at" else column
    return (
        f"CASE WHEN {value} < {FIRST_MOMENT} THEN {FIRST_MOMENT}"
        f" WHEN {value} > {LAST_MOMENT} THEN {LAST_MOMENT} ELSE {value} END AS {column}"
    )


LASTING_HOLDS: Final = f"('{AFTER}', '{UNIQUE}')"
"""What a job still waits for when it is due at another time. A limit is asked for again by its claim."""

DUE_AT: Final = "COALESCE(held_due_at, next_run_at)"
"""When a job is due, held or not: what is held is out of reach of claims at infinity."""


NO_LEASE: Final = dict.fromkeys(("lease_token", "worker_id"), "NULL")
"""Of a job that ends without an attempt."""


def failed_unrun(reason: str, entry: str) -> str:
    """End the jobs in `gone` FAILED without an attempt; `kept` holds what was moved.

    Those whose cancel was asked for end CANCELLED.
    """
    return keep_ended(
        NO_LEASE
        | {
            "status": "CASE WHEN cancel IS NULL THEN 'FAILED' ELSE 'CANCELLED' END",
            "cancel": cancel_report("cancel", ended_at="clock_timestamp()", how="'not_started'"),
            "last_error": reason,
            "errors": history("errors", entry),
        }
    )


POSITION: Final = "b.next_run_at, (b.id + 0)"
"""Of a job in its lane, as jobs_live_claim has it. An index from which jobs could be found by `id` would
be taken for the settles while the primary key is full of dead entries."""


NOT_LEASED: Final = "(b.lease_until IS NULL OR b.lease_until < now())"


def free_permits(source: str) -> str:
    """Count the permits of the jobs in `source` as free: two CTEs of a statement that ends their runs.

    A job that was asked for twice is counted once.
    """
    return f"""freed AS (
  SELECT key, count(DISTINCT id)::int AS jobs FROM {source}, unnest({source}.permits) key GROUP BY key),
released AS (
  UPDATE finmind_jobs.job_permits p SET running = p.running - f.jobs
  FROM (SELECT q.key, freed.jobs FROM finmind_jobs.job_permits q JOIN freed ON freed.key = q.key
    ORDER BY q.key FOR UPDATE OF q) f
  WHERE p.key = f.key)"""


def held_permits(requests: str, *, unless_cancelled: bool = False) -> str:
    """A CTE `was`: the permits of the RUNNING jobs that `requests` names by id and token, locked.

    With `unless_cancelled` without those whose cancel was asked for.
    """
    more = " AND b.cancel IS NULL" if unless_cancelled else ""
    return f"""was AS MATERIALIZED (
  SELECT b.id, b.permits FROM {requests} AS r JOIN finmind_jobs.jobs_live b ON {ID_BY_PRIMARY_KEY}
  WHERE b.lease_token = r.token AND b.status = 'RUNNING'{more} FOR UPDATE OF b)"""
