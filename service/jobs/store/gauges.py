"""Count due and running jobs of the queues."""

from collections.abc import Sequence
from typing import Final

from service.db.connection import Link
from service.jobs.core.lane import LaneHead
from service.jobs.store.fragments import POSITION
from service.jobs.store.lanes import head_columns
from service.jobs.store.statement import Statement

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


async def served_queues(link: Link, *, limit: int) -> list[str]:
    """Queues that live workers serve by name."""
    return [row[0] for row in await link.fetch(*SERVED_QUEUES.bind(limit=limit))]


async def of_queues(
    link: Link, heads: Sequence[LaneHead], *, cap: int
) -> list[tuple[str, int, int, float]]:
    """Queue, due jobs, running jobs and age of the oldest due one; up to `cap` jobs a lane."""
    rows = await link.fetch(*QUEUE_GAUGES.bind(**head_columns(heads), cap=cap))
    return [(row[0], row[1], row[2], row[3]) for row in rows]
