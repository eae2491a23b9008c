"""Find the job types that workers serve, and the due jobs that no worker serves."""

from typing import Final

from service.jobs.store.fragments import NO_HANDLER_ENTRY, POSITION, failed_unrun

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


FAIL_UNSERVED: Final = f"""
WITH head AS MATERIALIZED (
  SELECT j.ctid AS place, j.job_type
  FROM unnest($1::text[], $2::smallint[], $8::float8[]) AS l(queue, priority, first_at)
  CROSS JOIN LATERAL (
    SELECT b.ctid, b.job_type FROM finmind_jobs.jobs_live b
    WHERE b.queue = l.queue AND b.priority = l.priority AND b.status = 'PENDING'
      AND b.next_run_at >= to_timestamp(l.first_at)
      AND b.next_run_at <= now() - make_interval(secs => $4)
    ORDER BY {POSITION} LIMIT $5) j),
unserved AS MATERIALIZED (
  SELECT b.ctid AS place FROM finmind_jobs.jobs_live b
  WHERE b.ctid = ANY (ARRAY(SELECT place FROM head WHERE job_type <> ALL ($3::text[]) LIMIT $6))
    AND b.status = 'PENDING' FOR UPDATE SKIP LOCKED),
gone AS (
  DELETE FROM finmind_jobs.jobs_live b WHERE b.ctid = ANY (ARRAY(SELECT place FROM unserved)) RETURNING *),
{failed_unrun("'No handler registered for job type: ' || job_type", NO_HANDLER_ENTRY, keep="$7")}
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
  ORDER BY {POSITION} LIMIT $5) j
WHERE j.job_type = ANY ($3::text[]) GROUP BY 1 ORDER BY 1
"""
"""Jobs that have been due for so long, by type, of the types given."""
