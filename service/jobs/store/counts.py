"""Fold and read the kept counts, and count new, due and running jobs."""

from typing import Final

from service.jobs.store.fragments import POSITION

FOLD_STATS: Final = """
WITH old AS (DELETE FROM finmind_jobs.job_stats RETURNING queue, job_type, status, day, jobs),
folded AS (
  INSERT INTO finmind_jobs.job_stats (queue, job_type, status, day, jobs)
  SELECT queue, job_type, status, day, sum(jobs) FROM old GROUP BY 1, 2, 3, 4
  HAVING sum(jobs) <> 0 RETURNING 1)
SELECT count(*) FROM folded
"""


STATS_ROWS: Final = "SELECT count(*) FROM (SELECT 1 FROM finmind_jobs.job_stats LIMIT $1) s"


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


SERVED_QUEUES: Final = """
SELECT DISTINCT split_part(q, ':', 1) FROM finmind_jobs.job_workers w, unnest(w.queues) q
WHERE q <> '*' AND w.stopped_at IS NULL AND w.seen_at > now() - interval '1 minute' LIMIT $1
"""
"""Queues that some worker was told to serve: `WORKER_QUEUES`, without limits."""


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
  ORDER BY {POSITION} LIMIT $3) d ON true
GROUP BY l.queue
"""
"""Due and running jobs of each queue and the age of the oldest due one; each lane's look is capped,
and begins where its first job was listed: not at what is dead before it."""
