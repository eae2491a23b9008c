"""Count due and running jobs of the queues."""

from collections.abc import Sequence
from typing import Final

from service.db.connection import Link
from service.jobs.core.holds import QUEUE
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


HELD: Final = Statement("""
SELECT split_part(held_for, ':', 1), count(*)
FROM (SELECT held_for FROM finmind_jobs.jobs_live WHERE held_for IS NOT NULL ORDER BY held_for LIMIT :cap) h
GROUP BY 1
""")


PERMIT_GAUGES: Final = Statement(f"""
SELECT q.name, q.max_running, COALESCE(p.running, 0)
FROM finmind_jobs.queues q LEFT JOIN finmind_jobs.job_permits p ON p.key = '{QUEUE}' || q.name
WHERE q.max_running IS NOT NULL
""")


async def permits(link: Link) -> dict[str, tuple[int, int]]:
    """Of each queue with a limit on running jobs the limit, and how many permits are in use."""
    return {row[0]: (row[1], row[2]) for row in await link.fetch(*PERMIT_GAUGES.bind())}


async def held(link: Link, *, cap: int) -> dict[str, int]:
    """Held jobs by the first word of what they are held for; `cap` of them are counted."""
    return {row[0]: row[1] for row in await link.fetch(*HELD.bind(cap=cap))}


async def served_queues(link: Link, *, limit: int) -> list[str]:
    """Queues that live workers serve by name."""
    return [row[0] for row in await link.fetch(*SERVED_QUEUES.bind(limit=limit))]


async def of_queues(
    link: Link, heads: Sequence[LaneHead], *, cap: int
) -> list[tuple[str, int, int, float]]:
    """Queue, due jobs, running jobs and age of the oldest due one; up to `cap` jobs a lane."""
    rows = await link.fetch(*QUEUE_GAUGES.bind(**head_columns(heads), cap=cap))
    return [(row[0], row[1], row[2], row[3]) for row in rows]
