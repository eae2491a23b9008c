"""Fold and read the kept counts, and count new, due and running jobs."""

from collections.abc import Sequence
from typing import Final

from service.db.connection import Link
from service.jobs.core.lane import LaneHead
from service.jobs.store.fragments import POSITION
from service.jobs.store.lanes import head_columns
from service.jobs.store.statement import Statement

FOLD_STATS: Final = Statement("""
WITH old AS (DELETE FROM finmind_jobs.job_stats RETURNING queue, job_type, status, day, jobs),
folded AS (
  INSERT INTO finmind_jobs.job_stats (queue, job_type, status, day, jobs)
  SELECT queue, job_type, status, day, sum(jobs) FROM old GROUP BY 1, 2, 3, 4
  HAVING sum(jobs) <> 0 RETURNING 1)
SELECT count(*) FROM folded
""")


STATS_ROWS: Final = Statement(
    "SELECT count(*) FROM (SELECT 1 FROM finmind_jobs.job_stats LIMIT :limit) s"
)


CREATED_IDS: Final = Statement("""
SELECT COALESCE(pg_sequence_last_value('finmind_jobs.background_job_ids'::regclass), 0),
  pg_snapshot_xmin(s)::text::bigint, pg_snapshot_xmax(s)::text::bigint
FROM pg_current_snapshot() s
""")
"""The newest id that was given out, the oldest transaction that still writes, and the next one."""


CREATED_BETWEEN: Final = Statement("""
SELECT b.job_type, count(*) FROM unnest(:after::bigint[], :up_to::bigint[]) AS c(after, up_to)
CROSS JOIN LATERAL (
  SELECT j.job_type FROM finmind_jobs.background_jobs j WHERE j.id > c.after AND j.id <= c.up_to) b
GROUP BY 1
""")


SERVED_QUEUES: Final = Statement("""
SELECT DISTINCT split_part(q, ':', 1) FROM finmind_jobs.job_workers w, unnest(w.queues) q
WHERE q <> '*' AND w.stopped_at IS NULL AND w.seen_at > now() - interval '1 minute' LIMIT :limit
""")
"""Queues that some worker was told to serve: `WORKER_QUEUES`, without limits."""


QUEUE_GAUGES: Final = Statement(f"""
SELECT l.queue, count(*) FILTER (WHERE d.status = 'PENDING'),
  count(*) FILTER (WHERE d.status = 'RUNNING'),
  COALESCE(extract(epoch FROM now())
           - extract(epoch FROM min(d.next_run_at) FILTER (WHERE d.status = 'PENDING')), 0)::float8
FROM unnest(:queues::text[], :priorities::smallint[], :first_at::float8[]) AS l(queue, priority, first_at)
LEFT JOIN LATERAL (
  SELECT b.status, b.next_run_at FROM finmind_jobs.jobs_live b
  WHERE b.queue = l.queue AND b.priority = l.priority AND b.next_run_at <= now()
    AND b.next_run_at >= to_timestamp(l.first_at)
  ORDER BY {POSITION} LIMIT :cap) d ON true
GROUP BY l.queue
""")
"""Due and running jobs of each queue and the age of the oldest due one; each lane's look is capped,
and begins where its first job was listed: not at what is dead before it."""


async def unfolded(link: Link, *, limit: int) -> int:
    """How many rows the kept counts have; counted up to `limit`."""
    rows: int = (await link.fetch(*STATS_ROWS.bind(limit=limit)))[0][0]
    return rows


async def fold(link: Link) -> int:
    """Sum the kept counts of each queue, type, status and day into one row; the rows left."""
    rows: int = (await link.fetch(*FOLD_STATS.bind()))[0][0]
    return rows


async def created_ids(link: Link) -> tuple[int, int, int]:
    """The newest id given out, the oldest transaction that still writes, and the next one."""
    newest, oldest_writer, next_writer = (await link.fetch(*CREATED_IDS.bind()))[0]
    return newest, oldest_writer, next_writer


async def created_between(link: Link, stretches: Sequence[tuple[int, int]]) -> dict[str, int]:
    """How many jobs of each type have an id above the first and up to the second of each pair."""
    rows = await link.fetch(
        *CREATED_BETWEEN.bind(
            after=[low for low, _ in stretches], up_to=[high for _, high in stretches]
        )
    )
    return {row[0]: row[1] for row in rows}


async def served_queues(link: Link, *, limit: int) -> list[str]:
    """Queues that live workers serve by name."""
    return [row[0] for row in await link.fetch(*SERVED_QUEUES.bind(limit=limit))]


async def queue_gauges(
    link: Link, heads: Sequence[LaneHead], *, cap: int
) -> list[tuple[str, int, int, float]]:
    """Queue, due jobs, running jobs and age of the oldest due one; up to `cap` jobs a lane."""
    rows = await link.fetch(*QUEUE_GAUGES.bind(**head_columns(heads), cap=cap))
    return [(row[0], row[1], row[2], row[3]) for row in rows]
