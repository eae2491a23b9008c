"""List the lanes that hold jobs."""

from collections.abc import Sequence
from typing import Final

from service.db.connection import Link
from service.jobs.core.lane import Lane, LaneHead
from service.jobs.store.statement import Statement

LANES: Final = Statement("""
WITH RECURSIVE lane AS (
  (SELECT queue, priority, next_run_at FROM finmind_jobs.jobs_live
   WHERE (queue, priority) > (:after_queue::text, :after_priority::smallint)
   ORDER BY queue, priority, next_run_at LIMIT 1)
  UNION ALL
  SELECT n.* FROM lane l CROSS JOIN LATERAL (
    SELECT b.queue, b.priority, b.next_run_at FROM finmind_jobs.jobs_live b
    WHERE (b.queue, b.priority) > (l.queue, l.priority)
    ORDER BY b.queue, b.priority, b.next_run_at LIMIT 1) n)
SELECT queue, priority, extract(epoch FROM next_run_at)::float8, extract(epoch FROM now())::float8
FROM lane LIMIT :limit
""")
"""The lanes that hold jobs, from a given one on, when the first of each is due, and what time it is.

One index probe a lane.
"""


LANES_OF: Final = Statement("""
SELECT q.queue, p.priority::smallint, extract(epoch FROM n.next_run_at)::float8,
  extract(epoch FROM now())::float8
FROM unnest(:queues::text[]) AS q(queue) CROSS JOIN generate_series(0, 9) AS p(priority)
CROSS JOIN LATERAL (
  SELECT b.next_run_at FROM finmind_jobs.jobs_live b WHERE b.queue = q.queue AND b.priority = p.priority
  ORDER BY b.next_run_at LIMIT 1) n
""")
"""The same for queues known by name."""


RECENT_LANES: Final = Statement("""
SELECT q.queue, p.priority::smallint
FROM (SELECT unnest(:queues::text[]) AS queue
      UNION ALL (SELECT DISTINCT queue FROM finmind_jobs.job_stats WHERE :queues IS NULL LIMIT :limit)) q
CROSS JOIN generate_series(0, 9) AS p(priority)
CROSS JOIN LATERAL (
  SELECT FROM finmind_jobs.jobs_live b WHERE b.queue = q.queue AND b.priority = p.priority
    AND b.next_run_at BETWEEN now() - make_interval(secs => :within_seconds) AND now()
  ORDER BY b.next_run_at DESC LIMIT 1) n
""")
"""Lanes of these queues, or else of those in which jobs have ended, that hold a job which became due
within the last `:within_seconds`.

However much lies dead in a lane, only what became due so recently is walked; beside that, the counts.
"""


async def listed(link: Link, *, limit: int, after: Lane | None = None) -> list[LaneHead]:
    """The lanes that hold jobs, in order, those behind `after`, up to `limit`."""
    after = after or Lane("", -1)
    rows = await link.fetch(
        *LANES.bind(limit=limit, after_queue=after.queue, after_priority=after.priority)
    )
    return [LaneHead(Lane(row[0], row[1]), *row[2:]) for row in rows]


async def of_queues(link: Link, queues: list[str]) -> list[LaneHead]:
    """The lanes of these queues that hold jobs."""
    rows = await link.fetch(*LANES_OF.bind(queues=queues))
    return [LaneHead(Lane(row[0], row[1]), *row[2:]) for row in rows]


async def recent(
    link: Link, queues: list[str] | None, *, within_seconds: float, limit: int
) -> list[Lane]:
    """Lanes of these queues that hold a job which became due so recently.

    With None of `limit` queues in which jobs have ended: what is missing, a listing tells.
    """
    rows = await link.fetch(
        *RECENT_LANES.bind(queues=queues, limit=limit, within_seconds=within_seconds)
    )
    return [Lane(*row) for row in rows]


def head_columns(heads: Sequence[LaneHead]) -> dict[str, list[object]]:
    """These lanes as `queues`, `priorities` and `first_at`: when the first job of each is due."""
    return {
        "queues": [head.lane.queue for head in heads],
        "priorities": [head.lane.priority for head in heads],
        "first_at": [head.first_at for head in heads],
    }
