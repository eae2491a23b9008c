"""Drop what is older than its retention, a batch at a time."""

from typing import Final

from service.jobs.store.fragments import COUNT

DROP_DEAD_BEFORE: Final = f"""
WITH gone AS (
  DELETE FROM finmind_jobs.jobs_dead WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM finmind_jobs.jobs_dead WHERE finished_at < now() - make_interval(days => $1)
    ORDER BY finished_at LIMIT $2 FOR UPDATE SKIP LOCKED))
  RETURNING id, queue, job_type, status, finished_at),
counted AS ({COUNT.format(sign="-", source="gone")})
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
counted AS ({COUNT.format(sign="-", source="gone")})
SELECT count(*) FROM gone
"""
"""Days that never had a partition, since nobody led: the same days as are dropped whole."""


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
