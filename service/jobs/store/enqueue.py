"""Insert jobs, and find the holders of keys that are taken."""

from typing import Final

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


KEY_HOLDERS: Final = """
SELECT id, created_at, next_run_at, unique_key FROM finmind_jobs.jobs_live WHERE unique_key = ANY ($1::text[])
"""
