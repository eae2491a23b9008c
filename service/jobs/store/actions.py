"""Change single jobs by hand: retry, cancel, delete, reschedule."""

from typing import Final

from service.jobs.store.fragments import COLUMNS, COUNT, MANUAL_RETRY_ENTRY, history

RETRY_DEAD: Final = f"""
WITH gone AS (DELETE FROM finmind_jobs.jobs_dead WHERE id = $1 RETURNING *),
counted AS ({COUNT.format(sign="-", source="gone")})
INSERT INTO finmind_jobs.jobs_live (id, created_at, next_run_at, timeout_seconds, priority, attempts,
  max_retries, queue, job_type, unique_key, last_error, payload, backoff, errors, enqueued_by)
SELECT id, created_at, clock_timestamp(), timeout_seconds, priority, 0, max_retries, queue,
  job_type, unique_key, last_error, payload, backoff,
  {history("errors", MANUAL_RETRY_ENTRY, keep="$3")}, enqueued_by
FROM gone RETURNING id, job_type, queue, priority
"""


CANCEL: Final = f"""
WITH gone AS (DELETE FROM finmind_jobs.jobs_live WHERE id = $1 AND status = 'PENDING' RETURNING *),
kept AS (
  INSERT INTO finmind_jobs.background_jobs ({COLUMNS})
  SELECT id, created_at, next_run_at, started_at, clock_timestamp(), NULL, NULL, timeout_seconds,
    priority, attempts, max_retries, lost_leases, queue, job_type, 'CANCELLED', unique_key,
    last_error, payload, result, progress, backoff, errors, enqueued_by
  FROM gone RETURNING id, queue, job_type, status, finished_at),
counted AS ({COUNT.format(sign="", source="kept")})
SELECT id, job_type FROM kept
"""


DELETE: Final = f"""
WITH gone AS (
  DELETE FROM finmind_jobs.background_jobs WHERE id = $1 AND status <> 'RUNNING'
  RETURNING id, queue, job_type, status, finished_at),
counted AS ({COUNT.format(sign="-", source="gone")})
SELECT id FROM gone
"""


RESCHEDULE: Final = """
UPDATE finmind_jobs.jobs_live SET next_run_at = $2 WHERE id = $1 AND status = 'PENDING'
RETURNING id, queue, priority
"""


STATUS_OF: Final = "SELECT status FROM finmind_jobs.background_jobs WHERE id = $1"
