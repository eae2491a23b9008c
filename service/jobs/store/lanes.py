"""List the lanes that hold jobs."""

from typing import Final

from service.db.connection import Link
from service.jobs.core.lane import Lane, LaneHead

LANES: Final = """
WITH RECURSIVE lane AS (
  (SELECT queue, priority, next_run_at FROM finmind_jobs.jobs_live
   WHERE (queue, priority) > ($2::text, $3::smallint)
   ORDER BY queue, priority, next_run_at LIMIT 1)
  UNION ALL
  SELECT n.* FROM lane l CROSS JOIN LATERAL (
    SELECT b.queue, b.priority, b.next_run_at FROM finmind_jobs.jobs_live b
    WHERE (b.queue, b.priority) > (l.queue, l.priority)
    ORDER BY b.queue, b.priority, b.next_run_at LIMIT 1) n)
SELECT queue, priority, extract(epoch FROM next_run_at)::float8, extract(epoch FROM now())::float8
FROM lane LIMIT $1
"""
"""The lanes that hold jobs, from a given one on, when the first of each is due, and what time it is.

One index probe a lane.
"""


LANES_OF: Final = """
SELECT q.queue, p.priority::smallint, extract(epoch FROM n.next_run_at)::float8,
  extract(epoch FROM now())::float8
FROM unnest($1::text[]) AS q(queue) CROSS JOIN generate_series(0, 9) AS p(priority)
CROSS JOIN LATERAL (
  SELECT b.next_run_at FROM finmind_jobs.jobs_live b WHERE b.queue = q.queue AND b.priority = p.priority
  ORDER BY b.next_run_at LIMIT 1) n
"""
"""The same for queues known by name."""


RECENT_LANES: Final = """
SELECT q.queue, p.priority::smallint
FROM (SELECT unnest($1::text[]) AS queue
      UNION ALL (SELECT DISTINCT queue FROM finmind_jobs.job_stats WHERE $1 IS NULL LIMIT $2)) q
CROSS JOIN generate_series(0, 9) AS p(priority)
CROSS JOIN LATERAL (
  SELECT FROM finmind_jobs.jobs_live b WHERE b.queue = q.queue AND b.priority = p.priority
    AND b.next_run_at BETWEEN now() - make_interval(secs => $3) AND now()
  ORDER BY b.next_run_at DESC LIMIT 1) n
"""
"""Lanes of these queues, or else of those in which jobs have ended, that hold a job which became due
within the last $3 seconds.

However much lies dead in a lane, only what became due so recently is walked; beside that, the counts.
"""


async def listed(link: Link, *, limit: int, after: Lane | None = None) -> list[LaneHead]:
    """The lanes that hold jobs, in order, those behind `after`, `limit` at the most."""
    rows = await link.fetch(LANES, limit, *(after or Lane("", -1)))
    return [LaneHead(Lane(row[0], row[1]), *row[2:]) for row in rows]


async def of_queues(link: Link, queues: list[str]) -> list[LaneHead]:
    """The lanes of these queues that hold jobs."""
    rows = await link.fetch(LANES_OF, queues)
    return [LaneHead(Lane(row[0], row[1]), *row[2:]) for row in rows]


async def recent(
    link: Link, queues: list[str] | None, *, within_seconds: float, limit: int
) -> list[Lane]:
    """Lanes of these queues that hold a job which became due so recently.

    With None of `limit` queues in which jobs have ended: what is missing, a listing tells.
    """
    rows = await link.fetch(RECENT_LANES, queues, limit, within_seconds)
    return [Lane(*row) for row in rows]
